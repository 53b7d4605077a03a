//! W2: single events, each waited for.

use std::path::Path;

use towpath::{Durability, NewEvent, Options, Query, Store};

use super::{Marks, Story, marked, wrong};

const EVENTS: u64 = 120;
/// The stream that is written to after a recovery.
pub(super) const AFTER: &str = "after";

pub(crate) const STORY: Story = Story { name: "append", run, check };
/// The control: an append returns before it is on the disk.
pub(crate) const UNSYNCED: Story = Story { name: "append, unsynced", run: run_unsynced, check };

fn run(root: &Path, marks: &Marks) {
    append(&Options::new().open(root.join("store")).unwrap(), marks);
}

fn run_unsynced(root: &Path, marks: &Marks) {
    append(&Options::new().durability(Durability::Os).open(root.join("store")).unwrap(), marks);
}

fn append(store: &Store, marks: &Marks) {
    for number in 1..=EVENTS {
        let receipt = store.append(&stream(number), NewEvent::new("n", &payload(number))).unwrap();
        assert_eq!(receipt.first().get(), number);
        marks.mark(format_args!("E {number}"));
    }
}

fn stream(number: u64) -> String {
    format!("s-{}", number % 3)
}

/// Some are longer than a sector, some longer than a page.
pub(crate) fn payload(number: u64) -> Vec<u8> {
    let len = [300, 20, 700, 5000][number as usize % 4];
    (0..len).map(|at| (number * 31 + at) as u8).collect()
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = Options::new().open(root.join("store")).map_err(wrong)?;
    let first_after = check_events(&store, known, |number| (stream(number), payload(number)))?;
    check_and_mark(&store, known, first_after, marks)?;
    store.close().map_err(wrong)
}

/// Everything that was written is there in its order up to some place, and everything that was acknowledged. Gives the position
/// behind it.
pub(crate) fn check_events(
    store: &Store,
    known: &[&str],
    expected: impl Fn(u64) -> (String, Vec<u8>),
) -> Result<u64, String> {
    let mut next = 1;
    for event in store.read(Query::new()) {
        let event = event.map_err(wrong)?;
        if event.stream() == AFTER {
            break;
        }
        let (stream, payload) = expected(next);
        if (event.position().get(), event.stream(), event.payload()) != (next, stream.as_str(), &payload[..]) {
            return Err(format!(
                "{} of {} stands where {next} of {stream} was written",
                event.position(),
                event.stream()
            ));
        }
        next += 1;
    }
    match marked(known, "E").max().filter(|acknowledged| *acknowledged >= next) {
        Some(acknowledged) => Err(format!("{acknowledged} were acknowledged, and only {} are there", next - 1)),
        None => Ok(next),
    }
}

/// What was written after earlier recoveries is there, and one more is written.
pub(crate) fn check_and_mark(store: &Store, known: &[&str], first_after: u64, marks: &Marks) -> Result<(), String> {
    let head = store.head().get();
    let there: Vec<u64> = store
        .read(Query::new().stream(AFTER))
        .map(|event| event.map(|event| event.position().get()))
        .collect::<towpath::Result<_>>()
        .map_err(wrong)?;
    if !there.iter().copied().eq(first_after..=head) {
        return Err(format!("{there:?} follow what ends before {first_after}, and the head is {head}"));
    }
    if let Some(lost) = marked(known, "A").find(|position| !there.contains(position)) {
        return Err(format!("{lost} was acknowledged after a recovery and is not there: {there:?}"));
    }
    let position = store.append(AFTER, NewEvent::new("n", "after")).map_err(wrong)?.first();
    marks.mark(format_args!("A {position}"));
    Ok(())
}
