//! Asking a reactor to stop.

use crate::sync::primitive::atomic::{AtomicU8, Ordering};
use crate::sync::primitive::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::sync::guard;

/// Asks running reactors to stop. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    level: AtomicU8,
    lock: Mutex<()>,
    changed: Condvar,
}

const FINISH: u8 = 1;
const RELEASE: u8 = 2;

impl Stop {
    /// Not asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks: the batch in hand is finished, and no other begun. A reactor that waits for events notices within 50 ms.
    pub fn stop(&self) {
        self.ask(FINISH);
    }

    /// Asks for more haste: the call in hand is finished, what it handled is settled, and the rest of the batch is released.
    pub fn stop_now(&self) {
        self.ask(RELEASE);
    }

    /// Whether it was asked.
    pub fn is_stopped(&self) -> bool {
        self.0.level.load(Ordering::Acquire) >= FINISH
    }

    pub(super) fn is_now(&self) -> bool {
        self.0.level.load(Ordering::Acquire) >= RELEASE
    }

    /// Waits for so long, or until it is asked.
    pub(super) fn wait(&self, patience: Duration) {
        let held = guard(&self.0.lock);
        let waited = self.0.changed.wait_timeout_while(held, patience, |()| !self.is_stopped());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn ask(&self, level: u8) {
        self.0.level.fetch_max(level, Ordering::AcqRel);
        drop(guard(&self.0.lock));
        self.0.changed.notify_all();
    }
}
