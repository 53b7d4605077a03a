//! `towpath bench`: what this machine does with a fresh store. What is measured is said in the help, at `args::Bench`.

mod consuming;
mod disk;
mod latency;
mod measure;
mod rated;
mod reading;
mod subscribers;
mod tail;
mod writing;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use towpath::{Durability, NewEvent, Options, Store};

use crate::Answer;
use crate::args::{Bench, Lasting, Workload};
use crate::bench::measure::{Line, Measured, anonymous_mib};
use crate::failure::{Failure, Result};
use crate::out::Out;

/// How much `--durability every` may lose.
const EVERY: Duration = Duration::from_millis(10);

/// What is to be done, and what is made ready for it.
struct Plan<'a> {
    args: &'a Bench,
    names: Names,
    payload: Vec<u8>,
}

pub(crate) fn run(args: &Bench, out: &mut Out) -> Result<Answer> {
    refuse_what_is_there(&args.dir)?;
    let plan = Plan { args, names: Names::new(args.streams), payload: vec![b'.'; args.size as usize] };
    let chosen = chosen(&args.workloads);
    if !chosen.contains(&Workload::Append) {
        plan.measure(Workload::Append)?;
    }
    if !out.is_json() {
        out.line(&measure::heading())?;
    }
    for workload in chosen {
        match workload {
            Workload::LatencyAppend | Workload::LatencyConsumer => latency::run(&plan, workload, out)?,
            _ => plan.measure(workload)?.print(out)?,
        }
    }
    Ok(Answer::Good)
}

impl Plan<'_> {
    fn open(&self) -> Result<Store> {
        let durability = match self.args.durability {
            Lasting::Os => Durability::Os,
            Lasting::Every => Durability::Every(EVERY),
            Lasting::Sync => Durability::Sync,
        };
        Ok(Options::new().durability(durability).segment_bytes(self.args.segment).open(&self.args.dir)?)
    }

    /// Runs one workload on the store opened for it, and closes it again.
    fn measure(&self, workload: Workload) -> Result<Line> {
        let (store, measured) = match workload {
            Workload::Reopen => reading::reopen(self)?,
            _ => {
                let store = self.open()?;
                let measured = self.work(workload, &store)?;
                (store, measured)
            }
        };
        let anon_mib = anonymous_mib();
        let stored = store.head().get();
        store.close()?;
        let disk = disk::used(&self.args.dir)? as f64 / stored.max(1) as f64;
        Ok(Line::new(workload_name(workload), measured, anon_mib, disk))
    }

    fn work(&self, workload: Workload, store: &Store) -> Result<Measured> {
        match workload {
            Workload::Append => writing::append(self, store),
            Workload::AppendBlocking => writing::append_blocking(self, store),
            Workload::Replay => reading::replay(store),
            Workload::ReplayHashed => reading::replay_hashed(store, 1),
            Workload::ReplayParallel => reading::replay_hashed(store, processors()),
            Workload::Streams => reading::streams(self, store),
            Workload::Cursor => consuming::cursor(store),
            Workload::CursorCheckpoint => consuming::cursor_checkpoint(store),
            Workload::Group => consuming::group(store),
            Workload::GroupOrdered => consuming::group_ordered(store),
            Workload::ReactorExactlyOnce => consuming::reactor_exactly_once(store),
            Workload::ReactorLatency => tail::reactor(self, store),
            Workload::SinkNdjson => consuming::sink_ndjson(self, store),
            Workload::TailLatency => tail::latency(self, store),
            Workload::Append1000Subscribers => subscribers::append(self, store),
            Workload::Reopen | Workload::LatencyAppend | Workload::LatencyConsumer => {
                Err(Failure::new("this workload opens the store itself"))
            }
        }
    }

    fn event(&self) -> NewEvent<'_> {
        event(&self.payload)
    }
}

/// Stream names side by side, because a million of them would show up in the memory that is measured.
struct Names {
    text: String,
    ends: Vec<u32>,
}

impl Names {
    fn new(count: u64) -> Self {
        let mut names = Names { text: String::new(), ends: Vec::new() };
        for number in 0..count {
            names.text.push_str(&format!("stream-{number}"));
            names.ends.push(names.text.len() as u32);
        }
        names
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, place: usize) -> &str {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin as usize..self.ends[place] as usize]
    }
}

fn event(payload: &[u8]) -> NewEvent<'_> {
    NewEvent::new("bench.event", payload)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// In the order they run in; all of them when none is named.
fn chosen(named: &[Workload]) -> Vec<Workload> {
    let all = Workload::value_variants().iter().copied();
    all.filter(|workload| named.is_empty() || named.contains(workload)).collect()
}

fn workload_name(workload: Workload) -> String {
    workload.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn refuse_what_is_there(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::because(format!("could not use {}", dir.display()), &error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::new(format!("{} is not empty; name a new directory", dir.display()))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lie_side_by_side() {
        let names = Names::new(11);
        assert_eq!((names.len(), names.get(0), names.get(10)), (11, "stream-0", "stream-10"));
    }

    #[test]
    fn workloads_run_in_their_own_order() {
        assert_eq!(chosen(&[Workload::Reopen, Workload::Append]), [Workload::Append, Workload::Reopen]);
        assert_eq!(chosen(&[]).len(), 18);
        assert_eq!(workload_name(Workload::TailLatency), "tail_latency");
    }
}
