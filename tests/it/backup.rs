//! Backups and what is restored from them: C2, C6, C14, R5, W8.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use towpath::copies::{self, Backup};
use towpath::inspect::{self, Depth};
use towpath::{
    Canal as _, Commit, Durability, Error, NewEvent, Options, Position, Reason, Retention, Revision, Settlement, Store,
};

use crate::support::files;
use crate::support::told::{self, Told};
use crate::support::{Scratch, cases, consume, noted, os, small};

/// Ends what runs beside, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn backup(scratch: &Scratch) -> Backup {
    copies::backup(scratch.store_path(), scratch.path().join("backup"), |_| {}).unwrap()
}

/// Everything that a store says: events, and how its consumers stand.
fn says(store: &Store) -> (Vec<Told>, Vec<String>) {
    let consumers = store.consumers().unwrap();
    let mut stand: Vec<String> = consumers.iter().map(|consumer| format!("{consumer:?}")).collect();
    for consumer in consumers.iter().filter(|consumer| consumer.kind == towpath::ConsumerKind::Group) {
        stand.push(format!("{:?}", store.unsettled(&consumer.name).unwrap()));
    }
    let own = ["$dead/mail"].into_iter().flat_map(|name| told::read(store, towpath::Query::new().stream(name)).0);
    (told::all(store).into_iter().chain(own).collect(), stand)
}

fn fill(store: &Store, events: u64) {
    for number in 0..events {
        store
            .append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 400]).tag("sku:tea"))
            .unwrap();
    }
}

/// A store of several segments with a cursor, and a group with unsettled deliveries and a dead letter.
fn busy(scratch: &Scratch) -> Store {
    let store = scratch.open();
    fill(&store, 900);
    consume(&store);
    store
}

/// Beside a writer, in this process and through another door: the same events and consumers.
#[test]
fn what_is_restored_from_a_backup_is_what_was_there() {
    let scratch = Scratch::new();
    let store = busy(&scratch);
    assert!(files::segments(&scratch.store_path()).len() > 3);
    let before = says(&Store::open_read_only(scratch.store_path()).unwrap());
    assert!(before.1.len() == 3 && before.0.len() == 901, "{:?}", before.1);

    let made = store.backup(scratch.path().join("backup")).unwrap();
    assert_eq!((made.store, made.head, made.resumed, &made.damage[..]), (store.id(), store.head(), false, &[][..]));
    fill(&store, 10);
    let to = scratch.path().join("restored");
    let restored = copies::restore(scratch.path().join("backup"), &to, |_| {}).unwrap();
    assert_eq!((restored.store, restored.head), (store.id(), made.head));
    assert_eq!(says(&Store::open_read_only(&to).unwrap()), before);
    let again = small().durability(Durability::Os).open(&to).unwrap();
    assert_eq!(says(&again), before);
    assert_eq!(again.append("cart-1", noted("next")).unwrap().first(), made.head.next());
    again.close().unwrap();
    assert!(inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap().ok);
    // Control: the store has gone on, so comparing does tell.
    assert_ne!(says(&store), before);
}

/// What the backup has of sealed segments is not copied again; the newest always is.
#[test]
fn the_next_backup_keeps_what_the_last_one_has() {
    let scratch = Scratch::new();
    let store = busy(&scratch);
    let first = backup(&scratch);
    assert_eq!(first.files.kept, 0);
    let to = scratch.path().join("backup");
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    let oldest = files::name(&files::segments(&to)[0]);
    let before = inode(&oldest);
    fill(&store, 400);
    let second = backup(&scratch);
    assert!(second.files.kept >= first.files.copied - 2, "{first:?} {second:?}");
    assert!(second.files.bytes_copied + (200 << 10) < first.files.bytes_copied + second.files.kept * (128 << 10));
    assert_eq!(inode(&oldest), before, "it is the same file");
    assert_ne!(fs::metadata(scratch.store_path().join(&oldest)).unwrap().ino(), before, "and not the store's own");
    assert_eq!(told::all(&Store::open_read_only(&to).unwrap()), told::all(&store));
    // Control: a file that is another one is copied.
    let segment = files::segments(&to)[0].clone();
    files::flip(&segment, 90, 0);
    assert!(inspect::verify_to(&to, Depth::Fast, |_| {}).is_ok_and(|verdict| !verdict.ok));
    assert!(backup(&scratch).files.copied > 0);
    assert!(inspect::verify(&to, |_| {}).unwrap().ok);
    // Nothing else lies about.
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
}

