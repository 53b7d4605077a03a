//! Children under `strace`, which makes system calls fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::child;

/// The calls that a store makes to change and to read its files.
pub(super) const CALLS: [&str; 17] = [
    "openat",
    "mmap",
    "fallocate",
    "ftruncate",
    "pwrite64",
    "fdatasync",
    "fsync",
    "msync",
    "renameat",
    "renameat2",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "pread64",
    "fadvise64",
    "getdents64",
    "fchmod",
];

/// What a child did under `strace`.
pub(super) struct Traced {
    pub(super) output: Output,
    pub(super) said: Vec<String>,
    /// Calls that were made to fail.
    pub(super) failed: usize,
    log: String,
}

/// Whether calls can be made to fail here. When not, that is told, or is a failure where it was asked for.
pub(super) fn is_there(test: &str) -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "-e", "trace=none", "true"]).output();
    let is_there = tried.is_ok_and(|output| output.status.success());
    assert!(
        is_there || std::env::var_os("TOWPATH_REQUIRE_STRACE").is_none(),
        "{test}: TOWPATH_REQUIRE_STRACE is set, and `strace` is not there or may not trace"
    );
    if !is_there {
        child::skip(test, "it needs `strace`, which is not there or may not trace");
    }
    is_there
}

/// Runs a child of this role and has it traced. Nothing fails.
pub(super) fn watch(test: &str, role: &str, store: &Path) -> Traced {
    run(test, role, store, &format!("trace={}", existing(&CALLS).join(",")), None, &[])
}

/// Runs a child of this role. In each of its threads the call with this number among those of its kind, over these files,
/// fails.
pub(super) fn with_a_failure(test: &str, role: &str, store: &Path, files: &[PathBuf], failure: &Failure) -> Traced {
    let inject = format!("inject={}:error={}:when={}", failure.call, failure.error, failure.at);
    run(test, role, store, &format!("trace={}", failure.call), Some(inject), files)
}

/// Which call fails, and how.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) call: String,
    pub(super) at: usize,
    pub(super) error: &'static str,
}

fn run(test: &str, role: &str, store: &Path, trace: &str, inject: Option<String>, files: &[PathBuf]) -> Traced {
    let log = store.with_extension("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-o"]).arg(&log).args(["-e", trace]);
    inject.iter().for_each(|inject| _ = strace.args(["-e", inject]));
    files.iter().for_each(|file| _ = strace.arg("-P").arg(file));
    strace.arg(std::env::current_exe().unwrap());
    let output = child::finish(child::of_program(strace, test, role, store));
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    let failed = log.lines().filter(|line| line.contains("(INJECTED)")).count();
    Traced { said: child::lines(&output), output, failed, log }
}

impl Traced {
    /// What is wrong with how it ended, if anything is.
    pub(super) fn ended_badly(&self) -> Option<String> {
        let all = child::all_of(&self.output);
        let is_good = self.output.status.success() && !all.contains("panicked") && self.said.last()? == "done";
        (!is_good).then_some(all)
    }

    /// The files of the store that it touched.
    pub(super) fn files(&self, store: &Path) -> Vec<PathBuf> {
        let store = store.to_str().unwrap();
        let named = self.log.split('<').filter_map(|rest| rest.split_once('>')).map(|(name, _)| name);
        let ours = named.filter(|name| name.starts_with(store));
        ours.map(|name| PathBuf::from(name.trim_end_matches(" (deleted)")))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// By call, how often the thread that made most of them did so, over files of the store.
    pub(super) fn counts(&self, store: &Path) -> BTreeMap<String, usize> {
        let store = store.to_str().unwrap();
        let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for line in self.log.lines().filter(|line| line.contains(store) && !line.contains("resumed>")) {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            *by_thread.entry((call, thread)).or_default() += 1;
        }
        let mut counts = BTreeMap::new();
        for ((call, _), count) in by_thread {
            let most: &mut usize = counts.entry(call.to_owned()).or_default();
            *most = count.max(*most);
        }
        counts
    }
}

/// Those that this machine's processor has.
fn existing(calls: &[&'static str]) -> Vec<&'static str> {
    let lacks = |call: &str| cfg!(not(target_arch = "x86_64")) && ["mkdir", "renameat"].contains(&call);
    calls.iter().copied().filter(|call| !lacks(call)).collect()
}
