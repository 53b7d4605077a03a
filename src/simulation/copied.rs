//! Backups, what is restored from them, repaired stores and forks on a disk whose process ends, or whose power goes, at each of their
//! operations: what takes its place is whole, or nothing does.

use std::path::Path;
use std::sync::Arc;

use crate::copies::backup::{backup_on, restore_on};
use crate::copies::fork::fork_on;
use crate::copies::repair::repair_on;
use crate::error::Result;
use crate::event::draft::NewEvent;
use crate::event::query::Query;
use crate::format::header::file_name;
use crate::id::Position;
use crate::inspect::verify::{Depth, verify_on};
use crate::log::recover::segments;
use crate::segment::disk::Disk;
use crate::segment::map::Access;
use crate::simulation::chance::Chance;
use crate::simulation::disk::{End, SimDisk};
use crate::simulation::faults::{Fault, Weakness};
use crate::store::Store;
use crate::store::options::Options;
use crate::writer::durability::Durability;

const STORE: &str = "/a/store";
const COPY: &str = "/a/copy";
const OTHER: &str = "/a/other";

fn open(disk: &SimDisk, path: &str) -> Result<Store> {
    let options = Options::new().durability(Durability::Os).segment_bytes(64 << 10);
    options.simulated(Arc::new(disk.clone())).open(Path::new(path))
}

/// A store of three segments, closed.
fn disk(seed: u64, weakness: Option<Weakness>) -> SimDisk {
    let disk = SimDisk::new(Chance::new(seed), true, weakness);
    disk.directory(Path::new("/a"), true).unwrap();
    fill(&disk, 24);
    disk
}

fn fill(disk: &SimDisk, events: u32) {
    let store = open(disk, STORE).unwrap();
    for _ in 0..events {
        store.append("cart-1", NewEvent::new("filled", &[7; 6_000])).unwrap();
    }
    store.set_checkpoint("audit", Position::new(3)).unwrap().wait().unwrap();
    store.close().unwrap();
}

fn backup(disk: &SimDisk) -> Result<u64> {
    backup_on(disk, Path::new(STORE), Path::new(COPY), |_| {}).map(|made| made.head.get())
}

/// The head of what stands at a path, which has to be whole. `None`: nothing does.
fn whole(disk: &SimDisk, path: &str) -> Option<u64> {
    let names = disk.directory(Path::new("/a"), false).unwrap().names().unwrap();
    if !names.iter().any(|name| format!("/a/{name}") == path) {
        return None;
    }
    let verdict = verify_on(disk, Path::new(path), Depth::Deep, &mut |_| {}).unwrap();
    assert_eq!(verdict.damage, []);
    if path == COPY {
        let names = disk.directory(Path::new(COPY), false).unwrap().names().unwrap();
        assert!(names.iter().any(|name| name == "BACKUP" || name == "LOCK"), "a backup bears its own mark: {names:?}");
    }
    Some(verdict.events)
}

/// Does something again and again, and has the process end some operations later each time, in one way and the other. Looks
/// at each disk. Gives how often it ended before it was done. With `TOWPATH_COPIES` it ends at each operation.
fn at_each_end(
    make: impl Fn(u64) -> SimDisk,
    act: impl Fn(&SimDisk) -> Result<u64>,
    look: impl Fn(&SimDisk, bool),
) -> u32 {
    let mut ended = 0;
    let cut = |piece| End::PowerCut { piece };
    let all = std::env::var_os("TOWPATH_COPIES").is_some();
    for (seed, how, step) in [(1, End::Kill, 4), (2, cut(512), 7), (3, cut(4096), 7)] {
        for operations in (seed..).step_by(if all { 1 } else { step }) {
            let disk = make(seed + 10 * operations);
            disk.end_in(operations);
            let done = act(&disk);
            let is_done = disk.is_alive();
            assert!(done.is_ok() || !is_done, "{operations}: {done:?}");
            ended += u32::from(!is_done);
            disk.begin(how).unwrap();
            look(&disk, done.is_ok());
            if is_done {
                break;
            }
        }
    }
    ended
}

