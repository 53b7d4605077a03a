//! Tests that need a process of their own run this binary again, with one test and a role in the environment.

use std::path::Path;
use std::process::{Command, Output};

const ROLE: &str = "TOWPATH_TEST_ROLE";
const STORE: &str = "TOWPATH_TEST_STORE";

/// A command that runs one test of this binary as a child with a role.
pub(crate) fn command(test: &str, role: &str, store: &Path) -> Command {
    of_program(Command::new(std::env::current_exe().unwrap()), test, role, store)
}

/// The same behind another program, such as `strace`, whose own arguments stand in `program` already.
pub(crate) fn of_program(mut program: Command, test: &str, role: &str, store: &Path) -> Command {
    program.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role).env(STORE, store);
    program
}

/// The role and the store's path, in a child; `None` in the test run itself.
pub(crate) fn role() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(STORE)?.into()))
}

/// Runs a child and gives the lines that it said, each marked with `said:`. The child must have ended in good order.
pub(crate) fn said(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", all_of(&output));
    lines(&output)
}

pub(crate) fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.split_once("said:").map(|(_, said)| said.to_owned())).collect()
}

pub(crate) fn all_of(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

/// Tells the parent something.
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("said:{what}");
}

/// Says on stderr why a test did not run; past the test harness, which would swallow it.
pub(crate) fn skip(test: &str, why: &str) {
    use std::io::Write;
    let _unheard = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
