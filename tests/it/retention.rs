//! Letting go of old events: R2, L1, L4, W1, W3, C2, C3, C6, D3. What goes, what a consumer keeps back, what is still known of what went.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use towpath::{
    Canal, Error, Expected, ManualClock, NewEvent, Plan, Position, Query, Retention, Revision, Start, Store, Timestamp,
    inspect,
};

use crate::support::files;
use crate::support::orders::{PAYLOAD, fill};
use crate::support::{Scratch, os, positions};

const DAY: Duration = Duration::from_secs(86_400);

fn newest(events: u64) -> Retention {
    Retention::new().max_events(events)
}

fn segments(path: &Path) -> Vec<u64> {
    files::segments(path).iter().map(|file| file.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn whole_old_segments_go_and_the_rest_is_as_it_was() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    fill(&store, 200);
    // What is sealed is cut to what it holds, on a thread of its own.
    while store.counters().segments_sealed < store.counters().segments_begun {
        std::thread::yield_now();
    }
    let before = segments(&path);
    let plan = store.plan_retention(&newest(100)).unwrap();
    assert_eq!(segments(&path), before, "planning changes nothing");
    assert_eq!(inspect::plan_retention(&path, &newest(100), Timestamp::default()).unwrap(), plan);

    assert_eq!(store.retain(&newest(100)).unwrap(), plan);
    let oldest = store.oldest().get();
    assert_eq!((plan.oldest.get(), plan.keeps_from.get(), plan.events), (1, oldest, oldest - 1));
    assert!(oldest > 50 && oldest <= 101, "{oldest}");
    assert_eq!(segments(&path)[0], oldest);
    assert_eq!(plan.segments as usize, before.len() - segments(&path).len());
    assert_eq!(positions(store.read(Query::new())), (oldest..=200).collect::<Vec<_>>());
    assert_eq!(store.append("order-0", NewEvent::new("placed", "")).unwrap().first().get(), 201);
    assert_eq!(store.retain(&newest(150)).unwrap().segments, 0, "what is gone does not come back");

    // R2: told, with the oldest.
    let expired = |asked: u64, error: Error| matches!(error, Error::Expired { asked: at, oldest: from } if at.get() == asked && from.get() == oldest);
    assert!(expired(7, store.event(Position::new(7)).unwrap_err()));
    assert!(expired(7, store.read(Query::new()).from(Position::new(7)).next().unwrap().unwrap_err()));
    store.close().unwrap();

    let store = os().open(&path).unwrap();
    assert!(store.recovery().clean);
    assert_eq!(store.oldest().get(), oldest);
    assert_eq!(positions(store.read(Query::new())), (oldest..=201).collect::<Vec<_>>());
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
}

/// A store that is open for reading learns of what went when it is asked: by a limit of each kind.
#[test]
fn what_would_go_is_planned_beside_a_writer_that_lets_go() {
    let limits = [newest(20), Retention::new().max_bytes(100 << 10), Retention::new().max_age(DAY)];
    // By the clock of who reads all of it is old.
    let long_ago = Arc::new(ManualClock::at(Timestamp::from_nanos(0)));
    for retention in &limits {
        let scratch = Scratch::new();
        let path = scratch.store_path();
        let store = os().clock(long_ago.clone()).open(&path).unwrap();
        fill(&store, 200);
        let reader = Store::open_read_only(&path).unwrap();
        assert_eq!(reader.plan_retention(retention).unwrap().oldest.get(), 1, "control");
        let oldest = store.retain(&newest(100)).unwrap().keeps_from;
        let plan = reader.plan_retention(retention).unwrap();
        assert_eq!((plan.oldest, plan.segments > 0, plan.keeps_from > oldest), (oldest, true, true), "{retention:?}");
        assert_eq!(plan.events, plan.keeps_from.get() - oldest.get());
    }
}

/// A segment at a time goes while others plan, who look again.
#[test]
fn what_would_go_is_planned_while_it_goes() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    fill(&store, 1_500);
    let planned = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for kept in (0..1_500).rev().step_by(15) {
                store.retain(&newest(kept)).unwrap();
            }
        });
        let (all, mut planned) = (Retention::new().max_bytes(1), BTreeSet::new());
        while !writer.is_finished() {
            let plan = inspect::plan_retention(&path, &all, Timestamp::default()).unwrap();
            assert_eq!(plan.events, plan.keeps_from.get() - plan.oldest.get());
            planned.insert(plan.oldest);
        }
        planned.len()
    });
    assert!(planned > 1, "control: nothing went meanwhile");
}

