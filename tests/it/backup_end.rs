//! A backup bears the mark of its end: C2, C6, R6, W8. One that has lost some of it, wherever it was cut, is told by whoever
//! reads it. Each look is held against the same backup without its mark, of which nothing tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use towpath::copies::{self, Restored};
use towpath::inspect::{self, Depth};
use towpath::{Canal as _, Error, NewEvent, Position, Retention, Settlement, Store};

use crate::support::files;
use crate::support::told::{self, Told};
use crate::support::{Scratch, cases, noted, small};

const MARK: &str = "BACKUP";

/// Spoils a file from a place on.
type Spoil = fn(&Path, u64);

fn fill(store: &Store, events: u64) {
    for number in 0..events {
        store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 400])).unwrap();
    }
}

/// What a consumer has done stands in the last commits.
fn settle(store: &Store) {
    let mut cursor = store.cursor("reader").open().unwrap();
    for _ in 0..3 {
        let batch = cursor.pull_batch(5, Duration::ZERO).unwrap();
        cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        cursor.flush().unwrap();
    }
}

/// A backup of some segments, the newest with a few commits in it, of events and of records.
fn backup(scratch: &Scratch) -> PathBuf {
    let store = scratch.open();
    fill(&store, 300);
    while files::frames(&files::newest(&scratch.store_path())).len() < 8 {
        fill(&store, 1);
    }
    settle(&store);
    let to = scratch.path().join("backup");
    store.backup(&to).unwrap();
    to
}

/// A backup whose newest segment has no event, as it is behind an unclean end.
fn backup_without_events_at_its_end(scratch: &Scratch) -> PathBuf {
    let killed = {
        let store = scratch.open();
        fill(&store, 300);
        settle(&store);
        scratch.as_if_killed()
    };
    let store = killed.open();
    let to = scratch.path().join("backup");
    store.backup(&to).unwrap();
    assert!(files::frames(&files::newest(&to)).iter().all(|frame| frame.is_control));
    to
}

fn restore(from: &Path, scratch: &Scratch) -> Result<Restored, Error> {
    let to = scratch.path().join("restored");
    let _none_yet = fs::remove_dir_all(&to);
    copies::restore(from, &to, |_| {})
}

/// How everybody who reads a backup is refused it. Nothing is made of it, and nothing of it changes.
fn refusals(from: &Path, scratch: &Scratch) -> Vec<Error> {
    let before = files::snapshot(from);
    let to = scratch.path().join("of-it");
    let refused = vec![
        Store::open_read_only(from).map(|_| ()).unwrap_err(),
        small().open(from).map(|_| ()).unwrap_err(),
        inspect::summary(from).map(|_| ()).unwrap_err(),
        restore(from, scratch).map(|_| ()).unwrap_err(),
        copies::fork(from, &to, Position::new(3), |_| {}).map(|_| ()).unwrap_err(),
        copies::backup(from, &to, |_| {}).map(|_| ()).unwrap_err(),
    ];
    assert!(!to.exists() && !scratch.path().join("restored").exists());
    assert!(files::snapshot(from) == before);
    refused
}

/// Control: without its mark a backup that ends early passes for an earlier one, and reads up to there.
fn passes_without_its_mark(from: &Path, scratch: &Scratch) {
    let (mark, aside) = (from.join(MARK), scratch.path().join("mark"));
    fs::rename(&mark, &aside).unwrap();
    assert!(inspect::verify(from, |_| {}).unwrap().ok);
    let restored = restore(from, scratch).unwrap();
    assert_eq!(restored.damage, []);
    assert_eq!(told::all(&Store::open_read_only(from).unwrap()).len() as u64, restored.head.get());
    assert!(!scratch.path().join("restored").join(MARK).exists());
    fs::rename(aside, mark).unwrap();
}

