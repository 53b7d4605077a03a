//! Processes that are killed at random moments, again and again, on one store.
//!
//! Each test kills thirty times; as many as `TOWPATH_KILLS` says. The seed of a failed run is in its message;
//! `TOWPATH_SEED` takes it.

mod groups;
#[path = "../it/support/random.rs"]
mod random;
mod reactors;
mod retention;
mod writer;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use towpath::{Canal as _, Settlement, Store};

const STORE: &str = "TOWPATH_KILLS_STORE";
const ROUND: &str = "TOWPATH_KILLS_ROUND";

/// The store and the round, in a child; `None` in the test run itself.
fn child() -> Option<(PathBuf, u64)> {
    Some((std::env::var_os(STORE)?.into(), std::env::var(ROUND).ok()?.parse().unwrap()))
}

/// A command that runs one test of this binary as a child.
fn command(test: &str, store: &Path, round: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(STORE, store).env(ROUND, round);
    command
}

/// How many kills there are to be, and the seed that says when.
fn kills_and_seed() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("TOWPATH_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1);
    (number("TOWPATH_KILLS").unwrap_or(30), seed)
}

/// Where there is nothing yet.
fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("towpath-kills-{name}-{}", std::process::id()));
    let _none_yet = std::fs::remove_dir_all(&path);
    path
}

/// Tells the parent something, from any thread of a child.
fn say(what: impl std::fmt::Display) {
    let line = format!("kills:{what}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// One thread of a child: reads for ever, keeps a checkpoint, and says it.
fn read_and_say(store: &Store, consumer: &str) {
    let mut cursor = store.cursor(consumer).open().unwrap();
    loop {
        let batch = cursor.pull_batch(50, Duration::from_secs(1)).unwrap();
        let Some(token) = batch.last() else { continue };
        cursor.settle(token, Settlement::Done).unwrap();
        cursor.flush().unwrap();
        say(format!("C {}", cursor.checkpoint()));
    }
}

/// Runs a child, kills it once it has said so many things, and gives everything that it said.
fn run_and_kill(test: &str, store: &Path, round: u64, lines: u64) -> Vec<String> {
    let mut child = command(test, store, &round.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut heard, mut line, mut left, mut killed) = (Vec::new(), String::new(), lines, false);
    loop {
        // Now and then before it has said anything: while it opens the store.
        if left == 0 && !killed {
            child.kill().unwrap();
            killed = true;
        }
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        left = left.saturating_sub(1);
        // The last line may have been cut.
        if let Some((_, said)) = line.strip_suffix('\n').and_then(|line| line.split_once("kills:")) {
            heard.push(said.to_owned());
        }
    }
    let status = child.wait().unwrap();
    assert!(killed && status.code().is_none(), "round {round}: the child ended by itself: {status}");
    heard
}