#[test]
fn what_could_not_be_removed_is_removed_the_next_time() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    fill(&store, 200);
    let old = files::segments(&path)[0].clone();
    let bytes = fs::read(&old).unwrap();
    store.retain(&newest(100)).unwrap();
    assert!(!old.exists());
    // As if the file system had refused it.
    fs::write(&old, bytes).unwrap();
    assert_eq!(store.retain(&newest(100)).unwrap().segments, 0);
    assert!(!old.exists());
    assert_eq!(store.oldest().get(), segments(&path)[0]);
}

#[test]
fn a_stream_goes_on_at_its_revision_though_none_of_its_events_is_left() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    for _ in 0..5 {
        store.append("gone-1", NewEvent::new("placed", &PAYLOAD)).unwrap();
    }
    fill(&store, 100);
    let before: Vec<u64> = (0..3).map(|n| store.revision(&format!("order-{n}")).unwrap().get()).collect();
    store.retain(&newest(0)).unwrap();
    assert_eq!(segments(&path).len(), 1, "the newest stays");
    let killed = scratch.as_if_killed();
    for (round, store) in [store, os().open(killed.store_path()).unwrap()].iter().enumerate() {
        assert_eq!(store.revision("gone-1").unwrap().get(), 5);
        let after: Vec<u64> = (0..3).map(|n| store.revision(&format!("order-{n}")).unwrap().get()).collect();
        assert_eq!(after, before);
        assert_eq!(store.revision("never").unwrap(), Revision::ABSENT);
        let append = |expected| {
            let mut commit = towpath::Commit::new();
            commit.event("gone-1", NewEvent::new("placed", "")).expect("gone-1", expected);
            store.commit(&commit)
        };
        let actual = |result: towpath::Result<_>| match result {
            Err(Error::Conflict { actual, .. }) => actual.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!(actual(append(Expected::Absent)), 5);
        assert_eq!(actual(append(Expected::Exact(Revision::new(4)))), 5);
        if round == 1 {
            assert_eq!(append(Expected::Exact(Revision::new(5))).unwrap().revision().get(), 6);
        }
    }
}

#[test]
fn what_a_cursor_needs_is_kept_until_it_is_named_and_then_it_is_told() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 200);
    let mut mail = store.cursor("mail").open().unwrap();
    let batch = mail.pull_batch(60, Duration::ZERO).unwrap();
    let last = batch.iter().last().unwrap().position();
    mail.acknowledge(last).unwrap();
    mail.flush().unwrap();

    let plan = store.retain(&newest(10)).unwrap();
    assert!(plan.keeps_from <= last.next(), "{plan:?}");
    assert_eq!((plan.held.len(), plan.held[0].consumer.as_str(), plan.held[0].position), (1, "mail", last.next()));
    assert!(plan.held[0].bytes > 0);
    assert_eq!(mail.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position(), last.next());

    let unknown = store.retain(&newest(10).even_from("post")).unwrap_err();
    assert!(matches!(unknown, Error::UnknownConsumer { name } if name == "post"));
    let plan = store.retain(&newest(10).even_from("mail")).unwrap();
    assert!(plan.held.is_empty() && plan.keeps_from > last.next());
    drop(mail);
    let told = store.cursor("mail").open().unwrap_err();
    assert!(matches!(told, Error::Expired { asked, oldest } if asked <= last.next() && oldest == plan.keeps_from));
    store.seek("mail", plan.keeps_from).unwrap();
    let mut mail = store.cursor("mail").open().unwrap();
    assert_eq!(mail.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position(), plan.keeps_from);
}

