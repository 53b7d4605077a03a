//! Names and numbers that were chosen to do harm, links in the store's own place, and rows that unpack to more than there is
//! room for. C14.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use towpath::{
    Canal, Commit, Condition, Error, Expected, NewEvent, Position, Query, Reason, Revision, Settlement, Start, Store,
};

use crate::support::{Scratch, files, small, told};

const CLIMBING: [&str; 11] = [
    "../../evil",
    "/tmp/evil",
    "..",
    ".",
    "a/../../evil",
    "LOCK",
    "spare.tmp",
    "00000000000000000001.seg",
    "quarantine/../../evil",
    "%2e%2e%2fevil",
    "C:\\evil",
];

/// Whether the store's directory holds nothing but files that are named after positions, and the few others it always has.
fn is_plain(store: &Path) -> bool {
    files::snapshot(store).keys().map(|path| files::name(path)).all(|name| {
        let known = ["LOCK", "spare.tmp"].contains(&&*name);
        known || name.split(['-', '.']).next().is_some_and(|first| first.len() == 20 && first.parse::<u64>().is_ok())
    })
}

#[test]
fn names_that_climb_out_of_the_directory_are_names_and_nothing_more() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = scratch.open();
    for name in CLIMBING {
        let mut commit = Commit::new();
        commit.event(name, NewEvent::new(name, name).tag(name).header(name, name).correlation(name));
        store.commit(commit.key(name)).unwrap();
        let mut cursor = store.cursor(name).start(Start::Beginning).open().unwrap();
        let batch = cursor.pull_batch(1, Duration::ZERO).unwrap();
        cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        cursor.flush().unwrap();
        drop(cursor);
        store.remove_consumer(name).unwrap();
        let group = store.group(name).start(Start::Beginning).open().unwrap();
        let mut member = group.member().unwrap();
        let batch = member.pull_batch(1, Duration::ZERO).unwrap();
        let reject = Settlement::Reject { reason: Reason::Rejected, why: name.to_owned() };
        member.settle(batch.last().unwrap(), reject).unwrap();
        member.flush().unwrap();
        drop((batch, member, group));
    }
    store.close().unwrap();
    let store = scratch.open();
    for name in CLIMBING {
        assert_eq!(told::read(&store, Query::new().stream(name)).0[0].payload, name.as_bytes());
        assert_eq!(store.dead_letters(name).unwrap().iter().unwrap().count(), 1, "{name}");
    }
    assert_eq!(store.consumers().unwrap().len(), CLIMBING.len());
    assert!(is_plain(&path));
    let around: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(around, ["orders.towpath"]);
    // Control: a file that is named otherwise is noticed.
    fs::write(path.join("evil"), "").unwrap();
    assert!(!is_plain(&path));
}

/// A link to a store's directory is a way to it like any other, and the lock is the directory's; one that leads nowhere or in
/// a circle is told, and nothing is made where it leads.
#[test]
fn a_link_in_the_stores_place_leads_to_one_store_or_is_told() {
    let scratch = Scratch::new();
    let (path, link) = (scratch.store_path(), scratch.path().join("link"));
    let store = scratch.open();
    store.append("s", NewEvent::new("noted", "kept")).unwrap();
    symlink(&path, &link).unwrap();
    assert!(matches!(small().open(&link), Err(Error::Locked { .. })), "one writer, whatever it is called");
    drop(store);
    assert_eq!(small().open(&link).unwrap().head().get(), 1);

    let (nowhere, circle) = (scratch.path().join("nowhere"), scratch.path().join("circle"));
    symlink(scratch.path().join("absent"), &nowhere).unwrap();
    symlink(&circle, &circle).unwrap();
    for bad in [&nowhere, &circle] {
        for opened in [small().open(bad), Store::open_read_only(bad)] {
            let error = opened.unwrap_err().to_string();
            assert!(error.contains(&*files::name(bad)), "{error}");
        }
    }
    assert!(!scratch.path().join("absent").exists());
}

/// Whatever takes a number is given numbers around 2^63 and 2^64.
#[test]
fn positions_and_revisions_beyond_all_bounds_are_answered_or_told() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let refused = |result: towpath::Result<_>| result.map(|_receipt| ()).unwrap_err();
    for n in 1..=3 {
        store.append("s", NewEvent::new("noted", format!("{n}").as_str())).unwrap();
    }
    for number in [(1 << 63) - 1, 1 << 63, (1 << 63) + 1, u64::MAX - 1, u64::MAX] {
        let (position, revision) = (Position::new(number), Revision::new(number));
        assert!(store.event(position).unwrap().is_none());
        assert!(store.event_at("s", revision).unwrap().is_none());
        assert!(matches!(store.read(Query::new()).after(position).next(), None | Some(Err(_))));
        assert!(matches!(store.read(Query::new()).backwards().after(position).next(), None | Some(Err(_))));
        assert_eq!(store.read(Query::new()).until(position).count() as u64, store.head().get());
        let mut commit = Commit::new();
        commit.event("s", NewEvent::new("noted", "x")).expect("s", Expected::Exact(revision));
        assert!(matches!(refused(store.commit(&commit)), Error::Conflict { .. }), "{number}");
        let mut commit = Commit::new();
        commit.event("s", NewEvent::new("noted", "x"));
        commit.condition(Condition::unless(Query::new()).after(position));
        let _answered = store.submit(&commit).and_then(|ticket| ticket.wait());
        let name = format!("at-{number}");
        for opened in [
            store.cursor(&name).start(Start::At(position)).open().map(|mut cursor| {
                let _told = cursor.pull_batch(usize::MAX, Duration::ZERO);
                let _told = (cursor.seek(position), cursor.acknowledge(position), cursor.flush());
            }),
            store.group(format!("g-{number}")).start(Start::At(position)).open().map(|group| {
                let mut member = group.member().unwrap();
                let _told = member.pull_batch(usize::MAX, Duration::ZERO);
                let _known = (group.lag(), group.in_flight());
            }),
            store.seek("nobody", position),
        ] {
            let _told = opened;
        }
        let lag: Vec<_> = store.consumers().unwrap().iter().map(|consumer| consumer.lag).collect();
        assert!(lag.iter().all(|lag| *lag <= 8), "{lag:?}");
    }
    let head = store.head();
    assert!(store.append("s", NewEvent::new("noted", "goes on")).unwrap().last() > head);
    store.close().unwrap();
    assert!(scratch.open().head() > head);
}
