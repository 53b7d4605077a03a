//! The processes of a test, all of them this binary again with one test and a role in the environment: the test run itself;
//! the machine, which mounts and checks where nobody else sees it; its disk; and what runs on it until the power goes.
//!
//! Each ends when the one before it does, and with the machine its mounts and its loop device are gone, however it ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROLE: &str = "TOWPATH_POWER_ROLE";
const DIR: &str = "TOWPATH_POWER_DIR";

/// The role and the directory of the machine, in a child; `None` in the test run itself.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(DIR)?.into()))
}

/// A command that runs the test of this thread as a child with a role.
pub(crate) fn command(role: &str, dir: &Path) -> Command {
    of_program(Command::new(std::env::current_exe().unwrap()), role, dir)
}

fn of_program(mut program: Command, role: &str, dir: &Path) -> Command {
    let test = std::thread::current().name().unwrap().to_owned();
    program.args(["--exact", &test, "--nocapture", "--test-threads=1"]).env(ROLE, role).env(DIR, dir);
    program
}

/// Says something to the process that started this one.
pub(crate) fn say(what: &str) {
    println!("said:{what}");
}

/// A child that ends when its standard input does, once it has said that it is ready.
pub(crate) fn ready(mut command: Command) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if line.contains("said:ready") {
            // What else it says goes nowhere.
            std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
            return child;
        }
        line.clear();
    }
    panic!("{command:?} ended: {:?}", child.wait());
}

/// Runs a test as a machine, or as a part of one. In the test run itself, waits for it; where there can be none, says so, and
/// fails if there has to be one.
pub(crate) fn on_a_machine(machine: impl FnOnce(&Path), run: impl FnOnce(&str, &Path)) {
    match role() {
        Some((role, dir)) if role == "disk" => crate::disk::serve(&dir),
        Some((role, dir)) if role == "machine" => {
            // Ends with the test run.
            std::thread::spawn(|| {
                let _ended = std::io::stdin().read_to_end(&mut Vec::new());
                std::process::exit(1);
            });
            machine(&dir);
        }
        Some((role, dir)) => run(&role, &dir),
        None => start(),
    }
}

fn start() {
    let test = std::thread::current().name().unwrap().to_owned();
    if let Some(why) = missing() {
        assert!(std::env::var_os("TOWPATH_REQUIRE_POWER").is_none(), "{test} cannot run: {why}");
        tell(&format!("skipped: {test}: {why}"));
        return;
    }
    let dir = std::env::temp_dir().join(format!("towpath-power-{}-{}", std::process::id(), test.replace("::", "-")));
    let _none_yet = std::fs::remove_dir(&dir);
    std::fs::create_dir(&dir).unwrap();
    let mut program = Command::new("unshare");
    program.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
    let mut machine =
        of_program(program, "machine", &dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let _cut = machine.stdout.take().unwrap().read_to_string(&mut said);
    let status = machine.wait().unwrap();
    let left = std::fs::remove_dir(&dir);
    assert!(status.success(), "{status}\n{said}");
    left.unwrap();
}

/// What a machine needs and is not here.
fn missing() -> Option<&'static str> {
    let has = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let there = |path: &str| Path::new(path).exists();
    let needs = [
        (rustix::process::geteuid().is_root(), "it needs to be root, for mounting"),
        (there("/dev/fuse"), "it needs FUSE (/dev/fuse)"),
        (there("/dev/loop-control"), "it needs loop devices (/dev/loop-control)"),
        (has("unshare") && has("losetup"), "it needs `unshare` and `losetup` (util-linux)"),
        (has("mkfs.ext4"), "it needs `mkfs.ext4` (e2fsprogs)"),
        (has("mkfs.xfs"), "it needs `mkfs.xfs` (xfsprogs)"),
    ];
    let missing = needs.iter().find(|(there, _)| !there).map(|(_, why)| *why);
    missing.or_else(|| {
        let tried = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        (!tried.is_ok_and(|status| status.success())).then_some("it may not mount here")
    })
}

/// Says something on standard error; past the test harness, which would swallow it.
pub(crate) fn tell(what: &str) {
    let _unheard = writeln!(std::io::stderr(), "{what}");
}
