//! The thread that makes the next segment ready, and lets go of old ones.

use crate::log::grow::Spare;
use crate::segment::Segment;
use crate::segment::disk::File;
use crate::sync::guard;
use crate::sync::primitive::Arc;
use crate::sync::primitive::thread;
use crate::writer::housekeeping::{Desk, Jobs, Ordered};

/// Bytes of a spare whose pages are made in one go: some 50 µs.
const WARMED: u64 = 128 << 10;

impl Desk {
    /// Makes a spare when one is ordered. A failure is not told here: the writer tries for itself and tells its caller.
    /// Lets go of what was left, too.
    pub(super) fn prepare_spares(&self) {
        while let Some((ordered, _left)) = self.next(take, true) {
            ordered.into_iter().for_each(|ordered| self.prepare(ordered));
        }
    }

    /// The same without a thread: what is ordered now. `false`: nothing is.
    #[cfg(feature = "simulation")]
    pub(super) fn prepare_spare(&self) -> bool {
        let taken = take(&mut guard(&self.jobs));
        let ordered = taken.and_then(|(ordered, _left)| ordered);
        ordered.map(|ordered| self.prepare(ordered)).is_some()
    }

    fn prepare(&self, Ordered { size, warm }: Ordered) {
        let spare = Spare::prepare(&*self.log.directory, size, self.manner).ok();
        let file = spare.as_ref().filter(|_| warm).map(|spare| spare.file().clone());
        {
            let mut jobs = guard(&self.jobs);
            jobs.preparing = false;
            jobs.spare = spare;
            self.changed.notify_all();
        }
        if let Some(file) = file {
            self.warm(&*file, size);
        }
    }

    /// Has the kernel make the pages of a spare, which are zeroes, while the segment before is still being filled.
    fn warm(&self, file: &dyn File, size: u64) {
        for at in (0..size).step_by(WARMED as usize) {
            if guard(&self.jobs).ending {
                return;
            }
            file.warm(at, WARMED.min(size - at));
            // Whoever appends or reads on this core goes first.
            thread::yield_now();
        }
    }
}

/// Takes what is ordered, and what is left to be let go of.
fn take(jobs: &mut Jobs) -> Option<(Option<Ordered>, Vec<Arc<Segment>>)> {
    let left = std::mem::take(&mut jobs.left);
    let ordered = jobs.prepare.take();
    jobs.preparing = ordered.is_some();
    (ordered.is_some() || !left.is_empty()).then_some((ordered, left))
}