/// C14: for their owner alone.
#[test]
fn files_of_a_backup_are_for_their_owner_alone() {
    let scratch = Scratch::new();
    busy(&scratch).close().unwrap();
    backup(&scratch);
    let to = scratch.path().join("backup");
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&to).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(!to.join("LOCK").exists());
}

/// C6: what stands in the way is told, and nothing is written over.
#[test]
fn a_backup_goes_into_nothing_but_a_backup_of_this_store() {
    let scratch = Scratch::new();
    busy(&scratch).close().unwrap();
    let other = Scratch::new();
    busy(&other).close().unwrap();
    let refused = |to: &Path| match copies::backup(scratch.store_path(), to, |_| {}) {
        Err(Error::NotAStore { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let before = files::snapshot(&other.store_path());
    assert!(refused(&other.store_path()).contains("opened for writing"));
    assert!(files::snapshot(&other.store_path()) == before);
    backup(&other);
    assert!(refused(&other.path().join("backup")).contains("another store"));
    assert!(refused(&scratch.store_path().join("inside")).contains("in the store itself"));
    let full = scratch.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "dear").unwrap();
    assert!(refused(&full).contains("other things"));
    assert_eq!(fs::read_to_string(full.join("letter.txt")).unwrap(), "dear");
    let refused = copies::restore(other.path().join("backup"), &full, |_| {});
    assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("not empty")));
    // What stands where the copy would be made is nobody's to clear away.
    for (name, what) in [("third.part", "letter.txt"), ("third.part", "LOCK"), ("third.part.old", "letter.txt")] {
        let taken = scratch.path().join(name);
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join(what), "dear").unwrap();
        let refused = copies::backup(scratch.store_path(), scratch.path().join("third"), |_| {});
        assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("other things")));
        assert_eq!(fs::read_to_string(taken.join(what)).unwrap(), "dear");
        fs::remove_dir_all(taken).unwrap();
    }
    // Control: an empty directory is as good as none.
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    copies::backup(scratch.store_path(), &empty, |_| {}).unwrap();
}

/// What gives way is the directory itself, and only while nobody writes to it.
#[test]
fn a_backup_takes_the_place_of_no_link_and_of_nothing_that_is_in_use() {
    let scratch = Scratch::new();
    busy(&scratch).close().unwrap();
    backup(&scratch);
    let (to, link) = (scratch.path().join("backup"), scratch.path().join("link"));
    std::os::unix::fs::symlink(&to, &link).unwrap();
    let refused = |to: &Path| copies::backup(scratch.store_path(), to, |_| {}).unwrap_err();
    assert!(matches!(refused(&link), Error::NotAStore { why, .. } if why.contains("link")));
    assert!(!scratch.path().join("link.part").exists());

    // Before it has made its lock file: the directory's lock is what counts.
    let held = fs::File::open(&to).unwrap();
    held.lock().unwrap();
    assert!(matches!(refused(&to), Error::Locked { .. }));
    assert!(!scratch.path().join("backup.part").exists());
    drop(held);
    backup(&scratch);
}

