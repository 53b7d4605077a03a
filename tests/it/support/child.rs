//! Tests that need a process of their own run this binary again, with one test and a role in the environment.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::Scratch;

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
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(STORE)?.into()))
}

/// How long a child may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a child and gives the lines that it said, each marked with `said:`. The child must have ended in good order.
pub(crate) fn said(command: Command) -> Vec<String> {
    let output = finish(command);
    assert!(output.status.success(), "{}", all_of(&output));
    lines(&output)
}

/// Runs a child to its end. One that hangs is killed, with what it started, and fails the test.
pub(crate) fn finish(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    let group = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let (send, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || send.send(child.wait_with_output().unwrap()));
    let output = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        panic!("{command:?} hangs");
    });
    waiting.join().unwrap().unwrap();
    output
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

/// Whether file systems can be mounted here, seen by one child alone.
pub(crate) fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    is_root() && tried.is_ok_and(|status| status.success())
}

/// A child whose mounts nobody else sees, and that are gone with it.
pub(crate) fn in_own_mounts(test: &str, role: &str, store: &Path) -> Command {
    let mut program = Command::new("unshare");
    program.arg("-m").arg(std::env::current_exe().unwrap());
    of_program(program, test, role, store)
}

/// Runs a test again as a child for each role, with a disk of this size (`6m`) that nobody else sees. Gives the role and the
/// disk there; in the test run itself `None`, once every child has said `done`.
pub(crate) fn on_a_disk_of(size: &str, test: &str, roles: &[&str]) -> Option<(String, PathBuf)> {
    if let Some((role, disk)) = role() {
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).status();
        assert!(mounted.unwrap().success());
        return Some((role, disk));
    }
    if !can_mount() {
        skip(test, "mounting needs root and `unshare`");
        return None;
    }
    for role in roles {
        let scratch = Scratch::new();
        let disk = scratch.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        assert_eq!(said(in_own_mounts(test, role, &disk)), ["done"], "{role}");
    }
    None
}

/// What a child says in which `strace` makes the sync with this number fail, counted over all files or over one of them. `None`,
/// and told, where `strace` is not there or may not trace. The child must have ended in good order.
pub(crate) fn said_with_a_failed_sync(
    test: &str,
    role: &str,
    store: &Path,
    only: Option<&Path>,
    at: usize,
) -> Option<Vec<String>> {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        skip(test, "it needs `strace`");
        return None;
    }
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    only.iter().for_each(|file| _ = strace.arg("-P").arg(file));
    strace.arg("-e").arg(format!("inject=fdatasync:error=EIO:when={at}"));
    strace.arg(std::env::current_exe().unwrap());
    let output = finish(of_program(strace, test, role, store));
    let said = lines(&output);
    if !output.status.success() && said.is_empty() && all_of(&output).contains("ptrace") {
        skip(test, "`strace` may not trace here");
        return None;
    }
    assert!(output.status.success(), "{role}, sync {at}: {}", all_of(&output));
    Some(said)
}