#[test]
fn a_backup_that_lost_its_newest_segment_is_told_by_whoever_reads_it() {
    for make in [backup, backup_without_events_at_its_end] {
        let scratch = Scratch::new();
        let to = make(&scratch);
        is_whole(&to, &scratch);
        let newest = files::newest(&to);
        let head = Store::open_read_only(&to).unwrap().head();
        fs::remove_file(&newest).unwrap();
        for refused in refusals(&to, &scratch) {
            assert!(
                matches!(&refused, Error::NotAStore { path, why } if *path == newest
                    && why.contains("segment is missing") && why.contains(&format!("up to position {head}"))),
                "{refused}"
            );
        }
        for depth in [Depth::Fast, Depth::Whole, Depth::Deep] {
            let verdict = inspect::verify_to(&to, depth, |_| {}).unwrap();
            assert_eq!((verdict.ok, verdict.damage.len()), (false, 1), "{verdict:?}");
            assert_eq!(verdict.damage[0].segment, files::name(&newest));
        }
        passes_without_its_mark(&to, &scratch);
    }
}

/// The record of what is kept is in the newest segment: without it those that were let go of seem to be missing, too.
#[test]
fn a_backup_that_lost_its_newest_segments_behind_a_retention_is_told_what_it_lost() {
    let scratch = Scratch::new();
    let store = scratch.open();
    fill(&store, 900);
    let plan = store.retain(&Retention::new().max_events(500)).unwrap();
    assert!(plan.segments > 0);
    fill(&store, 100);
    let to = scratch.path().join("backup");
    store.backup(&to).unwrap();
    let oldest = files::segments(&to)[0].clone();
    let newest = files::newest(&to);
    let mut left = files::segments(&to).len();
    while left > 2 {
        fs::remove_file(files::newest(&to)).unwrap();
        left -= 1;
    }
    for refused in refusals(&to, &scratch) {
        assert!(
            matches!(&refused, Error::NotAStore { path, why } if *path == newest && why.contains("is missing")),
            "{refused}"
        );
    }
    // Control: without its mark nothing tells what else there was.
    fs::remove_file(to.join(MARK)).unwrap();
    for refused in refusals(&to, &scratch) {
        assert!(matches!(&refused, Error::NotAStore { path, .. } if *path < oldest), "{refused}");
    }
}

/// Control of the refusals: a whole backup is verified, restored and forked. What is made of it bears no mark.
fn is_whole(from: &Path, scratch: &Scratch) {
    let [forked, restored] = ["forked", "restored"].map(|name| scratch.path().join(name));
    let fork = copies::fork(from, &forked, Position::new(3), |_| {}).unwrap();
    assert_eq!((fork.damage, restore(from, scratch).unwrap().damage), (vec![], vec![]));
    for made in [forked, restored] {
        assert!(!made.join(MARK).exists());
        fs::remove_dir_all(made).unwrap();
    }
    let verdict = inspect::verify_to(from, Depth::Deep, |_| {}).unwrap();
    assert!(verdict.ok && verdict.torn_bytes == 0, "{verdict:?}");
    assert!(!copies::plan_repair(from).unwrap().is_needed());
}

/// Whether it is cut, or zeroes stand there: at each border of commits, which is where nothing but the mark tells.
#[test]
fn a_backup_that_was_cut_between_two_commits_is_told_by_whoever_reads_it() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let newest = files::newest(&to);
    let whole = fs::read(&newest).unwrap();
    let frames = files::frames(&newest);
    let mut borders: Vec<_> = frames.iter().filter(|frame| !frame.has_more).collect();
    assert_eq!(borders.pop().unwrap().end, whole.len() as u64);
    let events = borders.iter().filter(|border| !border.is_control).count();
    assert!(events > 3 && events + 3 <= borders.len(), "{borders:?}");
    for (number, border) in borders.iter().enumerate() {
        fs::write(&newest, &whole).unwrap();
        match number % 2 {
            0 => files::set_len(&newest, border.end),
            _ => files::blank_from(&newest, border.end),
        }
        let next = border.position + u64::from(!border.is_control);
        let is_it = |damage: &towpath::Damage| {
            (&*damage.segment, damage.offset, damage.position.get()) == (&*files::name(&newest), border.end, next)
        };
        for refused in refusals(&to, &scratch) {
            assert!(matches!(&refused, Error::Damaged(damage) if is_it(damage)), "{border:?}: {refused}");
        }
        let verdict = inspect::verify(&to, |_| {}).unwrap();
        assert!(!verdict.ok && verdict.damage.iter().any(is_it) && verdict.damage.len() == 1, "{verdict:?}");
        passes_without_its_mark(&to, &scratch);
    }
    fs::write(&newest, &whole).unwrap();
    is_whole(&to, &scratch);
}

