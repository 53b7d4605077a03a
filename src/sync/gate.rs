//! Publishing a number and waiting for it to grow, without a lost wake-up and without a system call when nobody waits.

use std::time::Duration;
#[cfg(not(all(test, loom)))]
use std::time::Instant;

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(all(test, loom))]
use loom::sync::{Condvar, Mutex, MutexGuard};

#[cfg(not(all(test, loom)))]
use crate::sync::primitive::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
use crate::sync::primitive::{Condvar, Mutex, MutexGuard, PoisonError};

/// How often a waiting thread looks again before it parks. Waking a parked thread takes microseconds, a spinning one
/// a third of one; about 20 µs of looking costs an idle consumer nothing that can be measured.
#[cfg(not(all(test, loom)))]
const SPINS: u32 = if cfg!(all(test, shuttle)) { 1 } else { 1_000 };

/// Cores beside one that works, one at least.
#[cfg(not(all(test, loom)))]
fn spare_cores() -> u32 {
    static CORES: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        u32::try_from(cores - 1).unwrap_or(1).max(1)
    })
}

/// A number that only grows. Whoever raises it wakes those who wait, all with one call, and none when nobody waits.
///
/// No wake-up is lost: a waiter first announces itself, then looks at the number again, then parks; the publisher
/// first stores the number, then looks for waiters. The two fences order these, so one of them sees the other. The
/// publisher takes the lock before it wakes, so it cannot slip between a waiter's last look and its parking.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    value: AtomicU64,
    waiters: AtomicU32,
    /// Waiters that look before they park.
    spinning: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new(value: u64) -> Self {
        Self {
            value: AtomicU64::new(value),
            waiters: AtomicU32::new(0),
            spinning: AtomicU32::new(0),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        }
    }

    /// The number now. What was written before it was raised is visible after this.
    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Raises the number; a smaller one changes nothing. Only one thread may raise at a time.
    pub(crate) fn raise(&self, value: u64) {
        if value > self.value.load(Ordering::Relaxed) {
            self.value.store(value, Ordering::Release);
        }
        self.wake();
    }

    /// Wakes everybody who waits, though the number stays.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.waiters.load(Ordering::Relaxed) > 0 {
            drop(guard_gate(&self.lock));
            self.changed.notify_all();
        }
    }

    /// Looks a while for the number to exceed `seen`, without parking, unless so many do that they would keep whoever
    /// raises it from a core.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn spin(&self, seen: u64) -> bool {
        let others = self.spinning.fetch_add(1, Ordering::Relaxed);
        let looks = if others < spare_cores() { SPINS } else { 1 };
        let raised = (0..looks).any(|_| {
            std::hint::spin_loop();
            self.get() > seen
        });
        self.spinning.fetch_sub(1, Ordering::Relaxed);
        raised
    }

    /// The same under loom, which tries every order by itself.
    #[cfg(all(test, loom))]
    pub(crate) fn spin(&self, seen: u64) -> bool {
        self.get() > seen
    }

    /// Waits until the number exceeds `seen`, `or` says so, or the patience ends. Returns the number.
    /// `or` is looked at after each [`wake`](Gate::wake).
    #[cfg(not(all(test, loom)))]
    pub(crate) fn wait(&self, seen: u64, patience: Duration, or: impl Fn() -> bool) -> u64 {
        if self.get() > seen || patience.is_zero() || or() || self.spin(seen) {
            return self.get();
        }
        self.park(seen, patience, or)
    }

    /// The same without looking for a while before.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn park(&self, seen: u64, patience: Duration, or: impl Fn() -> bool) -> u64 {
        let until = Instant::now().checked_add(patience);
        self.announced(|mut held| {
            while self.get() <= seen && !or() {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                held = match left {
                    Some(left) if left.is_zero() => return,
                    Some(left) => self.changed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0,
                    None => self.changed.wait(held).unwrap_or_else(PoisonError::into_inner),
                };
            }
        });
        self.get()
    }

    /// The same under loom, which has no time.
    #[cfg(all(test, loom))]
    pub(crate) fn wait(&self, seen: u64, patience: Duration, or: impl Fn() -> bool) -> u64 {
        self.park(seen, patience, or)
    }

    /// The same under loom, which has no time.
    #[cfg(all(test, loom))]
    pub(crate) fn park(&self, seen: u64, _patience: Duration, or: impl Fn() -> bool) -> u64 {
        self.announced(|mut held| {
            while self.get() <= seen && !or() {
                held = self.changed.wait(held).unwrap();
            }
        });
        self.get()
    }

    fn announced(&self, park: impl FnOnce(MutexGuard<'_, ()>)) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        park(guard_gate(&self.lock));
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Many who wait at one gate as if they were one: whoever raises the number wakes one of them, and that one the others.
///
/// No wake-up is lost. The one who leads waits at the gate. When it stops waiting, for whatever reason, it steps down
/// and then wakes the others, of whom one leads next. Each of them, announced, looks whether somebody leads and only
/// then at the number: if somebody does and the number is still the one it has seen, the leader has not seen a later
/// one either, and will be woken by the next.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    is_led: AtomicBool,
    /// Its number is never raised.
    others: Gate,
    size: AtomicU32,
}

/// One of a crowd, until it is dropped.
#[derive(Debug)]
pub(crate) struct InCrowd<'a>(&'a Crowd);

