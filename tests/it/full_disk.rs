//! W11, W12: a disk without room, and one that fails; and what groups make of it (G8, G13, D1).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use towpath::{
    Batch, Canal as _, Commit, Durability, Error, Member, NewEvent, Options, Reason, Retry, Settlement, Store,
    Transact as _, inspect,
};

use crate::support::Scratch;
use crate::support::child::{self, say};
use crate::support::files;
use crate::support::told;

const PAYLOAD: [u8; 1000] = [9; 1000];

fn durability(name: &str) -> Durability {
    match name {
        "sync" => Durability::Sync,
        "every" => Durability::Every(Duration::from_millis(1)),
        _ => Durability::Os,
    }
}

fn options(name: &str) -> Options {
    Options::new().segment_bytes(256 << 10).durability(durability(name))
}

fn append(store: &Store) -> towpath::Result<towpath::Receipt> {
    store.append("s-1", NewEvent::new("t", &PAYLOAD))
}

/// Fills the disk that `path` is on, all but `spare` bytes.
fn fill(path: &Path, spare: usize) {
    let mut file = fs::File::create(path).unwrap();
    let mut written = 0usize;
    while file.write_all(&[1; 4096]).is_ok() {
        written += 4096;
    }
    file.set_len(written.saturating_sub(spare) as u64).unwrap();
}

/// Appends until the disk is full.
fn append_until_full(store: &Store) {
    for _ in 0..10_000 {
        match append(store) {
            Ok(_) => {}
            Err(Error::DiskFull { .. }) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the disk is never full");
}

/// W11.
#[test]
fn a_full_disk_refuses_appends_until_there_is_room_again() {
    const NAME: &str = "full_disk::a_full_disk_refuses_appends_until_there_is_room_again";
    let Some((role, disk)) = child::on_a_disk_of("6m", NAME, &["sync", "every", "os"]) else { return };
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let store = options(&role).open(&path).unwrap();
    for _ in 0..10 {
        append(&store).unwrap();
    }

    // Full, and room again, more than once: without opening the store again.
    for round in 0..3 {
        fill(&ballast, 0);
        append_until_full(&store);
        let head = store.head();
        let before = told::all(&store);
        assert_eq!(before.len() as u64, head.get());
        let error = append(&store).unwrap_err();
        assert!(
            matches!(&error, Error::DiskFull { path: of, needed } if of.starts_with(&path) && *needed > 1000),
            "{error}"
        );
        assert_eq!((store.head(), told::all(&store)), (head, before), "nothing of it is visible");
        assert_eq!(store.revision("s-1").unwrap().get(), head.get());
        assert_eq!(Store::open_read_only(&path).unwrap().head(), head);
        if role != "os" || round == 1 {
            store.sync().unwrap();
        }
        // The thread that seals may just now find that there is no room for an index, and takes it away then.
        let begun = std::time::Instant::now();
        while !files::with_extension(&path, "tmp").is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", files::with_extension(&path, "tmp"));
            std::thread::yield_now();
        }

        fs::remove_file(&ballast).unwrap();
        let receipt = append(&store).unwrap();
        assert_eq!((receipt.first(), receipt.revision().get()), (head.next(), head.get() + 1));
    }
    let all = told::all(&store);
    store.close().unwrap();
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);

    // Opening after a crash needs room for a segment. Without it nothing is lost.
    let store = options(&role).open(&path).unwrap();
    assert!(store.recovery().clean);
    append(&store).unwrap();
    let all = [all, vec![told::all(&store).pop().unwrap()]].concat();
    let crashed = disk.join("crashed");
    files::copy(&path, &crashed);
    drop(store);
    fs::remove_dir_all(&path).unwrap();
    fill(&ballast, 0);
    for _ in 0..2 {
        assert!(matches!(told::refusal(options(&role), &crashed), Error::DiskFull { .. }));
        assert_eq!(told::all(&Store::open_read_only(&crashed).unwrap()), all);
    }
    fs::remove_file(&ballast).unwrap();
    let store = options(&role).open(&crashed).unwrap();
    assert_eq!(told::all(&store), all);

    // Closing needs no room that is not there: everything is on the disk, and says so or is told.
    append_until_nearly_full(&store, &ballast);
    let all = told::all(&store);
    let closed = store.close();
    assert!(matches!(closed, Ok(()) | Err(Error::DiskFull { .. })), "{closed:?}");
    assert_eq!(told::all(&Store::open_read_only(&crashed).unwrap()), all);
    fs::remove_file(&ballast).unwrap();
    assert_eq!(told::all(&options(&role).open(&crashed).unwrap()), all);
    say("done");
}