/// Cut within a commit, and a bit of its last one turned: what was told before there were marks is told with them.
#[test]
fn a_backup_that_was_cut_within_a_commit_is_told_where() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let newest = files::newest(&to);
    let whole = fs::read(&newest).unwrap();
    let last = *files::frames(&newest).last().unwrap();
    let spoil: [(&str, Spoil); 3] = [
        ("cut", |path, at| files::set_len(path, at + 20)),
        ("turned", |path, at| files::flip(path, at + 30, 2)),
        ("its length", |path, at| files::flip(path, at + 1, 1)),
    ];
    for (how, spoil) in spoil {
        fs::write(&newest, &whole).unwrap();
        spoil(&newest, last.offset);
        for refused in refusals(&to, &scratch) {
            assert!(matches!(&refused, Error::Damaged(damage) if damage.offset == last.offset), "{how}: {refused}");
        }
        let verdict = inspect::verify(&to, |_| {}).unwrap();
        assert!(verdict.damage.iter().any(|damage| damage.offset == last.offset), "{how}: {verdict:?}");
    }
}

/// What is still there, and damaged, is not called missing; what helps is a repair.
#[test]
fn a_backup_whose_last_event_is_damaged_is_told_to_be_repaired() {
    let scratch = Scratch::new();
    let store = scratch.open();
    fill(&store, 3);
    store.close().unwrap();
    let original = files::newest(&scratch.store_path());
    let last = *files::frames(&original).iter().rfind(|frame| !frame.is_control).unwrap();
    files::flip(&original, last.offset + 50, 1);
    let to = scratch.path().join("backup");
    let made = copies::backup(scratch.store_path(), &to, |_| {}).unwrap();
    assert!(!made.damage.is_empty());
    let newest = files::newest(&to);
    let whys = |from: &Path| refusals(from, &scratch).iter().map(ToString::to_string).collect::<Vec<_>>();
    for why in whys(&to) {
        assert!(why.contains("is damaged here") && why.contains("repair it") && !why.contains("ends here"), "{why}");
    }
    // It helps.
    let repaired = scratch.path().join("repaired");
    assert_eq!(copies::repair(&to, &repaired, |_| {}).unwrap().repair.positions_lost(), 1);
    assert_eq!(small().open(&repaired).unwrap().head(), made.head);
    // Control: what is cut off, or blank, is missing.
    let spoil: [Spoil; 2] = [files::blank_from, files::set_len];
    for spoil in spoil {
        spoil(&newest, last.offset);
        for why in whys(&to) {
            assert!(why.contains("ends here") && !why.contains("is damaged here"), "{why}");
        }
    }
}

/// A damaged mark says nothing: that is told, and what stands there is not taken for whole.
#[test]
fn a_damaged_mark_is_told() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let (mark, events) = (to.join(MARK), told::all(&Store::open_read_only(&to).unwrap()));
    let sound = fs::read(&mark).unwrap();
    assert_eq!(sound.len(), 4096);
    let told = |what: &str| {
        let refused = Store::open_read_only(&to).map(|_| ()).unwrap_err();
        assert!(matches!(&refused, Error::NotAStore { path, .. } if *path == mark), "{what}: {refused}");
        let verdict = inspect::verify_to(&to, Depth::Fast, |_| {}).unwrap();
        assert!(verdict.damage.len() == 1 && verdict.damage[0].segment == MARK, "{what}: {verdict:?}");
    };
    for byte in (0..64).chain((64..4092).step_by(97)).chain(4092..4096) {
        files::flip(&mark, byte, (byte % 8) as u32);
        told(&format!("byte {byte}"));
        files::flip(&mark, byte, (byte % 8) as u32);
    }
    for len in [0, 64, 4095, 4097] {
        let mut other = sound.clone();
        other.resize(len, 0);
        fs::write(&mark, other).unwrap();
        told(&format!("{len} bytes"));
    }
    refusals(&to, &scratch);
    let plan = copies::plan_repair(&to).unwrap();
    assert!(plan.is_needed() && plan.lost.is_empty() && plan.files[0].file == MARK, "{plan:?}");
    let repaired = scratch.path().join("repaired");
    copies::repair(&to, &repaired, |_| {}).unwrap();
    assert_eq!(told::all(&Store::open_read_only(&repaired).unwrap()), events);
    assert!(!repaired.join(MARK).exists());
    fs::remove_file(&mark).unwrap();
    fs::create_dir(&mark).unwrap();
    told("a directory");
    fs::remove_dir(&mark).unwrap();
    // Control: as it was.
    fs::write(&mark, &sound).unwrap();
    is_whole(&to, &scratch);
}

