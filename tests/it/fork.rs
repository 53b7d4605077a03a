//! Forks: independent stores with a history up to a position. L5, R5, W8, C14.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use towpath::copies;
use towpath::inspect::{self, Depth};
use towpath::{
    Canal as _, Commit, ConsumerKind, Error, NewEvent, Position, Query, Reason, Retention, Retry, Revision, Settlement,
    Store,
};

use crate::support::files;
use crate::support::told::{self, Told};
use crate::support::{Scratch, os};

/// How consumers stand, but for how far the head is from them.
fn consumers(store: &Store) -> Vec<String> {
    let mut stand = Vec::new();
    for consumer in store.consumers().unwrap() {
        stand.push(format!("{} at {} dead {}", consumer.name, consumer.position, consumer.dead));
        if consumer.kind == ConsumerKind::Group {
            stand.push(format!("{:?}", store.unsettled(&consumer.name).unwrap()));
        }
    }
    stand
}

/// A history of some segments. Gives how consumers stood when each event had another one behind it.
fn lived(scratch: &Scratch) -> (Store, BTreeMap<u64, Vec<String>>) {
    let store = os().open(scratch.store_path()).unwrap();
    let group = store.group("mail").retry(Retry::never()).open().unwrap();
    let mut member = group.member().unwrap();
    let mut cursor = store.cursor("reader").open().unwrap();
    let mut stood = BTreeMap::new();
    for number in 1..=260u64 {
        store.append(&format!("cart-{}", number % 5), NewEvent::new("added", &[number as u8; 900]).tag("tea")).unwrap();
        if number % 7 == 0 {
            let batch = cursor.pull_batch(5, Duration::ZERO).unwrap();
            cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
            cursor.flush().unwrap();
        }
        if number % 11 == 0 {
            let batch = member.pull_batch(6, Duration::ZERO).unwrap();
            let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
            tokens.iter().skip(1).for_each(|token| member.settle(*token, Settlement::Done).unwrap());
            if number % 33 == 0 {
                let refused = Settlement::Reject { reason: Reason::Rejected, why: "no such plane".into() };
                member.settle(tokens[0], refused).unwrap();
            }
            member.flush().unwrap();
        }
        stood.insert(store.head().get(), consumers(&store));
    }
    drop((member, cursor, group));
    assert!(files::segments(&scratch.store_path()).len() > 3);
    (store, stood)
}

fn events(store: &Store) -> Vec<Told> {
    let own = told::read(store, Query::new().stream("$dead/mail")).0;
    let mut all: Vec<Told> = told::all(store).into_iter().chain(own).collect();
    all.sort_by_key(|event| event.position);
    all
}

#[test]
fn how_far_a_fork_has_come_is_told_in_bytes() {
    let scratch = Scratch::in_memory();
    let (store, _) = lived(&scratch);
    let mut told = Vec::new();
    let to = scratch.path().join("fork");
    copies::fork(store.path(), &to, store.head(), |progress| told.push((progress.done, progress.total))).unwrap();
    let (_, total) = told[0];
    assert!(told.len() > 3 && told.is_sorted() && told.iter().all(|step| step.1 == total), "{told:?}");
    let bytes: u64 = files::segments(&to).iter().map(|segment| fs::metadata(segment).unwrap().len()).sum();
    assert!(told.last() == Some(&(total, total)) && total <= bytes && total > 260 * 900, "{told:?} of {bytes}");
}