#[test]
fn a_cursor_that_has_acknowledged_nothing_yet_keeps_what_it_has_not_read() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 200);
    let mut mail = store.cursor("mail").open().unwrap();
    let held =
        |plan: &Plan| plan.held.iter().map(|hold| (hold.consumer.clone(), hold.position.get())).collect::<Vec<_>>();
    let plan = store.retain(&newest(10)).unwrap();
    assert_eq!((plan.segments, held(&plan)), (0, vec![("mail".to_owned(), 1)]));
    let plan = store.plan_retention(&newest(10).even_from("mail")).unwrap();
    assert!(plan.segments > 0 && plan.held.is_empty(), "it can be named");
    assert_eq!(mail.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position().get(), 1);

    // The controls: without a name, or closed again without a trace, it keeps nothing.
    drop(mail);
    let _follower = store.follow().start(Start::Beginning).open().unwrap();
    let plan = store.retain(&newest(100)).unwrap();
    assert!(plan.segments > 0 && plan.held.is_empty(), "{plan:?}");
    let early = store.cursor("early").start(Start::At(Position::new(1))).open();
    assert!(matches!(early, Err(Error::Expired { .. })));
    assert!(store.retain(&newest(10)).unwrap().held.is_empty(), "nor does one that was told");
}

#[test]
fn a_cursor_with_a_rare_filter_keeps_nothing_back_once_it_is_idle() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    let rare = || store.append("alarm-1", NewEvent::new("raised", "")).unwrap().first();
    let query = || Query::new().stream("alarm-1");
    let mut mail = store.cursor("mail").filter(query()).open().unwrap();
    let pull = |mail: &mut towpath::Cursor| mail.pull_batch(9, Duration::ZERO).unwrap().len();
    let first = rare();
    fill(&store, 100);
    assert_eq!(pull(&mut mail), 1);
    mail.idle().unwrap();
    mail.flush().unwrap();
    let plan = store.retain(&newest(0)).unwrap();
    assert_eq!((plan.segments, plan.held[0].position), (0, first), "what is handed out is not settled");
    mail.acknowledge(first).unwrap();
    mail.flush().unwrap();
    assert_eq!(store.retain(&newest(0)).unwrap().held.len(), 1, "the control: the checkpoint alone keeps the rest");
    mail.idle().unwrap();
    assert_eq!(mail.checkpoint(), first.next(), "nobody has looked there");

    assert_eq!(pull(&mut mail), 0);
    let passed = store.head();
    let second = rare();
    mail.idle().unwrap();
    mail.flush().unwrap();
    assert_eq!(mail.checkpoint(), passed.next(), "up to where it has looked");
    let plan = store.retain(&newest(0)).unwrap();
    assert!(plan.segments > 0 && plan.held.is_empty(), "{plan:?}");
    assert_eq!(pull(&mut mail), 1);
    // Given back it comes again, and nothing is passed over.
    let token = {
        mail.seek(second).unwrap();
        mail.pull_batch(9, Duration::ZERO).unwrap().last().unwrap()
    };
    mail.settle(token, towpath::Settlement::Retry { after: Some(DAY), why: "busy".to_owned() }).unwrap();
    fill(&store, 100);
    assert_eq!(pull(&mut mail), 0);
    mail.idle().unwrap();
    assert_eq!(mail.checkpoint(), second);

    // Reactors and forwarders do it for theirs.
    drop(mail);
    store.remove_consumer("mail").unwrap();
    let cursor = |name: &str| store.cursor(name).filter(query()).open().unwrap();
    let mut reactor =
        towpath::Reactor::new(cursor("react"), |_: &towpath::Delivery<'_>| Ok::<(), towpath::Failure>(()));
    let mut forwarder = towpath::Forwarder::new(cursor("forward"), towpath::MemorySink::new("memory"));
    reactor.turn(Duration::ZERO).unwrap();
    forwarder.turn(Duration::ZERO).unwrap();
    assert_eq!(store.retain(&newest(0)).unwrap().held.len(), 2, "the control: they have just read one");
    for _ in 0..2 {
        fill(&store, 50);
        reactor.turn(Duration::ZERO).unwrap();
        forwarder.turn(Duration::ZERO).unwrap();
    }
    store.sync().unwrap();
    let held = store.retain(&newest(0)).unwrap().held;
    assert!(held.is_empty(), "{held:?}");
}

