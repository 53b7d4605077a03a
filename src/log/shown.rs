//! What a reader was shown by writers in other processes, and whether the log still holds it.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::id::Position;
use crate::log::lock::{Progress, Seen};
use crate::segment::disk::Directory;
use crate::sync::guard;
use crate::sync::primitive::Mutex;
use crate::sync::primitive::atomic::{AtomicU64, Ordering};

/// Follows the lock file. A recovery that keeps less than was shown here ends it for good.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The store.
    path: PathBuf,
    /// `None`: there is no lock file.
    lock: Mutex<Option<Seen>>,
    /// The last position that is known here.
    seen: AtomicU64,
    /// Up to where that still holds; `u64::MAX`: all of it.
    kept: AtomicU64,
    /// The lock file's word on removals as it was when what was removed was looked at.
    removals: AtomicU64,
}

impl Shown {
    /// For a reader of the store in `path` that has read up to `seen`.
    pub(crate) fn new(path: PathBuf, lock: Option<Seen>, seen: Position) -> Self {
        let removals = AtomicU64::new(lock.as_ref().map_or(0, Seen::removals));
        let (seen, kept) = (AtomicU64::new(seen.get()), AtomicU64::new(u64::MAX));
        Self { path, lock: Mutex::new(lock), seen, kept, removals }
    }

    /// Whether a writer held the store when this was opened.
    pub(crate) fn writer_lives(&self) -> bool {
        guard(&self.lock).as_ref().is_some_and(Seen::writer_lives)
    }

    /// Hands on what the writer has published. Only what it hands on may be shown, and is to be [known](Shown::knows).
    /// When something was removed, it is looked at again behind that.
    pub(crate) fn refresh(
        &self,
        directory: &dyn Directory,
        follow: impl FnOnce(Progress) -> Result<()>,
        look_at_removals: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.check()?;
        let mut lock = guard(&self.lock);
        if lock.is_none() {
            *lock = Seen::open(directory)?;
        }
        let Some(lock) = lock.as_mut() else { return Ok(()) };
        let (progress, kept) = lock.look();
        self.take_in(kept)?;
        let Some(progress) = progress else { return Ok(()) };
        let removals = lock.removals();
        follow(progress)?;
        if self.removals.load(Ordering::Acquire) != removals {
            look_at_removals()?;
            self.removals.store(removals, Ordering::Release);
        }
        Ok(())
    }

    /// Says that everything up to here is known now.
    pub(crate) fn knows(&self, seen: Position) {
        self.seen.fetch_max(seen.get(), Ordering::AcqRel);
    }

    /// After a file was opened by its name: whether it is still one of the log that is known here.
    pub(crate) fn check_now(&self) -> Result<()> {
        self.check()?;
        let kept = guard(&self.lock).as_mut().and_then(|lock| lock.look().1);
        self.take_in(kept)
    }

    /// Whether what was shown still held when this was looked at last.
    pub(crate) fn check(&self) -> Result<()> {
        match self.kept.load(Ordering::Acquire) {
            u64::MAX => Ok(()),
            kept => {
                let seen = Position::new(self.seen.load(Ordering::Acquire));
                Err(Error::Withdrawn { path: self.path.clone(), seen, kept: Position::new(kept) })
            }
        }
    }

    fn take_in(&self, kept: Option<Position>) -> Result<()> {
        match kept.filter(|kept| kept.get() < self.seen.load(Ordering::Acquire)) {
            None => Ok(()),
            Some(kept) => {
                self.kept.fetch_min(kept.get(), Ordering::AcqRel);
                self.check()
            }
        }
    }
}
