//! Whether a store gives back what it was given: the same check for every store.

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::events::{Commits, Names, number};
use crate::store::{Durability, Purpose, Seen, Store, Visitor};
use crate::stores::Task;

const STREAMS: usize = 7;
const SIZE: usize = 100;

/// Appends in every way the store has, closes and opens it in between, and compares all that comes back.
pub struct Equal<'a> {
    pub dir: &'a Path,
    /// Says that another event was appended than was: the control, which has to be noticed.
    pub lie: bool,
}

/// An event in full.
#[derive(PartialEq)]
struct Whole {
    payload: Vec<u8>,
    stream: Option<String>,
    revision: Option<u64>,
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.payload.last();
        write!(f, "{} of {:?} at {:?}, ending with {last:?}", number(&self.payload), self.stream, self.revision)
    }
}

#[derive(Default)]
struct Collect(Vec<Whole>);

impl Visitor for Collect {
    fn event(&mut self, event: &impl Seen) {
        let (payload, stream) = (event.payload().to_vec(), event.stream().map(str::to_owned));
        self.0.push(Whole { payload, stream, revision: event.revision() });
    }
}

impl Task for Equal<'_> {
    type Output = Result<()>;

    fn run<S: Store>(self) -> Result<()> {
        let names = Names::new(STREAMS);
        let mut expected: Vec<Whole> = Vec::new();
        let mut next = 0;
        for durability in [Durability::Os, Durability::Sync] {
            if durability == Durability::Sync && !S::PROFILE.synced {
                continue;
            }
            let mut store = S::open(self.dir, Purpose::new(durability, false))?;
            for (events, submitted) in [(1, false), (10, false), (1, true), (10, true)] {
                if submitted && !S::PROFILE.pipelined {
                    continue;
                }
                let mut commits = Commits::new(&names, events, SIZE, next);
                for _ in 0..5 {
                    let commit = commits.next();
                    expected.extend(commit.events().map(|event| Whole {
                        payload: event.payload.to_vec(),
                        stream: S::PROFILE.streams.then(|| event.stream.to_owned()),
                        revision: None,
                    }));
                    if submitted {
                        store.submit(&commit)?
                    } else {
                        store.append(&commit)?
                    }
                    next += events as u64;
                }
                store.finish()?;
            }
            store.close()?;
        }
        number_revisions::<S>(&mut expected);
        if self.lie {
            expected[3].payload[SIZE - 1] ^= 1;
        }
        self.compare::<S>(&names, &expected)
    }
}

impl Equal<'_> {
    fn compare<S: Store>(&self, names: &Names, expected: &[Whole]) -> Result<()> {
        let mut store = S::open(self.dir, Purpose::READING)?;
        let mut all = Collect::default();
        store.replay(&mut all)?;
        ensure!(all.0.len() == expected.len(), "{} events of {} came back", all.0.len(), expected.len());
        for (place, (found, expected)) in all.0.iter().zip(expected).enumerate() {
            ensure!(found == expected, "event {place} is {found:?} and was {expected:?}");
        }
        for name in (0..names.len()).map(|place| names.get(place)).filter(|_| S::PROFILE.streams) {
            let mut stream = Collect::default();
            store.stream(name, &mut stream)?;
            let expected: Vec<&Whole> = expected.iter().filter(|event| event.stream.as_deref() == Some(name)).collect();
            let found: Vec<&Whole> = stream.0.iter().collect();
            ensure!(found == expected, "{name} is {found:?} and was {expected:?}");
        }
        store.close()
    }
}

fn number_revisions<S: Store>(events: &mut [Whole]) {
    if !S::PROFILE.revisions {
        return;
    }
    let mut counts = std::collections::HashMap::new();
    for event in events {
        let count = counts.entry(event.stream.clone()).or_insert(0);
        event.revision = Some(*count);
        *count += 1;
    }
}
