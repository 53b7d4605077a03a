//! S1–S4, S8: forwarders and the sinks that need nothing from outside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use towpath::{
    Breaker, Canal, Cascade, Circuit, Commit, Cursor, Delivery, Durability, Error, Fall, Forwarder, ManualClock,
    MemorySink, OnRefusal, Options, Position, Query, Refusal, Retry, Sink, Stop, Store, StreamSink, Timestamp,
};

use crate::support::{Scratch, cases, files, noted, texts};

const SECOND: Duration = Duration::from_secs(1);

/// A store with so many events, numbered from 1 on.
fn with_events(scratch: &Scratch, events: u64) -> Store {
    let store = scratch.open();
    append(&store, 1..=events);
    store
}

fn append(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        store.append("s", noted(&number.to_string())).unwrap();
    }
}

fn cursor(store: &Store, name: &str) -> Cursor {
    store.cursor(name).open().unwrap()
}

/// Waits of nothing, so that every turn asks the sink.
fn eager<C: Canal, S: Sink>(canal: C, sink: S) -> Forwarder<C, S> {
    let never = Breaker::at_percent(100).of_last(1000).at_least(1000);
    let forwarder = Forwarder::new(canal, sink).retry(Retry::fixed(Duration::ZERO)).breaker(never);
    forwarder.on_refusal(OnRefusal::PassOver)
}

/// Turns until nothing is left; how many there were.
fn drain(forwarder: &mut Forwarder<Cursor, impl Sink>) -> usize {
    for turns in 1..10_000 {
        let done = forwarder.turn(Duration::ZERO).unwrap();
        forwarder.flush().unwrap();
        if done == towpath::Forwarded::default() {
            return turns;
        }
    }
    panic!("it never comes to an end");
}

fn positions(sink: &MemorySink) -> Vec<u64> {
    sink.flushed().iter().map(|record| record.position().get()).collect()
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

fn lag(store: &Store, name: &str) -> u64 {
    store.consumers().unwrap().into_iter().find(|consumer| consumer.name == name).map_or(store.head().get(), |c| c.lag)
}

/// S2.
#[test]
fn a_sink_that_is_down_does_not_stop_another_and_catches_up() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 10);
    let (well, ill) = (MemorySink::new("well"), MemorySink::new("ill"));
    ill.fail_writes(u64::MAX, "it is down");
    let mut to_well = eager(cursor(&store, "to well"), well.clone());
    let mut to_ill = eager(cursor(&store, "to ill"), ill.clone());

    for last in [10, 20, 30] {
        append(&store, store.head().get() + 1..=last);
        drain(&mut to_well);
        let done = to_ill.turn(Duration::ZERO).unwrap();
        assert_eq!((done.forwarded, done.released), (0, last as usize));
        assert_eq!((positions(&well), positions(&ill)), (upto(last), vec![]));
        assert!(lag(&store, "to well") <= 1);
        assert!(lag(&store, "to ill") >= last, "its lag is visible");
    }
    let counters = to_ill.watch().counters();
    assert_eq!((counters.forwarded, counters.released), (0, 60));
    assert_eq!(counters.last_error.as_deref(), Some("ill: it is down"));
    assert!(counters.down_since.is_some());

    ill.fail_writes(0, "");
    drain(&mut to_ill);
    assert_eq!(positions(&ill), upto(30));
    let counters = to_ill.watch().counters();
    assert_eq!((counters.forwarded, counters.down_since), (30, None));
    assert!(counters.last_error.is_some(), "what happened stays to be seen");
}

/// S2: one that does not even answer holds up its own thread only.
#[test]
fn a_sink_that_hangs_does_not_stop_another() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let (well, stuck) = (MemorySink::new("well"), MemorySink::new("stuck"));
    stuck.hold();
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let mut to_stuck = eager(cursor(&store, "to stuck"), stuck.clone());
        let stop = &stop;
        let running = scope.spawn(move || to_stuck.run(stop).unwrap());
        stuck.await_held();
        drain(&mut eager(cursor(&store, "to well"), well.clone()));
        assert_eq!((positions(&well), positions(&stuck)), (upto(5), vec![]));
        stop.stop();
        stuck.let_go();
        assert_eq!(running.join().unwrap(), 5);
    });
    assert_eq!(positions(&stuck), upto(5));
}

