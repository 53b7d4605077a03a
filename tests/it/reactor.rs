//! The loop between a canal and a handler: turns, runs, and being asked to stop (X4 as far as a plain reactor goes).

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use towpath::{Canal, Delivery, Error, NewEvent, Position, Reactor, Stop, Store};

use crate::support::Scratch;

fn with_events(dir: &Scratch, events: u64) -> Store {
    let store = dir.open();
    for number in 1..=events {
        store.append("cart-1", NewEvent::new("item added", &number.to_le_bytes())).unwrap();
    }
    store
}

#[test]
fn a_turn_handles_one_batch_and_settles_it() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    let mut seen = Vec::new();
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        Ok::<(), Infallible>(())
    })
    .batch(3);

    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), 3);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), 2);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), 0);

    assert_eq!(reactor.into_canal().checkpoint(), Position::new(6));
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[test]
fn what_a_handler_refuses_comes_again_and_what_came_before_it_does_not() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    let (mut seen, mut refused) = (Vec::new(), false);
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        let refuse = event.position().get() == 3 && !std::mem::replace(&mut refused, true);
        if refuse { Err("out of paper") } else { Ok(()) }
    });

    match reactor.turn(Duration::ZERO) {
        Err(Error::Handler { position, why }) => assert_eq!((position.get(), &why[..]), (3, "out of paper")),
        other => panic!("{other:?}"),
    }
    store.sync().unwrap();
    assert_eq!(store.consumers().unwrap()[0].position, Position::new(3));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), 3);

    drop(reactor);
    // The control: neither `1, 2, 3, 4, 5` (given up) nor `1, 2, 3, 1, 2, …` (settled nothing).
    assert_eq!(seen, [1, 2, 3, 3, 4, 5]);
}

#[test]
fn a_panic_of_the_handler_goes_through_and_settles_nothing_of_its_batch() {
    let dir = Scratch::new();
    let store = with_events(&dir, 4);
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        assert_ne!(event.position().get(), 4, "the handler's own trouble");
        Ok::<(), Infallible>(())
    })
    .batch(2);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), 2);

    let panicked = catch_unwind(AssertUnwindSafe(|| reactor.turn(Duration::ZERO)));

    assert!(panicked.is_err());
    drop(reactor);
    let mut cursor = store.cursor("mail").open().unwrap();
    let again = cursor.pull_batch(10, Duration::ZERO).unwrap();
    assert_eq!(again.iter().map(|event| event.position().get()).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_running_reactor_stops_when_it_is_asked_and_goes_on_when_it_is_run_again() {
    let dir = Scratch::new();
    let store = with_events(&dir, 6);
    let stop = Stop::new();
    let asked = stop.clone();
    let mut reactor = Reactor::new(store.follow().open().unwrap(), |event: &Delivery<'_>| {
        if event.position().get() == 2 {
            asked.stop();
        }
        Ok::<(), Infallible>(())
    })
    .batch(3);

    assert!(!stop.is_stopped());
    assert_eq!(reactor.run(&stop).unwrap(), 3, "the batch in hand is finished, and no other begun");
    assert!(stop.is_stopped());
    assert_eq!(reactor.run(&stop).unwrap(), 0, "asked before it began");
    store.close().unwrap();
    assert_eq!(reactor.run(&Stop::new()).unwrap(), 3, "a closed store is handled to its end");
}

#[test]
fn a_batch_that_could_not_be_settled_because_the_store_was_closed_is_told_and_comes_again() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let cursor = store.cursor("mail").open().unwrap();
    store.close().unwrap();
    let mut seen = 0;
    let mut reactor = Reactor::new(cursor, |_: &Delivery<'_>| {
        seen += 1;
        Ok::<(), Infallible>(())
    });

    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Closed)));
    assert_eq!(reactor.run(&Stop::new()).unwrap(), 0);

    drop(reactor);
    assert_eq!(seen, 3);
    let again = dir.open().cursor("mail").open().unwrap().pull_batch(10, Duration::ZERO).unwrap();
    assert_eq!(again.len(), 3);
}

#[test]
fn a_reactor_that_waits_for_events_can_be_stopped_from_another_thread() {
    let dir = Scratch::new();
    let store = with_events(&dir, 1);
    let stop = Stop::new();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|threads| {
        let running = threads.spawn(|| {
            let mut reactor =
                Reactor::new(store.follow().open().unwrap(), |event: &Delivery<'_>| tell.send(event.position().get()));
            reactor.run(&stop)
        });
        assert_eq!(told.recv(), Ok(1));
        store.append("cart-1", NewEvent::new("item added", "")).unwrap();
        assert_eq!(told.recv(), Ok(2));
        stop.stop();
        assert_eq!(running.join().unwrap().unwrap(), 2);
    });
}

#[test]
fn the_first_error_of_a_handler_ends_a_run() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let mut reactor =
        Reactor::new(
            store.cursor("mail").open().unwrap(),
            |event: &Delivery<'_>| {
                if event.position().get() < 3 { Ok(()) } else { Err("no") }
            },
        )
        .batch(1);
    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Handler { position, .. }) if position.get() == 3));
    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Handler { position, .. }) if position.get() == 3));
}
