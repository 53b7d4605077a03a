//! towpath beside other stores: the same work for all, each measurement a process of its own.

mod child;
mod cli;
mod events;
mod measure;
mod raw;
mod report;
mod run;
mod stats;
mod store;
mod stores;
mod work;
mod workload;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    cli::Cli::parse().run()
}
