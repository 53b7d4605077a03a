//! Stores on simulated disks: every crash point, power cuts, and faults, each run from a seed. (C1, C3, C4, C9, C10, C11, W2,
//! W3, W7, W8, W11, W12, L5, G8, G11, X2, D1, D2.)
//!
//! `TOWPATH_SEEDS=N` simulates more; `cargo run --release --example simulate` is faster.

use towpath::simulation::{Failed, Figures, Weakness, run, run_as_of, run_weakened};

/// Seeds that once showed something that a store must not show. Each bug has a test of its own, too, in
/// `simulation::scenes`, because a seed may be another run once the simulation has changed: each is kept with the edition of the
/// simulation that it failed in.
///
/// - 501, 525, 727, 755, 874, 876, 881: without syncs a power cut left one sector of a new segment's header, and the store
///   did not open.
/// - 2886: the one who seals synced a segment again whose sync had failed, and said that it was on the disk.
/// - 1499, 3618: a power cut took a control record from the end of a sealed segment, and readers were told of damage.
/// - 2178: a lock file had a name that lasts before the first segment had.
/// - 26439: a group made a dead letter of an event because the control record before it was damaged.
/// - 45599: a killed retention's files were removed before the record of it was on the disk, and the store did not open.
/// - 34688: a dead letter found no room, and what follows it under its order key was handed out before it was written.
/// - 90908: the simulation's own: a disk that lied about the beginning of a new segment, which holds all consumers.
///
/// Since streams lose events:
///
/// - 1135, 1539, 5676: where an event was taken out of the middle of a commit, the one before it looked like the last, and the
///   commit's idempotency key was refused.
/// - 2802: a segment that was sealed before a removal was lost, and with it what says so, when half of the removal could be
///   seen.
const KEPT: [(u32, u64); 20] = [
    (1, 501),
    (1, 525),
    (1, 727),
    (1, 755),
    (1, 874),
    (1, 876),
    (1, 881),
    (1, 1_499),
    (1, 2_178),
    (1, 2_886),
    (1, 3_618),
    (1, 26_439),
    (1, 34_688),
    (1, 45_599),
    (1, 90_908),
    (2, 1_135),
    (2, 1_539),
    (2, 5_676),
    (2, 2_802),
    (2, 264_836),
];

fn seeds() -> u64 {
    std::env::var("TOWPATH_SEEDS").map_or(500, |seeds| seeds.parse().expect("TOWPATH_SEEDS is a number"))
}

#[test]
fn nothing_wrong_is_seen_in_any_seed() {
    for seed in 0..seeds() {
        run(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for (edition, seed) in KEPT {
        run_as_of(edition, seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn a_seed_comes_again() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// The controls: each weakness is found out within a few seeds.
#[test]
fn what_is_weaker_than_it_should_be_is_found_out() {
    // What is printed as lost and wrong is counted.
    let lost: fn(&Figures) -> bool = |figures| figures.lost > 0;
    let wrong: fn(&Figures) -> bool = |figures| figures.wrong > 0;
    let any: fn(&Figures) -> bool = |_| true;
    for (weakness, shows) in [
        (Weakness::NoSync, lost),
        (Weakness::NoChecksums, wrong),
        (Weakness::NoDirectorySync, any),
        (Weakness::CopiesUnsynced, any),
        (Weakness::TornTailKept, any),
        (Weakness::CheckpointOutside, any),
        (Weakness::TwoCommits, any),
        (Weakness::RemovalUnsynced, any),
        (Weakness::PurgesTooMuch, lost),
        (Weakness::PurgedUnsynced, any),
    ] {
        // To crash is not to be found out.
        let shows = |failed: &Failed| shows(&failed.figures) && !failed.why.contains("panicked");
        let found = (0..400).any(|seed| run_weakened(seed, Some(weakness)).is_err_and(|failed| shows(&failed)));
        assert!(found, "{weakness:?} was not found out");
    }
}
