//! Letting go of old events.

use crate::error::{Error, Result};
use crate::log::retain::{self, Plan, Retention};
use crate::store::Store;
use crate::sync::guard;
use crate::writer::Writer;

impl Store {
    /// What a retention would let go of now, and who keeps back what. Changes nothing. On a store that was opened read-only
    /// this reads the newest segment.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`] when it names a consumer that there is not. When something cannot be read.
    pub fn plan_retention(&self, retention: &Retention) -> Result<Plan> {
        self.head();
        self.check_named(retention)?;
        retain::plan(&self.inner.log, retention, self.inner.clock.now())
    }

    /// Lets go of old segments: those beyond a limit, the oldest first, up to the first that a consumer still needs. Appends
    /// and reads go on meanwhile. Tells what went.
    ///
    /// Positions are never given again, and a stream goes on at the revision where it stood, even when none of its events is
    /// left. Who reads in a segment that goes reads on to its end, and is told [`Error::Expired`] then. An idempotency key and
    /// an [append condition](crate::Condition) see what is kept.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`] when it names a consumer that there is not, [`Error::ReadOnly`], [`Error::Refused`] when
    /// consumers come to need over and over again what was to go, and what an append and a sync can fail with. Nothing is let
    /// go of then; or all of it, and files that could not be removed go when the store is opened again.
    pub fn retain(&self, retention: &Retention) -> Result<Plan> {
        let writer = self.writer()?;
        self.check_named(retention)?;
        writer.retain(retention, &*self.inner.clock)
    }

    /// What letting go of old segments by [`Options::retain`](crate::Options::retain) came to the last time: what went and who kept back
    /// what, or what it failed with. `None` without such an option, and before the first time is over.
    pub fn last_retention(&self) -> Option<Result<Plan>> {
        self.writer().ok().and_then(Writer::last_retention)
    }

    fn check_named(&self, retention: &Retention) -> Result<()> {
        let state = self.inner.log.state()?;
        let begun = guard(&self.inner.log.begun);
        match retention.named().iter().find(|name| !state.knows(name) && !begun.contains_key(*name)) {
            Some(name) => Err(Error::UnknownConsumer { name: name.clone() }),
            None => Ok(()),
        }
    }
}