/// Readers of what is damaged at its end may see less than there was, and so would those of a copy: there is none then, or its
/// damage is told.
#[test]
fn of_what_is_damaged_at_its_end_no_shorter_copy_is_made_without_a_word() {
    let (mut refusals, mut told) = (0, 0);
    // Of a live one nothing in the backup says what had reached the disk.
    // In its stream's name, and in its length, behind which frames are harder to find.
    for (is_live, back, byte) in
        [(false, 3, 44), (false, 40, 44), (true, 3, 44), (true, 40, 44), (true, 3, 1), (true, 40, 1)]
    {
        let scratch = Scratch::new();
        if is_live {
            let store = scratch.open();
            for _ in 0..100 {
                store.append("cart-1", NewEvent::new("filled", "x")).unwrap();
            }
            backup(&scratch);
        } else {
            busy(&scratch).close().unwrap();
            backup(&scratch);
        }
        let (to, copy) = (scratch.path().join("backup"), scratch.path().join("copy"));
        let newest = files::newest(&to);
        let frames = files::frames(&newest);
        let frame = frames.iter().rev().filter(|frame| !frame.is_control).nth(back).unwrap();
        files::flip(&newest, frame.offset + byte, 1);
        for make in [
            |from: &Path, to: &Path| copies::restore(from, to, |_| {}).map(|made| made.damage),
            |from: &Path, to: &Path| copies::backup(from, to, |_| {}).map(|made| made.damage),
            |from: &Path, to: &Path| copies::fork(from, to, Position::new(3), |_| {}).map(|made| made.damage),
        ] {
            let position = match make(&to, &copy) {
                Ok(damage) => damage.first().map(|damage| damage.position.get()),
                Err(Error::Damaged(damage)) => Some(damage.position.get()),
                Err(Error::NotAStore { why, .. }) if why.contains("ends within a commit") => Some(frame.position),
                Err(error) => panic!("{error}"),
            };
            refusals += u64::from(!copy.exists());
            let _none = fs::remove_dir_all(&copy);
            // A fork up to 3 has nothing of it.
            assert!(position.is_none_or(|position| position == frame.position), "{position:?}");
            told += u64::from(position.is_some());
            assert!(!scratch.path().join("copy.part").exists());
        }
    }
    assert!(told >= 12 && refusals > 0, "{told} were told, {refusals} refused");
}

#[test]
fn a_backup_that_goes_further_than_the_store_is_not_given_up() {
    let scratch = Scratch::new();
    let store = busy(&scratch);
    let (early, late) = (scratch.path().join("early"), scratch.path().join("late"));
    store.backup(&early).unwrap();
    fill(&store, 10);
    store.backup(&late).unwrap();
    let refused = copies::backup(&early, &late, |_| {});
    assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("goes up to position")));
    // Control: the other way round it is brought up to date.
    copies::backup(&late, &early, |_| {}).unwrap();
}

/// A sound backup is not given up for a damaged one.
#[test]
fn a_damaged_copy_takes_the_place_of_no_backup() {
    let scratch = Scratch::new();
    busy(&scratch).close().unwrap();
    backup(&scratch);
    let to = scratch.path().join("backup");
    let sound = files::snapshot(&to);
    let oldest = files::segments(&scratch.store_path())[0].clone();
    files::flip(&oldest, 90, 0);
    assert!(matches!(copies::backup(scratch.store_path(), &to, |_| {}), Err(Error::Damaged(_))));
    assert!(files::snapshot(&to) == sound);
    // Control: where none stood, one with the damage is better than none.
    let elsewhere = copies::backup(scratch.store_path(), scratch.path().join("elsewhere"), |_| {}).unwrap();
    assert!(!elsewhere.damage.is_empty());
    // A lock file that cannot be read is one.
    std::os::unix::fs::symlink("nowhere", to.join("LOCK")).unwrap();
    let refused = copies::backup(scratch.store_path(), &to, |_| {});
    assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("opened for writing")));
}