/// The writer is held up until both are on their way, in whatever order they come.
#[test]
fn a_seek_beside_retention_is_told_or_what_it_needs_is_kept() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    let (mut sought, mut told) = (0, 0);
    for round in 0.. {
        if round >= 30 && told > 0 && sought > 0 {
            return;
        }
        assert!(round < 500, "control: they meet in both orders, {sought} and {told}");
        fill(&store, 60);
        let (at, before) = (store.oldest(), marks(&scratch.store_path()));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let mut held_up = towpath::Commit::new();
        held_up.event("order-0", NewEvent::new("placed", "")).rule(move |_, _| {
            // The other end is dropped when both may have come.
            let _both = wait.lock().unwrap().recv();
            Ok(())
        });
        let ticket = store.submit(&held_up).unwrap();
        let (seek, retained) = std::thread::scope(|scope| {
            let retained = scope.spawn(|| store.retain(&newest(20)).unwrap());
            if round % 2 == 0 {
                // It has made its plan, and will be next.
                while marks(&scratch.store_path()) == before {
                    std::thread::yield_now();
                }
                (0..1_000).for_each(|_| std::thread::yield_now());
            }
            let seek = scope.spawn(|| store.seek("back", at));
            (0..round % 30 * 20).for_each(|_| std::thread::yield_now());
            drop(go);
            (seek.join().unwrap(), retained.join().unwrap())
        });
        ticket.wait().unwrap();
        match seek {
            Ok(()) => {
                sought += 1;
                assert_eq!((store.oldest(), retained.segments), (at, 0), "round {round}");
                let mut back = store.cursor("back").open().unwrap();
                assert_eq!(back.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position(), at);
                drop(back);
                store.remove_consumer("back").unwrap();
            }
            Err(Error::Expired { asked, oldest }) => {
                told += 1;
                assert_eq!((asked, oldest), (at, store.oldest()), "round {round}");
                assert!(store.consumers().unwrap().is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// The heads files, those that were made anew told from the old ones.
fn marks(path: &Path) -> Vec<u64> {
    heads(path).iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.ino()).collect()
}

#[test]
fn whoever_reads_where_it_goes_reads_to_the_end_of_the_segment_and_is_told() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 200);
    let second = segments(&scratch.store_path())[1];
    let mut reader = store.read(Query::new());
    let mut cursor = store.follow().start(Start::Beginning).open().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().position().get(), 1);
    assert_eq!(cursor.pull_batch(1, Duration::ZERO).unwrap().len(), 1);
    let kept = store.read(Query::new()).next().unwrap().unwrap();

    let oldest = store.retain(&newest(0)).unwrap().keeps_from;
    let mut read = 1;
    let error = loop {
        match reader.next().unwrap() {
            Ok(event) => read = event.position().get(),
            Err(error) => break error,
        }
    };
    assert_eq!(read, second - 1);
    assert!(matches!(error, Error::Expired { asked, oldest: from } if asked.get() == second && from == oldest));
    while cursor.pull_batch(64, Duration::ZERO).map(|batch| assert!(!batch.is_empty())).is_ok() {}
    let told = cursor.pull_batch(1, Duration::ZERO).unwrap_err();
    assert!(matches!(told, Error::Expired { asked, oldest: from } if asked.get() == second && from == oldest));
    cursor.seek(oldest).unwrap();
    assert_eq!(cursor.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position(), oldest);
    assert_eq!(kept.payload(), PAYLOAD, "what was read stays readable");
}

