//! X3: when the rate of failures trips, nothing is pulled for a while, instead of making dead letters of everything.

use std::cell::Cell;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use towpath::{Breaker, Circuit, Delivery, Failure, ManualClock, NewEvent, Options, Reactor, Reason, Store, Timestamp};

use super::{at_once, letters, noting};
use crate::support::Scratch;

fn second(number: u64) -> Timestamp {
    Timestamp::from_nanos(number * 1_000_000_000)
}

fn breaker() -> Breaker {
    Breaker::at_percent(50).of_last(10).at_least(4).pause(Duration::from_secs(30))
}

fn store(dir: &Scratch, clock: &Arc<ManualClock>, events: u64) -> Store {
    let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
    (0..events).for_each(|number| {
        store.append(&format!("s-{number}"), NewEvent::new("happened", "")).unwrap();
    });
    store
}

#[test]
fn an_outage_opens_the_circuit_and_costs_few_attempts_and_afterwards_everything_is_handled() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
    let store = store(&dir, &clock, 100);
    let group = store.group("billing").retry(at_once(3)).open().unwrap();
    let (outage, calls, (say, hears)) = (Cell::new(true), Cell::new(0), mpsc::channel());
    let mut reactor = Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| {
        calls.set(calls.get() + 1);
        if outage.get() { Err(Failure::retry("nobody answers")) } else { Ok(()) }
    })
    .clock(clock.clone())
    .breaker(breaker())
    .watch(noting(&say));

    let turn = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((turn.pulled, turn.retried, turn.released), (100, 4, 96));
    assert_eq!(turn.circuit, Circuit::Open { until: second(130) });
    for _ in 0..1000 {
        assert_eq!(reactor.turn(Duration::ZERO).unwrap().pulled, 0);
    }
    assert_eq!(calls.get(), 4, "nothing is tried during the pause");

    clock.set(second(130));
    let probe = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((probe.pulled, probe.retried, probe.circuit), (1, 1, Circuit::Open { until: second(160) }));
    outage.set(false);
    clock.set(second(160));
    let probe = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((probe.pulled, probe.done, probe.circuit), (1, 1, Circuit::Closed));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 99);
    drop(reactor);

    assert_eq!(letters(&store), []);
    let told: Vec<String> = hears.try_iter().filter(|line| !line.contains("nobody answers")).collect();
    assert_eq!(told, ["opened", "opened", "closed"]);
}

/// The control: without a breaker the same outage makes a dead letter of everything.
#[test]
fn without_a_breaker_an_outage_makes_dead_letters() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
    let store = store(&dir, &clock, 20);
    let group = store.group("billing").retry(at_once(3)).open().unwrap();
    let mut reactor =
        Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| Err::<(), _>(Failure::retry("nobody answers")));
    while reactor.turn(Duration::ZERO).unwrap().pulled > 0 {}
    drop(reactor);
    assert_eq!(letters(&store).len(), 20);
}

/// One bad event among good ones is no outage.
#[test]
fn a_low_rate_of_failures_leaves_the_circuit_closed() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
    let store = store(&dir, &clock, 100);
    let group = store.group("billing").retry(at_once(1)).open().unwrap();
    let mut reactor = Reactor::new(group.member().unwrap(), |event: &Delivery<'_>| {
        if event.position().get().is_multiple_of(5) { Err(Failure::retry("bad")) } else { Ok(()) }
    })
    .clock(clock.clone())
    .breaker(breaker());
    let turn = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((turn.done, turn.retried, turn.circuit), (80, 20, Circuit::Closed));
}

#[test]
fn a_batch_that_fails_as_a_whole_opens_the_circuit_before_it_is_split_to_the_last_one() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
    let store = store(&dir, &clock, 64);
    let group = store.group("billing").retry(at_once(3)).open().unwrap();
    let mut reactor =
        Reactor::batches(group.member().unwrap(), |_: &[Delivery<'_>]| Err::<(), _>(Failure::retry("nobody answers")))
            .clock(clock.clone())
            .breaker(breaker());
    let turn = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((turn.retried, turn.released), (4, 60));
}

#[test]
fn the_circuit_over_a_cursor_holds_its_place() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
    let store = store(&dir, &clock, 5);
    let outage = Cell::new(true);
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |_: &Delivery<'_>| {
        if outage.get() { Err(Failure::retry("nobody answers")) } else { Ok(()) }
    })
    .clock(clock.clone())
    .retry(at_once(100))
    .breaker(breaker());
    let retried: u64 = (0..50).map(|_| reactor.turn(Duration::ZERO).unwrap().retried).sum();
    assert_eq!(retried, 4);
    outage.set(false);
    clock.set(second(130));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 1);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 4);
}

/// An event that is refused for good says nothing about how things go: the others would be held up by it.
#[test]
fn rejections_leave_the_circuit_closed() {
    for rejects in [true, false] {
        let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(second(100))));
        let store = store(&dir, &clock, 20);
        let group = store.group("billing").retry(at_once(3)).open().unwrap();
        let mut reactor = Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| {
            Err::<(), _>(if rejects { Failure::reject(Reason::Rejected, "no") } else { Failure::retry("no") })
        })
        .clock(clock.clone())
        .breaker(breaker());
        let turn = reactor.turn(Duration::ZERO).unwrap();
        // The control: failed attempts open it.
        assert_eq!((turn.circuit == Circuit::Closed, turn.rejected), if rejects { (true, 20) } else { (false, 0) });
    }
}
