//! The loop between a canal and a handler: turns, runs, order.

mod breaker;
mod failures;
mod once;
mod threads;

use std::sync::mpsc;
use std::time::Duration;

use towpath::{Canal, Delivery, Error, Failure, Group, NewEvent, Notice, Order, Position, Reactor, Retry, Stop, Store};

use crate::support::{Scratch, files};

/// What handlers of these tests say when all is well.
const FINE: Result<(), Failure> = Ok(());

fn with_events(dir: &Scratch, events: u64) -> Store {
    let store = dir.open();
    for number in 1..=events {
        store.append("cart-1", NewEvent::new("item added", &number.to_le_bytes())).unwrap();
    }
    store
}

/// A group whose failed deliveries come again at once, three times at most.
fn group(store: &Store) -> Group {
    store.group("billing").order(Order::Stream).retry(at_once(3)).open().unwrap()
}

fn at_once(attempts: u32) -> Retry {
    Retry::fixed(Duration::ZERO).attempts(attempts)
}

/// Why each of the group's dead letters is one, with its position.
fn letters(store: &Store) -> Vec<(u64, String)> {
    let letters = store.dead_letters("billing").unwrap().iter().unwrap().map(|letter| letter.unwrap());
    letters.map(|letter| (letter.source_position().get(), letter.why().to_owned())).collect()
}

/// A watcher that writes down what it is told, a line each.
fn noting(say: &mpsc::Sender<String>) -> impl FnMut(Notice<'_>) + Send + 'static {
    let say = say.clone();
    move |notice| {
        let line = match notice {
            Notice::Failed { delivery, attempt, why, panicked } => {
                let what = if panicked { "panicked" } else { "failed" };
                format!("{} {what} at attempt {attempt}: {why}", delivery.position())
            }
            Notice::Rejected { delivery, reason, why } => format!("{} {reason}: {why}", delivery.position()),
            Notice::Late { position, .. } => format!("{position} late"),
            Notice::Lost { position } => format!("{position} lost"),
            Notice::CircuitOpened { .. } => "opened".to_owned(),
            Notice::CircuitClosed => "closed".to_owned(),
            Notice::Damaged(damage) => format!("damaged from {}", damage.position),
            Notice::Ended(error) => format!("ended: {error}"),
            Notice::HandleDropped => "dropped".to_owned(),
            other => format!("{other:?}"),
        };
        let _nobody_listens = say.send(line);
    }
}

#[test]
fn a_turn_handles_one_batch_and_settles_it() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    let mut seen = Vec::new();
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        FINE
    })
    .batch(3);

    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 3);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 2);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().pulled, 0);

    assert_eq!(reactor.into_canal().checkpoint(), Position::new(6));
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[test]
fn a_closed_store_is_handled_to_its_end_and_then_a_turn_says_so() {
    let dir = Scratch::new();
    let store = with_events(&dir, 2);
    let mut reactor = Reactor::new(store.follow().open().unwrap(), |_: &Delivery<'_>| FINE);
    store.close().unwrap();
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 2);
    assert!(matches!(reactor.turn(Duration::ZERO), Err(Error::Closed)));
}

#[test]
fn what_a_handler_refuses_comes_again_and_what_came_before_it_does_not() {
    let dir = Scratch::new();
    let store = with_events(&dir, 5);
    let (mut seen, mut refused) = (Vec::new(), false);
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        let refuse = event.position().get() == 3 && !std::mem::replace(&mut refused, true);
        if refuse { Err(Failure::retry("out of paper")) } else { Ok(()) }
    });

    match reactor.turn(Duration::ZERO) {
        Err(Error::Handler { position, why }) => assert_eq!((position.get(), &why[..]), (3, "out of paper")),
        other => panic!("{other:?}"),
    }
    store.sync().unwrap();
    assert_eq!(store.consumers().unwrap()[0].position, Position::new(3));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 3);

    drop(reactor);
    // The control: neither `1, 2, 3, 4, 5` (given up) nor `1, 2, 3, 1, 2, …` (settled nothing).
    assert_eq!(seen, [1, 2, 3, 3, 4, 5]);
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
        FINE
    })
    .batch(3);

    assert!(!stop.is_stopped());
    assert_eq!(reactor.run(&stop).unwrap().done, 3, "the batch in hand is finished, and no other begun");
    assert!(stop.is_stopped());
    assert_eq!(reactor.run(&stop).unwrap().done, 0, "asked before it began");
    store.close().unwrap();
    assert_eq!(reactor.run(&Stop::new()).unwrap().done, 3, "a closed store is handled to its end");
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
        FINE
    });

    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Closed)));
    assert_eq!(reactor.run(&Stop::new()).unwrap().done, 0);

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
        assert_eq!(running.join().unwrap().unwrap().done, 2);
    });
}

#[test]
fn the_first_error_of_a_handler_ends_a_run() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        if event.position().get() < 3 { Ok(()) } else { Err(Failure::retry("no")) }
    })
    .batch(1);
    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Handler { position, .. }) if position.get() == 3));
    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Handler { position, .. }) if position.get() == 3));
}

/// R6 for reactors.
#[test]
fn damage_is_told_and_passed_over_when_somebody_watches_and_is_an_error_otherwise() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3000);
    store.close().unwrap();
    let sealed = files::segments(&dir.store_path()).remove(0);
    files::flip(&sealed, files::frame_of(&sealed, 2).offset + 50, 3);
    let store = dir.open();

    let (say, hears) = mpsc::channel();
    let mut watched = Reactor::new(store.follow().open().unwrap(), |_: &Delivery<'_>| FINE).watch(noting(&say));
    let mut unwatched = Reactor::new(store.follow().open().unwrap(), |_: &Delivery<'_>| FINE);
    let stop = Stop::new();
    assert!(matches!(unwatched.run(&stop), Err(Error::Damaged(damage)) if damage.position == Position::new(2)));
    store.close().unwrap();

    assert_eq!(unwatched.run(&stop).unwrap().done, 2998, "it goes on behind the damage");
    let total = watched.run(&stop).unwrap();
    assert_eq!((total.done, total.damaged), (2999, 1));
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["damaged from 2"]);
}