#[test]
fn age_and_bytes_are_limits_too() {
    let scratch = Scratch::new();
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1 << 60)));
    let store = os().clock(clock.clone()).open(scratch.store_path()).unwrap();
    fill(&store, 100);
    clock.set(Timestamp::from_nanos((1 << 60) + 3 * DAY.as_nanos() as u64));
    fill(&store, 100);
    let old = |days: u32| store.plan_retention(&Retention::new().max_age(days * DAY)).unwrap();
    assert_eq!(old(4).segments, 0);
    let plan = old(2);
    assert!(plan.segments > 0 && plan.keeps_from.get() <= 101, "{plan:?}");
    let none: Plan = store.plan_retention(&Retention::new()).unwrap();
    assert_eq!(none.segments, 0, "without a limit everything is kept");

    let plan = store.retain(&Retention::new().max_bytes(200 << 10)).unwrap();
    assert!(plan.segments > 0);
    let paths = files::segments(&scratch.store_path());
    let sealed: u64 = paths[..paths.len() - 1].iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((100 << 10..200 << 10).contains(&sealed), "{sealed}");
}

/// The store as it is, and what went of it put back.
fn with_back(scratch: &Scratch, before: &Scratch, wanted: impl Fn(&str) -> bool) -> Scratch {
    let copy = scratch.as_if_killed();
    for entry in fs::read_dir(before.store_path()).unwrap().map(Result::unwrap) {
        let (name, to) = (entry.file_name().into_string().unwrap(), copy.store_path().join(entry.file_name()));
        if wanted(&name) && !to.exists() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
    copy
}

fn heads(path: &Path) -> Vec<std::path::PathBuf> {
    files::with_extension(path, "heads")
}

#[test]
fn a_crash_at_any_step_leaves_all_of_it_or_what_is_kept() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    store.append("gone-1", NewEvent::new("placed", &PAYLOAD)).unwrap();
    fill(&store, 199);
    store.sync().unwrap();
    let before = scratch.as_if_killed();
    let plan = store.retain(&newest(50)).unwrap();
    let oldest = plan.keeps_from.get();
    let gone = segments(&before.store_path()).into_iter().filter(|first| *first < oldest).collect::<Vec<_>>();
    assert!(gone.len() > 3);

    // The heads file is made, and the record is not written.
    let unwritten = Scratch::new();
    fs::create_dir(unwritten.store_path()).unwrap();
    for from in [before.store_path(), scratch.store_path()] {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = unwritten.store_path().join(entry.file_name());
            if entry.path().is_file() && !to.exists() && (heads(&unwritten.store_path()).is_empty()) {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let opened = os().open(unwritten.store_path()).unwrap();
    assert_eq!((positions(opened.read(Query::new())).len(), opened.oldest().get()), (200, 1));
    assert!(heads(&unwritten.store_path()).is_empty(), "nothing names it");
    assert_eq!(opened.revision("gone-1").unwrap().get(), 1);

    // The record is written, and all, some or none of the files are removed.
    for left in 0..=gone.len() {
        let stays = |name: &str| gone[left..].iter().any(|first| name.starts_with(&format!("{first:020}.")));
        let cut = with_back(&scratch, &before, stays);
        let reader = Store::open_read_only(cut.store_path()).unwrap();
        assert_eq!(positions(reader.read(Query::new())), (oldest..=200).collect::<Vec<_>>());
        drop(reader);
        for _ in 0..2 {
            let opened = os().open(cut.store_path()).unwrap();
            assert_eq!(positions(opened.read(Query::new())), (oldest..=200).collect::<Vec<_>>());
            assert_eq!(opened.revision("gone-1").unwrap().get(), 1);
            assert_eq!(segments(&cut.store_path())[0], oldest, "what is left is removed");
            opened.close().unwrap();
        }
        assert!(inspect::verify(cut.store_path(), |_| {}).unwrap().ok);
    }

    // The control: what is kept has to be there.
    for lost in [files::segments(&scratch.store_path())[0].clone(), heads(&scratch.store_path())[0].clone()] {
        let cut = scratch.as_if_killed();
        fs::remove_file(cut.store_path().join(lost.file_name().unwrap())).unwrap();
        let error = os().open(cut.store_path()).unwrap_err();
        assert!(matches!(&error, Error::NotAStore { path, .. } if path.file_name() == lost.file_name()), "{error}");
    }
}

#[test]
fn a_reader_in_another_process_is_told_and_goes_on() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    store.append("gone-1", NewEvent::new("placed", &PAYLOAD)).unwrap();
    fill(&store, 100);
    let reader = Store::open_read_only(scratch.store_path()).unwrap();
    let late = Store::open_read_only(scratch.store_path()).unwrap();
    let mut follower = reader.follow().start(Start::Beginning).open().unwrap();
    assert_eq!(follower.pull_batch(1, Duration::ZERO).unwrap().len(), 1);
    let plan = store.retain(&newest(30)).unwrap();

    let told = loop {
        match follower.pull_batch(64, Duration::ZERO) {
            Ok(batch) => assert!(!batch.is_empty(), "it ended without a word"),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, Error::Expired { oldest, .. } if oldest == plan.keeps_from), "{told}");
    assert_eq!(reader.oldest(), plan.keeps_from);
    follower.seek(reader.oldest()).unwrap();
    assert_eq!(follower.pull_batch(1, Duration::ZERO).unwrap().iter().next().unwrap().position(), plan.keeps_from);
    assert_eq!(reader.revision("gone-1").unwrap().get(), 1);

    // All that one knew goes while it does not look.
    fill(&store, 100);
    let plan = store.retain(&newest(10)).unwrap();
    assert!(plan.keeps_from.get() > 101);
    let all = (plan.keeps_from.get()..=201).collect::<Vec<_>>();
    assert_eq!((late.head().get(), positions(late.read(Query::new()))), (201, all));
    assert_eq!(late.revision("gone-1").unwrap().get(), 1);
}

#[test]
fn dead_letters_and_what_is_unsettled_stay_until_the_group_is_named() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 100);
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = member.pull_batch(100, Duration::ZERO).unwrap();
    let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
    let is_held = |position: u64, need: towpath::Need| {
        let plan = store.plan_retention(&newest(10)).unwrap();
        assert_eq!((plan.held.len(), plan.held[0].position.get(), plan.held[0].need), (1, position, need), "{plan:?}");
    };
    let mut settle = |at: usize, settlement: towpath::Settlement| {
        member.settle(tokens[at], settlement).unwrap();
        member.flush().unwrap();
    };
    is_held(1, towpath::Need::Unsettled);
    (0..100).filter(|at| *at != 29 && *at != 39).for_each(|at| settle(at, towpath::Settlement::Done));
    is_held(30, towpath::Need::Unsettled);
    settle(29, towpath::Settlement::Reject { reason: towpath::Reason::Rejected, why: "no".into() });
    settle(39, towpath::Settlement::Done);
    is_held(30, towpath::Need::DeadLetter);
    store.retain(&newest(10)).unwrap();
    let letters = store.dead_letters("mail").unwrap();
    let letter = letters.iter().unwrap().next().unwrap().unwrap();
    assert_eq!(letter.source_position().get(), 30);
    assert_eq!(letters.redrive([&letter]).unwrap().moved, 1, "its source is there");
    is_held(30, towpath::Need::Unsettled);

    store.retain(&newest(10).even_from("mail")).unwrap();
    let told = member.pull_batch(1, Duration::ZERO).unwrap_err();
    assert!(
        matches!(told, Error::Expired { asked, oldest } if asked.get() == 30 && oldest == store.oldest()),
        "{told}"
    );
    store.seek("mail", store.head()).unwrap();
    assert_eq!(member.pull_batch(1, Duration::ZERO).map(|batch| batch.len()).unwrap_or(9), 0);
}

