//! Cases that fuzzing found or began with, replayed: a store's directory damaged in all manner of ways (C1, C2, C6, C9,
//! C14). The other targets' cases are replayed by the unit tests in `src/fuzzing.rs`.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../fuzz/recovery/mod.rs"]
mod recovery;

#[test]
fn damaged_directories_that_were_trouble_once_are_none_now() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions/recovery");
    let mut cases = 0;
    for case in fs::read_dir(&folder).unwrap() {
        let case = case.unwrap().path();
        let input = fs::read(&case).unwrap();
        assert!(catch_unwind(|| recovery::run(&input)).is_ok(), "{} fails again", case.display());
        cases += 1;
    }
    assert!(cases > 0, "{} is empty", folder.display());
}

/// The control: the same checks, on an event that is not the one that was written.
#[test]
fn a_forged_event_does_not_get_past_these_checks() {
    assert!(catch_unwind(recovery::run_with_a_forged_event).is_err());
}