fn append_until_nearly_full(store: &Store, ballast: &Path) {
    fill(ballast, 0);
    append_until_full(store);
}

/// W11: a store with more than a few megabytes in its newest segment begins a new one at its close, if it can.
#[test]
fn closing_a_large_segment_on_a_full_disk_is_a_close_in_good_order() {
    const NAME: &str = "full_disk::closing_a_large_segment_on_a_full_disk_is_a_close_in_good_order";
    let Some((_, disk)) = child::on_a_disk_of("40m", NAME, &["os"]) else { return };
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let store = Options::new().durability(Durability::Os).open(&path).unwrap();
    let payload = vec![4; 6 << 20];
    store.append("s-1", NewEvent::new("t", &payload)).unwrap();
    let newest = files::newest(&path);
    fill(&ballast, 0);
    store.close().unwrap();
    assert_eq!(files::newest(&path), newest, "control: there was no room for another segment");
    assert!(Options::new().durability(Durability::Os).open(&path).unwrap().recovery().clean);
    say("done");
}

/// After a crash what is kept is written into a new file, for which there is no room here. It has to be where it may not have reached
/// the disk: the control.
#[test]
fn a_full_disk_does_not_keep_a_store_closed_that_is_wholly_on_the_disk() {
    const NAME: &str = "full_disk::a_full_disk_does_not_keep_a_store_closed_that_is_wholly_on_the_disk";
    let Some((role, disk)) = child::on_a_disk_of("8m", NAME, &["sync", "os"]) else { return };
    let (path, crashed, ballast) = (disk.join("store"), disk.join("crashed"), disk.join("ballast"));
    let open = || options(&role).segment_bytes(64 << 10).open(&crashed);
    let store = options(&role).segment_bytes(64 << 10).open(&path).unwrap();
    let receipt = store.append("s-1", NewEvent::new("t", &vec![4; 1 << 20])).unwrap();
    files::copy(&path, &crashed);
    drop(store);
    std::fs::remove_dir_all(&path).unwrap();
    fill(&ballast, 400 << 10);
    if role == "os" {
        assert!(matches!(open(), Err(Error::DiskFull { .. })));
        assert!(files::with_extension(&crashed, "tmp").is_empty(), "what there was no room for is gone again");
        std::fs::remove_file(&ballast).unwrap();
    }
    let store = open().unwrap();
    assert_eq!((store.head(), store.recovery().clean), (receipt.last(), false));
    assert_eq!(store.event(receipt.last()).unwrap().unwrap().payload(), [4; 1 << 20]);
    drop(store);
    say("done");
}