#[test]
fn a_subscription_counts_what_went_as_skipped() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    let mut subscription = store.subscribe().open().unwrap();
    fill(&store, 100);
    let first = subscription.pull_batch(1, Duration::ZERO).unwrap();
    assert_eq!((first.len(), first.skipped()), (1, 0));
    store.retain(&newest(10)).unwrap();
    let (mut got, mut skipped) = (1, 0);
    while got + skipped < 100 {
        let batch = subscription.pull_batch(64, Duration::ZERO).unwrap();
        assert!(!batch.is_empty() || batch.skipped() > 0, "{got} and {skipped}");
        (got, skipped) = (got + batch.len() as u64, skipped + batch.skipped());
    }
    assert!(skipped > 0 && got > 10);
}

#[test]
fn an_append_condition_after_what_went_is_refused_and_one_from_the_start_looks_at_what_is_kept() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    store.append("gone-1", NewEvent::new("opened", &PAYLOAD)).unwrap();
    fill(&store, 100);
    let oldest = store.retain(&newest(10)).unwrap().keeps_from;
    let append = |after| {
        let mut commit = towpath::Commit::new();
        let unless = Query::new().types(["opened"]);
        commit.event("order-0", NewEvent::new("placed", "")).condition(towpath::Condition::unless(unless).after(after));
        store.commit(&commit)
    };
    assert!(matches!(append(Position::new(3)), Err(Error::Expired { oldest: from, .. }) if from == oldest));
    append(Position::START).unwrap();
    append(oldest.previous()).unwrap();
}

