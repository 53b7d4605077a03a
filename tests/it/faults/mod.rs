//! W11, W12, C3: what becomes of a store when the operating system refuses, for real.
//!
//! Short by default. `TOWPATH_FAULTS` says how many runs of each script there are to be, or `all`.
//! `TOWPATH_REQUIRE_STRACE=1` makes it a failure when calls cannot be made to fail here.

mod calls;
mod script;
mod strace;

/// How many runs of one kind there are to be.
fn runs() -> usize {
    match std::env::var("TOWPATH_FAULTS").as_deref() {
        Ok("all") => usize::MAX,
        Ok(number) => number.parse().expect("TOWPATH_FAULTS is a number or `all`"),
        Err(_) => 24,
    }
}

/// So many of these, evenly spread.
fn spread<T: Clone>(all: &[T], count: usize) -> Vec<T> {
    let count = count.min(all.len());
    (0..count).map(|at| all[at * all.len() / count].clone()).collect()
}

/// Tells the person who ran the tests what was counted; past the test harness, which would swallow it.
fn sum_up(what: &str) {
    use std::io::Write;
    let _unheard = writeln!(std::io::stderr(), "faults: {what}");
}
