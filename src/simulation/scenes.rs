//! Scenes of which the outcome once was wrong, played with each end that they can have.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::canal::group::Order;
use crate::canal::{Canal, Reason, Settlement};
use crate::error::Error;
use crate::event::draft::NewEvent;
use crate::event::query::Query;
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision};
use crate::log::event::Event;
use crate::log::retain::Retention;
use crate::log::terms::Filter;
use crate::log::walk::{Step, Walk};
use crate::simulation::chance::Chance;
use crate::simulation::disk::{End, SimDisk};
use crate::simulation::faults::Fault;
use crate::store::Store;
use crate::store::options::Options;
use crate::writer::commit::Commit;
use crate::writer::durability::Durability;

const CUT: End = End::PowerCut { piece: 512 };

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Chance::new(seed), true, None)
}

fn open(disk: &SimDisk, durability: Durability) -> Store {
    let options = Options::new().durability(durability).segment_bytes(64 << 10).simulated(Arc::new(disk.clone()));
    options.open(Path::new("store")).unwrap()
}

/// The positions that can be read; none is told to be damaged.
fn read(store: &Store) -> Vec<u64> {
    store.read(Query::new()).map(|event| event.unwrap().position().get()).collect()
}

/// The streams and positions of what can be read.
fn read_of(store: &Store, query: Query) -> Vec<(String, u64)> {
    let place = |event: Event<'_>| (event.stream().to_owned(), event.position().get());
    store.read(query).map(|event| place(event.unwrap())).collect()
}

/// Fills a segment until the next event of so many bytes goes into another one.
fn fill(store: &Store, bytes: usize) {
    for _ in 0..(60 << 10) / bytes {
        store.append("cart-1", NewEvent::new("filled", &vec![1; bytes])).unwrap();
    }
}

/// What a turn of the writer wrote is in a sealed segment before readers may see it, when the segment was full meanwhile.
#[test]
fn a_walk_goes_on_with_what_it_was_not_to_see_yet_at_the_end_of_a_sealed_segment() {
    let disk = disk(1);
    let store = open(&disk, Durability::Os);
    for _ in 0..3 {
        fill(&store, 6_000);
        store.append("cart-2", NewEvent::new("filled", &[2; 1_000])).unwrap();
        store.append("cart-2", NewEvent::new("filled", &[2; 1_000])).unwrap();
    }
    let (log, head) = (&store.inner.log, store.head());
    assert!(log.parts.firsts().len() > 2);
    let scanned: Vec<_> = read_of(&store, Query::new()).into_iter().filter(|(stream, _)| stream == "cart-2").collect();
    assert_eq!(scanned.len(), 6);
    let mut walk = Walk::new(log, Filter::Query(Query::new().stream("cart-2")), Position::START).unwrap();
    let (mut found, mut has_picked) = (Vec::new(), false);
    for until in (1..=head.get()).map(Position::new) {
        while let Some(step) = walk.step(log, until).unwrap() {
            let Step::Event { position, .. } = step else { panic!("{step:?}") };
            found.push(("cart-2".to_owned(), position.get()));
        }
        has_picked |= walk.is_picking();
    }
    assert!(has_picked, "control: the index named them");
    assert_eq!(found, scanned);
}

#[test]
fn a_damaged_control_record_loses_no_event_of_a_group() {
    let disk = disk(1);
    let store = open(&disk, Durability::Os);
    store.append("cart-1", NewEvent::new("filled", "")).unwrap();
    let record = store.inner.log.parts.newest().segment.written();
    store.set_checkpoint("audit", Position::new(2)).unwrap().wait().unwrap();
    fill(&store, 6_000);
    store.append("cart-1", NewEvent::new("filled", &[2; 20_000])).unwrap();
    let head = store.head().get();
    store.close().unwrap();
    disk.begin(CUT).unwrap();
    disk.turn_bit("store/00000000000000000001.seg", record + 50);

    let store = open(&disk, Durability::Os);
    let told = store.read(Query::new()).filter(|event| matches!(event, Err(Error::Damaged(_)))).count();
    assert_eq!(told, 1, "control: readers are told");
    let group = store.group("mail").open().unwrap();
    let batch = group.member().unwrap().pull_batch(100, Duration::ZERO).unwrap();
    let handed_out: Vec<u64> = batch.iter().map(|delivery| delivery.position().get()).collect();
    assert_eq!(handed_out, (1..=head).collect::<Vec<_>>());
    let letters = store.dead_letters("mail").unwrap().iter().unwrap().filter(Result::is_ok).count();
    assert_eq!(letters, 0);
}

