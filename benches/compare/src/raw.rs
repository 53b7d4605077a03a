//! Raw results: a line of JSON for each measurement, and one for the machine.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Values;
use crate::stats::Summary;
use crate::stores::Name;
use crate::workload::{Fit, Mark, Workload};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Machine(Machine),
    Measurement(Measurement),
}

/// Where and how it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub system: String,
    pub rustc: String,
    pub date: String,
    pub quick: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub store: Name,
    pub workload: String,
    pub round: u32,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Values(Values),
    Failed(String),
}

/// A file of such lines that grows.
pub struct Log {
    file: File,
    lines: Vec<Line>,
}

impl Log {
    /// Goes on with what is there, or begins anew.
    pub fn open(path: &Path, resume: bool) -> Result<Self> {
        let lines = if resume { read(path)? } else { Vec::new() };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut log =
            Self { file: OpenOptions::new().create(true).write(true).truncate(true).open(path)?, lines: Vec::new() };
        // What failed is tried again.
        let kept = |line: &Line| !matches!(line, Line::Measurement(Measurement { outcome: Outcome::Failed(_), .. }));
        lines.into_iter().filter(kept).try_for_each(|line| log.push(line))?;
        Ok(log)
    }

    pub fn push(&mut self, line: Line) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        self.lines.push(line);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn find(&self, store: Name, workload: Workload, round: u32) -> Option<&Measurement> {
        let key = workload.key();
        self.lines.iter().rev().find_map(|line| match line {
            Line::Measurement(found) if found.store == store && found.workload == key && found.round == round => {
                Some(found)
            }
            _ => None,
        })
    }
}

/// Everything that was measured, by store and workload.
#[derive(Default)]
pub struct Results {
    pub machine: Option<Machine>,
    measured: BTreeMap<(Name, String), Vec<Outcome>>,
}

/// What a table shows for a store and a workload.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    Measured {
        summary: Summary,
        marks: Vec<Mark>,
    },
    Failed(String),
    Cannot(&'static str),
    /// Not among what was run.
    Absent,
}

impl Results {
    pub fn read(path: &Path) -> Result<Self> {
        Ok(read(path)?.into_iter().collect())
    }

    pub fn rounds(&self) -> usize {
        self.measured.values().map(Vec::len).max().unwrap_or(0)
    }

    pub fn stores(&self) -> Vec<Name> {
        let measured = |store: &&Name| self.measured.keys().any(|(name, _)| name == *store);
        Name::ALL.iter().filter(measured).copied().collect()
    }

    /// The medians of one value, of whatever the store does for this workload.
    pub fn figure(&self, store: Name, workload: Workload, value: &str) -> Figure {
        let (mut workload, mut marks) = (workload, Vec::new());
        loop {
            match workload.fit(store.profile()) {
                Fit::Cannot(why) => return Figure::Cannot(why),
                Fit::Instead(other, mark) => {
                    workload = other;
                    marks.push(mark);
                }
                Fit::Measured => break,
            }
        }
        let Some(outcomes) = self.measured.get(&(store, workload.key())) else { return Figure::Absent };
        let values = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Values(values) => values.get(value).copied(),
            Outcome::Failed(_) => None,
        });
        let failed = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(why) => Some(why.clone()),
            Outcome::Values(_) => None,
        });
        match (Summary::of(values), failed) {
            (Some(summary), _) => Figure::Measured { summary, marks },
            (None, Some(why)) => Figure::Failed(why),
            (None, None) => Figure::Absent,
        }
    }

    pub fn median(&self, store: Name, workload: Workload, value: &str) -> Option<f64> {
        match self.figure(store, workload, value) {
            Figure::Measured { summary, .. } => Some(summary.median),
            _ => None,
        }
    }

    /// Everything that went wrong: which store, which workload, why.
    pub fn failures(&self) -> Vec<(Name, &str, &str)> {
        let failures = self.measured.iter().flat_map(|((store, workload), outcomes)| {
            outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Failed(why) => Some((*store, workload.as_str(), why.as_str())),
                Outcome::Values(_) => None,
            })
        });
        failures.collect()
    }
}

impl FromIterator<Line> for Results {
    fn from_iter<T: IntoIterator<Item = Line>>(lines: T) -> Self {
        let mut results = Self::default();
        for line in lines {
            match line {
                Line::Machine(machine) => results.machine = Some(machine),
                Line::Measurement(Measurement { store, workload, outcome, .. }) => {
                    results.measured.entry((store, workload)).or_default().push(outcome);
                }
            }
        }
        results
    }
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("could not read {}", path.display()))?,
    };
    let line = |line| serde_json::from_str(line).with_context(|| format!("{} has a bad line: {line}", path.display()));
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::RATE;

    #[test]
    fn lines_come_back_from_json_and_become_medians() {
        let line = |round, outcome| {
            Line::Measurement(Measurement { store: Name::Redb, workload: "replay".into(), round, outcome })
        };
        let rate = |rate| Outcome::Values(Values::from([(RATE.into(), rate)]));
        let lines =
            [line(1, rate(5.0)), line(2, rate(7.0)), line(3, rate(1.0)), line(4, Outcome::Failed("full".into()))];
        let text: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        let read: Vec<Line> = text.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, lines);
        let results: Results = read.into_iter().collect();
        assert_eq!(results.median(Name::Redb, Workload::Replay, RATE), Some(5.0));
        assert_eq!(results.median(Name::Lmdb, Workload::Replay, RATE), None);
        assert_eq!(results.failures(), [(Name::Redb, "replay", "full")]);
        assert_eq!(results.figure(Name::Walrus, Workload::Streams, RATE), Figure::Cannot("no streams"));
    }
}