/// S2: running ends when the store is closed, and hands on what is there first (L10).
#[test]
fn running_ends_with_the_store_after_everything_in_it_was_forwarded() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 300);
    let sink = MemorySink::new("memory");
    let mut forwarder = Forwarder::new(cursor(&store, "f"), sink.clone()).batch(7);
    let (send, done) = channel();
    let running = std::thread::spawn(move || send.send(forwarder.run(&Stop::new())).unwrap());
    store.close().unwrap();
    // Whether the last settlement still found the store open is a race that may go either way.
    let ended = done.recv().unwrap();
    assert!(matches!(ended, Ok(_) | Err(Error::Closed)), "{ended:?}");
    running.join().unwrap();
    let seen = positions(&sink);
    assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");
}

/// A sink that says Ok to a flush and has not kept anything: the control for what follows.
struct Liar(MemorySink, bool);

impl Sink for Liar {
    fn name(&self) -> &str {
        "liar"
    }
    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        self.0.write(records)
    }
    fn flush(&mut self) -> Result<(), Refusal> {
        let kept = self.0.flush();
        if self.1 { Ok(()) } else { kept }
    }
}

/// S3: what was written and not flushed is not settled.
#[test]
fn nothing_is_settled_that_the_sink_has_not_flushed() {
    let delivered = |lies: bool| {
        let scratch = Scratch::new();
        let store = with_events(&scratch, 6);
        let sink = MemorySink::new("memory");
        let mut forwarder = eager(cursor(&store, "f"), Liar(sink.clone(), lies)).batch(2);
        sink.fail_flushes(3, "no disk");
        for _ in 0..3 {
            forwarder.turn(Duration::ZERO).unwrap();
        }
        forwarder.flush().unwrap();
        let settled = store.head().get() - lag(&store, "f").min(6);
        // The process ends here, and another one goes on.
        drop(forwarder);
        drain(&mut eager(cursor(&store, "f"), sink.clone()));
        (settled, positions(&sink))
    };
    assert_eq!(delivered(false), (0, upto(6)));
    assert_ne!(delivered(true).1, upto(6), "control: a flush that lies loses records");
}

/// A sink that looks at the store's files at the worst moment: all is durable in the sink, and nothing settled yet.
struct Witness<'a> {
    sink: MemorySink,
    scratch: &'a Scratch,
    copies: Vec<(Scratch, u64)>,
}

impl Sink for Witness<'_> {
    fn name(&self) -> &str {
        "witness"
    }
    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        self.sink.write(records)
    }
    fn flush(&mut self) -> Result<(), Refusal> {
        self.copies.push((self.scratch.as_if_killed(), self.sink.flushed().len() as u64));
        self.sink.flush()?;
        self.copies.push((self.scratch.as_if_killed(), self.sink.flushed().len() as u64));
        Ok(())
    }
}

/// S3: killed before a flush, and between a flush and its settlement.
#[test]
fn a_kill_around_a_flush_repeats_what_was_not_settled_and_loses_nothing() {
    const BATCH: u64 = 4;
    let scratch = Scratch::new();
    let store = with_events(&scratch, 20);
    let witness = Witness { sink: MemorySink::new("memory"), scratch: &scratch, copies: Vec::new() };
    let mut forwarder = eager(cursor(&store, "f"), witness).batch(BATCH as usize);
    drain(&mut forwarder);
    let copies = forwarder.into_parts().1.copies;
    assert_eq!(copies.len(), 10);
    for (number, (copy, flushed)) in copies.into_iter().enumerate() {
        let store = copy.open();
        let sink = MemorySink::new("memory");
        drain(&mut eager(cursor(&store, "f"), sink.clone()));
        // Every other copy was made behind the flush: what it made durable comes again then, and nothing else does.
        let repeated = if number % 2 == 1 { BATCH } else { 0 };
        assert_eq!(positions(&sink), (flushed - repeated + 1..=20).collect::<Vec<_>>());
    }
}

