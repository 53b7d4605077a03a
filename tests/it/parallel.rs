//! R1, R6: a reader that is split, and one that works on several threads, give what one reader gives.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use towpath::{Commit, Error, NewEvent, Position, Query, Reader, Store};

use crate::support::{Scratch, cases, positions};

/// What a reader gave: a position, or where damage begins and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Event(u64),
    Damage { segment: String, offset: u64, length: u64, position: u64 },
    Other(String),
}

impl Item {
    fn of(item: towpath::Result<u64>) -> Self {
        match item {
            Ok(position) => Item::Event(position),
            Err(Error::Damaged(damage)) => Item::Damage {
                segment: damage.segment,
                offset: damage.offset,
                length: damage.length,
                position: damage.position.get(),
            },
            Err(error) => Item::Other(error.to_string()),
        }
    }
}

fn items(reader: Reader) -> Vec<Item> {
    reader.map(|event| Item::of(event.map(|event| event.position().get()))).collect()
}

fn in_parallel(reader: Reader, threads: usize) -> Vec<Item> {
    let position = |event: towpath::Event<'_>| event.position().get();
    reader.in_parallel(threads, position, |results| results.map(Item::of).collect())
}

fn split(reader: Reader, into: usize) -> Vec<Item> {
    let readers = reader.split(into).unwrap();
    assert!(readers.len() <= into.max(1));
    readers.into_iter().flat_map(items).collect()
}

/// Three thousand events in several segments, every fifth larger than the others.
fn log(dir: &Scratch) -> Store {
    let store = dir.open();
    let mut commit = Commit::new();
    for n in 0..3_000_u64 {
        let payload = vec![n as u8; if n % 5 == 0 { 700 } else { 60 }];
        let event = NewEvent::new(["a", "b", "c"][(n % 3) as usize], &payload);
        let event = if n % 100 == 7 { event.tag("rare") } else { event };
        commit.event(&format!("s-{}", n % 50), event);
        if commit.len() == 7 {
            store.submit(&commit).unwrap();
            commit.clear();
        }
    }
    store.commit(&commit).unwrap();
    store
}

/// The files with an ending, in their order.
fn files(dir: &Scratch, ending: &str) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(dir.store_path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    files.sort();
    files
}

#[derive(Clone, Debug)]
struct Asked {
    query: usize,
    from: Option<u64>,
    until: Option<u64>,
    limit: Option<u64>,
    backwards: bool,
    threads: usize,
}

impl Asked {
    fn of(&self, store: &Store) -> Reader {
        let query = [
            Query::new(),
            Query::new().subject(">"),
            Query::new().types(["a", "c"]),
            Query::new().types(["b"]),
            Query::new().tags(["rare"]),
            Query::new().stream("s-7").or(Query::new().tags(["rare"])),
        ];
        let mut reader = store.read(query[self.query].clone());
        if let Some(from) = self.from {
            reader = reader.from(Position::new(from));
        }
        if let Some(until) = self.until {
            reader = reader.until(Position::new(until));
        }
        if let Some(limit) = self.limit {
            reader = reader.limit(limit);
        }
        if self.backwards { reader.backwards() } else { reader }
    }

    fn same(&self, how: &str, found: &[Item], expected: &[Item]) -> Result<(), TestCaseError> {
        let (here, there) = (behind_what_is_alike(found, expected), behind_what_is_alike(expected, found));
        prop_assert!(found == expected, "{how}, {self:?}: {here:?} instead of {there:?}");
        Ok(())
    }

    fn check(&self, store: &Store) -> Result<(), TestCaseError> {
        let expected = items(self.of(store));
        self.same("split", &split(self.of(store), self.threads), &expected)?;
        self.same("in parallel", &in_parallel(self.of(store), self.threads), &expected)?;
        Ok(())
    }
}

/// Shows what differs, and not thousands of events.
fn behind_what_is_alike<'a>(found: &'a [Item], expected: &[Item]) -> &'a [Item] {
    let alike = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    &found[alike..found.len().min(alike + 3)]
}

fn asked() -> impl Strategy<Value = Asked> {
    let position = || option::weighted(0.4, 0..3_050_u64);
    let limit = option::weighted(0.2, 0..200_u64);
    (0..6_usize, position(), position(), limit, prop::bool::weighted(0.3), 0..9_usize).prop_map(
        |(query, from, until, limit, backwards, threads)| Asked { query, from, until, limit, backwards, threads },
    )
}

