//! Positions at which no event stands any more: R6, C12. The records are forged in the place of events that stood there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use towpath::{Canal as _, Commit, Error, Expected, NewEvent, Position, Query, Revision, Store, inspect};

use crate::support::files::{self, Forged};
use crate::support::told::{self, Told};
use crate::support::{Scratch, os};

const LOST: u8 = 1;
const REMOVED: u8 = 2;

/// A hundred events, sealed by a crash, and one event behind them; or all in the newest segment, closed in good order.
fn hundred(scratch: &Scratch, sealed: bool) -> PathBuf {
    let store = os().open(scratch.store_path()).unwrap();
    for number in 1..=100u64 {
        let stream = if number % 10 == 5 { "cart-1" } else { "cart-2" };
        store.append(stream, NewEvent::new("added", &[number as u8; 50])).unwrap();
    }
    let path = scratch.path().join("worked-on");
    if sealed {
        files::copy(&scratch.store_path(), &path);
        drop(store);
        os().open(&path).unwrap().append("cart-1", NewEvent::new("last", "")).unwrap();
    } else {
        store.close().unwrap();
        files::copy(&scratch.store_path(), &path);
        os().open(&path).unwrap().append("cart-1", NewEvent::new("last", "")).unwrap();
    }
    files::indexes(&path).iter().for_each(|index| std::fs::remove_file(index).unwrap());
    path
}

/// Puts a gap where the events from `first` to `last` stand.
fn put_gap(store: &Path, first: u64, last: u64, reason: u8) {
    let segment = files::segments(store)[0].clone();
    let (from, to) = (files::frame_of(&segment, first).offset, files::frame_of(&segment, last).end);
    // The text fills the room. More than 1,024 bytes would not be one.
    let mut left = to - from;
    let mut at = from;
    let mut first = first;
    while left > 0 {
        let bytes = if left > 1200 { 800 } else { left };
        let positions = if bytes == left { last + 1 - first } else { 1 };
        let text = bytes - 40 - 5;
        let mut payload = vec![12, positions as u8, reason];
        payload.extend_from_slice(&(text as u16).to_le_bytes());
        payload.extend(std::iter::repeat_n(b'x', text as usize));
        let (revision, flags, stream, type_name) = (0, 2, "", "");
        let frame = Forged { position: first, revision, flags, stream, type_name, payload: &payload };
        let frame = files::forge(files::nonce(&segment), frame);
        assert_eq!(frame.len() as u64, bytes);
        files::overwrite(&segment, at, &frame);
        (at, left, first) = (at + bytes, left - bytes, first + positions);
    }
    assert!(files::checksums_fit(&segment));
}

fn positions(events: &[Told]) -> Vec<u64> {
    events.iter().map(|event| event.position).collect()
}

fn both_ways(path: &Path, each: impl Fn(&Store)) {
    each(&Store::open_read_only(path).unwrap());
    each(&os().open(path).unwrap());
    // Once more with whatever index files there are now.
    each(&Store::open_read_only(path).unwrap());
}