/// R5: no matter what the writer does meanwhile, each backup is a state that the store was in.
#[test]
fn backups_beside_a_writer_are_states_that_the_store_was_in() {
    let scratch = Scratch::new();
    let store = scratch.open();
    fill(&store, 10);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pair = Commit::new();
            while !done.load(Ordering::Relaxed) {
                let mut commit = std::mem::take(&mut pair);
                commit.event("a-1", NewEvent::new("one", &[1; 300])).event("b-1", NewEvent::new("two", &[2; 300]));
                store.commit(&commit).unwrap();
            }
        });
        for _ in 0..8 {
            let at_least = store.head();
            let made = backup(&scratch);
            assert!(made.damage.is_empty() && made.head >= at_least, "{made:?}");
            let to = scratch.path().join("backup");
            assert!(inspect::verify(&to, |_| {}).unwrap().ok);
            let copy = Store::open_read_only(&to).unwrap();
            assert_eq!(copy.head(), made.head);
            assert_eq!(copy.revision("a-1").unwrap(), copy.revision("b-1").unwrap(), "half a commit");
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Old segments go while the copy is made: what it holds is a state that the store was in all the same, heads files included.
#[test]
fn backups_beside_retention_are_states_that_the_store_was_in() {
    let scratch = Scratch::new();
    let store = Options::new().segment_bytes(64 << 10).durability(Durability::Os).open(scratch.store_path()).unwrap();
    store.append("once-1", noted("and never again")).unwrap();
    fill(&store, 400);
    let done = AtomicBool::new(false);
    let mut retained = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fill(&store, 40);
                store.retain(&Retention::new().max_events(150)).unwrap();
            }
        });
        let _over = Over(&done);
        for round in 0..12 {
            let made = backup(&scratch);
            assert!(made.damage.is_empty(), "{made:?}");
            let to = scratch.path().join("backup");
            let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
            assert_eq!(verdict.damage, [], "round {round}");
            let beside = inspect::verify(scratch.store_path(), |_| {}).unwrap();
            assert_eq!(beside.damage, [], "round {round}: beside the writer");
            retained += usize::from(!files::with_extension(&to, "heads").is_empty());
            let restored = scratch.path().join("restored");
            copies::restore(&to, &restored, |_| {}).unwrap();
            let store = small().open(&restored).unwrap();
            assert_eq!(store.head(), made.head);
            assert_eq!(store.revision("once-1").unwrap().get(), 1, "it is known, though its event may be gone");
            let mut reader = store.read(towpath::Query::new()).from(store.oldest());
            assert!(
                (store.oldest().get()..=made.head.get())
                    .all(|position| { reader.next().is_some_and(|event| event.unwrap().position().get() == position) })
            );
            drop((reader, store));
            fs::remove_dir_all(&restored).unwrap();
        }
    });
    assert!(retained > 0, "control: nothing was let go of");
    // Control: without the heads files the backup is no store to write to, and the check says so.
    let to = scratch.path().join("backup");
    files::with_extension(&to, "heads").iter().for_each(|file| fs::remove_file(file).unwrap());
    assert!(!inspect::verify(&to, |_| {}).unwrap().ok);
    assert!(small().open(&to).is_err());
}

/// What a store says of its streams: how many events each has, by its revision.
fn streams(store: &Store) -> Vec<(usize, u64)> {
    let of = |stream: &str| {
        let events = told::read(store, towpath::Query::new().stream(stream));
        assert!(events.1.is_empty());
        (events.0.len(), store.revision(stream).unwrap().get())
    };
    (0..7).map(|number| of(&format!("cart-{number}"))).collect()
}

/// Streams are truncated, and their events taken out of the files, between two files of a copy: it holds all of an event and its
/// removal, or neither.
#[test]
fn copies_that_are_made_while_streams_are_made_smaller_are_states_that_the_store_was_in() {
    for (is_fork, ends) in [(false, true), (true, true), (false, false), (true, false)] {
        let scratch = Scratch::in_memory();
        let store = busy(&scratch);
        let (to, head) = (scratch.path().join("copy"), store.head());
        let mut states = vec![streams(&store)];
        let (mut looks, mut done) = (0, u64::MAX);
        let progress = |progress: inspect::Progress| {
            let is_first = progress.done <= std::mem::replace(&mut done, progress.done);
            looks += u64::from(is_first);
            if is_first && !(ends && looks > 3) {
                // Not in the segments at the beginning: some of those are copied by now.
                let stream = format!("cart-{}", looks % 7);
                store.truncate_stream(&stream, Revision::new(100 + looks)).unwrap();
                assert!(store.purge().unwrap().events > 0);
                states.push(streams(&store));
            }
        };
        let copied = match is_fork {
            true => copies::fork(scratch.store_path(), &to, head, progress).map(|_| ()),
            false => copies::backup(scratch.store_path(), &to, progress).map(|_| ()),
        };
        if ends {
            copied.unwrap();
            let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
            assert!(verdict.ok, "{:?}", verdict.damage);
            let found = streams(&Store::open_read_only(&to).unwrap());
            assert!(states.contains(&found), "fork {is_fork}: {found:?} is none of {states:?}");
            assert!(looks > 3, "control: it looked {looks} times");
        } else {
            assert!(
                matches!(&copied, Err(Error::NotAStore { why, .. }) if why.contains("while less is removed")),
                "fork {is_fork}: {copied:?} {looks}"
            );
            assert!(!to.exists());
        }
    }
}