/// On the open store; closed and damaged at some places; and with index files missing.
#[test]
fn a_split_or_parallel_reader_gives_what_one_reader_gives() {
    let dir = Scratch::in_memory();
    let store = log(&dir);
    let whole = dir.as_if_killed();
    store.close().unwrap();
    let config = ProptestConfig { cases: cases(25), failure_persistence: None, ..ProptestConfig::default() };
    let damage = vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..6_000_u64), 0..4);
    proptest!(config, |(asked in vec(asked(), 12), damage in damage, lost in any::<u32>())| {
        let copy = dir.as_if_killed();
        let segments = files(&copy, "seg");
        prop_assert!(segments.len() > 3, "there are several segments");
        // One stretch a segment: where there are more, a reader that begins between them may find what one from the
        // beginning cannot be sure of.
        let mut damaged = BTreeSet::new();
        for (segment, at, length) in &damage {
            let path = &segments[segment.index(segments.len() - 1)];
            if !damaged.insert(path) {
                continue;
            }
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let end = file.metadata().unwrap().len();
            let at = 4_096 + at.index((end - 4_096) as usize) as u64;
            file.write_all_at(&vec![0xa5; (*length).min(end - at) as usize], at).unwrap();
        }
        for (n, file) in files(&copy, "idx").iter().enumerate() {
            if lost & 1 << (n % 32) != 0 {
                fs::remove_file(file).unwrap();
            }
        }
        let damaged = Store::open_read_only(copy.store_path()).unwrap();
        asked.iter().try_for_each(|asked| asked.check(&damaged))?;
        drop(damaged);
        let open = Store::open_read_only(whole.store_path()).unwrap();
        asked.iter().try_for_each(|asked| asked.check(&open))?;
    });
}

/// The control of the test above.
#[test]
fn the_comparison_notices_what_is_missing_doubled_or_out_of_order() {
    let dir = Scratch::in_memory();
    let store = log(&dir);
    let expected = items(store.read(Query::new()));
    let readers = || store.read(Query::new()).split(3).unwrap();
    assert_eq!(readers().len(), 3);
    let one_after_the_other: Vec<Item> = readers().into_iter().flat_map(items).collect();
    assert_eq!(one_after_the_other, expected);
    let backwards: Vec<Item> = readers().into_iter().rev().flat_map(items).collect();
    let two: Vec<Item> = readers().into_iter().take(2).flat_map(items).collect();
    assert!(backwards != expected && two != expected);
}

#[test]
fn the_ranges_of_a_split_reader_are_about_equally_large() {
    let dir = Scratch::in_memory();
    let store = log(&dir);
    let mut bytes = Vec::new();
    for mut reader in store.read(Query::new()).split(5).unwrap() {
        assert!(reader.by_ref().all(|event| event.is_ok()));
        bytes.push(reader.cost().frame_bytes);
    }
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    assert!(bytes.len() == 5 && most * 10 < least * 13, "{bytes:?}");
    assert_eq!(store.read(Query::new()).limit(100).split(5).unwrap().len(), 1, "a limit is one reader's");
}

/// However slow the one who takes the results is: what is made ahead of it has a bound.
#[test]
fn results_are_made_ahead_up_to_a_bound() {
    const THREADS: usize = 3;
    let dir = Scratch::in_memory();
    let store = dir.open();
    let mut commit = Commit::new();
    for n in 0..40_000_u64 {
        commit.event("s-1", NewEvent::new("a", &n.to_le_bytes()));
        if commit.len() == 1_000 {
            store.commit(&commit).unwrap();
            commit.clear();
        }
    }
    for query in [Query::new(), Query::new().types(["a"]), Query::new().stream("s-1")] {
        let (made, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        let ahead = AtomicU64::new(0);
        let count = |_: towpath::Event<'_>| {
            let now = made.fetch_add(1, Ordering::SeqCst) + 1;
            ahead.fetch_max(now.saturating_sub(taken.load(Ordering::SeqCst)), Ordering::SeqCst);
        };
        let sum = store.read(query).in_parallel(THREADS, count, |results| {
            results.fold(0, |sum, _| {
                taken.fetch_add(1, Ordering::SeqCst);
                sum + 1
            })
        });
        assert_eq!(sum, 40_000);
        // The piece that is being handed out stands beside those that are made.
        let most = ahead.load(Ordering::SeqCst);
        assert!(most > 0 && most <= (THREADS as u64 * 4 + 1) * 1_024, "{most}");
    }
}