/// R6: told as damage of exactly these positions, and reading goes on behind it.
#[test]
fn positions_that_were_lost_are_told_and_the_others_are_read() {
    for sealed in [true, false] {
        for (first, last) in [(1, 1), (4, 6), (31, 33), (20, 90), (32, 64), (98, 100)] {
            let scratch = Scratch::new();
            let path = hundred(&scratch, sealed);
            put_gap(&path, first, last, LOST);
            both_ways(&path, |store| {
                let kept: Vec<u64> = (1..=101).filter(|position| !(first..=last).contains(position)).collect();
                for query in [Query::new(), Query::new().stream("cart-1"), Query::new().types(["added", "last"])] {
                    let (events, errors) = told::read(store, query.clone());
                    if query != Query::new().stream("cart-1") {
                        assert_eq!(positions(&events), kept, "{sealed} {first}..={last}");
                    }
                    assert!(errors.iter().all(|error| matches!(error, Error::Damaged(_))), "{errors:?}");
                    let Error::Damaged(damage) = &errors[0] else { panic!() };
                    assert_eq!((damage.position.get(), &damage.what[..3]), (first, "xxx"), "{sealed} {first}..={last}");
                    let backward: Vec<u64> =
                        store.read(query).backwards().filter_map(|event| Some(event.ok()?.position().get())).collect();
                    assert!(backward.iter().rev().copied().eq(events.iter().map(|event| event.position)));
                }
                for position in first..=last {
                    assert!(matches!(store.event(Position::new(position)), Err(Error::Damaged(_))), "{position}");
                }
                for position in &kept {
                    let event = store.event(Position::new(*position)).unwrap().unwrap();
                    assert_eq!(event.position().get(), *position);
                }
                let mut cursor = store.follow().open().unwrap();
                let mut seen = Vec::new();
                loop {
                    match cursor.pull_batch(7, Duration::ZERO) {
                        Ok(batch) if batch.is_empty() => break,
                        Ok(batch) => seen.extend(batch.iter().map(|event| event.position().get())),
                        Err(Error::Damaged(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                assert_eq!(seen, kept);
            });
            let store = os().open(&path).unwrap();
            assert_eq!(store.append("cart-1", NewEvent::new("next", "")).unwrap().first().get(), 102);
        }
    }
}

/// What was removed on purpose is nothing to tell of, with and without an index file.
#[test]
fn positions_that_were_removed_are_passed_over_in_silence() {
    for sealed in [true, false] {
        for (first, last) in [(1, 3), (31, 33), (20, 90), (97, 99)] {
            let scratch = Scratch::new();
            let path = hundred(&scratch, sealed);
            put_gap(&path, first, last, REMOVED);
            both_ways(&path, |store| {
                let kept: Vec<u64> = (1..=101).filter(|position| !(first..=last).contains(position)).collect();
                let (events, errors) = told::read(store, Query::new());
                assert!(errors.is_empty(), "{errors:?}");
                assert_eq!(positions(&events), kept, "{sealed} {first}..={last}");
                let backward: Vec<u64> =
                    store.read(Query::new()).backwards().map(|event| event.unwrap().position().get()).collect();
                assert!(backward.iter().rev().eq(&kept));
                for position in 1..=101 {
                    let found = store.event(Position::new(position)).unwrap();
                    assert_eq!(found.is_some(), kept.contains(&position), "{position}");
                }
            });
        }
    }
}

/// Damage beside a gap costs the damaged event and no other: what stands behind is still found.
#[test]
fn an_event_that_is_damaged_before_a_gap_takes_nothing_else_with_it() {
    let scratch = Scratch::new();
    let path = hundred(&scratch, true);
    put_gap(&path, 20, 90, REMOVED);
    let segment = files::segments(&path)[0].clone();
    files::flip(&segment, files::frame_of(&segment, 19).offset + 60, 1);
    let (events, errors) = told::read(&Store::open_read_only(&path).unwrap(), Query::new());
    assert_eq!(positions(&events), (1..=18).chain(91..=101).collect::<Vec<_>>());
    assert_eq!(errors.len(), 1);
}

/// Control: one bit of a gap changed, and it is damage like any other.
#[test]
fn a_damaged_gap_is_not_believed() {
    let scratch = Scratch::new();
    let path = hundred(&scratch, true);
    put_gap(&path, 4, 6, REMOVED);
    let segment = files::segments(&path)[0].clone();
    let gap = *files::frames(&segment).iter().find(|frame| frame.position == 4).unwrap();
    files::flip(&segment, gap.offset + 41, 0);
    let (events, errors) = told::read(&Store::open_read_only(&path).unwrap(), Query::new());
    assert!(errors.len() == 1 && matches!(&errors[0], Error::Damaged(_)), "{errors:?}");
    assert_eq!(positions(&events), (1..=3).chain(7..=101).collect::<Vec<_>>());
}

/// W1, W3: what a repair has written down as lost is nothing to wait for: the store goes on, and no revision that may have
/// been given is given again.
#[test]
fn behind_positions_that_were_lost_streams_go_on_and_leave_out_the_revisions_that_may_be_lost() {
    for reopened in [false, true] {
        let scratch = Scratch::new();
        let path = hundred(&scratch, true);
        put_gap(&path, 80, 100, LOST);
        let mut store = os().open(&path).unwrap();
        let stands = store.revision("cart-2").unwrap().get();
        assert_eq!(stands, 71, "where it is seen to stand");
        let expecting = |stream: &str, expected| {
            let mut commit = Commit::new();
            commit.event(stream, NewEvent::new("next", "")).expect(stream, expected);
            commit
        };
        let refused = store.commit(&expecting("cart-2", Expected::Exact(Revision::new(70)))).unwrap_err();
        assert!(matches!(refused, Error::Conflict { actual, .. } if actual.get() == stands));
        if reopened {
            store.close().unwrap();
            store = os().open(&path).unwrap();
        }
        let receipt = store.commit(&expecting("cart-2", Expected::Exact(Revision::new(stands)))).unwrap();
        assert_eq!((receipt.first().get(), receipt.revision().get()), (102, stands + 21 + 1));
        assert_eq!(store.append("cart-2", NewEvent::new("next", "")).unwrap().revision().get(), stands + 21 + 2);
        // It may have been there, or not: it is made as it would be, with a revision that nobody ever had.
        let receipt = store.commit(&expecting("new-1", Expected::Absent)).unwrap();
        assert_eq!(receipt.revision().get(), 22);
        assert_eq!(store.revision("never").unwrap(), Revision::ABSENT);
        // The one that came behind the gap knows where it stands.
        assert_eq!(store.append("cart-1", NewEvent::new("next", "")).unwrap().revision().get(), 12);
        let mut keyed = Commit::new();
        keyed.event("cart-1", NewEvent::new("next", "")).key("lost, perhaps");
        assert!(!store.commit(&keyed).unwrap().is_duplicate());
        assert!(store.commit(&keyed).unwrap().is_duplicate());
        store.close().unwrap();
        // The forged segment ends with another frame than the one behind it follows; nothing else is to be found.
        let verdict = inspect::verify_to(&path, inspect::Depth::Deep, |_| {}).unwrap();
        assert!(verdict.damage.iter().all(|damage| damage.what.contains("follows")), "{:?}", verdict.damage);
    }
    // Control: damage that nobody has written down stands in the way.
    let scratch = Scratch::new();
    let path = hundred(&scratch, true);
    let segment = files::segments(&path)[0].clone();
    files::flip(&segment, files::frame_of(&segment, 100).offset + 60, 1);
    let store = os().open(&path).unwrap();
    assert!(matches!(store.append("cart-2", NewEvent::new("next", "")), Err(Error::Damaged(_))));
}