/// S4, S9: refused for good is counted with its reason, and passed over.
#[test]
fn refused_records_are_counted_by_reason_and_passed_over() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 12);
    let sink = MemorySink::new("memory");
    sink.decide(|record| match record.position().get() {
        at if at % 3 == 0 => Err(Refusal::refused(0, "divisible by three")),
        5 => Err(Refusal::refused(0, "it is five")),
        _ => Ok(()),
    });
    let mut forwarder = eager(cursor(&store, "f"), sink.clone());
    let done = forwarder.turn(Duration::ZERO).unwrap();
    assert_eq!((done.forwarded, done.refused, done.waits), (7, 5, None));
    assert_eq!(positions(&sink), [1, 2, 4, 7, 8, 10, 11]);
    let refused = forwarder.watch().counters().refused;
    assert_eq!(refused.iter().collect::<Vec<_>>(), [("divisible by three", 4), ("it is five", 1)]);
    drop(forwarder);
    assert!(cursor(&store, "f").pull_batch(1, Duration::ZERO).unwrap().is_empty(), "they do not come again");
}

#[test]
fn a_refusal_may_stop_the_forwarder_before_the_record() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let sink = MemorySink::new("memory");
    sink.decide(|record| match record.position().get() {
        3 => Err(Refusal::refused(0, "it is three")),
        _ => Ok(()),
    });
    let mut forwarder = eager(cursor(&store, "f"), sink.clone()).on_refusal(OnRefusal::Stop);
    for _ in 0..2 {
        let error = forwarder.turn(Duration::ZERO).unwrap_err();
        assert!(
            matches!(&error, Error::Handler { position, why } if position.get() == 3 && why == "memory: it is three"),
            "{error:?}"
        );
        assert_eq!(positions(&sink), [1, 2]);
    }
    assert!(forwarder.watch().counters().refused.is_empty());
    sink.decide(|_| Ok(()));
    drain(&mut forwarder);
    assert_eq!(positions(&sink), upto(5));
}

/// D3: where the canal has dead letters, a refused record can become one.
#[test]
fn a_refused_record_becomes_a_dead_letter_where_the_canal_has_them() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let group = store.group("g").open().unwrap();
    let sink = MemorySink::new("memory");
    let two = |record: &Delivery<'_>| match record.position().get() {
        2 => Err(Refusal::refused(0, "it is two")),
        _ => Ok(()),
    };
    sink.decide(two);
    let mut forwarder = eager(group.member().unwrap(), sink.clone()).on_refusal(OnRefusal::Reject);
    let done = forwarder.turn(Duration::ZERO).unwrap();
    assert_eq!((done.forwarded, done.refused), (4, 1));
    assert_eq!(positions(&sink), [1, 3, 4, 5]);
    forwarder.into_parts().0.flush().unwrap();
    let dead = store.read(Query::new().stream("$dead/g")).map(|event| event.unwrap().payload().to_vec());
    assert_eq!(dead.count(), 1);

    // The control: a cursor has no dead letters, and says so instead of passing it over.
    let mut forwarder = eager(cursor(&store, "f"), sink).on_refusal(OnRefusal::Reject);
    assert!(matches!(forwarder.turn(Duration::ZERO), Err(Error::NotPromised { .. })));
}

/// S2 over a group: what the sink did not take is released, uses up no attempt, and comes again.
#[test]
fn a_group_keeps_what_a_sink_that_is_down_did_not_take() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 9);
    let group = store.group("g").open().unwrap();
    let sink = MemorySink::new("memory");
    sink.fail_writes(20, "it is down");
    sink.fail_flushes(5, "no disk");
    let mut forwarder = eager(group.member().unwrap(), sink.clone()).batch(4);
    for _ in 0..40 {
        forwarder.turn(Duration::ZERO).unwrap();
    }
    let mut seen = positions(&sink);
    seen.sort_unstable();
    assert_eq!(seen, upto(9));
    assert!(sink.flushed().iter().all(|record| record.attempt() == 1), "no attempt was used up");
    forwarder.into_parts().0.flush().unwrap();
    assert_eq!(store.consumers().unwrap()[0].dead, 0);
}