/// At the first and the last, around the places where segments follow each other, and some in between.
#[test]
fn a_fork_has_the_history_up_to_its_position_and_consumers_as_they_stood_then() {
    let scratch = Scratch::in_memory();
    let (store, stood) = lived(&scratch);
    let path = scratch.store_path();
    let (all, id) = (events(&store), store.id());
    let head = store.head().get();
    store.close().unwrap();
    let before = files::snapshot(&path);
    let firsts =
        files::segments(&path).iter().map(|segment| files::name(segment)[..20].parse().unwrap()).collect::<Vec<u64>>();
    let around = firsts.iter().flat_map(|first| [first.saturating_sub(1).max(1), *first, first + 1]);
    let mut compared = 0;
    for at in around.chain([1, 2, 60, 133, head - 1, head]) {
        let to = scratch.path().join("fork");
        let made = copies::fork(&path, &to, Position::new(at), |_| {}).unwrap();
        assert_eq!((made.head.get(), &made.damage[..]), (at, &[][..]), "at {at}");
        assert_ne!(made.store, id);
        let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
        assert!(verdict.ok, "at {at}: {:?}", verdict.damage);
        let fork = os().open(&to).unwrap();
        assert_eq!((fork.id(), fork.head().get()), (made.store, at));
        let expected: Vec<&Told> = all.iter().filter(|event| event.position <= at).collect();
        assert!(events(&fork).iter().eq(expected), "at {at}");
        if let Some(stood) = stood.get(&at) {
            assert_eq!(&consumers(&fork), stood, "at {at}");
            compared += 1;
        }
        assert!(fork.consumers().unwrap().iter().all(|consumer| consumer.position.get() <= at + 1));
        fork.append("cart-1", NewEvent::new("elsewhere", "")).unwrap();
        fork.close().unwrap();
        assert!(inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap().ok);
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(compared > 10, "dead letters have positions of their own, others were compared: {compared}");
    assert!(files::snapshot(&path) == before, "the original is not changed");
    // Control: how consumers stand changes, so comparing does tell.
    assert_ne!(stood[&60], stood[&133]);
    let nothing = copies::fork(&path, scratch.path().join("nothing"), Position::START, |_| {}).unwrap();
    assert_eq!(nothing.head, Position::START);
    let nothing = os().open(scratch.path().join("nothing")).unwrap();
    assert_eq!((events(&nothing).len(), nothing.append("a", NewEvent::new("b", "")).unwrap().first().get()), (0, 1));
}

/// No file is shared, whatever happens to either: rolls, retention, recovery.
#[test]
fn a_fork_and_its_original_go_their_own_ways() {
    let scratch = Scratch::in_memory();
    let (store, _) = lived(&scratch);
    let path = scratch.store_path();
    let to = scratch.path().join("fork");
    store.fork(&to, Position::new(200)).unwrap();
    let inodes = |path: &Path| -> Vec<(u64, u64)> {
        let files = fs::read_dir(path).unwrap();
        files.map(|entry| entry.unwrap().metadata().unwrap()).map(|data| (data.dev(), data.ino())).collect()
    };
    assert!(inodes(&to).iter().all(|inode| !inodes(&path).contains(inode)));
    let (ours, theirs) = (events(&store), files::snapshot(&to));
    let fill = |store: &Store, name: &str| {
        for _ in 0..150 {
            store.append("cart-1", NewEvent::new(name, &[9; 900])).unwrap();
        }
        let retention = Retention::new().max_events(100).even_from("mail").even_from("reader");
        assert!(store.retain(&retention).unwrap().segments > 0);
    };
    fill(&store, "here");
    assert!(files::snapshot(&to) == theirs);
    store.close().unwrap();
    let kept = files::snapshot(&path);
    let fork = os().open(&to).unwrap();
    fill(&fork, "there");
    drop(fork);
    assert!(files::snapshot(&path) == kept);
    let (fork, store) = (os().open(&to).unwrap(), os().open(&path).unwrap());
    assert_eq!((fork.head().get(), store.head().get()), (350, ours.last().unwrap().position + 150));
    fork.close().unwrap();
    store.close().unwrap();
    for path in [&path, &to] {
        assert!(inspect::verify_to(path, Depth::Deep, |_| {}).unwrap().ok);
    }
    // What one of them lets go of is known to a fork of it, too.
    let again = scratch.path().join("again");
    copies::fork(&to, &again, Position::new(340), |_| {}).unwrap();
    let (fork, again) = (os().open(&to).unwrap(), os().open(&again).unwrap());
    assert_eq!(again.oldest(), fork.oldest());
    assert!(!files::with_extension(&to, "heads").is_empty());
    for stream in ["cart-0", "cart-2", "cart-3"] {
        assert_eq!(again.revision(stream).unwrap(), fork.revision(stream).unwrap());
        assert!(again.revision(stream).unwrap().get() > 0);
    }
}

#[test]
fn a_commit_is_in_a_fork_whole_or_not_at_all() {
    let scratch = Scratch::in_memory();
    let store = os().open(scratch.store_path()).unwrap();
    store.append("a", NewEvent::new("one", "")).unwrap();
    let mut commit = Commit::new();
    (0..3).for_each(|_| _ = commit.event("b", NewEvent::new("two", "")));
    store.commit(&commit).unwrap();
    for (at, head) in [(1, 1), (2, 1), (3, 1), (4, 4)] {
        let to = scratch.path().join(format!("fork-{at}"));
        assert_eq!(store.fork(&to, Position::new(at)).unwrap().head.get(), head);
        assert_eq!(os().open(&to).unwrap().head().get(), head);
    }
}

#[test]
fn what_a_fork_cannot_be_made_of_or_where_is_told() {
    let scratch = Scratch::in_memory();
    let (store, _) = lived(&scratch);
    let head = store.head();
    let to = scratch.path().join("fork");
    assert!(matches!(store.fork(&to, head.next()), Err(Error::Invalid { .. })));
    assert!(matches!(store.fork(scratch.store_path().join("in"), head), Err(Error::NotAStore { .. })));
    let taken = scratch.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("letter.txt"), "dear").unwrap();
    assert!(matches!(store.fork(&taken, head), Err(Error::NotAStore { .. })));
    store.retain(&Retention::new().max_events(50).even_from("mail").even_from("reader")).unwrap();
    let oldest = store.oldest();
    assert!(matches!(store.fork(&to, Position::new(3)), Err(Error::Expired { .. })));
    // Nothing of what is kept, and it knows what came before.
    assert_eq!(store.fork(&to, oldest.previous()).unwrap().head, oldest.previous());
    let fork = os().open(&to).unwrap();
    assert_eq!(fork.append("x", NewEvent::new("y", "")).unwrap().first(), oldest);
    drop(fork);
    (0..3).for_each(|_| _ = store.append("x", NewEvent::new("y", "")).unwrap());
    store.close().unwrap();
    let newest = files::newest(&scratch.store_path());
    let frames = files::frames(&newest);
    let event = frames.iter().rev().filter(|frame| !frame.is_control).nth(1).unwrap();
    files::flip(&newest, event.offset + 41, 1);
    let damaged = copies::fork(scratch.store_path(), scratch.path().join("no"), Position::new(event.position), |_| {});
    assert!(matches!(damaged, Err(Error::Damaged(_))), "{damaged:?}");
    let before = Position::new(event.position).previous();
    copies::fork(scratch.store_path(), scratch.path().join("yes"), before, |_| {}).unwrap();
}