#[test]
fn a_sync_that_failed_is_not_tried_again_by_the_one_who_seals() {
    let mut lost = 0;
    for seed in 0..30 {
        let disk = disk(seed);
        let store = open(&disk, Durability::Os);
        fill(&store, 6_000);
        store.append("cart-1", NewEvent::new("filled", &[2; 20_000])).unwrap();
        let head = store.head();
        disk.expect(Fault::Sync, 0);
        let kept = store.clone();
        assert!(store.close().is_err(), "seed {seed}");
        let durable = kept.durable();
        disk.begin(End::Kill).unwrap();
        drop(kept);
        let store = open(&disk, Durability::Os);
        assert!(store.head() >= durable, "seed {seed}: durable up to {durable}, and it ends at {}", store.head());
        lost += u32::from(store.head() < head);
        let head = store.head().get();
        disk.begin(CUT).unwrap();
        drop(store);
        let store = open(&disk, Durability::Os);
        assert_eq!(read(&store), (1..=head).collect::<Vec<_>>(), "seed {seed}");
    }
    assert!(lost > 5, "control: pages were lost, {lost} times");
}

#[test]
fn a_control_record_that_a_power_cut_took_from_a_sealed_segment_is_no_damage() {
    let mut ended = 0;
    for (seed, operations) in (0..20).flat_map(|seed| (1..30).map(move |operations| (seed, operations))) {
        let disk = disk(seed);
        let store = open(&disk, Durability::Sync);
        fill(&store, 6_000);
        let head = store.head();
        store.set_checkpoint("audit", Position::new(3)).unwrap().wait().unwrap();
        disk.end_in(operations);
        let answer = store.append("cart-1", NewEvent::new("filled", &[2; 20_000]));
        ended += u32::from(!disk.is_alive());
        disk.begin(CUT).unwrap();
        drop(store);
        let store = open(&disk, Durability::Sync);
        assert!(store.head() >= answer.map_or(head, |receipt| receipt.last()), "seed {seed}, end {operations}");
        store.append("cart-1", NewEvent::new("after", "")).unwrap();
        assert_eq!(read(&store), (1..=store.head().get()).collect::<Vec<_>>(), "seed {seed}, end {operations}");
    }
    assert!(ended > 100, "control: it ended within the append, {ended} times");
}

#[test]
fn a_store_whose_making_was_cut_short_can_be_made_at_the_second_cut_too() {
    let ends = (1..20).flat_map(|first| (1..20).map(move |second| (first, second)));
    let mut found = 0;
    for (seed, (first, second)) in (0..3).flat_map(|seed| ends.clone().map(move |ends| (seed, ends))) {
        let disk = disk(seed);
        let options = || Options::new().segment_bytes(64 << 10).simulated(Arc::new(disk.clone()));
        disk.end_in(first);
        found += u32::from(options().open(Path::new("store")).is_err());
        disk.begin(End::Kill).unwrap();
        disk.end_in(second);
        found += u32::from(options().open(Path::new("store")).is_err());
        disk.begin(CUT).unwrap();
        let opened = options().open(Path::new("store"));
        assert!(opened.is_ok(), "seed {seed}, ends {first} and {second}: {opened:?}");
    }
    assert!(found > 300, "control: it was cut short, {found} times");
}

#[test]
fn old_files_go_only_when_what_says_so_is_on_the_disk() {
    let mut cut_short = 0;
    for (first, second) in (1..25).flat_map(|first| (1..25).map(move |second| (first, second))) {
        let disk = disk(first * 100 + second);
        let store = open(&disk, Durability::Sync);
        fill(&store, 6_000);
        store.append("cart-1", NewEvent::new("filled", &[2; 20_000])).unwrap();
        disk.end_in(first);
        let kept = store.retain(&Retention::new().max_events(1));
        disk.begin(End::Kill).unwrap();
        drop(store);
        disk.end_in(second);
        let options = Options::new().segment_bytes(64 << 10).simulated(Arc::new(disk.clone()));
        cut_short += u32::from(kept.is_err() && options.open(Path::new("store")).is_err());
        disk.begin(CUT).unwrap();
        let store = open(&disk, Durability::Sync);
        assert_eq!(store.head().get(), 11, "ends {first} and {second}");
        assert_eq!(read(&store), (store.oldest().get()..=11).collect::<Vec<_>>(), "ends {first} and {second}");
    }
    assert!(cut_short > 50, "control: both were cut short, {cut_short} times");
}