/// S4.
#[test]
fn a_cascade_hands_on_only_what_was_refused_and_counts_each_fall() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 10);
    let (first, second, third) = (MemorySink::new("first"), MemorySink::new("second"), MemorySink::new("third"));
    first.decide(|record| if record.position().get() % 2 == 0 { Err(Refusal::refused(0, "even")) } else { Ok(()) });
    second.decide(|record| match record.position().get() {
        4 => Err(Refusal::refused(0, "four")),
        8 => Err(Refusal::refused(0, "eight")),
        _ => Ok(()),
    });
    third.decide(|record| if record.position().get() == 8 { Err(Refusal::refused(0, "nobody's")) } else { Ok(()) });
    let cascade = Cascade::new(first.clone()).then(second.clone()).then(third.clone());
    assert_eq!(cascade.name(), "first, then second, then third");
    let mut forwarder = eager(cursor(&store, "f"), cascade);
    let done = forwarder.turn(Duration::ZERO).unwrap();
    assert_eq!((done.forwarded, done.refused), (9, 1));
    assert_eq!(positions(&first), [1, 3, 5, 7, 9]);
    assert_eq!(positions(&second), [2, 6, 10]);
    assert_eq!(positions(&third), [4]);
    let counters = forwarder.watch().counters();
    assert_eq!(counters.refused.iter().collect::<Vec<_>>(), [("nobody's", 1)]);
    assert_eq!(
        counters.sink.fallen.iter().collect::<Vec<_>>(),
        [("first -> second: even", 4), ("second -> third: four", 1)]
    );
}

/// S4: by default a sink that is down holds everything up; with `Fall::Unavailable` the next one takes over.
#[test]
fn a_cascade_falls_from_a_sink_that_is_down_only_where_that_was_chosen() {
    for (fall, flushes) in [(Fall::Refused, false), (Fall::Unavailable, false), (Fall::Unavailable, true)] {
        let scratch = Scratch::new();
        let store = with_events(&scratch, 6);
        let (first, second) = (MemorySink::new("first"), MemorySink::new("second"));
        match flushes {
            false => first.fail_writes(1, "it is down"),
            true => first.fail_flushes(1, "it is down"),
        }
        let cascade = Cascade::new(first.clone()).then(second.clone()).fall(fall);
        let mut forwarder = eager(cursor(&store, "f"), cascade).batch(3);
        drain(&mut forwarder);
        let fallen = forwarder.watch().counters().sink.fallen;
        if fall == Fall::Refused {
            assert_eq!((positions(&first), positions(&second)), (upto(6), vec![]), "control");
            assert!(fallen.is_empty());
        } else {
            assert_eq!((positions(&first), positions(&second)), (vec![4, 5, 6], vec![1, 2, 3]), "{flushes}");
            assert_eq!(fallen.iter().collect::<Vec<_>>(), [("first -> second: it is down", 3)]);
        }
    }
}

