//! A reader in another process was shown events that were lost with their writer, as without syncs a failing disk may lose them:
//! it has to be told, whatever it asks for, and whatever stands at these positions now. R5, C10.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use towpath::{Canal, Cursor, Durability, Error, EventId, Position, Query, Result, Retention, Start, Store, Timestamp};

use crate::beside::{COMMIT, append, check, helper, revision, stream};
use crate::support::files::{self, RawFrame};
use crate::support::{Scratch, positions, small};

/// A writer in another process appends so many events, and is killed. Gives the head.
pub(crate) fn killed_after(path: &Path, events: u64) -> u64 {
    let mut writer = helper("writer", path);
    writer.hears(format_args!("append {events}"));
    let head = writer.says_next("wrote ").parse().unwrap();
    writer.kill();
    head
}

/// What the disk has when the events behind `kept` never came there: the file of before, without them. Who has mapped the old
/// file still sees them.
pub(crate) fn lose_behind(path: &Path, kept: u64) {
    for segment in files::segments(path).into_iter().rev() {
        let frames = files::frames(&segment);
        let is_lost = |frame: &&RawFrame| !frame.is_control && frame.position > kept;
        let lost = frames.iter().find(is_lost).map(|frame| frame.offset);
        let name = files::name(&segment);
        let first: u64 = name.trim_end_matches(".seg").parse().unwrap();
        let other = path.join("other");
        fs::copy(&segment, &other).unwrap();
        match lost {
            // Nothing of it, not even its header.
            Some(_) if first > kept + 1 => files::blank_from(&other, 0),
            Some(from) => files::blank_from(&other, from),
            None => {}
        }
        fs::rename(other, &segment).unwrap();
        if first <= kept {
            break;
        }
    }
}

struct Beside {
    store: Store,
    cursor: Cursor,
}

/// A reader that has seen everything up to the head.
fn reader(path: &Path) -> Beside {
    let store = Store::open_read_only(path).unwrap();
    let mut beside = Beside { cursor: store.follow().open().unwrap(), store };
    let head = beside.store.head().get();
    assert_eq!(beside.pull().unwrap(), (1..=head).collect::<Vec<_>>());
    beside
}

impl Beside {
    fn pull(&mut self) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        loop {
            let batch = self.cursor.pull_batch(1_000, Duration::ZERO)?;
            if batch.is_empty() {
                return Ok(all);
            }
            all.extend(batch.iter().map(|event| check(&event).unwrap()));
        }
    }

    /// Says what it is told, which has to be the same whatever is asked for.
    fn is_told(&mut self) -> Option<(u64, u64)> {
        let path = self.store.path().to_owned();
        let seen = |error| match error {
            Error::Withdrawn { path: of, seen, kept } if of == path => Some((seen.get(), kept.get())),
            error => panic!("{error}"),
        };
        let told = self.pull().err().and_then(seen);
        let store = &self.store;
        let head = store.head().get();
        let at = Position::new(head);
        let answers = [
            store.read(Query::new()).next().unwrap().err(),
            store.read(Query::new().stream("cart-1")).backwards().next().unwrap().err(),
            store.read(Query::new()).since(Timestamp::from_nanos(1)).next().unwrap().err(),
            store.event(at).err(),
            store.event_at(&stream(head), revision(head)).err(),
            store.event_by_id(&EventId::Own(1)).err(),
            store.revision("cart-1").err(),
            store.consumers().err(),
            store.plan_retention(&Retention::new()).err(),
            store.follow().open().and_then(|mut cursor| cursor.pull_batch(1, Duration::ZERO)).err(),
        ];
        for answer in answers {
            assert_eq!(answer.and_then(seen), told);
        }
        told
    }
}

