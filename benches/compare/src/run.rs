//! All measurements: round by round, and within a round workload by workload, the stores in turn.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::child;
use crate::measure::EVENTS;
use crate::raw::{Line, Log, Machine, Measurement, Outcome};
use crate::stores::Name;
use crate::workload::{Fit, Workload};

/// A store whose openings took so long together is not opened again in further rounds.
const OPENINGS: Duration = Duration::from_secs(60);

pub struct Run {
    pub stores: Vec<Name>,
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    pub quick: bool,
    pub scratch: PathBuf,
    pub raw: PathBuf,
    pub resume: bool,
}

impl Run {
    pub fn measure(&self) -> Result<()> {
        fs::create_dir_all(&self.scratch).with_context(|| format!("could not make {}", self.scratch.display()))?;
        let mut log = Log::open(&self.raw, self.resume)?;
        if log.is_empty() {
            log.push(Line::Machine(machine(self.quick)))?;
        }
        let (large, usual): (Vec<_>, Vec<_>) = self
            .workloads
            .iter()
            .copied()
            .partition(|workload| matches!(workload, Workload::FillLarge | Workload::ReopenLarge));
        let bar = progress(self.planned());
        for round in 1..=self.rounds {
            self.round(&mut log, &usual, round, &bar)?;
        }
        if !large.is_empty() {
            for store in &self.stores {
                self.large(&mut log, *store, &large, &bar)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Whether every store gave all that it claims, and gives back what it is given.
    pub fn check(&self) -> Result<()> {
        let log = Log::open(&self.raw, true)?;
        for store in &self.stores {
            let dir = self.dir(*store, "equal");
            let equal = child::equal(*store, &dir);
            remove(&dir)?;
            equal.with_context(|| format!("{} does not give back what it was given", store.key()))?;
            for workload in &self.workloads {
                let measured = log.find(*store, *workload, 1).is_some();
                if workload.fit(store.profile()) == Fit::Measured && !measured {
                    bail!("{} gave nothing for {}", store.key(), workload.key());
                }
            }
        }
        eprintln!("every store gave what it claims, and gives back what it was given");
        Ok(())
    }

    /// The stores that the readers need are made before these and removed after the round: all of them together take
    /// about 3 GB.
    fn round(&self, log: &mut Log, workloads: &[Workload], round: u32, bar: &ProgressBar) -> Result<()> {
        // Everybody comes first once.
        let mut stores = self.stores.clone();
        stores.rotate_left((round as usize - 1) % self.stores.len());
        let mut filled = Vec::new();
        for workload in with_fill(workloads, Workload::Fill) {
            for store in &stores {
                if workload.fit(store.profile()) != Fit::Measured {
                    continue;
                }
                let Some(source) = workload.reads() else {
                    let dir = self.dir(*store, &workload.key());
                    if workload != Workload::Fill {
                        self.one(log, *store, workload, round, &dir, 0, bar)?;
                        remove(&dir)?;
                    } else if self.readers_missing(log, *store, workloads, round) {
                        self.one_again(log, *store, workload, round, &dir, bar)?;
                        filled.push(dir);
                    }
                    continue;
                };
                let dir = self.dir(*store, &source.key());
                let stored = events(log, *store, source, round);
                self.one(log, *store, workload, round, &dir, stored, bar)?;
            }
        }
        filled.iter().try_for_each(|dir| remove(dir))
    }

    /// A large store is made once and opened once a round, each time by a new process: those of all stores together would
    /// take too much of the disk.
    fn large(&self, log: &mut Log, store: Name, workloads: &[Workload], bar: &ProgressBar) -> Result<()> {
        let dir = self.dir(store, &Workload::FillLarge.key());
        let opens = workloads.contains(&Workload::ReopenLarge);
        let missing = (1..=self.rounds).any(|round| log.find(store, Workload::ReopenLarge, round).is_none());
        if log.find(store, Workload::FillLarge, 1).is_none() || (opens && missing) {
            self.one_again(log, store, Workload::FillLarge, 1, &dir, bar)?;
            let stored = events(log, store, Workload::FillLarge, 1);
            let mut spent = Duration::ZERO;
            for round in (1..=self.rounds).filter(|_| opens) {
                let started = Instant::now();
                if spent < OPENINGS {
                    self.one(log, store, Workload::ReopenLarge, round, &dir, stored, bar)?;
                }
                spent += started.elapsed();
            }
        }
        remove(&dir)
    }

    fn readers_missing(&self, log: &Log, store: Name, workloads: &[Workload], round: u32) -> bool {
        let missing = |workload: Workload| {
            workload.fit(store.profile()) == Fit::Measured && log.find(store, workload, round).is_none()
        };
        let readers = workloads.iter().filter(|workload| workload.reads() == Some(Workload::Fill));
        missing(Workload::Fill) || readers.copied().any(missing)
    }

    /// Measures unless it has been before.
    #[expect(clippy::too_many_arguments, reason = "a measurement is all of these, and nothing else is made of them")]
    fn one(
        &self,
        log: &mut Log,
        store: Name,
        workload: Workload,
        round: u32,
        dir: &Path,
        stored: u64,
        bar: &ProgressBar,
    ) -> Result<()> {
        bar.inc(1);
        if log.find(store, workload, round).is_some() {
            return Ok(());
        }
        bar.set_message(format!("round {round}, {}, {}", workload.key(), store.key()));
        settle(&self.scratch)?;
        let outcome = if workload.reads().is_some() && stored == 0 {
            Outcome::Failed("there is nothing to read, because filling the store failed".into())
        } else {
            child::measure(store, workload, dir, self.quick, stored)
        };
        if let Outcome::Failed(why) = &outcome {
            bar.suspend(|| eprintln!("{}, {}: {why}", store.key(), workload.key()));
        }
        log.push(Line::Measurement(Measurement { store, workload: workload.key(), round, outcome }))
    }

    /// Makes what others read, also when it was measured before.
    fn one_again(
        &self,
        log: &mut Log,
        store: Name,
        workload: Workload,
        round: u32,
        dir: &Path,
        bar: &ProgressBar,
    ) -> Result<()> {
        remove(dir)?;
        if log.find(store, workload, round).is_some() {
            child::measure(store, workload, dir, self.quick, 0);
            return Ok(());
        }
        self.one(log, store, workload, round, dir, 0, bar)
    }

    fn dir(&self, store: Name, what: &str) -> PathBuf {
        self.scratch.join(format!("{}-{what}", store.key()))
    }

    fn planned(&self) -> u64 {
        let each = self.stores.iter().flat_map(|store| {
            self.workloads
                .iter()
                .filter(|workload| workload.fit(store.profile()) == Fit::Measured)
                .map(|workload| if *workload == Workload::FillLarge { 1 } else { u64::from(self.rounds) })
        });
        each.sum()
    }
}

/// Readers need what they read, also when that was not asked for.
fn with_fill(workloads: &[Workload], fill: Workload) -> Vec<Workload> {
    let mut workloads = workloads.to_vec();
    if let Some(first) = workloads.iter().position(|workload| workload.reads() == Some(fill))
        && !workloads.contains(&fill)
    {
        workloads.insert(first, fill);
    }
    workloads
}

fn events(log: &Log, store: Name, workload: Workload, round: u32) -> u64 {
    match log.find(store, workload, round).map(|found| &found.outcome) {
        Some(Outcome::Values(values)) => values.get(EVENTS).map_or(0, |events| *events as u64),
        _ => 0,
    }
}

/// The directory of this package: the program is run where it was built.
pub fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn readme() -> PathBuf {
    package().join("../../README.md")
}

/// Beside the program, which is on a disk; the directory for temporary files may be memory.
pub fn scratch() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("the program is in no directory")?.join("compare-scratch"))
}

/// Nobody pays for writes that another left behind.
fn settle(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn progress(planned: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}");
    let bar = ProgressBar::new(planned);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn machine(quick: bool) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(String::new, |rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let kib = field(&read("/proc/meminfo"), "MemTotal");
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    // Of what builders append to the version, nothing tells about speed.
    let release: Vec<&str> = release.split('.').take(2).collect();
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: kib.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib >> 20),
        system: format!("{} {}", uname.sysname().to_string_lossy(), release.join(".")),
        rustc: said("rustc", &["--version"]).split(" (").next().unwrap_or_default().to_owned(),
        date: said("date", &["--utc", "+%Y-%m-%d"]),
        quick,
    }
}