#[test]
fn what_follows_a_rejected_delivery_waits_until_its_dead_letter_could_be_written() {
    let mut refused = 0;
    let ways = [(Durability::Os, false), (Durability::Os, true), (Durability::Sync, false), (Durability::Sync, true)];
    for (times, (durability, flushes)) in (0..12).flat_map(|times| ways.map(|way| (times, way))) {
        let disk = disk(times);
        let store = open(&disk, durability);
        store.append("cart-1", NewEvent::new("placed", &[1; 20_000])).unwrap();
        store.append("cart-1", NewEvent::new("paid", "")).unwrap();
        for _ in 0..6 {
            store.append("cart-2", NewEvent::new("filled", &[1; 5_000])).unwrap();
        }
        let group = store.group("mail").order(Order::Stream).open().unwrap();
        let mut member = group.member().unwrap();
        let token = member.pull_batch(1, Duration::ZERO).unwrap().get(0).unwrap().token();
        if times > 0 {
            disk.expect(Fault::Full(times), 0);
        }
        // There is room for a claim here, and none for the dead letter, which goes into a new segment.
        let rejected = Settlement::Reject { reason: Reason::Rejected, why: "never".to_owned() };
        let mut told = member.settle(token, rejected).is_err();
        if flushes {
            told |= member.flush().is_err();
        }
        let mut handed_out: Vec<(u64, u32, usize)> = Vec::new();
        for _ in 0..40 {
            match member.pull_batch(1, Duration::ZERO) {
                Ok(batch) => {
                    let letters = store.dead_letters("mail").unwrap().iter().unwrap().count();
                    let next: Vec<_> = batch.iter().map(|one| (one.position().get(), one.attempt(), letters)).collect();
                    handed_out.extend(next.iter().filter(|(position, ..)| *position == 2));
                    let tokens: Vec<_> = batch.iter().map(|one| one.token()).collect();
                    told |= member.settle_all(&tokens).is_err();
                }
                Err(_) => told = true,
            }
        }
        refused += u32::from(told);
        assert_eq!(handed_out, [(2, 1, 1)], "{times} times no room, {durability:?}, flushes: {flushes}");
    }
    assert!(refused > 10, "control: it was refused, {refused} times");
}

/// Whoever looked how far a segment was written just before it was full may meet its index file already.
#[test]
fn an_index_file_names_nothing_behind_what_the_asker_has_seen() {
    let store = open(&disk(1), Durability::Os);
    store.append("cart-1", NewEvent::new("filled", "")).unwrap();
    let part = store.inner.log.parts.newest();
    let (limit, term) = (part.segment.written(), Term::of(Kind::Stream, b"cart-1"));
    fill(&store, 6_000);
    store.append("cart-1", NewEvent::new("filled", &[2; 20_000])).unwrap();
    while !part.index.is_file() {
        assert!(store.step().unwrap(), "control: its index becomes a file");
    }
    let places = part.index.postings(term, 0, limit);
    assert_eq!((places.len(), part.index.postings(term, 0, part.segment.written()).len()), (1, 11));
    assert_eq!(part.index.latest(term, limit, |_, _| true), places.first().copied());
}

/// Housekeeping until there is none.
fn housekeep(store: &Store) {
    while store.step().unwrap_or(false) {}
}