/// C9: numbers that nobody wrote, under a checksum that fits.
#[test]
fn a_forged_mark_is_refused_and_looked_at_without_harm() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let mark = to.join(MARK);
    let sound = fs::read(&mark).unwrap();
    let forge = |at: usize, number: u64| {
        let mut page = sound.clone();
        page[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let sum = files::crc(0, &page[..4092]);
        page[4092..].copy_from_slice(&sum.to_le_bytes());
        fs::write(&mark, page).unwrap();
    };
    for (at, what) in [(40, "segment"), (48, "end"), (56, "head")] {
        for number in [0, 1, 7, 4096, 1 << 40, u64::MAX - 1, u64::MAX] {
            forge(at, number);
            assert!(Store::open_read_only(&to).is_err() && small().open(&to).is_err(), "{what} {number}");
            assert!(!inspect::verify(&to, |_| {}).unwrap().ok, "{what} {number}");
            assert!(copies::plan_repair(&to).is_ok_and(|plan| plan.is_needed()), "{what} {number}");
        }
    }
    // Control: the same numbers under the same checksum.
    forge(40, u64::from_le_bytes(sound[40..48].try_into().unwrap()));
    assert!(fs::read(&mark).unwrap() == sound);
    is_whole(&to, &scratch);
}

/// As a copy of a backup may come to be that is made while the backup is brought up to date, file by file.
#[test]
fn a_mark_that_is_of_other_files_is_told() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let store = small().open(scratch.store_path()).unwrap();
    let (earlier, mark) = (scratch.path().join("earlier"), to.join(MARK));
    files::copy(&to, &earlier);
    let older = fs::read(&mark).unwrap();
    for more in [1, 300] {
        fill(&store, more);
        store.backup(&to).unwrap();
        let newer = fs::read(&mark).unwrap();
        is_whole(&to, &scratch);
        fs::write(&mark, &older).unwrap();
        for refused in refusals(&to, &scratch) {
            assert!(matches!(&refused, Error::NotAStore { path, .. } if *path == mark), "{refused}");
        }
        assert!(!inspect::verify(&to, |_| {}).unwrap().ok);
        let plan = copies::plan_repair(&to).unwrap();
        assert!(plan.lost.is_empty() && plan.head == store.head() && plan.files[0].file == MARK);
        // The other way round something is missing.
        fs::write(earlier.join(MARK), &newer).unwrap();
        refusals(&earlier, &scratch);
        assert!(!inspect::verify(&earlier, |_| {}).unwrap().ok);
        // It is no reason to keep it: nothing of it is missing in the next.
        store.backup(&to).unwrap();
        assert_eq!(fs::read(&mark).unwrap(), newer);
    }
    let other = Scratch::new();
    fs::copy(backup(&other).join(MARK), &mark).unwrap();
    for refused in refusals(&to, &scratch) {
        assert!(matches!(&refused, Error::NotAStore { why, .. } if why.contains("another store")), "{refused}");
    }
}

