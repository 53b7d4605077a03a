//! The seam for time: the store asks a [`Clock`], so that tests need not sleep.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::id::Timestamp;

/// Tells the time that events are recorded with. The log never goes backward, whatever the clock says.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that stands still until it is moved. For tests.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows this.
    pub fn at(time: Timestamp) -> Self {
        Self(AtomicU64::new(time.as_nanos()))
    }

    /// Shows this from now on; it may go backward.
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.as_nanos(), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