/// Any order of appends, settlements of checkpoints, retention and reopenings against a list of what was appended.
#[test]
fn whatever_happens_what_is_kept_is_what_was_appended_and_nothing_needed_goes() {
    let rounds = std::env::var("TOWPATH_RETENTION").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    for seed in 0..rounds {
        let scratch = Scratch::in_memory();
        let path = scratch.store_path();
        let mut store = os().open(&path).unwrap();
        let (mut streams, mut checkpoint): (Vec<u64>, u64) = (Vec::new(), 1);
        let mut random = seed * 7_919 + 1;
        let mut next = move |below: u64| {
            random = u64::wrapping_mul(random, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        store.seek("mail", Position::new(1)).unwrap();
        for step in 0..40 {
            match next(6) {
                0..=2 => {
                    for _ in 0..next(60) {
                        // Streams come and are never heard of again.
                        let stream = (streams.len() as u64 / 40) * 3 + next(6);
                        let receipt =
                            store.append(&format!("order-{stream}"), NewEvent::new("placed", &PAYLOAD)).unwrap();
                        let before = streams.iter().filter(|one| **one == stream).count() as u64;
                        assert_eq!(receipt.revision().get(), before + 1, "seed {seed}, step {step}");
                        streams.push(stream);
                        assert_eq!(receipt.last().get(), streams.len() as u64);
                    }
                }
                3 => {
                    checkpoint += next(streams.len() as u64 + 2 - checkpoint);
                    store.seek("mail", Position::new(checkpoint)).unwrap();
                }
                4 => {
                    let (limit, before) = (next(100), store.oldest());
                    let plan = store.retain(&newest(limit)).unwrap();
                    assert!(
                        plan.keeps_from >= before && plan.keeps_from.get() <= checkpoint,
                        "seed {seed}, step {step}"
                    );
                }
                _ => {
                    if next(2) == 0 {
                        store.close().unwrap();
                    } else {
                        drop(store);
                    }
                    store = os().open(&path).unwrap();
                }
            }
            let oldest = store.oldest().get();
            assert_eq!(positions(store.read(Query::new())), (oldest..=streams.len() as u64).collect::<Vec<_>>());
            for stream in 0..streams.last().copied().unwrap_or(0) + 2 {
                let name = format!("order-{stream}");
                let of_it = |(at, one): (usize, &u64)| (*one == stream).then_some(at as u64 + 1);
                let all: Vec<u64> = streams.iter().enumerate().filter_map(of_it).collect();
                assert_eq!(store.revision(&name).unwrap().get(), all.len() as u64, "seed {seed}, step {step}, {name}");
                let kept: Vec<u64> = all.into_iter().filter(|position| *position >= oldest).collect();
                assert_eq!(positions(store.read(Query::new().stream(&name))), kept);
                let back: Vec<u64> = kept.into_iter().rev().collect();
                assert_eq!(positions(store.read(Query::new().stream(&name)).backwards()), back);
            }
        }
        assert!(inspect::verify(&path, |_| {}).unwrap().ok, "seed {seed}");
    }
}

#[test]
fn a_tier_over_the_border_answers_for_what_is_kept() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    fill(&store, 600);
    store.close().unwrap();
    let store = os().open(&path).unwrap();
    let begun = std::time::Instant::now();
    while files::with_extension(&path, "tier").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    let third = segments(&path)[3];
    store.retain(&newest(600 - third + 1)).unwrap();
    let oldest = store.oldest().get();
    assert_eq!(oldest, third);
    for store in [store.clone(), Store::open_read_only(&path).unwrap()] {
        for n in 0..3 {
            let query = || Query::new().stream(format!("order-{n}"));
            let expected: Vec<u64> = (oldest..=600).filter(|position| (position - 1) % 3 == n).collect();
            assert_eq!(positions(store.read(query())), expected);
            assert_eq!(positions(store.read(query()).backwards()), expected.into_iter().rev().collect::<Vec<_>>());
        }
        assert!(positions(store.read(Query::new().stream("never")).backwards()).is_empty());
    }
    store.close().unwrap();
    let store = os().open(&path).unwrap();
    assert!(!files::with_extension(&path, "tier").is_empty(), "it is still of use");
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
    store.close().unwrap();
}

/// Control: before anything is removed the events that go are all positions.
#[test]
fn a_plan_counts_the_events_that_are_there_and_not_those_that_were_removed_before() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 200);
    let plan = store.plan_retention(&newest(50)).unwrap();
    assert_eq!(plan.events, plan.keeps_from.get() - 1);
    store.delete_stream("order-1").unwrap();
    assert!(store.purge().unwrap().events > 0);
    let there = positions(store.read(Query::new()).until(plan.keeps_from.previous()));
    let now = store.plan_retention(&newest(50)).unwrap();
    assert_eq!((now.keeps_from, now.segments, now.events), (plan.keeps_from, plan.segments, there.len() as u64));
    assert!(now.events < plan.events);
    assert_eq!(store.retain(&newest(50)).unwrap(), now);
    assert_eq!(store.counters().events_let_go, now.events);
}