#[test]
fn a_backup_that_ends_anywhere_leaves_the_last_one_or_is_the_next() {
    for exchanges in [true, false] {
        let make = |seed| {
            let disk = disk(seed, None);
            if !exchanges {
                disk.cannot_exchange();
            }
            disk
        };
        let ended = at_each_end(make, backup, |disk, is_done| {
            let found = whole(disk, COPY);
            assert!(found.is_none_or(|events| events == 24) && (found.is_some() || !is_done));
            assert_eq!(restore_on(disk, Path::new(COPY), Path::new(OTHER), |_| {}).is_ok(), found.is_some());
            assert_eq!((backup(disk).unwrap(), whole(disk, COPY)), (24, Some(24)), "the next one gets there");
        });
        assert!(ended > 15, "control: it ended within, {ended} times");
        let again = |seed| {
            let disk = make(seed);
            backup(&disk).unwrap();
            fill(&disk, 12);
            disk
        };
        let ended = at_each_end(again, backup, |disk, is_done| {
            let found = whole(disk, COPY);
            assert!(found.is_none_or(|events| events == 36 || events == 24 && !is_done), "{found:?}");
            // Between two names it is restored all the same.
            assert!(found.is_some() || !exchanges);
            restore_on(disk, Path::new(COPY), Path::new(OTHER), |_| {}).unwrap();
            assert!(matches!(whole(disk, OTHER), Some(24 | 36)));
            assert_eq!((backup(disk).unwrap(), whole(disk, COPY)), (36, Some(36)));
            let names = disk.directory(Path::new("/a"), false).unwrap().names().unwrap();
            assert_eq!(names, ["copy", "other", "store"], "nothing is left lying about");
        });
        assert!(ended > 15, "control: it ended within, {ended} times");
    }
}

#[test]
fn what_is_restored_repaired_or_forked_is_there_whole_or_not_at_all() {
    type Act = fn(&SimDisk) -> Result<u64>;
    let restored: Act = |disk| restore_on(disk, Path::new(COPY), Path::new(OTHER), |_| {}).map(|made| made.head.get());
    let forked: Act =
        |disk| fork_on(disk, Path::new(STORE), Path::new(OTHER), Position::new(20), |_| {}).map(|made| made.head.get());
    let repaired: Act = |disk| {
        let made = repair_on(disk, Path::new(STORE), Path::new(OTHER), |_| {})?;
        assert_eq!((&made.damage[..], made.repair.positions_lost()), (&[][..], 1));
        Ok(made.repair.events)
    };
    for (act, events) in [(restored, 24), (forked, 20), (repaired, 23)] {
        let make = |seed| {
            let disk = disk(seed, None);
            backup(&disk).unwrap();
            if events == 23 {
                damage(&disk);
            }
            disk
        };
        let ended = at_each_end(make, act, |disk, is_done| {
            let found = whole(disk, OTHER);
            assert!(found.is_none_or(|found| found == events) && (found.is_some() || !is_done), "{found:?}");
            if found.is_none() {
                act(disk).unwrap();
            }
            assert_eq!(whole(disk, OTHER), Some(events));
            // Who holds a directory here is known by its name, which has changed.
            disk.begin(End::Kill).unwrap();
            let store = open(disk, OTHER).unwrap();
            let head = store.head();
            assert_eq!(store.append("cart-1", NewEvent::new("next", "")).unwrap().first(), head.next());
        });
        assert!(ended > 15, "control: it ended within, {ended} times");
    }
}

/// A backup of a store that was closed with so many events.
fn backed_up(seed: u64, events: u32) -> SimDisk {
    let disk = SimDisk::new(Chance::new(seed), true, None);
    disk.directory(Path::new("/a"), true).unwrap();
    match events {
        // The newest segment has none then, and gives its place to one of the same name.
        0 => open(&disk, STORE).unwrap().close().unwrap(),
        events => fill(&disk, events),
    }
    backup(&disk).unwrap();
    disk
}

/// Opens the backup for writing, and gives the last position then.
fn open_backup(disk: &SimDisk) -> Result<u64> {
    let store = open(disk, COPY)?;
    let receipt = store.append("cart-1", NewEvent::new("next", ""))?;
    store.close().map(|()| receipt.last().get())
}

