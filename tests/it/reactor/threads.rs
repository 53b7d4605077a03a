//! X4, G14: reactors on threads of their own, and how they end.

use std::sync::mpsc;
use std::time::Duration;

use towpath::{Canal, Delivery, Error, Failure, Handle, NewEvent, Reactor};

use super::{FINE, group, noting, with_events};
use crate::support::Scratch;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_spawned_reactor_finishes_its_batch_when_it_is_stopped_and_says_what_it_did() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let (say, hears) = mpsc::channel();
    let cursor = store.cursor("mail").open().unwrap();
    let handle = Reactor::new(cursor, move |event: &Delivery<'_>| say.send(event.position().get())).spawn().unwrap();
    assert_eq!(hears.recv(), Ok(1));
    handle.stop();
    let turn = handle.join().unwrap();
    assert_eq!((turn.pulled, turn.done), (3, 3));
    // Its name is free again, and it settled what it handled.
    let mut cursor = store.cursor("mail").open().unwrap();
    assert!(cursor.pull_batch(10, Duration::ZERO).unwrap().is_empty());
}

#[test]
fn an_idle_reactor_is_stopped_and_joined() {
    let dir = Scratch::new();
    let store = with_events(&dir, 0);
    let handle = Reactor::new(group(&store).member().unwrap(), |_: &Delivery<'_>| FINE).spawn().unwrap();
    assert!(!handle.is_finished());
    assert_eq!(handle.stop_and_join(LONG).unwrap().pulled, 0);
}

#[test]
fn what_is_not_handled_at_the_deadline_is_released() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    let group = group(&store);
    let ((began, begins), (go, goes)) = (mpsc::channel(), mpsc::channel());
    let handle = Reactor::new(group.member().unwrap(), move |event: &Delivery<'_>| {
        began.send(event.position().get()).unwrap();
        goes.recv()
    })
    .spawn()
    .unwrap();
    assert_eq!(begins.recv(), Ok(1));
    let stopping = std::thread::spawn(move || handle.stop_and_join(Duration::ZERO));
    // Whichever comes first: it is asked to hurry before the handler returns, or the handler returns first; then the
    // next call waits until it was asked.
    while !stopping.is_finished() {
        let _gone = go.send(());
        std::thread::yield_now();
    }
    let turn = stopping.join().unwrap().unwrap();
    assert_eq!(turn.pulled, 5);
    assert_eq!(turn.done + turn.released, 5);
    let mut member = group.member().unwrap();
    let left = member.pull_batch(10, Duration::ZERO).unwrap();
    assert_eq!(left.len() as u64, turn.released);
    assert!(left.iter().all(|event| event.attempt() == 1), "a release is no attempt");
}

/// The same without a race: the reactor's own stop.
#[test]
fn a_reactor_in_haste_finishes_the_call_in_hand_and_releases_the_rest() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    for hurries in [true, false] {
        let group = store.group(format!("haste {hurries}")).open().unwrap();
        let stop = towpath::Stop::new();
        let mut reactor = Reactor::new(group.member().unwrap(), |event: &Delivery<'_>| {
            if event.position().get() == 2 {
                if hurries { stop.stop_now() } else { stop.stop() }
            }
            FINE
        });
        let turn = reactor.run(&stop).unwrap();
        // The control is the one that may take its time.
        assert_eq!((turn.done, turn.released), if hurries { (2, 3) } else { (5, 0) });
        drop(reactor);
        let left = group.member().unwrap().pull_batch(10, Duration::ZERO).unwrap();
        assert!(left.len() as u64 == turn.released && left.iter().all(|event| event.attempt() == 1));
    }
}