/// W12. `strace` makes the n-th sync fail, for each n up to where the child needs no more of them.
#[test]
fn a_failed_sync_stops_the_writer_for_good() {
    const NAME: &str = "full_disk::a_failed_sync_stops_the_writer_for_good";
    let Some((role, path)) = child::role() else {
        for durability in ["sync", "every", "os"] {
            let mut stopped = 0;
            for at in 1..=9 {
                let scratch = Scratch::new();
                let path = scratch.store_path();
                let said = child::said_with_a_failed_sync(NAME, durability, &path, None, at);
                let Some(said) = said else { return };
                stopped += usize::from(said[0] == "stopped");

                // Whatever was acknowledged before is there when the store is opened again.
                let acknowledged: usize = said[1].parse().unwrap();
                let store = options(durability).open(&path).unwrap();
                assert!(told::all(&store).len() >= acknowledged, "{durability}, sync {at}: {said:?}");
                append(&store).unwrap();
                store.close().unwrap();
            }
            assert!(stopped >= 2, "control: {durability} met the failure {stopped} times");
        }
        return;
    };
    let store = match options(&role).open(&path) {
        Ok(store) => store,
        Err(Error::Io { action: "sync", .. }) => {
            say("not opened");
            return say(0);
        }
        Err(other) => panic!("{other:?}"),
    };
    let mut acknowledged = 0;
    for _ in 0..6 {
        let done = append(&store).and_then(|_| {
            acknowledged += 1;
            if role == "sync" { Ok(()) } else { store.sync() }
        });
        let Err(error) = done else { continue };
        assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
        let why = error.to_string();
        assert!(why.contains("sync") && why.contains("os error 5"), "{why}");
        // From now on everything says so; nothing is tried again.
        for _ in 0..3 {
            assert_eq!(append(&store).unwrap_err().to_string(), why);
            assert_eq!(store.sync().unwrap_err().to_string(), why);
        }
        // Readers go on, and see what was acknowledged and no more.
        assert_eq!(told::all(&store).len(), acknowledged);
        assert!(matches!(store.close(), Err(Error::Stopped { .. })));
        say("stopped");
        return say(acknowledged);
    }
    // The failure comes at the close, or not at all.
    match store.close() {
        Ok(()) => say("untouched"),
        Err(Error::Stopped { .. }) => say("stopped"),
        Err(other) => panic!("{other:?}"),
    }
    say(acknowledged);
}

fn member(store: &Store) -> Member {
    let retry = Retry::fixed(Duration::ZERO).attempts(9);
    store.group("mail").retry(retry).filter(towpath::Query::new().stream("s-1")).open().unwrap().member().unwrap()
}

fn reject() -> Settlement {
    Settlement::Reject { reason: Reason::TooLarge, why: "too much".to_owned() }
}

fn letters(store: &Store) -> Vec<u64> {
    let letters = store.dead_letters("mail").unwrap().iter().unwrap();
    letters.map(|letter| letter.unwrap().source_position().get()).collect()
}

/// W11, G13: however many settlements found no room, one call tells of them, and the next one goes through.
#[test]
fn a_disk_that_has_room_again_is_not_called_full_once_for_each_settlement() {
    const NAME: &str = "full_disk::a_disk_that_has_room_again_is_not_called_full_once_for_each_settlement";
    let Some((role, disk)) = child::on_a_disk_of("6m", NAME, &["os"]) else { return };
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let store = options(&role).open(&path).unwrap();
    for _ in 0..20 {
        append(&store).unwrap();
    }
    let mut mail = member(&store);
    // Each a claim of its own, so that each settlement is a commit of its own.
    let batches: Vec<Batch> = (0..20).map(|_| mail.pull_batch(1, Duration::ZERO).unwrap()).collect();
    fill(&ballast, 0);
    while store.append("filler", NewEvent::new("t", &[1; 400])).is_ok() {}
    while store.append("filler", NewEvent::new("t", "")).is_ok() {}
    for batch in &batches {
        let settled = mail.settle(batch.last().unwrap(), reject());
        assert!(matches!(settled, Ok(()) | Err(Error::DiskFull { .. })), "{settled:?}");
    }
    // Written behind all of them, so that all of them are answered.
    assert!(append(&store).is_err());

    fs::remove_file(&ballast).unwrap();
    assert!(matches!(mail.flush(), Err(Error::DiskFull { .. })), "the control: there is something to tell");
    mail.flush().unwrap();
    let mut letters = letters(&store);
    letters.sort_unstable();
    assert_eq!(letters, (1..=20).collect::<Vec<_>>());
    say("done");
}

