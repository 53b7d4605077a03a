//! The command line.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand};

use crate::report;
use crate::run::{self, Run};
use crate::stores::Name;
use crate::work::Work;
use crate::work::equal::Equal;
use crate::workload::{Sizes, Workload};

/// Compares towpath with other stores, and writes tables and charts of it: RESULTS.md, results.jsonl, charts/, and the
/// part of the project's README between its two marks. A run of only some stores or workloads, and a quick one, write
/// beside their scratch data instead.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(flatten)]
    run: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Options {
    /// How often each measurement is made; tables have the medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Small sizes and one round, to see that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,

    /// These stores only
    #[arg(long, value_delimiter = ',')]
    only: Vec<Name>,

    /// These workloads only, such as replay or append-100x100-os-pipelined
    #[arg(long, value_delimiter = ',', value_parser = workload)]
    workload: Vec<Workload>,

    /// Where the stores are made, about 3 GB of them: a directory on the disk that is to be measured [default: beside the
    /// program]
    #[arg(long)]
    dir: Option<PathBuf>,

    /// Keep the raw results that are there, and measure what is missing
    #[arg(long)]
    resume: bool,

    /// Measure nothing: tables and charts from the raw results that are there
    #[arg(long)]
    report: bool,
}

#[derive(Subcommand)]
enum Command {
    /// One measurement, in this process
    #[command(hide = true)]
    Measure {
        store: Name,
        #[arg(value_parser = workload)]
        workload: Workload,
        dir: PathBuf,
        #[arg(long)]
        quick: bool,
        #[arg(long, default_value_t = 0)]
        stored: u64,
    },
    /// Whether one store gives back what it was given, in this process
    #[command(hide = true)]
    Equal {
        store: Name,
        dir: PathBuf,
        #[arg(long)]
        lie: bool,
    },
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            None => self.run.run(),
            Some(Command::Measure { store, workload, dir, quick, stored }) => {
                let sizes = if quick { Sizes::QUICK } else { Sizes::FULL };
                let values = store.with(Work { workload, dir: &dir, sizes, stored })?;
                println!("{}", serde_json::to_string(&values)?);
                Ok(())
            }
            Some(Command::Equal { store, dir, lie }) => store.with(Equal { dir: &dir, lie }),
        }
    }
}

impl Options {
    fn run(self) -> Result<()> {
        let whole = !self.quick && self.only.is_empty() && self.workload.is_empty();
        let scratch = match self.dir {
            // Under a name of its own: what is in the way there is removed.
            Some(dir) => dir.join("towpath-compare"),
            None => run::scratch()?,
        };
        let out = if whole { run::package() } else { scratch.join("report") };
        let run = Run {
            stores: if self.only.is_empty() { Name::ALL.to_vec() } else { self.only },
            workloads: if self.workload.is_empty() { Workload::all() } else { self.workload },
            rounds: if self.quick { 1 } else { self.rounds },
            quick: self.quick,
            scratch,
            raw: out.join("results.jsonl"),
            resume: self.resume,
        };
        if !self.report {
            run.measure()?;
        }
        let readme = whole.then(run::readme);
        report::write(&run.raw, &out, readme.as_deref())?;
        if self.quick { run.check() } else { Ok(()) }
    }
}

fn workload(key: &str) -> Result<Workload> {
    Workload::named(key).ok_or_else(|| {
        let all: Vec<String> = Workload::all().into_iter().map(Workload::key).collect();
        anyhow!("no workload is called {key}; there are {}", all.join(", "))
    })
}