/// While the newest segment has no event another one takes its name when it is full of records.
#[test]
fn a_backup_has_all_of_a_newest_segment_that_is_replaced_meanwhile_or_all_of_the_next() {
    let scratch = Scratch::in_memory();
    let before = os().open(scratch.store_path()).unwrap();
    fill(&before, 300);
    let killed = scratch.as_if_killed();
    let store = os().open(killed.store_path()).unwrap();
    store.cursor("reader").open().unwrap();
    let newest = files::newest(&killed.store_path());
    assert!(files::frames(&newest).iter().all(|frame| frame.is_control));
    for _ in 0..2 {
        let (nonce, mut looks) = (files::nonce(&newest), 0);
        let progress = |_| {
            looks += 1;
            for at in 0..1_000 * u64::from(looks < 3) {
                store.seek("reader", Position::new(1 + at % 300)).unwrap();
            }
        };
        let made = copies::backup(killed.store_path(), killed.path().join("backup"), progress).unwrap();
        assert_eq!(made.damage, []);
        assert_ne!(files::nonce(&newest), nonce, "control: it was replaced");
        let copy = Store::open_read_only(killed.path().join("backup")).unwrap();
        assert_eq!(says(&copy), says(&store));
    }
}

/// What is still to be copied is let go of: a copy begins anew, and where that never ends it says so.
#[test]
fn copies_that_are_made_while_old_segments_are_let_go_of_have_what_is_kept_or_say_why_not() {
    const EVENTS: u64 = 20_000;
    for (is_fork, ends) in [(false, true), (true, true), (false, false), (true, false)] {
        let scratch = Scratch::in_memory();
        let store = os().open(scratch.store_path()).unwrap();
        fill(&store, EVENTS);
        let (to, mut kept) = (scratch.path().join("copy"), EVENTS);
        let progress = |_| {
            if !ends || kept > EVENTS - 1_000 {
                kept -= 500;
                assert!(store.retain(&Retention::new().max_events(kept)).unwrap().segments > 1);
            }
        };
        let copied = match is_fork {
            true => copies::fork(scratch.store_path(), &to, store.head(), progress).map(|fork| fork.damage),
            false => copies::backup(scratch.store_path(), &to, progress).map(|backup| backup.damage),
        };
        if ends {
            assert_eq!(copied.unwrap(), []);
            let copy = Store::open_read_only(&to).unwrap();
            assert_eq!((copy.oldest(), told::all(&copy)), (store.oldest(), told::all(&store)));
            assert!(copy.oldest().get() > 500, "control: something was let go of");
        } else {
            let is_told = |error: &Error| matches!(error, Error::NotAStore { why, .. } if why.contains("let go of"));
            assert!(copied.as_ref().is_err_and(is_told), "fork {is_fork}: {copied:?}");
        }
    }
}

/// What a backup that was cut short leaves is told, used, and never taken for a backup.
#[test]
fn a_backup_that_was_cut_short_is_gone_on_with() {
    let scratch = Scratch::new();
    let store = busy(&scratch);
    backup(&scratch);
    let (whole, part) = (scratch.path().join("backup"), scratch.path().join("backup.part"));
    let before = files::snapshot(&whole);
    fill(&store, 400);
    // As it is after some segments: a whole one, a piece of the next, and one that came from elsewhere.
    fs::create_dir(&part).unwrap();
    let segments = files::segments(&scratch.store_path());
    fs::copy(&segments[0], part.join(files::name(&segments[0]))).unwrap();
    fs::write(part.join(format!("{}.tmp", files::name(&segments[1]))), "half").unwrap();
    fs::write(part.join("00000000000000099999.seg"), "strange").unwrap();
    assert!(files::snapshot(&whole) == before, "the last one is as it was");
    let made = backup(&scratch);
    assert!(made.resumed && made.files.kept > 0);
    assert!(!part.exists());
    assert!(inspect::verify(&whole, |_| {}).unwrap().ok);
    assert_eq!(told::all(&Store::open_read_only(&whole).unwrap()), told::all(&store));

    fs::rename(&whole, &part).unwrap();
    let refused = copies::restore(&whole, scratch.path().join("restored"), |_| {});
    assert!(matches!(refused, Err(Error::NotAStore { why, .. }) if why.contains("cut short")));
}

