//! C4, C9: small segments that follow each other, with their indexes, and a store that is closed and opened again in between.

use std::path::Path;

use towpath::{NewEvent, Options, Store};

use super::append::{check_and_mark, check_events, payload};
use super::{Marks, Story, wrong};

const EVENTS: u64 = 240;
/// After so many the store is closed and opened.
const VISIT: u64 = 90;

pub(crate) const STORY: Story = Story { name: "roll", run, check };

fn open(root: &Path) -> towpath::Result<Store> {
    Options::new().segment_bytes(64 << 10).open(root.join("store"))
}

fn run(root: &Path, marks: &Marks) {
    let mut store = open(root).unwrap();
    for number in 1..=EVENTS {
        store.append(&stream(number), NewEvent::new("n", &payload(number))).unwrap();
        marks.mark(format_args!("E {number}"));
        if number % VISIT == 0 {
            store.close().unwrap();
            store = open(root).unwrap();
        }
    }
}

fn stream(number: u64) -> String {
    format!("s-{}", number % 20)
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = open(root).map_err(wrong)?;
    let next = check_events(&store, known, |number| (stream(number), payload(number)))?;
    check_and_mark(&store, known, next, marks)?;
    // The indexes agree with the log.
    for number in 0..20 {
        let there = (1..next).filter(|position| stream(*position) == stream(number)).count() as u64;
        if store.revision(&stream(number)).map_err(wrong)?.get() != there {
            return Err(format!("{} is not at {there}", stream(number)));
        }
    }
    store.close().map_err(wrong)
}
