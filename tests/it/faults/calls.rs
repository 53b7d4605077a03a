//! Each system call of a script fails in turn.

use std::collections::BTreeMap;

use crate::faults::script::{self, Weakness};
use crate::faults::strace::{self, Failure};
use crate::faults::{runs, spread, sum_up};
use crate::support::{Scratch, child};

/// How a call can fail.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "openat" => &["EIO", "EMFILE", "ENOSPC", "EINTR"],
        "mmap" => &["ENOMEM", "EAGAIN"],
        "fallocate" | "pwrite64" | "fdatasync" | "fsync" | "msync" | "ftruncate" => &["EIO", "ENOSPC", "EINTR"],
        "pread64" => &["EIO", "EINTR"],
        "getdents64" | "fadvise64" | "fchmod" => &["EIO"],
        _ => &["EIO", "ENOSPC"],
    }
}

/// What the child of a role is to do.
fn play(role: &str, store: &std::path::Path) {
    let mut words = role.split(' ');
    let durability = words.next().unwrap();
    let weakness = match words.next() {
        Some("hasty") => Weakness::Hasty,
        Some("deaf") => Weakness::Deaf,
        _ => Weakness::None,
    };
    script::play(store, durability, weakness);
}

/// What came of failing calls.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    failed: usize,
    told: usize,
    by_call: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// Each call of the child's in turn, or so many of them, evenly spread.
fn each_call_fails(test: &str, role: &str, calls: &[&str], most: usize) -> Tally {
    let durability = role.split(' ').next().unwrap();
    let start = Scratch::new();
    let watched = strace::watch(test, role, &start.store_path());
    assert_eq!(watched.ended_badly(), None, "control: without failures it ends well");
    assert!(!watched.said.iter().any(|line| line.starts_with("told")), "{:?}", watched.said);
    let counts = watched.counts(&start.store_path());
    let names = watched.files(&start.store_path());
    let mut failures = Vec::new();
    for (call, count) in counts.iter().filter(|(call, _)| calls.is_empty() || calls.contains(&call.as_str())) {
        for at in 1..=*count {
            failures.extend(errors(call).iter().map(|error| Failure { call: call.clone(), at, error }));
        }
    }
    let mut tally = Tally::default();
    for failure in spread(&failures, most) {
        let scratch = Scratch::new();
        let store = scratch.store_path();
        let names: Vec<_> =
            names.iter().map(|name| scratch.path().join(name.strip_prefix(start.path()).unwrap())).collect();
        let traced = strace::with_a_failure(test, role, &store, &names, &failure);
        tally.runs += 1;
        tally.failed += traced.failed;
        *tally.by_call.entry(failure.call.clone()).or_default() += traced.failed;
        let told = traced.said.iter().filter(|line| line.starts_with("told")).count();
        tally.told += told;
        let mut wrong = traced.ended_badly();
        if failure.error == "EINTR" && told > 0 {
            wrong = wrong.or(Some(format!("an interrupted call is to be made again: {:?}", traced.said)));
        }
        let wrong = wrong.or_else(|| script::judge(&store, durability, &traced.said).err());
        tally.wrong.extend(wrong.map(|why| format!("{role}, {failure:?}: {why}")));
    }
    tally
}

fn sweep(test: &str, role: &str) {
    if let Some((role, store)) = child::role() {
        return play(&role, &store);
    }
    if !strace::is_there(test) {
        return;
    }
    let tally = each_call_fails(test, role, &[], runs());
    let Tally { runs, failed, told, by_call, wrong } = &tally;
    sum_up(&format!(
        "{role}: {runs} runs, {failed} system calls failed, {told} errors told, {} wrong; {by_call:?}",
        wrong.len()
    ));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(*failed >= runs / 2 && *told >= runs / 4, "control: the failures were met: {tally:?}");
}

/// W11, W12, C3.
#[test]
fn each_call_of_a_store_that_syncs_fails_in_turn_and_nothing_acknowledged_is_lost() {
    sweep("faults::calls::each_call_of_a_store_that_syncs_fails_in_turn_and_nothing_acknowledged_is_lost", "sync");
}

/// W11, W12, C3.
#[test]
fn each_call_of_a_store_that_does_not_sync_fails_in_turn_and_nothing_acknowledged_is_lost() {
    sweep(
        "faults::calls::each_call_of_a_store_that_does_not_sync_fails_in_turn_and_nothing_acknowledged_is_lost",
        "os",
    );
}

/// W11, W12, C3.
#[test]
fn each_call_of_a_store_that_syncs_later_fails_in_turn_and_nothing_acknowledged_is_lost() {
    sweep(
        "faults::calls::each_call_of_a_store_that_syncs_later_fails_in_turn_and_nothing_acknowledged_is_lost",
        "every",
    );
}

/// The controls: children that acknowledge too early, or whatever they are answered.
#[test]
fn a_child_that_acknowledges_what_it_should_not_is_caught() {
    const NAME: &str = "faults::calls::a_child_that_acknowledges_what_it_should_not_is_caught";
    if let Some((role, store)) = child::role() {
        return play(&role, &store);
    }
    if !strace::is_there(NAME) {
        return;
    }
    for role in ["sync hasty", "sync deaf"] {
        let tally = each_call_fails(NAME, role, &["pwrite64"], 12);
        assert!(tally.wrong.iter().any(|why| why.contains("and it stands at None")), "{role}: {tally:?}");
    }
}
