//! Backups: a copy of a store that its writer need not stop for, brought up to date again and again.

use std::path::Path;

use crate::copies::aside::{self, Aside, Kind, check_is_outside, foreign, is_free};
use crate::copies::moment::{self, Moment, changed, look_again, may_pass};
use crate::copies::out::Copy;
use crate::copies::place::{Files, Wanted};
use crate::error::{Damage, Error, Result};
use crate::format::backup::Mark;
use crate::format::{self, PAGE, header};
use crate::id::{Position, StoreId};
use crate::inspect::verify::{Depth, Progress, verify_on};
use crate::log::heads::Known;
use crate::log::parts::read_header;
use crate::log::recover::reader::open_reader_anyhow;
use crate::log::recover::segments;
use crate::log::{Log, lock, mark};
use crate::segment::disk::{Directory, Disk, RealDisk};
use crate::segment::map::Access;
use crate::store::Store;
use crate::sync::guard;

/// What a backup holds, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The store's id, which is the backup's, too.
    pub store: StoreId,
    /// The last event that is in it; [`Position::START`] when there is none.
    pub head: Position,
    /// How its files came there.
    pub files: Files,
    /// An earlier backup to the same place had left something in `TO.part`, which this one used.
    pub resumed: bool,
    /// What the check at the end found damaged, where no backup stood before. The original is likely damaged there, too:
    /// `verify` tells.
    pub damage: Vec<Damage>,
}

/// Brings the backup of a store in `to` up to date, or makes it; its parent directory has to be there.
///
/// The backup is a store like any other, without the file `LOCK`: it can be read and verified where it stands. Instead it has the file
/// `BACKUP`, a mark that says where it ends; a backup that has lost some of its end is refused by everything that opens it, with what
/// is missing, and [`verify`](crate::inspect::verify()) tells it as damage. Backups from before there were marks have none. It holds
/// everything that the store's readers could see when the backup began, consumers with their checkpoints, groups and
/// unsettled deliveries included. What recovery put into `quarantine/` stays behind.
///
/// A live writer, in this process or another one, is not held up and not asked. Sealed segments that the last backup has are
/// kept; new ones share their blocks with the originals where the file system can do that (btrfs, XFS), and are copied
/// otherwise. They are not linked to the originals, because a block that rots would rot in both. The newest segment is
/// copied up to its published end.
///
/// It is made in `TO.part`, synced, checked as [`Depth::Fast`] does, and then takes the place of the backup before it at
/// once. So one that is cut short, at any step, leaves that one as it was; the next goes on with what is there. While it is made
/// there has to be room for the new segments only.
///
/// # Errors
/// As [`Store::open_read_only`], and
/// - [`Error::NotAStore`] when `to` is a link, or holds something else: a backup of another store, one that goes further than the store
///   does, or a store that was opened for writing; and when `TO.part` or `TO.part.old`, which are needed on the way, are `from` itself
///   or hold anything but such a backup.
/// - [`Error::NotAStore`] when segments were let go of, or written again without removed events, while they were copied, each of
///   sixteen times that it began anew. Run it again: it goes on with what is there.
/// - [`Error::Locked`] when another backup to the same place is under way, or somebody has the one before it open for writing.
/// - [`Error::Damaged`] when the check finds damage and a backup stands there already: that one stays, what was copied is left in
///   `TO.part`. Also when the end of the store is damaged, so that its readers see less than there was.
///   [Repair](crate::copies::repair()) the store, or choose another directory to have its damage, too. A copy with damage at its end is
///   made there and told of, and then refused by everything that opens or restores it until it is repaired: its readers would see less
///   than its mark says.
pub fn backup(from: impl AsRef<Path>, to: impl AsRef<Path>, progress: impl FnMut(Progress)) -> Result<Backup> {
    backup_on(&RealDisk, from.as_ref(), to.as_ref(), progress)
}

impl Store {
    /// Brings a backup of this store up to date, or makes it: [`copies::backup`](crate::copies::backup()) beside the
    /// writer of this process. It holds everything that was readable when it began.
    ///
    /// # Errors
    /// As [`copies::backup`](crate::copies::backup()).
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Backup> {
        backup(self.path(), to, |_| {})
    }
}