#[test]
fn a_panic_goes_on_where_its_result_would_have_been_taken() {
    let dir = Scratch::in_memory();
    let store = log(&dir);
    for threads in [1, 2, 5] {
        for bad in [1, 1_500, 3_000] {
            let map = |event: towpath::Event<'_>| {
                assert!(event.position().get() != bad, "event {bad} is bad");
                event.position().get()
            };
            let mut taken = Vec::new();
            let panic = catch_unwind(AssertUnwindSafe(|| {
                store.read(Query::new()).in_parallel(threads, map, |results| {
                    results.for_each(|position| taken.push(position.unwrap()));
                });
            }));
            let text = panic.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*text, format!("event {bad} is bad"));
            assert!(taken.iter().copied().eq(1..bad), "everything before it was taken");
        }
    }
}

#[test]
fn whoever_stops_early_or_panics_leaves_no_thread_behind() {
    let dir = Scratch::in_memory();
    let store = log(&dir);
    let running = AtomicU64::new(0);
    let position = |event: towpath::Event<'_>| {
        running.fetch_add(1, Ordering::SeqCst);
        let position = event.position().get();
        running.fetch_sub(1, Ordering::SeqCst);
        position
    };
    let ten: Vec<u64> =
        store.read(Query::new()).in_parallel(4, position, |results| results.take(10).map(Result::unwrap).collect());
    assert_eq!((ten, running.load(Ordering::SeqCst)), ((1..=10).collect(), 0));
    let panic = catch_unwind(AssertUnwindSafe(|| {
        store.read(Query::new()).in_parallel(4, position, |results| {
            assert_eq!(results.nth(20).unwrap().unwrap(), 1, "it gives up");
        });
    }));
    assert!(panic.is_err() && running.load(Ordering::SeqCst) == 0);
    store.read(Query::new()).in_parallel(4, position, |_not_wanted| ());
    assert_eq!(positions(store.read(Query::new())).len(), 3_000, "the store goes on");
}

/// The last event of a segment and the first one of the next are damaged: two stretches, each told once.
#[test]
fn damage_on_both_sides_of_a_segments_end_is_told_by_the_reader_that_it_belongs_to() {
    let dir = Scratch::in_memory();
    log(&dir).close().unwrap();
    let segments = files(&dir, "seg");
    let end = fs::metadata(&segments[0]).unwrap().len();
    for (path, at) in [(&segments[0], end - 8), (&segments[1], 4_096)] {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xa5; 8], at).unwrap();
    }
    let store = Store::open_read_only(dir.store_path()).unwrap();
    let whole = items(store.read(Query::new()));
    let damaged: Vec<&Item> = whole.iter().filter(|item| !matches!(item, Item::Event(_))).collect();
    let [Item::Damage { position: last, .. }, Item::Damage { position: first, .. }] = damaged[..] else {
        panic!("{damaged:?}")
    };
    assert_eq!(*first, last + 1);
    let upto = items(store.read(Query::new()).until(Position::new(*last)));
    assert_eq!(upto, whole[..*last as usize], "what lies behind its end is not told");
    assert_eq!(in_parallel(store.read(Query::new()), 2), whole);
}

/// Behind events that the query does not mean, too.
#[test]
fn damage_behind_the_end_of_a_reader_is_not_told() {
    let dir = Scratch::in_memory();
    log(&dir).close().unwrap();
    for at in (50_000..52_000).step_by(100) {
        let copy = dir.as_if_killed();
        let path = &files(&copy, "seg")[0];
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xa5; 8], at).unwrap();
        let store = Store::open_read_only(copy.store_path()).unwrap();
        for query in [Query::new(), Query::new().types(["a"]), Query::new().tags(["rare"])] {
            let read = || store.read(query.clone());
            let first = items(read()).into_iter().find_map(|item| match item {
                Item::Damage { position, .. } => Some(Position::new(position)),
                _ => None,
            });
            let Some(damaged) = first else { continue };
            for reader in [read().until(damaged.previous()), read().until(damaged.previous()).backwards()] {
                assert!(items(reader).iter().all(|item| matches!(item, Item::Event(_))), "{query:?}");
            }
            assert!(
                items(read().until(damaged)).iter().any(|item| matches!(item, Item::Damage { .. })),
                "the check can fail"
            );
        }
    }
}
