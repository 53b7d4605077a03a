//! What the process of one measurement does.

mod append;
pub mod equal;
mod producers;
mod read;
mod tail;

use std::path::Path;

use anyhow::Result;

use crate::events::Names;
use crate::measure::Values;
use crate::store::Store;
use crate::stores::Task;
use crate::workload::{Sizes, Workload};

/// One workload in one directory.
pub struct Work<'a> {
    pub workload: Workload,
    pub dir: &'a Path,
    pub sizes: Sizes,
    /// How many events are in the directory, for those who read.
    pub stored: u64,
}

impl Task for Work<'_> {
    type Output = Result<Values>;

    fn run<S: Store>(self) -> Result<Values> {
        let names = Names::new(self.sizes.streams);
        match self.workload {
            Workload::Append(plan) => append::append::<S>(plan, &self, &names),
            Workload::Producers => producers::producers::<S>(&self, &names),
            Workload::Tail => tail::tail::<S>(&self, &names),
            Workload::Fill => append::fill::<S>(&self, &names, self.sizes.fill, None),
            Workload::FillLarge => {
                append::fill::<S>(&self, &names, self.sizes.fill_large, Some(self.sizes.fill_large_time))
            }
            Workload::Replay => read::replay::<S>(&self),
            Workload::Streams => read::streams::<S>(&self, &names),
            Workload::Reopen | Workload::ReopenLarge => read::reopen::<S>(&self),
        }
    }
}