/// S8, on a clock that the test moves.
#[test]
fn a_circuit_opens_probes_with_one_record_and_closes() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 10);
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(0)));
    let at = |seconds: u64| clock.set(Timestamp::from_nanos(seconds * 1_000_000_000));
    let sink = MemorySink::new("memory");
    let mut forwarder = Forwarder::new(cursor(&store, "f"), sink.clone())
        .retry(Retry::fixed(SECOND))
        .breaker(Breaker::at_percent(100).of_last(3).at_least(3).pause(60 * SECOND))
        .clock(clock.clone());
    let watch = forwarder.watch();

    sink.fail_writes(4, "it is down");
    for seconds in [1, 2, 3] {
        assert_eq!(watch.counters().circuit, Circuit::Closed);
        at(seconds);
        assert!(forwarder.turn(Duration::ZERO).unwrap().waits.is_some());
        // Asked again too early, it does not ask the sink.
        assert!(forwarder.turn(Duration::ZERO).unwrap().waits.is_some());
        assert_eq!(sink.writes(), seconds);
    }
    let until = Timestamp::from_nanos(63_000_000_000);
    assert_eq!(watch.counters().circuit, Circuit::Open { until }, "it says so");
    at(62);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().waits, Some(SECOND));
    assert_eq!(sink.writes(), 3);

    // The probe fails: another pause. It is one record.
    at(63);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().released, 1);
    assert_eq!(sink.writes(), 4);
    at(122);
    assert!(forwarder.turn(Duration::ZERO).unwrap().waits.is_some());
    assert_eq!(sink.writes(), 4);

    // The next one succeeds, and everything goes again.
    at(123);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().forwarded, 1);
    assert_eq!(watch.counters().circuit, Circuit::Closed);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().forwarded, 9);
    assert_eq!(positions(&sink), upto(10));
}

/// S6, S8: what a sink says about when to come again is kept.
#[test]
fn a_sink_is_not_asked_before_the_time_that_it_has_named() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 3);
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(0)));
    let at = |seconds: u64| clock.set(Timestamp::from_nanos(seconds * 1_000_000_000));
    let sink = MemorySink::new("memory");
    let once = AtomicBool::new(true);
    sink.decide(move |_| match once.swap(false, Ordering::Relaxed) {
        true => Err(Refusal::again(0, "busy").after(10 * SECOND)),
        false => Ok(()),
    });
    at(1000);
    let canal = cursor(&store, "f");
    let mut forwarder = Forwarder::new(canal, sink.clone()).retry(Retry::fixed(SECOND)).clock(clock.clone());
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().waits, Some(10 * SECOND));
    at(1009);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().waits, Some(SECOND));
    assert_eq!(sink.writes(), 1);
    at(1010);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().forwarded, 3);
}

/// A sink that asks for everything again at once, for ever, is waited for like any other.
#[test]
fn asking_again_at_once_without_getting_further_is_a_failure() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 3);
    let sink = MemorySink::new("memory");
    sink.decide(|_| Err(Refusal::again(0, "once more").after(Duration::ZERO)));
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(0)));
    let mut forwarder = Forwarder::new(cursor(&store, "f"), sink.clone()).retry(Retry::fixed(SECOND)).clock(clock);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().waits, None);
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().waits, Some(SECOND));
    forwarder.turn(Duration::ZERO).unwrap();
    assert_eq!(sink.writes(), 2);
}

#[test]
fn a_sink_that_panics_has_failed_and_is_asked_again() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let sink = MemorySink::new("memory");
    let once = AtomicBool::new(true);
    sink.decide(move |record| {
        assert!(record.position().get() != 3 || !once.swap(false, Ordering::Relaxed), "three");
        Ok(())
    });
    let mut forwarder = eager(cursor(&store, "f"), sink.clone());
    drain(&mut forwarder);
    let mut seen = positions(&sink);
    seen.dedup();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, upto(5));
    assert_eq!(forwarder.watch().counters().last_error.as_deref(), Some("memory: it panicked: three"));
}

/// L4, S2: a consumer that is moved while its records are on their way goes on where it was moved to.
#[test]
fn a_settlement_that_comes_too_late_is_counted_and_its_records_come_again() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let sink = MemorySink::new("memory");
    let (once, moved) = (AtomicBool::new(true), store.clone());
    sink.decide(move |record| {
        if record.position().get() == 4 && once.swap(false, Ordering::Relaxed) {
            moved.seek("f", Position::new(2)).unwrap();
        }
        Ok(())
    });
    let mut forwarder = eager(cursor(&store, "f"), sink.clone());
    drain(&mut forwarder);
    assert_eq!(positions(&sink), [1, 2, 3, 4, 5, 2, 3, 4, 5]);
    assert_eq!(forwarder.watch().counters().late, 1);
}