pub(crate) fn backup_on(disk: &dyn Disk, from: &Path, to: &Path, mut progress: impl FnMut(Progress)) -> Result<Backup> {
    check_is_outside(disk, from, to, "store")?;
    let (mut moment, log) = moment::open(disk, from)?;
    check_end(disk, &log)?;
    let kind = Kind::Backup { store: log.store, head: log.head() };
    let aside = Aside::begin(disk, to, kind, |present| check_gives_way(disk, present, &log))?;
    let (mut log, mut looks) = (log, 0);
    let files = loop {
        let mut files = Files::default();
        match fill(&log, &moment, &aside, &mut files, &mut progress) {
            Ok(()) => break files,
            Err(error) => look_again(from, error, &mut looks)?,
        }
        (moment, log) = moment::open(disk, from)?;
    };
    put_mark(&log, &*aside.part)?;
    let verdict = verify_on(disk, aside.part.path(), Depth::Fast, &mut |_| {})?;
    if let (Some(damage), true) = (verdict.damage.first(), aside.replaces()?) {
        return Err(Error::Damaged(damage.clone()));
    }
    let (store, head, resumed) = (log.store, log.head(), aside.resumed);
    aside.take_place()?;
    Ok(Backup { store, head, files, resumed, damage: verdict.damage })
}

/// Refuses a store whose newest segment is damaged, as its readers see less than was there, and nobody who reads a copy would
/// be told. A backup ends where its mark says, or it would not have been opened; of one without a mark any end within a commit is
/// damage, as none was made so.
pub(super) fn check_end(disk: &dyn Disk, log: &Log) -> Result<()> {
    if log.follows_a_writer() || mark::read(&*log.directory)?.is_some() {
        return Ok(());
    }
    let verdict = verify_on(disk, log.directory.path(), Depth::Fast, &mut |_| {})?;
    if let Some(damage) = verdict.damage.into_iter().find(|damage| damage.position > log.head()) {
        return Err(Error::Damaged(damage));
    }
    if verdict.torn_bytes > 0 && !lock::is_among(&log.directory.names()?) {
        let why = "it ends within a commit, as no backup does that was made whole; open it for writing once, which \
                   leaves that out, or take another one";
        return Err(Error::not_a_store(log.directory.path(), why));
    }
    Ok(())
}

/// Puts everything that a log holds, as it was at that moment, into the directory.
fn fill(
    log: &Log,
    moment: &Moment,
    aside: &Aside,
    files: &mut Files,
    progress: &mut impl FnMut(Progress),
) -> Result<()> {
    let from = &*log.directory;
    let wanted = wanted(log)?;
    let total = wanted.iter().map(|(_, len)| len).sum();
    aside.clear(|name| wanted.iter().any(|(wanted, _)| wanted == name))?;
    let mut done = 0;
    for (name, len) in &wanted {
        let earlier = aside.present.as_deref();
        match (Wanted { name, len: *len, store: None }).put(from, earlier, &*aside.part, files) {
            // Index files and tiers can be made again; they come and go.
            Err(error) if is_derived(name) && may_pass(&error) => {}
            result => result?,
        }
        if let Some(first) = header::parse_name(name) {
            moment.check(&*aside.part, first)?;
        }
        done += len;
        progress(Progress { done, total });
    }
    // While it has no event another one may take its name.
    let newest = &log.parts.newest().segment;
    if read_header(&*aside.part, newest.first())?.nonce != newest.header.nonce {
        return Err(changed(&from.path().join(newest.name())));
    }
    aside.part.sync()
}

/// Writes down where the copy ends. Last of all: without its mark nothing tells what it lacks.
fn put_mark(log: &Log, to: &dyn Directory) -> Result<()> {
    let newest = log.parts.newest();
    let segment = &newest.segment;
    let mark = Mark {
        store: log.store,
        segment: segment.first(),
        nonce: segment.header.nonce,
        end: segment.written().min(segment.capacity()),
        head: log.head(),
    };
    let copy = Copy::begin(to, format::backup::NAME, PAGE as u64)?;
    copy.file.write_at(&format::backup::encode(&mark), 0)?;
    copy.finish(to, PAGE as u64)
}

/// The files of a log, and how long they are.
fn wanted(log: &Log) -> Result<Vec<(String, u64)>> {
    let from = &*log.directory;
    let newest = log.parts.newest();
    let firsts = log.parts.firsts();
    let mut wanted = Vec::new();
    for pair in firsts.windows(2) {
        let name = header::file_name(pair[0]);
        let end = match read_header(from, pair[1]) {
            Ok(next) => next.previous.map(|previous| previous.end),
            // A damaged one does not say; what is there is copied as it is.
            Err(Error::NotAStore { .. }) => None,
            Err(error) => return Err(error),
        };
        let len = from.open(&name, Access::Read)?.len()?;
        wanted.push((name, end.map_or(len, |end| end.min(len))));
        add_derived(from, &header::index_name(pair[0]), &mut wanted);
    }
    wanted.push((newest.segment.name().to_owned(), newest.segment.written().min(newest.segment.capacity())));
    for (tier, _) in log.parts.tiers.all() {
        add_derived(from, &tier.name(), &mut wanted);
    }
    // As the newest segment says up to where it is copied; the writer may have made other files of these.
    let kept = guard(&log.state).kept.clone();
    for name in Known::open(from, log.store, kept.as_ref())?.names() {
        wanted.push((name.to_owned(), from.open(name, Access::Read)?.len()?));
    }
    Ok(wanted)
}

