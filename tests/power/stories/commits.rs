//! W8, W9: commits of several events over several streams, several of them on their way at once.

use std::path::Path;

use towpath::{Commit, NewEvent, Options, Ticket};

use super::append::{check_and_mark, check_events, payload};
use super::{Marks, Story, wrong};

const COMMITS: u64 = 60;
/// How many are on their way at once.
const TOGETHER: u64 = 3;

pub(crate) const STORY: Story = Story { name: "commits", run, check };

fn run(root: &Path, marks: &Marks) {
    let store = Options::new().open(root.join("store")).unwrap();
    for first in (1..=COMMITS).step_by(TOGETHER as usize) {
        let submit = |number| {
            let mut commit = Commit::new();
            for at in events(number) {
                commit.event(&stream(at), NewEvent::new("n", &payload(at)));
            }
            store.submit(&commit).unwrap()
        };
        let tickets: Vec<Ticket> = (first..first + TOGETHER).map(submit).collect();
        for ticket in tickets {
            marks.mark(format_args!("E {}", ticket.wait().unwrap().last()));
        }
    }
}

/// The positions of a commit: one to seven of them.
fn events(number: u64) -> std::ops::Range<u64> {
    let begin = |number: u64| 1 + (1..number).map(|before| 1 + before % 7).sum::<u64>();
    begin(number)..begin(number + 1)
}

fn stream(at: u64) -> String {
    format!("s-{}", at % 5)
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = Options::new().open(root.join("store")).map_err(wrong)?;
    let next = check_events(&store, known, |at| (stream(at), payload(at)))?;
    if let Some(part) = (1..=COMMITS).map(events).find(|events| events.start < next && next < events.end) {
        return Err(format!("of the commit of {part:?} only what is before {next} is there"));
    }
    check_and_mark(&store, known, next, marks)?;
    store.close().map_err(wrong)
}