/// S9: damage is told and counted, and what lies behind it arrives.
#[test]
fn damage_is_counted_with_its_reason_and_passed_over() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 4000);
    store.close().unwrap();
    let segment = &files::segments(&scratch.store_path())[0];
    let frame = files::frame_of(segment, 7);
    files::flip(segment, frame.offset + 45, 1);
    let store = scratch.open();
    let sink = MemorySink::new("memory");
    let mut forwarder = eager(cursor(&store, "f"), sink.clone());
    drain(&mut forwarder);
    assert_eq!(positions(&sink), upto(4000).into_iter().filter(|at| *at != 7).collect::<Vec<_>>());
    assert_eq!(forwarder.watch().counters().lost.total(), 1);
}

/// S1: each copy once, whatever is repeated.
#[test]
fn a_stream_sink_copies_each_record_once_though_it_comes_again() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let first = store.append("s", noted("1").tag("t").header("h", "v").correlation("c")).unwrap();
    append(&store, 2..=50);
    let forward = || eager(cursor(&store, "f"), StreamSink::new(&store, "copies").unwrap()).batch(8);
    drain(&mut forward());
    store.seek("f", Position::new(1)).unwrap();
    let mut again = forward();
    drain(&mut again);
    // What it wrote it reads, and does not copy again.
    assert_eq!(again.watch().counters().refused.get("it stands in the target stream already"), 50);
    let copies = || texts(store.read(Query::new().stream("copies")));
    assert_eq!(copies(), (1..=50).map(|number| number.to_string()).collect::<Vec<_>>());
    let copy = store.read(Query::new().stream("copies")).next().unwrap().unwrap();
    assert_eq!((copy.tags().collect::<Vec<_>>(), copy.headers().collect::<Vec<_>>()), (vec!["t"], vec![("h", "v")]));
    assert_eq!((copy.correlation(), copy.occurred()), (Some("c"), Some(first.time())));
    let source = store.event_by_id(&copy.causation().unwrap()).unwrap().unwrap();
    assert_eq!(source.position(), first.first());

    // The control: under another name it is another consumer, and its copies are others.
    drain(&mut eager(cursor(&store, "g"), StreamSink::new(&store, "copies").unwrap()));
    assert_eq!(copies().len(), 100);
}

/// S9: a copy that the target will never take is told, with how many before it are durable.
#[test]
fn a_copy_that_the_target_refuses_is_told_when_it_is_flushed() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 5);
    let other = Scratch::new();
    let target = other.open_with(Durability::Sync);
    // Somebody has used the key of the third.
    let key = cursor(&store, "f").pull_batch(3, Duration::ZERO).unwrap().get(2).unwrap().idempotency_key();
    target.commit(Commit::new().event("other", noted("x")).key(&key)).unwrap();

    let mut sink = StreamSink::new(&target, "copies").unwrap();
    let mut canal = cursor(&store, "f");
    let batch = canal.pull_batch(5, Duration::ZERO).unwrap();
    let records: Vec<Delivery<'_>> = batch.iter().collect();
    sink.write(&records).unwrap();
    let refusal = sink.flush().unwrap_err();
    assert_eq!((refusal.taken, refusal.is_final()), (2, true), "{refusal}");
    // As a forwarder goes on: without the refused one. What is behind it may have been written already.
    sink.write(&records[3..]).unwrap();
    sink.flush().unwrap();
    assert_eq!(texts(target.read(Query::new().stream("copies"))), ["1", "2", "4", "5"]);
    assert_eq!(target.durable(), target.head());
}

/// S3: durable means synced, whatever the store's own durability.
#[test]
fn a_flush_of_a_stream_sink_syncs_the_target() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 3);
    let other = Scratch::new();
    let target = Options::new().durability(Durability::Os).open(other.store_path()).unwrap();
    target.append("s", noted("x")).unwrap();
    assert!(target.durable() < target.head(), "control: appending alone syncs nothing here");
    drain(&mut eager(cursor(&store, "f"), StreamSink::new(&target, "copies").unwrap()));
    assert_eq!((target.durable(), target.head().get()), (target.head(), 4));
}

