//! Power cuts on a real file system: C3, C5, C10, C11, D2, L5, W2, W8.
//!
//! A program works on a store on ext4 or XFS; every write and flush that reaches the disk below is recorded, and among them what was
//! acknowledged. From that, the disk is put into states that a power cut could have left: cut at any write, with the writes
//! behind the last flush kept or lost, or torn at 512 bytes. Each is mounted, so that the file system recovers, and the store is opened and
//! checked.
//!
//! Each workload goes through a few states; through as many as `TOWPATH_POWER` says, and a fifth as many cuts more in the
//! middle of a recovery. `TOWPATH_SEED` takes the seed of a run that failed. It needs root, FUSE and loop devices; where they are missing
//! that is told, and with `TOWPATH_REQUIRE_POWER` it is a failure.
#![cfg(target_os = "linux")]

mod broken_write;
mod cost;
mod cuts;
mod disk;
mod log;
mod machine;
#[path = "../it/support/random.rs"]
mod random;
mod roles;
mod stories;
mod survival;

/// How many states there are to be.
fn states() -> u64 {
    number("TOWPATH_POWER").unwrap_or(10)
}

fn seed() -> u64 {
    number("TOWPATH_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}
