//! What threads share: locks, waiting, and the right to a name.

pub(crate) mod gate;
pub(crate) mod owners;
pub(crate) mod primitive;

use crate::sync::primitive::{Mutex, MutexGuard, PoisonError};

/// Locks, also when another thread panicked while it held the lock: what these locks guard is never left half done.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