#[test]
fn a_handler_that_never_returns_is_told_and_left_behind() {
    let dir = Scratch::new();
    let store = with_events(&dir, 2);
    let ((began, begins), (go, goes)) = (mpsc::channel(), mpsc::channel::<()>());
    let handle = Reactor::new(store.follow().open().unwrap(), move |event: &Delivery<'_>| {
        began.send(event.position().get()).unwrap();
        let _until_the_end_of_the_test = goes.recv();
        FINE
    })
    .spawn()
    .unwrap();
    assert_eq!(begins.recv(), Ok(1));
    match handle.stop_and_join(Duration::ZERO) {
        Err(Error::Handler { position, why }) => assert!(position.get() == 1 && why.contains("left behind"), "{why}"),
        other => panic!("{other:?}"),
    }
    drop(go);
}

#[test]
fn the_first_error_comes_out_of_join_and_is_told() {
    let dir = Scratch::new();
    let store = with_events(&dir, 2);
    let (say, hears) = mpsc::channel();
    let cursor = store.cursor("mail").open().unwrap();
    let handle = Reactor::new(cursor, |_: &Delivery<'_>| Err::<(), _>(Failure::retry("out of paper")))
        .watch(noting(&say))
        .spawn()
        .unwrap();
    assert!(matches!(handle.join(), Err(Error::Handler { why, .. }) if why == "out of paper"));
    drop(say);
    assert_eq!(
        hears.iter().collect::<Vec<_>>(),
        ["1 failed at attempt 1: out of paper", "ended: the event at position 1 was not handled: out of paper"]
    );
}

#[test]
fn a_dropped_handle_stops_its_reactor_and_is_told() {
    let dir = Scratch::new();
    let store = with_events(&dir, 1);
    let ((say, hears), (began, begins)) = (mpsc::channel(), mpsc::channel());
    let spawn = || {
        let began = began.clone();
        Reactor::new(store.follow().open().unwrap(), move |_: &Delivery<'_>| began.send(()))
            .watch(noting(&say))
            .spawn()
            .unwrap()
    };
    let handle = spawn();
    begins.recv().unwrap();
    drop(handle);
    assert_eq!(hears.recv().unwrap(), "dropped");
    // The control: one that is joined is not told so.
    let handle = spawn();
    begins.recv().unwrap();
    handle.stop_and_join(LONG).unwrap();
    assert!(hears.try_recv().is_err());
}

#[test]
fn several_workers_share_a_group_and_are_stopped_together() {
    let dir = Scratch::new();
    let store = with_events(&dir, 0);
    for number in 0..400 {
        store.append(&format!("s-{}", number % 7), NewEvent::new("happened", "")).unwrap();
    }
    let (group, (say, hears)) = (group(&store), mpsc::channel());
    let workers = Reactor::spawn_many(3, |worker| {
        let say = say.clone();
        let handler = move |event: &Delivery<'_>| say.send((worker, event.position().get()));
        Ok(Reactor::new(group.member()?, handler).batch(5))
    })
    .unwrap();
    let mut seen: Vec<u64> = (0..400).map(|_| hears.recv().unwrap().1).collect();
    assert_eq!(workers.stop_and_join(LONG).unwrap().done, 400);
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(1..=400) && hears.try_recv().is_err(), "each once");
}

#[test]
fn a_worker_that_ends_with_an_error_stops_the_others() {
    let dir = Scratch::new();
    let store = with_events(&dir, 0);
    let names = ["one", "two", "three"];
    let workers: Handle = Reactor::spawn_many(3, |worker| {
        let handler = |_: &Delivery<'_>| Err::<(), _>(Failure::retry("out of paper"));
        let cursor = store.cursor(names[worker]).filter(towpath::Query::new().category(names[worker])).open()?;
        Ok(Reactor::new(cursor, handler))
    })
    .unwrap();
    store.append("two-1", NewEvent::new("happened", "")).unwrap();
    assert!(matches!(workers.join(), Err(Error::Handler { .. })));
    // The control for "stopped": their names are free again.
    names.into_iter().for_each(|name| drop(store.cursor(name).open().unwrap()));

    let refused = Reactor::spawn_many(2, |_| Ok(Reactor::new(store.cursor("one").open()?, |_: &Delivery<'_>| FINE)));
    assert!(matches!(refused, Err(Error::ConsumerBusy { .. })));
    drop(store.cursor("one").open().unwrap());
}
