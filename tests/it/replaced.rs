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