#[test]
fn a_reader_that_was_shown_what_is_lost_is_told_for_good() {
    // How much is lost of 60 events: the last commit, all but one commit of the segment.
    for lost in [COMMIT, 19 * COMMIT] {
        let dir = Scratch::new();
        let path = dir.store_path();
        let head = killed_after(&path, 60);
        let mut beside = reader(&path);
        assert_eq!(beside.is_told(), None);
        let kept = head - lost;
        lose_behind(&path, kept);

        let store = dir.open();
        assert_eq!((store.head().get(), store.recovery().clean), (kept, false));
        append(&store);
        assert_eq!(beside.is_told(), Some((head, kept)));
        assert_eq!(beside.store.head().get(), head);
        // Until it is there again, and beyond.
        while store.head().get() < 2 * head {
            append(&store);
            assert_eq!(beside.is_told(), Some((head, kept)));
        }
        store.close().unwrap();
        assert_eq!(beside.is_told(), Some((head, kept)));
        // What to do then.
        assert_eq!(reader(&path).is_told(), None);
    }
}

#[test]
fn a_reader_is_told_when_whole_segments_are_lost() {
    let dir = Scratch::new();
    let path = dir.store_path();
    // Both segments behind the first one were never synced, as far as anybody knows.
    let head = killed_after(&path, 1_800);
    let segments = files::segments(&path);
    assert!(segments.len() >= 3);
    let second: u64 = files::name(&segments[1]).trim_end_matches(".seg").parse().unwrap();
    forget_what_was_durable(&path);
    let mut beside = reader(&path);
    let kept = second - 1 - 10 * COMMIT;
    lose_behind(&path, kept);

    let store = dir.open();
    assert_eq!(store.head().get(), kept);
    while store.head().get() < head + 900 {
        append(&store);
    }
    assert_eq!(beside.is_told(), Some((head, kept)));
    // Nor does it help that the place where it stood is gone.
    store.retain(&Retention::new().max_events(1)).unwrap();
    assert!(store.oldest().get() > head);
    assert_eq!(beside.is_told(), Some((head, kept)));
}

/// As if segments had been begun before any sync was over.
fn forget_what_was_durable(path: &Path) {
    files::overwrite(&path.join("LOCK"), 2072, &[0; 8]);
    for segment in files::segments(path) {
        let mut header = fs::read(&segment).unwrap()[..4096].to_vec();
        header[80..88].fill(0);
        let sum = files::crc(0, &header[..4092]);
        header[4092..].copy_from_slice(&sum.to_le_bytes());
        files::overwrite(&segment, 0, &header);
    }
}

#[test]
fn a_reader_that_slept_through_several_crashes_is_told_of_the_one_that_matters() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let head = killed_after(&path, 60);
    let mut beside = reader(&path);
    lose_behind(&path, head - 30);
    // From here on everything is kept.
    let later = killed_after(&path, 90);
    assert_eq!(later, head + 60);
    let last = killed_after(&path, 30);
    assert_eq!(last, later + 30);
    let store = dir.open();
    assert_eq!(beside.is_told(), Some((head, head - 30)));
    store.close().unwrap();
}

/// The control: who was shown nothing of what is lost goes on.
#[test]
fn a_reader_that_was_shown_less_than_was_kept_goes_on() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let mut writer = helper("writer", &path);
    writer.hears("append 30");
    let shown: u64 = writer.says_next("wrote ").parse().unwrap();
    let mut beside = reader(&path);
    writer.hears("append 30");
    let head: u64 = writer.says_next("wrote ").parse().unwrap();
    writer.kill();
    lose_behind(&path, head - 15);
    let store = dir.open();
    assert_eq!(store.head().get(), head - 15);
    let last = append(&store).get();
    assert_eq!(beside.pull().unwrap(), (shown + 1..=last).collect::<Vec<_>>());
    assert_eq!(beside.is_told(), None);
    assert_eq!(positions(beside.store.read(Query::new())), (1..=last).collect::<Vec<_>>());
    // And with all of it kept.
    store.close().unwrap();
    let all = killed_after(&path, 30);
    let store = dir.open();
    assert_eq!(beside.pull().unwrap(), (last + 1..=all).collect::<Vec<_>>());
    assert_eq!(beside.is_told(), None);
    store.close().unwrap();
}

