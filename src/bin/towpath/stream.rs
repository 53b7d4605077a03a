//! `towpath stream`: removing events of a stream, or telling what would go.

use std::collections::HashSet;

use serde::Serialize;
use towpath::{Event, Purged, Query, Revision, Store};

use crate::Answer;
use crate::args::removing::{Key, OfStream, StreamVerb};
use crate::consumers::open_to_change;
use crate::failure::{Failure, Result};
use crate::out::Out;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Removed<'a> {
    done: bool,
    stream: &'a str,
    revision: u64,
    events: u64,
    kept: u64,
    left: u64,
    segments: Option<u64>,
    bytes: Option<u64>,
}

pub(crate) fn run(verb: &StreamVerb, out: &mut Out) -> Result<Answer> {
    let of = match verb {
        StreamVerb::Truncate(truncate) => &truncate.of,
        StreamVerb::Delete(of) => of,
        StreamVerb::Compact(compact) => &compact.of,
    };
    let store = if of.yes { open_to_change(&of.dir)? } else { Store::open_read_only(&of.dir)? };
    let revision = store.revision(&of.stream)?;
    if revision == Revision::ABSENT {
        return Err(Failure::NotGood(format!("there is no stream {:?}; `towpath streams` lists them", of.stream)));
    }
    let (events, kept) = count(&store, verb, &of.stream)?;
    let mut removed = Removed {
        done: of.yes,
        stream: &of.stream,
        revision: revision.get(),
        events,
        kept,
        left: 0,
        segments: None,
        bytes: None,
    };
    if of.yes {
        removed.left = remove(&store, verb, of)?;
        (removed.events, removed.kept) = (events - removed.left, kept + removed.left);
        let Purged { segments, bytes, .. } = store.purge()?;
        store.close()?;
        (removed.segments, removed.bytes) = (Some(segments), Some(bytes));
    }
    if out.is_json() {
        out.object(&removed)?
    } else {
        print(&removed, out)?
    }
    Ok(Answer::Good)
}

/// How many events go, and how many stay.
fn count(store: &Store, verb: &StreamVerb, stream: &str) -> Result<(u64, u64)> {
    let (mut goes, mut stays, mut seen) = (0, 0, HashSet::new());
    for event in store.read(Query::new().stream(stream)).backwards() {
        let event = event?;
        let is_gone = match verb {
            StreamVerb::Truncate(truncate) => event.revision().get() < truncate.before,
            StreamVerb::Delete(_) => true,
            StreamVerb::Compact(compact) => key(&compact.by, &event).is_some_and(|key| !seen.insert(key)),
        };
        *(if is_gone { &mut goes } else { &mut stays }) += 1;
    }
    Ok((goes, stays))
}

/// Does it. Gives how many there was no room for.
fn remove(store: &Store, verb: &StreamVerb, of: &OfStream) -> Result<u64> {
    match verb {
        StreamVerb::Truncate(truncate) => store.truncate_stream(&of.stream, Revision::new(truncate.before))?,
        StreamVerb::Delete(_) => store.delete_stream(&of.stream)?,
        StreamVerb::Compact(compact) => {
            return Ok(store.compact_stream(&of.stream, |event| key(&compact.by, event))?.left);
        }
    }
    Ok(0)
}

fn key(by: &Key, event: &Event<'_>) -> Option<String> {
    let found = match by {
        Key::Type => Some(event.type_name()),
        Key::Tag(prefix) => event.tags().find(|tag| tag.starts_with(prefix.as_str())),
        Key::Header(wanted) => event.headers().find(|(name, _)| *name == wanted.as_str()).map(|(_, value)| value),
    };
    found.map(str::to_owned)
}

fn print(removed: &Removed<'_>, out: &mut Out) -> Result<()> {
    let Removed { done, stream, revision, events, kept, left, segments, bytes } = removed;
    let verb = if *done { "went" } else { "would go" };
    let of_stream = format!("of {stream}, which stood at revision {revision}");
    out.line(&format!("{events} events {verb} {of_stream}; {kept} are kept"))?;
    if *left > 0 {
        out.line(&format!("{left} more were too many for one list: say it again"))?;
    }
    match (segments, bytes) {
        (Some(segments), Some(bytes)) => {
            out.line(&format!("{segments} segments were written again: {bytes} bytes less"))
        }
        _ => out.line("nothing was changed; say it with --yes"),
    }
}
