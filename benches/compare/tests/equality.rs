//! Every store gives back what it was given: count, order, payloads, streams and revisions.

use std::path::PathBuf;
use std::process::{Command, Output};

const STORES: &[&str] = &["towpath", "sqlite", "redb", "fjall", "lmdb", "commitlog", "walrus", "umadb", "batpak"];

#[test]
fn every_store_gives_back_the_same_events() {
    for store in STORES {
        let output = check(store, &[]);
        assert!(output.status.success(), "{store}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn one_wrong_byte_would_be_noticed() {
    for store in STORES {
        let output = check(store, &["--lie"]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("event 3 is"), "{store}: {complaint}");
    }
}

/// In a process of its own, because some stores keep state in statics and take their directory from the environment.
fn check(store: &str, more: &[&str]) -> Output {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("equal-{store}-{}", more.len()));
    let _ = std::fs::remove_dir_all(&dir);
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.env("WALRUS_DATA_DIR", &dir).env("WALRUS_QUIET", "1").args(["equal", store]).arg(&dir).args(more);
    let output = command.output().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
    output
}