/// A reader that begins while a store is written or recovered knows where it begins.
#[test]
fn a_reader_that_opened_after_a_loss_is_not_told_of_it() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let head = killed_after(&path, 60);
    lose_behind(&path, head - 30);
    let before = reader(&path).store;
    assert_eq!(before.head().get(), head - 30);
    let store = small().durability(Durability::Os).open(&path).unwrap();
    let mut after = reader(&path);
    append(&store);
    assert_eq!(after.pull().unwrap().len() as u64, COMMIT);
    assert_eq!(before.head(), store.head());
    store.close().unwrap();
}

/// How often a writer is killed below: `TOWPATH_WITHDRAWN=N`.
fn rounds() -> u64 {
    std::env::var("TOWPATH_WITHDRAWN").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Follows a store and keeps what it is handed, until `done` says how the log ends. What is withdrawn it drops, and opens the
/// store again, unless it is to be caught.
fn keep_what_is_handed(path: &Path, drops: bool, done: &OnceLock<u64>) -> (Vec<(u64, Timestamp)>, u64) {
    let (mut held, mut told) = (Vec::new(), 0);
    while done.get() != Some(&0) {
        // Files go away under its eyes.
        let Ok(store) = Store::open_read_only(path) else { continue };
        let next = Start::At(Position::new(held.len() as u64 + 1));
        let Ok(mut cursor) = store.follow().start(next).open() else { continue };
        loop {
            match cursor.pull_batch(50, Duration::from_millis(1)) {
                Ok(batch) => {
                    for event in &batch {
                        let position = check(&event).unwrap();
                        assert_eq!(position, held.len() as u64 + 1);
                        held.push((position, event.time()));
                    }
                    if done.get().is_some_and(|head| *head == 0 || *head == held.len() as u64) {
                        return (held, told);
                    }
                }
                Err(Error::Withdrawn { seen, kept, .. }) => {
                    assert!(seen > kept && (!drops || seen.get() >= held.len() as u64));
                    held.truncate(if drops { kept.get() as usize } else { held.len() });
                    told += 1;
                    break;
                }
                // What is lost is damage until recovery has looked at it.
                Err(Error::Damaged(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    (held, told)
}

/// Ends those who follow when the test fails, too: then the log ends at 0.
struct Ends<'a>(&'a OnceLock<u64>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let _was_set = self.0.set(0);
    }
}

/// Whatever was lost, and however the looks of readers fall among kills and recoveries: who heeds what it is told holds the log.
/// The control heeds nothing.
#[test]
fn who_drops_what_was_withdrawn_holds_what_the_log_holds() {
    let dir = Scratch::new();
    let path = dir.store_path();
    dir.open().close().unwrap();
    let done = OnceLock::new();
    std::thread::scope(|threads| {
        let followers = [true, true, false].map(|drops| {
            let (path, done) = (&path, &done);
            threads.spawn(move || keep_what_is_handed(path, drops, done))
        });
        let _ends = Ends(&done);
        for round in 0..rounds() {
            let head = killed_after(&path, 240);
            let name = files::name(&files::newest(&path));
            let first: u64 = name.trim_end_matches(".seg").parse().unwrap();
            // By turns a little, much, nothing, everything that may be lost.
            let lost = [9, 120, 0, 3_000][round as usize % 4];
            lose_behind(&path, head.saturating_sub(lost).max(first - 1));
        }
        let store = dir.open();
        // The one that heeds nothing has to come to its end, too.
        while store.head().get() < 240 * (rounds() + 1) {
            append(&store);
        }
        let truth: Vec<_> = store.read(Query::new()).map(|event| event.unwrap()).collect();
        let truth: Vec<_> = truth.iter().map(|event| (event.position().get(), event.time())).collect();
        done.set(truth.len() as u64).unwrap();
        let [first, second, careless] = followers.map(|follower| follower.join().unwrap());
        assert!(first.1 > 0 && second.1 > 0, "nothing was withdrawn");
        assert!(first.0 == truth && second.0 == truth);
        assert!(careless.0 != truth);
    });
}
