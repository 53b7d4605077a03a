//! A retention that a store keeps to by itself: whenever a segment was sealed, and when a limit refused an append.

use crate::clock::Clock;
use crate::error::Result;
use crate::log::retain::{Plan, Retention};
use crate::sync::guard;
use crate::sync::primitive::{Arc, Mutex};
use crate::writer::Shared;
use crate::writer::housekeeping::Orders;
use crate::writer::housekeeping::seal::stand_back;

/// What is kept to, and what came of it.
pub(crate) struct Standing {
    retention: Retention,
    clock: Arc<dyn Clock>,
    orders: Orders,
    last: Mutex<Option<Result<Plan>>>,
}

impl Standing {
    pub(crate) fn new(retention: Retention, clock: Arc<dyn Clock>, orders: Orders) -> Self {
        // What was beyond it before the store was opened.
        orders.retain();
        Self { retention, clock, orders, last: Mutex::new(None) }
    }

    pub(crate) fn last(&self) -> Option<Result<Plan>> {
        guard(&self.last).clone()
    }
}

impl Shared {
    /// The thread that keeps to it. Not one of those that the writer waits for: it waits for the writer itself.
    pub(super) fn keep_to_retention(&self) {
        stand_back();
        while let Some(standing) = &self.standing
            && standing.orders.retention_is_due()
        {
            self.retain_as_standing(standing);
        }
    }

    /// Without threads: keeps to it when that is due, and says whether it was.
    #[cfg(feature = "simulation")]
    pub(super) fn step_retention(&self) -> bool {
        let due = self.standing.as_ref().filter(|standing| standing.orders.take_due_retention());
        due.map(|standing| self.retain_as_standing(standing)).is_some()
    }

    fn retain_as_standing(&self, standing: &Standing) {
        let done = self.retain(&standing.retention, &*standing.clock);
        *guard(&standing.last) = Some(done);
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("retention", &self.retention).finish_non_exhaustive()
    }
}
