//! What a crowd of waiting subscriptions costs those who append.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use towpath::{Canal, Query, Store, Subscription};

use crate::bench::measure::Measured;
use crate::bench::{Plan, writing};
use crate::failure::{Failure, Result};

const SUBSCRIBERS: usize = 1_000;
/// A thread that only waits needs no more. A thousand of the usual size would be two gigabytes of addresses.
const STACK: usize = 128 << 10;
/// How long a subscription waits before it looks whether the work is done.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same as `append` while they wait, each in a thread of its own.
pub(crate) fn append(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = (0..SUBSCRIBERS).map(|_| {
            let mut subscription = store.subscribe().filter(Query::new().types(["bench.never"])).open()?;
            let done = &done;
            let wait = move || wait(&mut subscription, done);
            let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, wait);
            thread.map_err(|error| Failure::because("could not start a subscriber's thread", &error))
        });
        let waiting: Result<Vec<_>> = waiting.collect();
        let measured = waiting.and_then(|waiting| Ok((writing::append(plan, store)?, waiting)));
        done.store(true, Ordering::Relaxed);
        let (measured, waiting) = measured?;
        for subscriber in waiting {
            subscriber.join().map_err(|_| Failure::new("a subscriber panicked"))??;
        }
        Ok(measured)
    })
}

fn wait(subscription: &mut Subscription, done: &AtomicBool) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        subscription.pull_batch(1, PATIENCE)?;
    }
    Ok(())
}
