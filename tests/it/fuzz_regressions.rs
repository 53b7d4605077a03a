//! Cases that fuzzing found or began with, replayed: a store's directory damaged in all manner of ways (C1, C2, C6, C9,
//! C14). The other targets' cases are replayed by the unit tests in `src/fuzzing.rs`.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use crate::model;

#[path = "../../fuzz/recovery/mod.rs"]
mod recovery;

/// Runs a target on every kept case; there have to be some.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let mut cases = 0;
    for case in fs::read_dir(&folder).unwrap() {
        let case = case.unwrap().path();
        let input = fs::read(&case).unwrap();
        assert!(catch_unwind(|| run(&input)).is_ok(), "{} fails again", case.display());
        cases += 1;
    }
    assert!(cases > 0, "{} is empty", folder.display());
}

#[test]
fn damaged_directories_that_were_trouble_once_are_none_now() {
    replay("recovery", recovery::run);
}

/// W1, W3–W5, W7, W8, R1, R4, C3, L2–L4; its control is in `model`.
#[test]
fn steps_that_came_of_bytes_once_agree_with_the_model() {
    replay("store_model", model::run);
}

/// The control: the same checks, on an event that is not the one that was written.
#[test]
fn a_forged_event_does_not_get_past_these_checks() {
    assert!(catch_unwind(recovery::run_with_a_forged_event).is_err());
}