/// A damaged store has a damaged backup: that is told, and readers of what is restored are told, too.
#[test]
fn damage_comes_along_and_is_told() {
    let scratch = Scratch::new();
    busy(&scratch).close().unwrap();
    let newest = files::newest(&scratch.store_path());
    let oldest = files::segments(&scratch.store_path())[0].clone();
    assert_ne!(newest, oldest);
    files::flip(&oldest, files::frame_of(&oldest, 5).offset + 60, 1);
    backup(&scratch);
    let restored = copies::restore(scratch.path().join("backup"), scratch.path().join("restored"), |_| {}).unwrap();
    assert_eq!(restored.damage.len(), 1);
    assert_eq!(restored.damage[0].position, Position::new(5));
    let (events, errors) =
        told::read(&Store::open_read_only(scratch.path().join("restored")).unwrap(), towpath::Query::new());
    assert_eq!((events.len(), errors.len()), (899, 1));
}

/// One step of a random history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u8),
    Pair,
    Checkpoint(u8),
    Pull(u8),
    Settle(u8),
    Reopen,
    Backup,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..80u8).prop_map(Step::Append),
        2 => Just(Step::Pair),
        1 => (1..20u8).prop_map(Step::Checkpoint),
        2 => (1..9u8).prop_map(Step::Pull),
        2 => (0..4u8).prop_map(Step::Settle),
        1 => Just(Step::Reopen),
        2 => Just(Step::Backup),
    ]
}

fn live(steps: &[Step]) -> Result<(), TestCaseError> {
    let scratch = Scratch::in_memory();
    let open = || Options::new().segment_bytes(64 << 10).durability(Durability::Os).open(scratch.store_path()).unwrap();
    let mut store = open();
    store.group("mail").open().unwrap();
    let to = scratch.path().join("backup");
    for (at, step) in steps.iter().enumerate() {
        match *step {
            Step::Append(many) => fill(&store, u64::from(many)),
            Step::Pair => {
                let mut commit = Commit::new();
                commit.event("a-1", noted("one")).event("b-1", noted("two"));
                store.commit(&commit).unwrap();
            }
            Step::Checkpoint(many) => {
                let mut cursor = store.cursor("reader").open().unwrap();
                let batch = cursor.pull_batch(many.into(), Duration::ZERO).unwrap();
                if let Some(last) = batch.last() {
                    cursor.settle(last, Settlement::Done).unwrap();
                }
                cursor.flush().unwrap();
            }
            Step::Pull(many) | Step::Settle(many) => {
                let group = store.group("mail").open().unwrap();
                let mut member = group.member().unwrap();
                let batch = member.pull_batch(many.into(), Duration::ZERO).unwrap();
                for delivery in batch.iter() {
                    let settlement = match delivery.position().get() % 3 {
                        0 => Settlement::Done,
                        1 => Settlement::Reject { reason: Reason::Rejected, why: "no".into() },
                        _ => Settlement::Release,
                    };
                    if matches!(step, Step::Settle(_)) {
                        member.settle(delivery.token(), settlement).unwrap();
                    }
                }
                member.flush().unwrap();
            }
            Step::Reopen => {
                store.close().unwrap();
                store = open();
            }
            Step::Backup => {
                let made = store.backup(&to).unwrap();
                prop_assert!(made.damage.is_empty(), "step {}: {:?}", at, made.damage);
                let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
                prop_assert!(verdict.ok, "step {}: {:?}", at, verdict.damage);
                let restored = scratch.path().join(format!("restored-{at}"));
                copies::restore(&to, &restored, |_| {}).unwrap();
                let expected = says(&Store::open_read_only(scratch.store_path()).unwrap());
                prop_assert_eq!(says(&Store::open_read_only(&restored).unwrap()), expected);
                fs::remove_dir_all(&restored).unwrap();
            }
        }
    }
    store.close().unwrap();
    let verdict = inspect::verify_to(scratch.store_path(), Depth::Deep, |_| {}).unwrap();
    prop_assert!(verdict.ok, "{:?}", verdict.damage);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    /// Events, checkpoints, groups and dead letters: the same in what is restored, whatever came before.
    #[test]
    fn any_history_is_restored_from_its_backup(steps in prop::collection::vec(step(), 1..30)) {
        live(&steps)?;
    }
}