fn is_derived(name: &str) -> bool {
    header::parse_index_name(name).is_some() || header::parse_tier_name(name).is_some()
}

/// A file that need not be there.
fn add_derived(from: &dyn Directory, name: &str, wanted: &mut Vec<(String, u64)>) {
    if let Ok(len) = from.open(name, Access::Read).and_then(|file| file.len()) {
        wanted.push((name.to_owned(), len));
    }
}

/// Refuses to replace anything but a backup of this store that holds no more than the store does.
fn check_gives_way(disk: &dyn Disk, present: &dyn Directory, log: &Log) -> Result<()> {
    check_is_backup_of(present, log.store)?;
    // One that cannot be read holds nothing that could be missed.
    let held = open_reader_anyhow(disk, present.path()).map(|held| held.head());
    match held {
        Ok(held) if held > log.head() => {
            let why = format!(
                "it goes up to position {held}, and the store to {} only; if that is right, choose another directory",
                log.head()
            );
            Err(Error::not_a_store(present.path(), why))
        }
        _ => Ok(()),
    }
}

/// Refuses to write over anything but a backup of this store.
fn check_is_backup_of(present: &dyn Directory, store: StoreId) -> Result<()> {
    let names = present.names()?;
    if names.is_empty() {
        return Ok(());
    }
    let refuse = |why: &str| Err(Error::not_a_store(present.path(), why));
    if lock::is_among(&names) {
        return refuse("it was opened for writing, so it is a store and no backup; choose another directory");
    }
    for first in segments(&names).into_iter().rev() {
        match read_header(present, first) {
            Ok(header) if header.store == store => {
                return match foreign(&names) {
                    Some(other) => refuse(&format!("{other:?} beside the backup would be gone; move it away")),
                    None => Ok(()),
                };
            }
            Ok(_) => return refuse("it is the backup of another store; choose another directory"),
            // A damaged one does not say; the others do.
            Err(Error::NotAStore { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    refuse("it holds other things and no backup; choose another directory")
}

/// What restoring a backup gave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The store's id, the same as the backup's.
    pub store: StoreId,
    /// The last event that is in it.
    pub head: Position,
    /// How its files came there.
    pub files: Files,
    /// What the check of every byte found damaged; readers are told of it, too.
    pub damage: Vec<Damage>,
}

/// Makes a store of a backup, in `to`, which has to be empty or not there yet. Every byte is checked before it takes its
/// place.
///
/// It is the same store, with its id, as it was when the backup was made. What was written after that is gone, and *its
/// positions are given to other events*: whoever knows events by store id and position (as sinks do to leave out what they
/// have) takes the new ones for old.
///
/// # Errors
/// [`Error::NotAStore`] when `from` is no backup or was cut short before it was whole, and when `to` is not empty, or `TO.part`
/// is the backup itself, another store, or a backup.
/// [`Error::Damaged`] or [`Error::NotAStore`] when its newest segment is damaged, so that readers would not see what stands
/// behind, or the backup does not end where its [mark](backup()) says: [repair](crate::copies::repair()) it first, which tells what
/// is lost. Of a backup without a mark nothing tells that its newest segment is missing as a whole, or ends early between two commits.
pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>, progress: impl FnMut(Progress)) -> Result<Restored> {
    restore_on(&RealDisk, from.as_ref(), to.as_ref(), progress)
}

pub(crate) fn restore_on(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Restored> {
    let is_missing =
        |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    let found = match (moment::open(disk, from), aside::old(from)) {
        (Err(error), Some(old)) if is_missing(&error) => moment::open(disk, &old).map_err(|_| error),
        (found, _) => found,
    };
    let (moment, log) = found.map_err(|error| match error {
        error if is_missing(&error) && aside::is_unfinished(disk, from) => {
            Error::not_a_store(from, "the only backup to it was cut short before it was whole; run it again")
        }
        error => error,
    })?;
    check_is_outside(disk, log.directory.path(), to, "backup")?;
    check_end(disk, &log)?;
    let aside = Aside::begin(disk, to, Kind::Store(log.store), is_free)?;
    let mut files = Files::default();
    fill(&log, &moment, &aside, &mut files, &mut progress)?;
    let verdict = verify_on(disk, aside.part.path(), Depth::Whole, &mut progress)?;
    aside.take_place()?;
    Ok(Restored { store: log.store, head: log.head(), files, damage: verdict.damage })
}