/// W11, L3: a checkpoint that found no room is told each time somebody asks, until it is written.
#[test]
fn a_checkpoint_is_not_called_kept_before_there_was_room_for_it() {
    const NAME: &str = "full_disk::a_checkpoint_is_not_called_kept_before_there_was_room_for_it";
    let Some((role, disk)) = child::on_a_disk_of("6m", NAME, &["os"]) else { return };
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let store = options(&role).open(&path).unwrap();
    for _ in 0..20 {
        append(&store).unwrap();
    }
    let mut ship = store.cursor("ship").open().unwrap();
    let read = ship.pull_batch(10, Duration::ZERO).unwrap();
    fill(&ballast, 0);
    while store.append("filler", NewEvent::new("t", &[1; 400])).is_ok() {}
    while store.append("filler", NewEvent::new("t", "")).is_ok() {}
    // One record after the other, until there is no room for one.
    let told = read.iter().find_map(|one| ship.acknowledge(one.position()).and_then(|()| ship.flush()).err());
    let told = told.or_else(|| {
        let seek = |_| store.seek("other", towpath::Position::new(1)).err();
        (0..1_000)
            .find_map(seek)
            .and(ship.acknowledge(read.iter().last().unwrap().position()).and_then(|()| ship.flush()).err())
    });
    assert!(matches!(told, Some(Error::DiskFull { .. })), "{told:?}");
    for _ in 0..3 {
        assert!(matches!(ship.flush(), Err(Error::DiskFull { .. })));
    }
    let kept = || store.consumers().unwrap().into_iter().find(|one| one.name == "ship").map(|one| one.position);
    assert!(kept() < Some(ship.checkpoint()), "the control: it is not kept");
    fs::remove_file(&ballast).unwrap();
    ship.flush().unwrap();
    assert_eq!(kept(), Some(ship.checkpoint()));
    say("done");
}

/// W11, G8, D1: what is settled while there is no room is told, kept, and written once there is.
#[test]
fn a_full_disk_loses_no_settlement_and_writes_none_twice() {
    const NAME: &str = "full_disk::a_full_disk_loses_no_settlement_and_writes_none_twice";
    let Some((role, disk)) = child::on_a_disk_of("6m", NAME, &["sync", "os"]) else { return };
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let store = options(&role).open(&path).unwrap();
    for _ in 0..60 {
        append(&store).unwrap();
    }
    let mut mail = member(&store);
    let (mut rejected, mut done) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let batch = mail.pull_batch(15, Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 15);
        fill(&ballast, 0);
        while store.append("filler", NewEvent::new("t", &[1; 400])).is_ok() {}
        while store.append("filler", NewEvent::new("t", "")).is_ok() {}

        let mut told = 0;
        for (at, delivery) in batch.iter().enumerate().skip(1) {
            let (settlement, list) = match at % 3 {
                0 => (reject(), &mut rejected),
                _ => (Settlement::Done, &mut done),
            };
            // The error may be of an earlier one; this one is taken all the same.
            if let Err(error) = mail.settle(delivery.token(), settlement) {
                assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
                told += 1;
            }
            list.push(delivery.position().get());
            assert!(matches!(
                mail.settle(delivery.token(), reject()),
                Err(Error::NotHeld { .. } | Error::DiskFull { .. })
            ));
        }
        for _ in 0..2 {
            assert!(matches!(mail.flush(), Err(Error::DiskFull { .. })));
            assert!(matches!(mail.pull_batch(9, Duration::ZERO), Err(Error::DiskFull { .. })));
        }
        let first = batch.get(0).unwrap();
        let mut commit = Commit::new();
        commit.event("results", NewEvent::new("t", &PAYLOAD));
        let refused = mail.commit_and_settle(&mut commit, &[first.token()]);
        assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?} {told}");
        assert_eq!(store.revision("results").unwrap().get(), round);

        // Whoever comes after a crash now finds everything that was not written.
        let crashed = Scratch::new();
        files::copy(&path, &crashed.store_path());
        let found = options(&role).open(crashed.store_path()).unwrap();
        let left: Vec<u64> = found.unsettled("mail").unwrap().iter().map(|one| one.position.get()).collect();
        let ended = |position: &u64| !left.contains(position);
        assert!(rejected.iter().all(|position| ended(position) == letters(&found).contains(position)));
        assert!(left.len() > 1, "control: not all of it was written");
        drop(found);

        fs::remove_file(&ballast).unwrap();
        mail.commit_and_settle(&mut commit, &[first.token()]).unwrap();
        done.push(first.position().get());
        mail.flush().unwrap();
        let mut found = letters(&store);
        found.sort_unstable();
        assert_eq!((found, store.unsettled("mail").unwrap()), (rejected.clone(), vec![]));
    }
    let batch = mail.pull_batch(100, Duration::ZERO).unwrap();
    done.extend(batch.iter().map(|one| one.position().get()));
    assert!(batch.iter().all(|one| one.attempt() == 1));
    mail.settle_all(&batch.iter().map(|one| one.token()).collect::<Vec<_>>()).unwrap();
    drop(mail);
    let mut all = [done, rejected].concat();
    all.sort_unstable();
    assert!(all.iter().copied().eq(1..=60), "each once: {all:?}");
    store.close().unwrap();
    let store = options(&role).open(&path).unwrap();
    assert!(member(&store).pull_batch(9, Duration::ZERO).unwrap().is_empty());
    say("done");
}

