//! Locks, atomics and threads: the standard library's, or, under `cfg(shuttle)`, those of a scheduler that tries the orders in
//! which threads may come (`src/interleaved.rs` runs whole stores on it).

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError, Weak, atomic,
};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{thread, thread_local};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, Weak, atomic};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::{thread, thread_local};
#[cfg(all(test, shuttle))]
pub(crate) use std::sync::{PoisonError, TryLockError};
