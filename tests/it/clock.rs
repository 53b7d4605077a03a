//! The clock is the caller's: it may go backward, and it may panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use towpath::{Clock, Error, ManualClock, NewEvent, Query, Timestamp};

use crate::support::{Scratch, small};

#[derive(Default)]
struct Fragile(AtomicBool);

impl Clock for Fragile {
    fn now(&self) -> Timestamp {
        assert!(!self.0.load(Ordering::Relaxed), "the clock has stopped");
        Timestamp::from_nanos(7)
    }
}

#[test]
fn recorded_time_never_goes_backward_though_the_clock_does() {
    let scratch = Scratch::new();
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(100)));
    let store = small().clock(clock.clone()).open(scratch.store_path()).unwrap();
    for nanos in [100, 50, 200] {
        clock.set(Timestamp::from_nanos(nanos));
        store.append("a-1", NewEvent::new("seen", "")).unwrap();
    }
    let times: Vec<u64> = store.read(Query::new()).map(|event| event.unwrap().time().as_nanos()).collect();
    assert_eq!(times, [100, 100, 200]);
}

/// W12: whatever stops the writer is told to whoever waits, and to every later append; reading goes on.
#[test]
fn a_clock_that_panics_stops_the_writer_and_nobody_waits_for_ever() {
    let scratch = Scratch::new();
    let clock = Arc::new(Fragile::default());
    let store = small().clock(clock.clone()).open(scratch.store_path()).unwrap();
    store.append("a-1", NewEvent::new("before", "")).unwrap();

    clock.0.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = store.append("a-1", NewEvent::new("after", "")).unwrap_err();
        assert!(matches!(&refused, Error::Stopped { why } if why.contains("the clock has stopped")), "{refused}");
    }
    assert_eq!(store.read(Query::new()).count(), 1);
    clock.0.store(false, Ordering::Relaxed);
    assert!(matches!(store.close(), Err(Error::Stopped { .. })));
    assert_eq!(scratch.open().read(Query::new()).count(), 1);
}
