//! The command line `towpath`: looks into a store, puts events into it, checks it and measures it.
//!
//! Exit status: 0 good, 1 what was asked about is not good (damage, rejected rows, no such event), 2 could not run.
//! It sees the library's public API only.

mod append;
mod args;
mod backup;
mod bench;
mod consumers;
mod dead;
mod doctor;
mod failure;
mod forward;
mod import;
mod info;
mod out;
mod pending;
mod place;
mod read;
mod repair;
mod retain;
mod row;
mod show;
mod signals;
mod stream;
mod template;
mod time;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Args, Verb};
use crate::failure::{Failure, complain};
use crate::out::Out;

/// What a verb that ran found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    /// Damage, rejected rows: told on the way.
    NotGood,
}

impl Answer {
    /// Good when both are.
    pub(crate) fn and(self, other: Answer) -> Answer {
        if self == Answer::Good { other } else { self }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    match run(args) {
        Ok(Answer::Good) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Ok(Answer::NotGood) => ExitCode::from(1),
        Err(Failure::NotGood(what)) => exit(1, &what),
        Err(Failure::CouldNotRun(why)) => exit(2, &why),
    }
}

fn run(args: Args) -> failure::Result<Answer> {
    let mut out = Out::new(args.json);
    let answer = match args.verb {
        Verb::Info(store) => info::run(&store, &mut out),
        Verb::Streams(store) => read::streams(&store, &mut out),
        Verb::Types(store) => read::types(&store, &mut out),
        Verb::Cat(cat) => read::cat(&cat, &mut out),
        Verb::Tail(tail) => read::tail(&tail, &mut out),
        Verb::Get(get) => read::get(&get, &mut out),
        Verb::Append(append) => append::run(&append, &mut out),
        Verb::Import(import) => import::run(&import, &mut out),
        Verb::Export(export) => read::export(&export, &mut out),
        Verb::Consumers(verb) => consumers::run(&verb, &mut out),
        Verb::Pending(pending) => pending::run(&pending, &mut out),
        Verb::Dead(verb) => dead::run(&verb, &mut out),
        Verb::Forward(forward) => forward::run(&forward, &mut out),
        Verb::Retain(verb) => retain::run(&verb, &mut out),
        Verb::Stream(verb) => stream::run(&verb, &mut out),
        Verb::Verify(verify) => verify::run(&verify, &mut out),
        Verb::Doctor(doctor) => doctor::run(&doctor, &mut out),
        Verb::Backup(backup) => backup::run(&backup, &mut out),
        Verb::Restore(restore) => backup::restore(&restore, &mut out),
        Verb::Fork(fork) => backup::fork(&fork, &mut out),
        Verb::Repair(repair) => repair::run(&repair, &mut out),
        Verb::Bench(bench) => bench::run(&bench, &mut out),
    }?;
    out.flush()?;
    Ok(answer)
}

fn exit(status: u8, why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(status)
}

/// Help goes out as it is; a usage error becomes one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                exit(2, &format!("could not print help: {error}"))
            }
            _ if error.use_stderr() => ExitCode::from(2),
            _ => ExitCode::SUCCESS,
        };
    }
    let text = error.to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts: Vec<String> = said.trim_start_matches("error: ").split("\n\n").map(words).collect();
    exit(2, &show::without_secrets(&format!("{}; see --help", parts.join("; "))))
}
