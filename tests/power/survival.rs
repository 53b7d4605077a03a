//! The workloads, and the power cut while they run or while what they left is recovered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use crate::cuts::{Manner, State};
use crate::log::Log;
use crate::machine::{Format, Machine};
use crate::random::Random;
#[cfg(feature = "sink-file")]
use crate::stories::forward;
use crate::stories::{Marks, Story, append, commits, group, retain, roll};
use crate::{roles, seed, states};

/// How many cuts a recovery that was recorded is good for.
const CUTS_A_RECOVERY: u64 = 6;

const UNMOUNTED: &str = "it cannot be mounted";

#[test]
fn appends_survive_a_power_cut() {
    survives(&append::STORY, Format::Ext4);
}

#[test]
fn appends_on_xfs_survive_a_power_cut() {
    survives(&append::STORY, Format::Xfs);
}

#[test]
fn commits_survive_a_power_cut_whole() {
    survives(&commits::STORY, Format::Ext4);
}

#[test]
fn small_segments_survive_a_power_cut() {
    survives(&roll::STORY, Format::Ext4);
}

#[test]
fn settlements_and_checkpoints_survive_a_power_cut() {
    survives(&group::STORY, Format::Ext4);
}

#[test]
fn retention_survives_a_power_cut() {
    survives(&retain::STORY, Format::Ext4);
}

#[test]
fn retention_on_xfs_survives_a_power_cut() {
    survives(&retain::STORY, Format::Xfs);
}

#[cfg(feature = "sink-file")]
#[test]
fn forwarded_records_survive_a_power_cut() {
    survives(&forward::STORY, Format::Ext4);
}

/// The control for all of them: the same check finds losses where nothing was synced.
#[test]
fn what_is_not_synced_is_lost_in_most_power_cuts() {
    let story = &append::UNSYNCED;
    roles::on_a_machine(
        |dir| {
            let mut machine = Machine::start(dir, Format::Ext4);
            let log = record(&mut machine, story);
            let (mut random, mut lost) = (Random(seed()), 0);
            let cuts = states().div_ceil(5).max(10);
            for nth in 0..cuts {
                let state = log.cut(log.spread(nth, cuts, &mut random), Manner::ALL[nth as usize % 3], &mut random);
                lost += u64::from(check(&mut machine, story, &[&state]).is_err());
            }
            roles::tell(&format!(
                "power: control without syncs on ext4: {lost} of {cuts} states lose what was acknowledged"
            ));
            assert!(lost * 2 >= cuts, "{lost} of {cuts}");
        },
        |_, dir| (story.run)(&dir.join("mnt"), &Marks::of(dir)),
    );
}

fn survives(story: &Story, format: Format) {
    roles::on_a_machine(|dir| cut(dir, story, format), |_, dir| (story.run)(&dir.join("mnt"), &Marks::of(dir)));
}

/// Runs a story to its end on a fresh file system, and unmounts that.
fn record(machine: &mut Machine, story: &Story) -> Log {
    machine.load(&[]);
    machine.mount().unwrap();
    let status = roles::command("story", machine.dir()).status().unwrap();
    assert!(status.success(), "{}: {status}", story.name);
    machine.unmount();
    machine.log()
}

fn cut(dir: &Path, story: &Story, format: Format) {
    let (begun, seed, wanted) = (Instant::now(), seed(), states());
    let mut machine = Machine::start(dir, format);
    let log = record(&mut machine, story);
    let mut random = Random(seed);
    let (mut cuts, mut in_recovery, mut failed, mut unmounted) = ([0; 3], 0, Vec::new(), 0u64);
    let mut fail = |manner: Manner, why: String, place: String| {
        // XFS takes a block of its own of which the first sector is new for one that is new, and does not replay its log over
        // it: that is for its own repair. No store is there to be asked.
        if format == Format::Xfs && manner == Manner::Torn && why.starts_with(UNMOUNTED) {
            unmounted += 1;
        } else {
            failed.push(format!("{place}: {why}"));
        }
    };
    for nth in 0..wanted {
        let manner = nth as usize % 3;
        let at = log.spread(nth, wanted, &mut random);
        let state = log.cut(at, Manner::ALL[manner], &mut random);
        let place = format!("cut {nth} before entry {at} of {}, {:?}", log.entries.len(), Manner::ALL[manner]);
        cuts[manner] += 1;
        if let Err(why) = check(&mut machine, story, &[&state]) {
            fail(Manner::ALL[manner], why, place);
            continue;
        }
        // The power goes again while that was recovered.
        if nth % (5 * CUTS_A_RECOVERY) == 0 || in_recovery * 5 < nth {
            let recovery = machine.log();
            for again in 0..CUTS_A_RECOVERY {
                let at = recovery.spread(again, CUTS_A_RECOVERY, &mut random);
                let manner = Manner::ALL[again as usize % 3];
                let second = recovery.cut(at, manner, &mut random);
                in_recovery += 1;
                if let Err(why) = check(&mut machine, story, &[&state, &second]) {
                    fail(manner, why, format!("{place}, then {at} of {}", recovery.entries.len()));
                }
            }
        }
    }
    let [prefix, reordered, torn] = cuts;
    let (all, seconds) = (wanted + in_recovery, begun.elapsed().as_secs_f64());
    roles::tell(&format!(
        "power: {} on {}: {wanted} states ({prefix} cut, {reordered} reordered, {torn} torn) of {} writes, flushes and \
         acknowledgements, and {in_recovery} during recovery: {} wrong, {unmounted} torn so that the file system cannot be mounted; {:.0} a second",
        story.name,
        machine.format().name(),
        log.entries.len(),
        failed.len(),
        all as f64 / seconds,
    ));
    // About one in a hundred on XFS: of a few states two may be among them by chance.
    let judged = if machine.format() == Format::Xfs { all.max(40) } else { all };
    assert!(unmounted * 20 <= judged, "{unmounted} of {all} cannot be mounted");
    assert!(failed.is_empty(), "seed {seed}: {} of {all}:\n{}", failed.len(), failed.join("\n"));
}

/// Puts the disk into the last of these states, mounts it, and checks the story there.
fn check(machine: &mut Machine, story: &Story, states: &[&State<'_>]) -> Result<(), String> {
    machine.load(states);
    machine.mount().map_err(|error| format!("{UNMOUNTED}: {error}"))?;
    let known: Vec<&str> = states.iter().flat_map(|state| state.known.iter().copied()).collect();
    let marks = Marks::of(machine.dir());
    let checked = catch_unwind(AssertUnwindSafe(|| (story.check)(&machine.root(), &known, &marks)));
    machine.unmount();
    checked.unwrap_or_else(|_| Err("the check panicked".to_owned()))
}