impl Crowd {
    /// Counts the caller in.
    pub(crate) fn join(&self) -> InCrowd<'_> {
        self.size.fetch_add(1, Ordering::Relaxed);
        InCrowd(self)
    }

    /// Waits until the gate's number exceeds `seen`, `or` says so, or the patience ends; it may return before that. What
    /// `or` looks at must be told by waking the gate. `lead` waits at the gate for the same.
    pub(crate) fn wait(&self, gate: &Gate, seen: u64, patience: Duration, or: impl Fn() -> bool, lead: impl FnOnce()) {
        if self.is_led.swap(true, Ordering::AcqRel) {
            let is_time = || !self.is_led.load(Ordering::Acquire) || gate.get() > seen || or();
            self.others.park(0, patience, is_time);
        } else {
            lead();
            self.is_led.swap(false, Ordering::AcqRel);
            self.others.wake();
        }
    }
}

impl InCrowd<'_> {
    /// How many others there are.
    pub(crate) fn others(&self) -> u32 {
        self.0.size.load(Ordering::Relaxed).saturating_sub(1)
    }
}

impl Drop for InCrowd<'_> {
    fn drop(&mut self) {
        self.0.size.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A gate's lock is loom's under loom.
#[cfg(all(test, loom))]
fn guard_gate(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap()
}

#[cfg(not(all(test, loom)))]
use crate::sync::guard as guard_gate;

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;

    /// Every interleaving of one publisher and two waiters: nobody sleeps for ever, and what was written before the
    /// number was raised is seen after it.
    #[test]
    fn no_wake_up_is_lost_and_what_was_published_is_visible() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(0));
            let data = Arc::new(AtomicU64::new(0));
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let (gate, data) = (gate.clone(), data.clone());
                    loom::thread::spawn(move || {
                        assert_eq!(gate.wait(0, Duration::MAX, || false), 1);
                        assert_eq!(data.load(Ordering::Relaxed), 7);
                    })
                })
                .collect();
            data.store(7, Ordering::Relaxed);
            gate.raise(1);
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }

    /// Every interleaving: whoever leads when the number is raised, the other one hears of it, too. (Without `wake` in
    /// `Crowd::wait` loom tells a deadlock here, by aborting, so there is no control beside it.)
    #[test]
    fn no_wake_up_is_lost_in_a_crowd() {
        loom::model(|| {
            let both = Arc::new((Crowd::default(), Gate::new(0)));
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let both = both.clone();
                    loom::thread::spawn(move || {
                        let (crowd, gate) = &*both;
                        while gate.get() == 0 {
                            let lead = || drop(gate.wait(0, Duration::MAX, || false));
                            crowd.wait(gate, 0, Duration::MAX, || false, lead);
                        }
                    })
                })
                .collect();
            both.1.raise(1);
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }

    /// One that runs out of patience while it leads leaves nobody behind who waits for it.
    #[test]
    fn a_leader_that_loses_patience_is_followed_by_another() {
        loom::model(|| {
            let both = Arc::new((Crowd::default(), Gate::new(0)));
            let other = both.clone();
            let waiting = loom::thread::spawn(move || {
                let (crowd, gate) = &*other;
                while gate.get() == 0 {
                    crowd.wait(gate, 0, Duration::MAX, || false, || drop(gate.wait(0, Duration::MAX, || false)));
                }
            });
            let publisher = both.clone();
            let publisher = loom::thread::spawn(move || publisher.1.raise(1));
            // It looks and goes: when another one leads, it does not wait for that one.
            both.0.wait(&both.1, 0, Duration::ZERO, || true, || ());
            publisher.join().unwrap();
            waiting.join().unwrap();
        });
    }
}
