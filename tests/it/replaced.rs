//! A segment that control records fill before any event comes gives its place to a new file of the same name. Readers
//! that stand in the old one must not stay there (L1, R5).

use std::time::Duration;

use towpath::{Batch, Canal, Cursor, NewEvent, Position, Store};

use crate::support::Scratch;

/// As many acknowledgements as fill a segment of the smallest size several times over.
const MANY: u32 = 6_000;

fn only_event(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|event| event.position().get()).collect()
}

fn pull(cursor: &mut Cursor) -> Vec<u64> {
    only_event(&cursor.pull_batch(16, Duration::ZERO).unwrap())
}

#[test]
fn cursors_here_and_in_readers_go_on_when_checkpoints_alone_have_filled_a_segment() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let reader = Store::open_read_only(scratch.store_path()).unwrap();
    let mut here = store.follow().open().unwrap();
    let mut there = reader.follow().open().unwrap();
    assert!(pull(&mut here).is_empty() && pull(&mut there).is_empty());

    for n in 0..MANY {
        store.seek(&format!("consumer-{}", n % 10), Position::new(1)).unwrap();
    }
    let files = std::fs::read_dir(scratch.store_path()).unwrap().count();
    assert!(files <= 4, "one segment took the place of the other: {files} files");
    store.append("cart-1", NewEvent::new("opened", "")).unwrap();

    assert_eq!(pull(&mut here), [1]);
    assert_eq!(pull(&mut there), [1]);
    assert_eq!(store.consumers().unwrap().len(), 10);
    drop((here, there, reader));
    store.close().unwrap();
    assert_eq!(scratch.open().consumers().unwrap().len(), 10);
}

/// The same when a large event takes the place, and the log has gone on to other segments before anybody looks.
#[test]
fn nothing_is_skipped_when_the_replacement_was_sealed_before_a_reader_looked() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let reader = Store::open_read_only(scratch.store_path()).unwrap();
    let mut here = store.follow().open().unwrap();
    let mut there = reader.follow().open().unwrap();
    assert!(pull(&mut here).is_empty() && pull(&mut there).is_empty());

    store.append("large-1", NewEvent::new("stored", &vec![7; 300 << 10])).unwrap();
    for _ in 0..200 {
        store.append("small-1", NewEvent::new("stored", &[7; 4096])).unwrap();
    }

    for cursor in [&mut here, &mut there] {
        let mut positions = Vec::new();
        loop {
            let more = pull(cursor);
            if more.is_empty() {
                break;
            }
            positions.extend(more);
        }
        assert_eq!(positions, (1..=201).collect::<Vec<_>>());
    }
}