/// From the first opening for writing on the lock file says how far it goes.
#[test]
fn a_backup_that_is_opened_for_writing_loses_its_mark() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let mark = fs::read(to.join(MARK)).unwrap();
    for round in 0..3 {
        let store = small().open(&to).unwrap();
        assert!(!to.join(MARK).exists() && to.join("LOCK").exists(), "{round}");
        store.append("cart-1", noted("more")).unwrap();
        assert_eq!(told::all(&Store::open_read_only(&to).unwrap()).len() as u64, store.head().get());
        store.close().unwrap();
        assert!(inspect::verify(&to, |_| {}).unwrap().ok);
        // As after a crash just before it was removed: it says nothing any more.
        fs::write(to.join(MARK), &mark).unwrap();
        assert!(inspect::verify(&to, |_| {}).unwrap().ok);
        assert!(!copies::plan_repair(&to).unwrap().is_needed());
        Store::open_read_only(&to).unwrap();
        let refused = copies::backup(scratch.store_path(), &to, |_| {});
        assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("opened for writing")));
    }
    // Control: without the lock file it would.
    fs::remove_file(to.join("LOCK")).unwrap();
    assert!(Store::open_read_only(&to).is_err());
}

/// One that was made before there were marks: what tells it apart is that it has none.
#[test]
fn a_backup_without_a_mark_is_read_restored_and_gets_one_with_the_next() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    fs::remove_file(to.join(MARK)).unwrap();
    is_whole(&to, &scratch);
    let store = small().open(scratch.store_path()).unwrap();
    let made = store.backup(&to).unwrap();
    assert!(made.files.kept > 0 && to.join(MARK).exists());
    is_whole(&to, &scratch);
    fs::remove_file(to.join(MARK)).unwrap();
    small().open(&to).unwrap().close().unwrap();
}

#[test]
fn a_backup_that_lost_its_end_is_made_whole_by_the_next() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let store = small().open(scratch.store_path()).unwrap();
    let spoil: [fn(&Path); 3] = [
        |to| fs::remove_file(files::newest(to)).unwrap(),
        |to| files::set_len(&files::newest(to), files::frames(&files::newest(to))[3].end),
        |to| files::flip(&to.join(MARK), 50, 1),
    ];
    for spoil in spoil {
        spoil(&to);
        refusals(&to, &scratch);
        let made = store.backup(&to).unwrap();
        assert_eq!((made.head, &made.damage[..]), (store.head(), &[][..]));
        is_whole(&to, &scratch);
        assert_eq!(told::all(&Store::open_read_only(&to).unwrap()), told::all(&store));
    }
    // One that goes further than the store, though not as far as it should, is not given up.
    let early = scratch.path().join("early");
    store.backup(&early).unwrap();
    fill(&store, 20);
    store.backup(&to).unwrap();
    files::set_len(&files::newest(&to), files::frames(&files::newest(&to)).iter().nth_back(3).unwrap().end);
    refusals(&to, &scratch);
    let refused = copies::backup(&early, &to, |_| {});
    assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("goes up to position")));
}

/// The dry run tells what is lost up to the marked end, and the repaired store goes on behind it.
#[test]
fn a_backup_that_lost_its_end_can_be_repaired_and_what_is_lost_is_told() {
    let scratch = Scratch::new();
    let to = backup(&scratch);
    let newest = files::newest(&to);
    let (whole, frames) = (fs::read(&newest).unwrap(), files::frames(&newest));
    let head = Store::open_read_only(&to).unwrap().head();
    let events = told::all(&Store::open_read_only(&to).unwrap());
    let mut borders: Vec<_> = frames.iter().filter(|frame| !frame.has_more).collect();
    borders.pop();
    let cuts = borders.iter().map(|border| Some((border.end, border.position + u64::from(!border.is_control))));
    let first: u64 = files::name(&newest)[..20].parse().unwrap();
    for cut in cuts.chain([None]) {
        fs::write(&newest, &whole).unwrap();
        let next = cut.map_or(first, |(_, next)| next);
        match cut {
            Some((end, _)) => files::set_len(&newest, end),
            None => fs::remove_file(&newest).unwrap(),
        }
        let plan = copies::plan_repair(&to).unwrap();
        assert!(plan.is_needed() && plan.head == head && plan.files.is_empty(), "{plan:?}");
        let told_lost = plan.lost.iter().flat_map(|lost| lost.first.get()..lost.first.get() + lost.positions);
        assert!(told_lost.eq(next..=head.get()), "from {next}: {plan:?}");
        assert!(plan.lost.iter().any(|lost| lost.records), "{plan:?}");
        let repaired = scratch.path().join("repaired");
        let made = copies::repair(&to, &repaired, |_| {}).unwrap();
        assert_eq!((&made.repair, &made.damage[..]), (&plan, &[][..]));
        let (left, errors) = told::read(&Store::open_read_only(&repaired).unwrap(), towpath::Query::new());
        assert!(left[..] == events[..next as usize - 1]);
        assert_eq!(errors.is_empty(), next > head.get(), "{errors:?}");
        let store = small().open(&repaired).unwrap();
        assert_eq!(store.append("cart-1", noted("next")).unwrap().first(), head.next());
        drop(store);
        fs::remove_dir_all(&repaired).unwrap();
        // Control: without its mark nothing is lost that anybody knew of.
        fs::rename(to.join(MARK), scratch.path().join("mark")).unwrap();
        assert!(!copies::plan_repair(&to).unwrap().is_needed());
        fs::rename(scratch.path().join("mark"), to.join(MARK)).unwrap();
    }
    let scratch = Scratch::new();
    let to = backup_without_events_at_its_end(&scratch);
    fs::remove_file(files::newest(&to)).unwrap();
    let plan = copies::plan_repair(&to).unwrap();
    assert!(plan.positions_lost() == 0 && plan.lost.len() == 1 && plan.lost[0].records, "{plan:?}");
    assert_eq!(plan.put_back.len(), 1);
    let repaired = scratch.path().join("repaired");
    assert_eq!(copies::repair(&to, &repaired, |_| {}).unwrap().damage, []);
    small().open(&repaired).unwrap().close().unwrap();
}