/// W12, G13: a settlement that makes a dead letter waits for the sync, and whoever flushes is told that it failed.
#[test]
fn a_failed_sync_is_told_to_whoever_settles() {
    const NAME: &str = "full_disk::a_failed_sync_is_told_to_whoever_settles";
    let Some((_, path)) = child::role() else {
        let mut stopped = 0;
        for at in 1..=12 {
            let scratch = Scratch::new();
            let path = scratch.store_path();
            let Some(said) = child::said_with_a_failed_sync(NAME, "sync", &path, None, at) else { return };
            if said[0] != "stopped" {
                continue;
            }
            stopped += 1;
            // What was flushed is there, and what was not came to one end only.
            let store = options("sync").open(&path).unwrap();
            let (flushed, letters) = (said[1].parse::<usize>().unwrap(), letters(&store));
            assert!(letters.len() >= flushed && letters.is_sorted_by(|a, b| a < b), "sync {at}: {letters:?}");
            let mut mail = member(&store);
            while let Some(batch) = Some(mail.pull_batch(9, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty())
            {
                for delivery in &batch {
                    assert!(!letters.contains(&delivery.position().get()), "sync {at}: it has ended");
                    mail.settle(delivery.token(), Settlement::Done).unwrap();
                }
            }
        }
        assert!(stopped >= 2, "control: the failure was met {stopped} times");
        return;
    };
    let store = match options("sync").open(&path) {
        Ok(store) => store,
        Err(Error::Io { action: "sync", .. }) => return say("not opened"),
        Err(other) => panic!("{other:?}"),
    };
    let mut commit = Commit::new();
    for _ in 0..6 {
        commit.event("s-1", NewEvent::new("t", ""));
    }
    if store.commit(&commit).is_err() {
        return say("not opened");
    }
    let mut mail = member(&store);
    let batch = mail.pull_batch(6, Duration::ZERO).unwrap();
    let mut flushed = 0;
    for delivery in &batch {
        let settled = mail.settle(delivery.token(), reject()).and_then(|()| mail.flush());
        let Err(error) = settled else {
            flushed += 1;
            continue;
        };
        assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
        for _ in 0..2 {
            assert!(matches!(mail.flush(), Err(Error::Stopped { .. })));
            // All of it is in hand, and what is sent again may not be answered yet.
            let pulled = mail.pull_batch(1, Duration::ZERO);
            assert!(pulled.as_ref().map_or_else(|error| matches!(error, Error::Stopped { .. }), Batch::is_empty));
        }
        say("stopped");
        return say(flushed);
    }
    say("untouched");
}
