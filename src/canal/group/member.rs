//! A member of a group: the canal that pulls from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::canal::batch::Batch;
use crate::canal::group::core::{Core, Pulled};
use crate::canal::group::{Group, OnFailure};
use crate::canal::{Canal, Promises, Settlement, Token, Transact};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::sync::primitive::atomic::Ordering;
use crate::writer::commit::Commit;
use crate::writer::ticket::Receipt;

/// The longest that a member waits before it looks whether a lease has run out that was given after it began to wait.
const LOOK: Duration = Duration::from_millis(500);

/// One of the members of a [`Group`], for one thread.
///
/// What it pulls is its own until it is settled, or its lease runs out. Attempts are counted in the log before a batch is
/// handed out. Dropping the member writes what was settled and gives the rest to the others, at once, as attempts that
/// nobody answered for.
#[derive(Debug)]
pub struct Member {
    store: Store,
    core: Arc<Core>,
    number: u64,
}

impl Member {
    pub(super) fn new(group: &Group) -> Result<Self> {
        let number = group.core.join()?;
        Ok(Self { store: group.store.clone(), core: group.core.clone(), number })
    }

    fn check_may_wait(&self) -> Result<()> {
        self.store.writer()?.check_may_wait()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // In a forked child, or within a rule, the lock may never come; what it holds comes back when its lease runs out.
        if self.check_may_wait().is_err() {
            return;
        }
        self.core.leave(&self.store, self.number);
        // An error here has nobody to be told to; whoever wants to know calls `flush`.
        let _unheard = self.core.flush(&self.store).and_then(|()| self.core.keep_progress(&self.store));
    }
}

impl Canal for Member {
    /// Deliveries that came back come first, in the order of the log, and then new ones. Waits, too, while the group is
    /// paused or has as many deliveries in flight as it may.
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        self.check_may_wait()?;
        let until = Instant::now().checked_add(patience);
        loop {
            let (seen, changed, told, next) = match self.core.pull(&self.store, self.number, max.max(1))? {
                Pulled::Batch(batch) => return Ok(batch),
                Pulled::Nothing { seen, changed, told, until } => (seen, changed, told, until),
            };
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Batch::default());
            }
            let patience = left.min(LOOK).min(next.unwrap_or(Duration::MAX)).max(Duration::from_micros(100));
            self.core.waiting.fetch_add(1, Ordering::SeqCst);
            let log = &self.store.inner.log;
            let changes = || self.core.changed() != changed || self.core.is_moved(told);
            log.head.wait(seen, patience, || log.is_closed() || changes());
            self.core.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        self.check_may_wait()?;
        self.core.settle(&self.store, token, settlement)
    }

    fn settle_all(&mut self, tokens: &[Token]) -> Result<Vec<Error>> {
        self.check_may_wait()?;
        self.core.settle_all(&self.store, tokens)
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        self.check_may_wait()?;
        self.core.extend(&self.store, token, lease)
    }

    fn flush(&mut self) -> Result<()> {
        self.check_may_wait()?;
        self.core.flush(&self.store)
    }

    fn promises(&self) -> Promises {
        Promises {
            ordered: false,
            lossless: true,
            cumulative: false,
            remembered: true,
            counted: true,
            leased: true,
            rejects: true,
            parks: self.core.settings.on_failure == OnFailure::Park,
        }
    }
}

impl Transact for Member {
    fn commit_and_settle(&mut self, commit: &mut Commit, done: &[Token]) -> Result<Receipt> {
        self.check_may_wait()?;
        self.core.commit_and_settle(&self.store, commit, done)
    }
}