/// Through links and `..` a place in the store is in the store all the same.
#[test]
fn no_copy_is_made_inside_of_what_it_is_a_copy_of() {
    let scratch = Scratch::new();
    let from = backup(&scratch);
    let before = files::snapshot(&from);
    let (link, beside) = (scratch.path().join("link"), scratch.path().join("beside"));
    std::os::unix::fs::symlink(&from, &link).unwrap();
    fs::create_dir(&beside).unwrap();
    let inside = [
        from.join("inside"),
        link.join("inside"),
        link.clone(),
        beside.join("..").join("backup").join("inside"),
        from.join("..").join("backup"),
    ];
    for from in [from.clone(), link.clone(), beside.join("..").join("backup")] {
        for to in &inside {
            let refused = [
                copies::restore(&from, to, |_| {}).map(|_| ()).unwrap_err(),
                copies::backup(&from, to, |_| {}).map(|_| ()).unwrap_err(),
                copies::fork(&from, to, Position::new(3), |_| {}).map(|_| ()).unwrap_err(),
                copies::repair(&from, to, |_| {}).map(|_| ()).unwrap_err(),
            ];
            for refused in refused {
                assert!(
                    matches!(&refused, Error::NotAStore { why, .. } if why.contains("itself")),
                    "{} into {}: {refused}",
                    from.display(),
                    to.display()
                );
            }
        }
    }
    assert!(files::snapshot(&from) == before);
    // Control: a name that only begins alike, and a way through the backup that leads out of it.
    copies::restore(&from, scratch.path().join("backup-2"), |_| {}).unwrap();
    copies::restore(&from, link.join("..").join("backup-3"), |_| {}).unwrap();
    assert!(scratch.path().join("backup-3").exists());
}

/// What is rotten at the end of a store that is open is told, and no shorter backup is made of it without a word.
#[test]
fn of_an_open_store_whose_last_event_is_damaged_no_shorter_backup_is_made_without_a_word() {
    for byte in [1, 30, 44] {
        let scratch = Scratch::new();
        let store = scratch.open();
        fill(&store, 40);
        let to = scratch.path().join("backup");
        store.backup(&to).unwrap();
        let sound = files::snapshot(&to);
        fill(&store, 20);
        let newest = files::newest(&scratch.store_path());
        let last = *files::frames(&newest).last().unwrap();
        files::flip(&newest, last.offset + byte, 1);
        let refused = store.backup(&to).map(|made| made.head);
        assert!(matches!(&refused, Err(Error::Damaged(damage)) if damage.offset == last.offset), "{refused:?}");
        assert!(files::snapshot(&to) == sound, "the one before stays");
        let elsewhere = scratch.path().join("elsewhere");
        let made = store.backup(&elsewhere).unwrap();
        assert_eq!(made.head, store.head());
        assert!(made.damage.iter().any(|damage| damage.offset == last.offset), "{made:?}");
        let plan = copies::plan_repair(&elsewhere).unwrap();
        assert_eq!((plan.positions_lost(), plan.head), (1, store.head()));
        // Control: as it was.
        files::flip(&newest, last.offset + byte, 1);
        assert_eq!(store.backup(&to).unwrap().damage, []);
    }
}

