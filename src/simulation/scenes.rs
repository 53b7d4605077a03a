//! Scenes of which the outcome once was wrong, played with each end that they can have.

use std::path::Path;
use std::sync::Arc;

use crate::event::draft::NewEvent;
use crate::event::query::Query;
use crate::id::Position;
use crate::simulation::chance::Chance;
use crate::simulation::disk::{End, SimDisk};
use crate::simulation::faults::Fault;
use crate::store::Store;
use crate::store::options::Options;
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

/// Fills a segment until the next event of so many bytes goes into another one.
fn fill(store: &Store, bytes: usize) {
    for _ in 0..(60 << 10) / bytes {
        store.append("cart-1", NewEvent::new("filled", &vec![1; bytes])).unwrap();
    }
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
        drop(kept);
        disk.begin(CUT).unwrap();
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