#[test]
fn a_stream_sink_whose_store_is_gone_holds_up_its_forwarder_and_loses_nothing() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 3);
    let other = Scratch::new();
    let target = other.open();
    let mut forwarder = eager(cursor(&store, "f"), StreamSink::new(&target, "copies").unwrap());
    target.close().unwrap();
    assert_eq!(forwarder.turn(Duration::ZERO).unwrap().released, 3);
    drop(forwarder);
    let target = other.open();
    drain(&mut eager(cursor(&store, "f"), StreamSink::new(&target, "copies").unwrap()));
    assert_eq!(texts(target.read(Query::new().stream("copies"))), ["1", "2", "3"]);
}

/// Every sink can be chosen at run time.
#[test]
fn a_boxed_sink_is_a_sink() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 2);
    let sink = MemorySink::new("memory");
    let boxed: Box<dyn Sink> = Box::new(Cascade::new(Box::new(sink.clone()) as Box<dyn Sink>));
    let mut forwarder = eager(cursor(&store, "f"), boxed);
    drain(&mut forwarder);
    assert_eq!(positions(&sink), [1, 2]);
    assert!(format!("{forwarder:?}").contains("memory"));
}

/// What a scripted sink does at one of its calls.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take,
    /// Takes so many of those that are written, or has so many durable of those that are flushed.
    Again(usize),
    Refuse(usize),
    Panic,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    durable: Vec<u64>,
    written: Vec<u64>,
    refused: Vec<u64>,
}

struct Scripted {
    acts: Vec<Act>,
    kept: Arc<Mutex<Kept>>,
    /// Makes the sink break its promise: a failed flush keeps one record fewer than it says.
    forgets: bool,
}

impl Scripted {
    fn act(&mut self) -> Act {
        self.acts.pop().unwrap_or(Act::Take)
    }
}

impl Sink for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let act = self.act();
        let kept = &mut *self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (taken, refusal) = match act {
            Act::Take => (records.len(), None),
            Act::Again(most) => (most % records.len(), Some(Refusal::again(most % records.len(), "again"))),
            Act::Refuse(most) => (most % records.len(), Some(Refusal::refused(most % records.len(), "no"))),
            Act::Panic => panic!("as the script has it"),
        };
        kept.written.extend(records[..taken].iter().map(|record| record.position().get()));
        if let Act::Refuse(_) = act {
            kept.refused.push(records[taken].position().get());
        }
        refusal.map_or(Ok(()), Err)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let act = self.act();
        let kept = &mut *self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let written = std::mem::take(&mut kept.written);
        if written.is_empty() {
            return Ok(());
        }
        let (durable, refusal) = match act {
            Act::Take => (written.len(), None),
            Act::Again(most) => (most % written.len(), Some(Refusal::again(most % written.len(), "again"))),
            Act::Refuse(most) => {
                kept.refused.push(written[most % written.len()]);
                (most % written.len(), Some(Refusal::refused(most % written.len(), "no")))
            }
            Act::Panic => panic!("as the script has it"),
        };
        let forgotten = usize::from(self.forgets && refusal.is_some());
        kept.durable.extend(&written[..durable.saturating_sub(forgotten)]);
        refusal.map_or(Ok(()), Err)
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Take),
        2 => (0usize..8).prop_map(Act::Again),
        2 => (0usize..8).prop_map(Act::Refuse),
        1 => Just(Act::Panic),
    ]
}

/// Forwards 40 records through a scripted sink, and says what does not fit.
fn obeys(store: &Store, acts: Vec<Act>, batch: usize, forgets: bool) -> Result<(), String> {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let mut canal = cursor(store, "f");
    canal.seek(Position::new(1)).unwrap();
    let script = Scripted { acts, kept: kept.clone(), forgets };
    let mut forwarder = eager(canal, script).batch(batch);
    drain(&mut forwarder);
    let kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let refused = forwarder.watch().counters().refused.total();
    // Records may come twice, but whatever is new comes in order, and none is missing but the refused.
    let mut next = 1;
    for position in &kept.durable {
        while next < *position && kept.refused.contains(&next) {
            next += 1;
        }
        if *position > next {
            return Err(format!("{position} came before {next}: {kept:?}"));
        }
        next = next.max(position + 1);
    }
    let missing: Vec<u64> =
        (1..=40).filter(|position| !kept.durable.contains(position) && !kept.refused.contains(position)).collect();
    let count = kept.durable.len();
    match missing.is_empty() && count + refused as usize >= 40 {
        true => Ok(()),
        false => Err(format!("{missing:?} are missing, {refused} counted as refused: {kept:?}")),
    }
}