/// R6: the record that says what is kept may be lost with what is damaged right before it. What is named is the damage, and not a
/// segment that was let go of. Control: one that is missing where nothing is damaged is named.
#[test]
fn damage_before_the_record_of_what_is_kept_is_told_and_no_segment_that_went_is_missed() {
    for (closed, events, locked) in [(true, 0, true), (true, 3, false), (false, 0, false), (false, 3, true)] {
        let scratch = Scratch::new();
        let store = os().open(scratch.store_path()).unwrap();
        fill(&store, 200);
        let (last, oldest) = (store.head(), store.retain(&newest(20)).unwrap().keeps_from);
        for _ in 0..events {
            store.append("order-0", NewEvent::new("placed", "")).unwrap();
        }
        let killed = scratch.as_if_killed();
        store.close().unwrap();
        let scratch = if closed { &scratch } else { &killed };
        let path = scratch.store_path();
        if !locked {
            fs::remove_file(path.join("LOCK")).unwrap();
        }
        assert_eq!(Store::open_read_only(&path).unwrap().oldest(), oldest);
        let segment = files::newest(&path);
        files::flip(&segment, files::frame_of(&segment, last.get()).offset + 41, 0);
        for told in [Store::open_read_only(&path).map(drop), inspect::verify(&path, |_| {}).map(drop)] {
            let Err(Error::Damaged(damage)) = told else { panic!("{told:?}") };
            assert_eq!((damage.segment, damage.position), (files::name(&segment), last));
            assert!(damage.what.ends_with("older events are not kept any more; repair the store"), "{}", damage.what);
        }
        let to = scratch.path().join("repaired");
        towpath::copies::repair(&path, &to, |_| {}).unwrap();
        assert_eq!(Store::open_read_only(&to).unwrap().oldest(), oldest);
    }

    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 60);
    store.close().unwrap();
    fs::remove_file(&files::segments(&scratch.store_path())[0]).unwrap();
    let told = Store::open_read_only(scratch.store_path()).unwrap_err();
    assert!(matches!(told, Error::NotAStore { why, .. } if why == "the segment is missing"));
}
