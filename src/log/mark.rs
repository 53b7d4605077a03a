//! Where a backup ends, as its mark says, held against what stands there.

use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::backup::{self, Mark, NAME};
use crate::format::header::file_name;
use crate::format::lock::Holder;
use crate::id::{Position, Timestamp};
use crate::log::lock::{self, Left, Progress};
use crate::log::recover::segments;
use crate::segment::Segment;
use crate::segment::disk::Directory;
use crate::segment::map::Access;

const MISSING: &str = "take another backup, or repair this one, which tells what is lost";
const DAMAGED: &str = "repair it, which tells what is lost, or take another backup of a store that is whole";
const AS_IT_IS: &str =
    "take another backup; without that file this one is read as it is, and nothing tells what it lacks";

/// The mark of a directory that nobody has opened for writing: from then on the lock file says how far it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Marked {
    Sound(Mark),
    Damaged,
}

/// What does not fit a mark.
#[derive(Debug)]
pub(crate) enum Misfit {
    /// It is not what was written, or is of other files than these.
    Mark { why: String, next: Position },
    /// The segment that is to be the newest is not there.
    Missing(Damage),
    /// The newest segment ends before its place, or is damaged there.
    Short(Damage),
}

/// Whether there is a mark, sound or not, among the names of a directory.
pub(crate) fn is_among(names: &[String]) -> bool {
    names.iter().any(|name| name == NAME)
}

pub(crate) fn read(directory: &dyn Directory) -> Result<Option<Marked>> {
    // A lock file that does not say yet how far it goes is one of an opening that ended before anything was changed.
    if !is_among(&directory.names()?)
        || lock::read(directory).is_some_and(|left| left.progress.segment > Position::START)
    {
        return Ok(None);
    }
    let mut page = [0; PAGE];
    let file = match directory.open(NAME, Access::Read) {
        Err(Error::NotAStore { .. }) => return Ok(Some(Marked::Damaged)),
        file => file?,
    };
    let whole = file.len()? == PAGE as u64 && file.read_at(&mut page, 0)? == PAGE;
    let mark = backup::decode(&page).filter(|_| whole);
    Ok(Some(mark.map_or(Marked::Damaged, Marked::Sound)))
}

/// Holds the mark, if there is one, against the newest segment that is there, where its last whole commit ends, and the
/// position that comes next.
pub(crate) fn check(directory: &dyn Directory, newest: &Segment, end: u64, next: Position) -> Result<Option<Misfit>> {
    Ok(read(directory)?.and_then(|marked| marked.held_against(newest, end, next).err()))
}

/// What to say instead of `error`, which somebody met who read the newest segment that is there, where that is not the one that the
/// mark names: what else is missing may have been let go of, and the record of that is in the segment that is lost.
pub(crate) fn rather_missing(directory: &dyn Directory, error: Error) -> Error {
    if !matches!(error, Error::NotAStore { .. }) {
        return error;
    }
    let newest = directory.names().ok().and_then(|names| segments(&names).last().copied());
    match read(directory).ok().flatten().and_then(Marked::sound) {
        Some(mark) if newest.is_none_or(|newest| newest < mark.segment) => {
            let why = format!(
                "the segment is missing, and with it the record of what is kept: the mark says that the backup goes up to position {}; {MISSING}",
                mark.head
            );
            Error::not_a_store(&directory.path().join(file_name(mark.segment)), why)
        }
        _ => error,
    }
}

impl Marked {
    pub(crate) fn sound(self) -> Option<Mark> {
        match self {
            Self::Sound(mark) => Some(mark),
            Self::Damaged => None,
        }
    }

    /// What it says, if that is so.
    pub(crate) fn held_against(self, newest: &Segment, end: u64, next: Position) -> Result<Mark, Misfit> {
        let Self::Sound(mark) = self else {
            let why = "its checksum does not fit, so it does not say any more where the backup ends".to_owned();
            return Err(Misfit::Mark { why, next });
        };
        let (first, head) = (newest.first(), next.previous());
        let name = file_name(mark.segment);
        let other = |what: &str| {
            let why = format!("it is not of these files: it says that the backup ends with {name}, and {what}");
            Err(Misfit::Mark { why, next })
        };
        let lost = |offset: u64, what: &str, advice: &str| Damage {
            segment: name.clone(),
            offset,
            length: mark.end - offset,
            position: next,
            what: format!(
                "{what} position {head}, and its mark says that it goes up to position {}, byte {}; {advice}",
                mark.head, mark.end
            ),
        };
        if mark.store != newest.header.store {
            return other("that of another store");
        }
        if mark.segment < first {
            return other(&format!("{} follows", newest.name()));
        }
        if mark.segment > first {
            return Err(Misfit::Missing(lost(0, "the segment is missing: the backup ends at", MISSING)));
        }
        if mark.nonce != newest.header.nonce {
            return other("that one is another file");
        }
        match end {
            _ if (end, head) == (mark.end, mark.head) => Ok(mark),
            _ if end < mark.end && is_there(newest, end, mark.end) => {
                Err(Misfit::Short(lost(end, "the backup is damaged here, and whole up to", DAMAGED)))
            }
            _ if end < mark.end => Err(Misfit::Short(lost(end, "the backup ends here at", MISSING))),
            _ => other(&format!("position {}, and that one goes up to {head}", mark.head)),
        }
    }
}

/// Whether something stands up to a place, whatever it is.
fn is_there(segment: &Segment, from: u64, to: u64) -> bool {
    to <= segment.capacity() && segment.bytes(from, to).iter().any(|byte| *byte != 0)
}

impl Mark {
    /// What a writer would have left that had all of it on the disk.
    pub(crate) fn as_left(&self) -> Left {
        let Self { store, segment, nonce, end, head } = *self;
        Left {
            holder: Holder { pid: 0, store, since: Timestamp::default() },
            progress: Progress { segment, nonce, end, head, durable: head },
            closed: None,
        }
    }
}

impl Misfit {
    pub(crate) fn into_error(self, directory: &dyn Directory) -> Error {
        match self {
            Self::Mark { why, .. } => Error::not_a_store(&directory.path().join(NAME), format!("{why}; {AS_IT_IS}")),
            Self::Missing(damage) => Error::not_a_store(&directory.path().join(damage.segment), damage.what),
            Self::Short(damage) => Error::Damaged(damage),
        }
    }

    pub(crate) fn into_damage(self) -> Damage {
        match self {
            Self::Mark { why, next } => Damage {
                segment: NAME.to_owned(),
                offset: 0,
                length: PAGE as u64,
                position: next,
                what: format!("{why}; {AS_IT_IS}"),
            },
            Self::Missing(damage) | Self::Short(damage) => damage,
        }
    }
}