#[test]
fn a_commit_that_lost_an_event_in_its_middle_is_still_one_commit_with_its_key() {
    let store = open(&disk(1), Durability::Sync);
    let commit = || {
        let mut commit = Commit::new();
        for stream in ["cart-1", "cart-2", "cart-1", "cart-3"] {
            commit.event(stream, NewEvent::new("placed", stream));
        }
        commit.key("order").clone()
    };
    store.commit(&commit()).unwrap();
    // Twice, as what is a gap already is written again, too.
    for stream in ["cart-2", "cart-4"] {
        for _ in 0..2 {
            store.append(stream, NewEvent::new("placed", "")).unwrap();
        }
        store.truncate_stream(stream, Revision::new(2)).unwrap();
        store.purge().unwrap();
        housekeep(&store);
        let again = store.commit(&commit()).unwrap();
        assert!(again.is_duplicate() && again.last() == Position::new(4), "{again:?}");
        let ends = store.read(Query::new().stream("cart-1").or(Query::new().stream("cart-3")));
        let goes_on: Vec<bool> = ends.map(|event| event.unwrap().commit_goes_on()).collect();
        assert_eq!(goes_on, [true, true, false]);
    }
    let mut other = commit();
    other.event("cart-1", NewEvent::new("another", ""));
    assert!(matches!(store.commit(&other), Err(Error::KeyReused { .. })), "control: it is compared");
}

/// What can be seen of ten events of `cart-1` in a first segment, of which the first nine were removed.
fn all_or_none(store: &Store, context: &str) -> bool {
    let here = read(store).into_iter().filter(|position| *position <= 10).collect::<Vec<_>>();
    let removed = here == [10];
    assert!(removed || here == (1..=10).collect::<Vec<_>>(), "{context}: {here:?}");
    removed
}

#[test]
fn a_removal_is_whole_or_not_at_all_wherever_it_and_its_purge_are_cut_short() {
    let (mut ended, mut kept, mut undone) = (0, 0, 0);
    let ways = [(Durability::Os, CUT), (Durability::Sync, CUT), (Durability::Os, End::Kill)];
    for (operations, (durability, how)) in (1..45).flat_map(|operations| ways.map(|way| (operations, way))) {
        let context = format!("end {operations}, {durability:?}, {how:?}");
        let disk = disk(operations);
        let store = open(&disk, durability);
        fill(&store, 6_000);
        store.append("cart-2", NewEvent::new("filled", &[2; 20_000])).unwrap();
        store.sync().unwrap();
        housekeep(&store);
        disk.end_in(operations);
        let answer = store.truncate_stream("cart-1", Revision::new(10)).and_then(|()| store.purge());
        // Another segment is sealed meanwhile, and nothing of it is synced.
        let _ended = store.append("cart-3", NewEvent::new("filled", &[3; 50_000]));
        housekeep(&store);
        ended += u32::from(!disk.is_alive());
        disk.begin(how).unwrap();
        drop(store);
        let store = open(&disk, durability);
        let removed = all_or_none(&store, &context);
        let lasts = durability == Durability::Sync || how == End::Kill;
        assert!(removed || !lasts || answer.is_err(), "{context}: it was said to last");
        (kept, undone) = (kept + u32::from(removed), undone + u32::from(!removed));
        store.purge().unwrap();
        housekeep(&store);
        assert_eq!(all_or_none(&store, &context), removed, "{context}");
        store.close().unwrap();
        assert_eq!(all_or_none(&open(&disk, durability), &context), removed, "{context}");
    }
    assert!(ended > 40 && kept > 30 && undone > 5, "control: {ended} ended, {kept} with it and {undone} without");
}

#[test]
fn a_segment_that_could_not_be_sealed_leaves_all_of_a_removal_in_the_files() {
    let mut undone = 0;
    for seed in 0..60 {
        let disk = disk(seed);
        let store = open(&disk, Durability::Os);
        fill(&store, 6_000);
        store.append("cart-2", NewEvent::new("filled", &[2; 20_000])).unwrap();
        store.sync().unwrap();
        housekeep(&store);
        for _ in 0..2 {
            store.append("cart-1", NewEvent::new("filled", &[2; 10_000])).unwrap();
        }
        store.truncate_stream("cart-1", Revision::new(12)).unwrap();
        // The segment that the removal stands in is sealed, and its sync fails; the next one says of the removal, too.
        store.append("cart-3", NewEvent::new("filled", &[3; 40_000])).unwrap();
        disk.expect(Fault::Sync, 0);
        housekeep(&store);
        disk.begin(CUT).unwrap();
        drop(store);
        let store = open(&disk, Durability::Os);
        let here = read(&store);
        let removed = here.starts_with(&[11, 13]);
        let whole = here == (1..=store.head().get()).collect::<Vec<_>>();
        assert!(removed || whole, "seed {seed}: {here:?}");
        undone += u32::from(whole);
    }
    assert!(undone > 10, "control: the removal was lost, {undone} times");
}