/// What may become of a file. Places are in thousandths of its length.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Turn { place: u64, bit: u32 },
    Cut { place: u64 },
    Blank { place: u64 },
    Remove,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        3 => (0..1_000u64, 0..8u32).prop_map(|(place, bit)| Harm::Turn { place, bit }),
        2 => (0..1_000u64).prop_map(|place| Harm::Cut { place }),
        1 => (0..1_000u64).prop_map(|place| Harm::Blank { place }),
        1 => Just(Harm::Remove),
    ]
}

fn do_harm(file: &Path, harm: Harm) {
    let at = |place| fs::metadata(file).unwrap().len() * place / 1_000;
    match harm {
        Harm::Turn { place, bit } => files::flip(file, at(place), bit),
        Harm::Cut { place } => files::set_len(file, at(place)),
        Harm::Blank { place } => files::blank_from(file, at(place)),
        Harm::Remove => fs::remove_file(file).unwrap(),
    }
}

/// The events of a store and how its consumers stand, if it says so without an error.
fn says(path: &Path) -> Result<(Vec<Told>, String), Error> {
    let store = Store::open_read_only(path)?;
    let (events, mut errors) = told::read(&store, towpath::Query::new());
    let consumers = format!("{:?}", store.consumers()?);
    errors.pop().map_or(Ok((events, consumers)), Err)
}

/// Harms a file of a copy of a backup. What is wrong then: it is taken for whole, and is not what was there.
fn faults(whole: &Path, file: usize, harm: Harm, is_marked: bool) -> Vec<&'static str> {
    let scratch = Scratch::in_memory();
    let to = scratch.path().join("backup");
    files::copy(whole, &to);
    let mut harmed = files::with_extension(&to, "seg");
    if is_marked {
        harmed.push(to.join(MARK));
    } else {
        fs::remove_file(to.join(MARK)).unwrap();
    }
    let harmed = &harmed[file % harmed.len()];
    if matches!(harm, Harm::Remove) && harmed.ends_with(MARK) {
        return Vec::new();
    }
    do_harm(harmed, harm);
    let before = says(whole).unwrap();
    let mut faults = Vec::new();
    if says(&to).is_ok_and(|said| said != before) {
        faults.push("readers see something else");
    }
    if inspect::verify(&to, |_| {}).is_ok_and(|verdict| verdict.ok)
        && restore(&to, &scratch).is_ok()
        && says(&scratch.path().join("restored")).unwrap() != before
    {
        faults.push("it is called whole, and something else is restored");
    }
    if restore(&to, &scratch).is_ok_and(|made| made.damage.is_empty())
        && says(&scratch.path().join("restored")).unwrap() != before
    {
        faults.push("something else is restored without a word");
    }
    faults
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(16), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of one of its files, it is told, or it does not matter.
    #[test]
    fn no_harm_to_a_file_of_a_backup_passes_without_a_word(harms in prop::collection::vec((any::<usize>(), harm()), 8)) {
        let scratch = Scratch::in_memory();
        let whole = backup(&scratch);
        for (file, harm) in harms {
            prop_assert_eq!(faults(&whole, file, harm, true), [] as [&str; 0], "{:?} of file {}", harm, file);
        }
    }
}

/// Control: of a backup without a mark some harm passes.
#[test]
fn some_harm_to_a_backup_without_a_mark_passes() {
    let scratch = Scratch::in_memory();
    let whole = backup(&scratch);
    let newest = files::segments(&whole).len() - 1;
    assert_eq!(faults(&whole, newest, Harm::Remove, false).len(), 3);
    assert_eq!(faults(&whole, newest, Harm::Remove, true), [] as [&str; 0]);
}