/// Takes the last bytes from the segment that ends with position 24: the closing record, and some of the event.
fn lose_the_last_event(disk: &SimDisk) {
    let directory = disk.directory(Path::new(COPY), false).unwrap();
    let before = segments(&directory.names().unwrap()).into_iter().rfind(|first| first.get() <= 24).unwrap();
    let file = directory.open(&file_name(before), Access::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    file.write_at(&[0; 400], end - 400).unwrap();
    file.sync().unwrap();
}

/// Whoever opens it, or reads all of it, hears that something is missing.
fn is_told(disk: &SimDisk) -> bool {
    open(disk, COPY).map_or(true, |store| store.read(Query::new()).any(|event| event.is_err()))
}

/// Who opens a backup for writing takes over what its mark says.
#[test]
fn a_lost_end_is_told_wherever_the_first_opening_of_a_backup_ended() {
    let ended = at_each_end(
        |seed| backed_up(seed, 24),
        open_backup,
        |disk, is_done| {
            disk.begin(End::Kill).unwrap();
            lose_the_last_event(disk);
            assert!(is_told(disk) || is_done);
        },
    );
    assert!(ended > 5, "{ended}");
    // Control: without a mark, and before a lock file, nothing tells.
    let disk = backed_up(1, 24);
    disk.directory(Path::new(COPY), false).unwrap().remove("BACKUP").unwrap();
    lose_the_last_event(&disk);
    assert!(!is_told(&disk));
}

/// Its mark goes when the lock file stands and lasts: not before, and nothing is refused by it later.
#[test]
fn a_backup_whose_first_opening_ends_anywhere_opens_again() {
    for events in [24, 0] {
        let ended = at_each_end(
            |seed| backed_up(seed, events),
            open_backup,
            |disk, is_done| {
                let found = whole(disk, COPY).expect("it stays where it is");
                assert!(found >= u64::from(events) + u64::from(is_done), "{found}");
                disk.begin(End::Kill).unwrap();
                let store = open(disk, COPY).unwrap();
                assert_eq!(store.head().get(), found);
                store.close().unwrap();
                let names = disk.directory(Path::new(COPY), false).unwrap().names().unwrap();
                assert!(!names.iter().any(|name| name == "BACKUP"), "{names:?}");
            },
        );
        assert!(ended > 5, "control: it ended within, {ended} times");
    }
}

#[test]
fn a_backup_that_meets_a_fault_says_so_and_leaves_the_last_one() {
    let mut met = 0;
    for fault in [Fault::Sync, Fault::Write, Fault::Full(3)] {
        for before in (0..40).step_by(3) {
            let disk = disk(before, None);
            backup(&disk).unwrap();
            fill(&disk, 12);
            disk.expect(fault, before);
            let made = backup(&disk);
            disk.heal();
            met += u32::from(made.is_err());
            disk.begin(End::Kill).unwrap();
            let found = whole(&disk, COPY);
            assert!(found == Some(36) || made.is_err() && found == Some(24), "{made:?} {found:?}");
            assert_eq!((backup(&disk).unwrap(), whole(&disk, COPY)), (36, Some(36)));
        }
    }
    assert!(met > 10, "control: {met} faults were met");
}

/// Changes a byte of an event in the first segment.
fn damage(disk: &SimDisk) {
    let directory = disk.directory(Path::new(STORE), false).unwrap();
    let file = directory.open("00000000000000000001.seg", Access::Write).unwrap();
    file.write_at(b"x", 20_000).unwrap();
    file.sync().unwrap();
}

/// Control: on a disk that forgets to sync, power cuts leave copies that are not whole, and the same look finds it.
#[test]
fn copies_on_a_disk_that_does_not_sync_are_found_wanting() {
    let mut wanting = 0;
    for seed in 0..20 {
        let disk = disk(seed, Some(Weakness::NoSync));
        backup(&disk).unwrap();
        disk.begin(End::PowerCut { piece: 512 }).unwrap();
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| whole(&disk, COPY)));
        wanting += u32::from(!matches!(looked, Ok(Some(24))));
    }
    assert!(wanting > 5, "{wanting} of 20");
}
