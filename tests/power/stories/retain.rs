//! R2, L1, W1: old segments are let go of and indexes are merged, beside a cursor that needs what it has not read.

use std::path::Path;
use std::time::Duration;

use towpath::{Canal as _, Commit, NewEvent, Options, Position, Query, Retention, Settlement, Store};

use super::append::{AFTER, check_and_mark, payload};
use super::{Marks, Story, marked, wrong};

const COMMITS: u64 = 40;
const A_COMMIT: u64 = 20;
/// Some eight segments: enough for their indexes to be merged.
const KEPT: u64 = 300;
const READER: &str = "reader";
/// Every so many an event comes alone in its stream.
const ALONE: u64 = 25;

pub(crate) const STORY: Story = Story { name: "retention", run, check };

fn open(root: &Path) -> towpath::Result<Store> {
    Options::new().segment_bytes(64 << 10).open(root.join("store"))
}

fn run(root: &Path, marks: &Marks) {
    let store = open(root).unwrap();
    let mut reader = store.cursor(READER).open().unwrap();
    for number in 0..COMMITS {
        let mut commit = Commit::new();
        for at in number * A_COMMIT + 1..=(number + 1) * A_COMMIT {
            commit.event(&stream(at), NewEvent::new("n", &payload(at)));
        }
        marks.mark(format_args!("E {}", store.commit(&commit).unwrap().last()));
        // In the middle it falls behind, and keeps back what would go.
        let most = if (12..24).contains(&number) { 5 } else { 100 };
        let batch = reader.pull_batch(most, Duration::ZERO).unwrap();
        reader.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        reader.flush().unwrap();
        if number % 3 == 0 {
            store.sync().unwrap();
            marks.mark(format_args!("C {}", reader.checkpoint()));
        }
        if number % 2 == 0 {
            let_go(&store, KEPT, marks).unwrap();
        }
    }
    assert!(store.oldest().get() > COMMITS * A_COMMIT / 2, "control: old events go");
}

fn let_go(store: &Store, kept: u64, marks: &Marks) -> towpath::Result<()> {
    let plan = store.retain(&Retention::new().max_events(kept))?;
    marks.mark(format_args!("K {}", plan.keeps_from));
    Ok(())
}

fn stream(at: u64) -> String {
    if at.is_multiple_of(ALONE) { format!("once-{at}") } else { format!("s-{}", at % 5) }
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = open(root).map_err(wrong)?;
    let told = |kind| marked(known, kind).max().unwrap_or(0);
    let (oldest, head) = (store.oldest().get(), store.head().get());
    if oldest < told("K") {
        return Err(format!("kept from {oldest}, and {} was said", told("K")));
    }
    let consumers = store.consumers().map_err(wrong)?;
    let next = consumers.iter().find(|one| one.name == READER).map_or(1, |one| one.position.get());
    if next < told("C") || next > head + 1 || next < oldest {
        return Err(format!("the reader is at {next}, said to be at {}; kept {oldest} to {head}", told("C")));
    }
    let mut at = oldest;
    for event in store.read(Query::new()) {
        let event = event.map_err(wrong)?;
        if event.stream() == AFTER {
            break;
        }
        if (event.position().get(), event.stream(), event.payload()) != (at, stream(at).as_str(), &payload(at)[..]) {
            return Err(format!("{} of {} stands where {at} was written", event.position(), event.stream()));
        }
        at += 1;
    }
    if (at - 1) % A_COMMIT != 0 || at <= told("E") {
        return Err(format!("it ends before {at}, and {} were acknowledged", told("E")));
    }
    // Where streams stand, also those of which nothing is left.
    for position in (ALONE..at).step_by(ALONE as usize) {
        let stands = store.revision(&stream(position)).map_err(wrong)?.get();
        if stands != 1 {
            return Err(format!("{} stands at {stands}", stream(position)));
        }
    }
    let in_stream = (1..at).filter(|at| stream(*at) == "s-1").count() as u64;
    let stands = store.revision("s-1").map_err(wrong)?.get();
    if stands != in_stream {
        return Err(format!("s-1 stands at {stands}, and had {in_stream} events"));
    }
    let left = files_before(&root.join("store"), oldest)?;
    if !left.is_empty() {
        return Err(format!("kept from {oldest}, and there still are {left:?}"));
    }
    if oldest > 1 && store.event(Position::new(oldest - 1)).is_ok() {
        return Err("what is gone is not told".to_owned());
    }
    check_and_mark(&store, known, at, marks)?;
    // And the power may go while more is let go of.
    let_go(&store, KEPT / 2, marks).map_err(wrong)?;
    store.close().map_err(wrong)
}

/// Files of what is not kept, and those that were in the making.
fn files_before(store: &Path, oldest: u64) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(store).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name().to_string_lossy().into_owned();
        let first = name.split(['.', '-']).next().and_then(|first| first.parse::<u64>().ok());
        let is_of_segment = name.ends_with(".seg") || name.ends_with(".idx");
        if first.is_some_and(|first| first < oldest) && is_of_segment {
            found.push(name);
        }
    }
    Ok(found)
}