/// S3, S9.
#[test]
fn whatever_mix_of_failures_and_refusals_every_other_record_arrives_in_order() {
    let scratch = Scratch::in_memory();
    let store = with_events(&scratch, 40);
    let config = ProptestConfig { cases: cases(200), failure_persistence: None, ..ProptestConfig::default() };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&(vec(act(), 0..60), 1usize..16), |(acts, batch)| {
        obeys(&store, acts, batch, false).map_err(TestCaseError::fail)
    });
    // The control: a sink that forgets what it has called durable is found out.
    let found_out = (0..8).any(|most| obeys(&store, vec![Act::Again(most), Act::Take], 16, true).is_err());
    std::panic::set_hook(hook);
    result.unwrap();
    assert!(found_out);
}

/// N2: what is in an event cannot break the object that it is shown as.
#[cfg(feature = "json")]
#[test]
fn a_record_is_one_line_of_json_whatever_the_event_holds() {
    use towpath::{Codec, Fit, JsonRecord, NewEvent};
    let scratch = Scratch::in_memory();
    let store = scratch.open();
    let config = ProptestConfig { cases: cases(100), failure_persistence: None, ..ProptestConfig::default() };
    let codec = prop_oneof![Just(Codec::Raw), Just(Codec::Json), Just(Codec::MessagePack)];
    let json = prop_oneof![
        any::<String>().prop_map(|text| serde_json::to_string_pretty(&serde_json::json!({"a": [text, 1.5]})).unwrap()),
        "[ \\[\\]{}\":,0-9a-z\\\\]{0,20}",
    ];
    let payload = prop_oneof![vec(any::<u8>(), 0..60), json.prop_map(String::into_bytes)];
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let strategy = (codec, payload, "\\PC{1,10}", any::<String>(), 0usize..500);
    let result = runner.run(&strategy, |(codec, payload, tag, header, most)| {
        let event = NewEvent::encoded("type \"x\"", codec, payload.clone()).tag(&tag).header("h\"", &header);
        let Ok(receipt) = store.append("s\"\\", event) else { return Ok(()) };
        let event = store.event(receipt.first()).unwrap().unwrap();
        let mut line = b"before".to_vec();
        JsonRecord::new().event(&event, &mut line).unwrap();
        let line = line.strip_prefix(b"before").unwrap();
        prop_assert!(!line.contains(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        prop_assert_eq!((&value["tags"][0], &value["headers"]["h\""]), (&tag.into(), &header.into()));
        match (value.get("payload"), codec) {
            (Some(shown), _) => prop_assert_eq!(shown, &event.json().unwrap()),
            (None, _) => prop_assert!(codec == Codec::Raw || event.json().is_err()),
        }

        // A limit is kept, to the byte, and a record that has been cut says so.
        let mut cut = Vec::new();
        let fit = JsonRecord::new().most_bytes(most).event(&event, &mut cut);
        prop_assert!(cut.len() <= most);
        match fit {
            Ok(Fit::Whole) => prop_assert_eq!(&cut[..], line),
            Ok(Fit::Cut) => {
                let cut: serde_json::Value = serde_json::from_slice(&cut).unwrap();
                prop_assert_eq!((&cut["cut"], &cut["payload_bytes"]), (&true.into(), &payload.len().into()));
                prop_assert!(line.len() > most);
            }
            Err(refusal) => prop_assert!(refusal.is_final() && cut.is_empty()),
        }
        Ok(())
    });
    result.unwrap();
}