/// R5: a writer goes on, rolls and lets go meanwhile.
#[test]
fn forks_beside_a_writer_and_retention_are_whole() {
    let scratch = Scratch::in_memory();
    let (store, _) = lived(&scratch);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for _ in 0..40 {
                    store.append("cart-1", NewEvent::new("added", &[1; 900])).unwrap();
                }
                store.retain(&Retention::new().max_events(150).even_from("mail").even_from("reader")).unwrap();
            }
        });
        for round in 0..12 {
            let to = scratch.path().join("fork");
            let at = Position::new(store.head().get() - 20);
            match copies::fork(scratch.store_path(), &to, at, |_| {}) {
                Ok(made) => assert_eq!((made.head, &made.damage[..]), (at, &[][..])),
                // The writer was faster.
                Err(Error::Expired { .. }) => continue,
                Err(error) => panic!("round {round}: {error}"),
            }
            let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
            assert!(verdict.ok, "round {round}: {:?}", verdict.damage);
            fs::remove_dir_all(&to).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Three streams that took six revisions each, in turn, and lost some: all, the first four, all but one of each tag.
fn thinned(scratch: &Scratch, purged: bool, retained: bool) -> Store {
    let store = os().open(scratch.store_path()).unwrap();
    if retained {
        (0..200).for_each(|_| _ = store.append("early", NewEvent::new("a", &[1; 900])).unwrap());
        store.retain(&Retention::new().max_events(10)).unwrap();
    }
    for number in 1..=6 {
        for stream in ["deleted", "cut", "thinned"] {
            store.append(stream, NewEvent::new("a", "").tag(if number == 1 { "one" } else { "two" })).unwrap();
        }
    }
    store.delete_stream("deleted").unwrap();
    store.truncate_stream("cut", Revision::new(5)).unwrap();
    store.compact_stream("thinned", |event| event.tags().next().map(str::to_owned)).unwrap();
    if purged {
        assert!(store.purge().unwrap().events > 0);
    }
    store
}

/// W3, R1: neither what the original has taken out of its files by now nor what it only hides is given a revision again.
#[test]
fn a_fork_gives_no_revision_again_that_was_removed_by_now_and_a_deleted_stream_begins_behind_it() {
    for (purged, retained) in [(false, false), (true, false), (false, true), (true, true)] {
        let scratch = Scratch::in_memory();
        let store = thinned(&scratch, purged, retained);
        let last = store.head().get();
        for back in 0..18 {
            let (to, at) = (scratch.path().join("fork"), Position::new(last - back));
            let case = format!("purged {purged}, retained {retained}, {back} back");
            // It ends before a gap that the position stands in.
            let head = copies::fork(scratch.store_path(), &to, at, |_| {}).unwrap().head;
            let lived = head.get() + 18 - last;
            let fork = os().open(&to).unwrap();
            // A purge of its own, another fork and a retention know it, too.
            fork.purge().unwrap();
            let again = scratch.path().join("again");
            fork.fork(&again, fork.head()).unwrap();
            for fork in [fork, os().open(&again).unwrap()] {
                for (turn, stream) in ["deleted", "cut", "thinned"].into_iter().enumerate() {
                    let given = (lived + 2 - turn as u64) / 3;
                    let has = fork.read(Query::new().stream(stream)).count();
                    let mut commit = Commit::new();
                    commit.event(stream, NewEvent::new("a", ""));
                    if has == 0 {
                        commit.expect(stream, towpath::Expected::Absent);
                    }
                    fork.commit(&commit).unwrap_or_else(|error| panic!("{case}, {stream}: {error}"));
                    let next = fork.read(Query::new().stream(stream)).last().unwrap().unwrap().revision().get();
                    assert!(next > given && next <= 7, "{case}: {stream} at {next}, {given} were given");
                    // Control: where events are left, the stream is not taken for one that is gone.
                    assert!(fork.commit(commit.expect(stream, towpath::Expected::Absent)).is_err(), "{case}");
                }
                let path = fork.path().to_owned();
                fork.close().unwrap();
                let verdict = inspect::verify_to(&path, Depth::Deep, |_| {}).unwrap();
                assert!(verdict.ok, "{case}: {:?}", verdict.damage);
            }
            fs::remove_dir_all(&to).unwrap();
            fs::remove_dir_all(&again).unwrap();
        }
        // Control: something is gone, and the original goes on behind it.
        assert_eq!(store.read(Query::new().stream("thinned")).count(), 2);
        assert_eq!(store.read(Query::new().stream("deleted")).count(), 0);
    }
}
