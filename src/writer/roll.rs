//! Going on in a new segment.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::header::Previous;
use crate::log::Log;
use crate::log::grow::{self, Beginning, Manner, Spare};
use crate::log::parts::Part;
use crate::log::purge;
use crate::segment::disk::Prepared;
use crate::sync::guard;
use crate::writer::housekeeping::Ordered;
use crate::writer::turn::Turn;

/// Bytes a second, written into the newest segment so far.
const WARM_BELOW: u128 = 1 << 30;

impl Turn {
    /// Goes on in a new segment with room for a commit. On error nothing has changed, or the writer has
    /// stopped.
    pub(super) fn roll(&mut self, commit: &[u8], log: &Log) -> Result<()> {
        // The state is written again at the head of each segment: a segment has to have room for more than that.
        let needed = commit.len() as u64 + 4 * self.state_size(log);
        let spare = self.spare_within(needed, commit, log)?;
        self.go_on_in(spare, log)
    }

    /// Has the next segment made ready once this one is half full, so that short visits to a store cost nothing.
    pub(super) fn order_spare(&mut self, log: &Log) {
        let capacity = self.pen.segment().capacity();
        if !self.spare_is_ordered && self.pen.end() > capacity / 2 {
            self.spare_is_ordered = true;
            let size = grow::next_size(self.log_bytes + capacity, 0, self.manner.largest);
            if self.limit_allows(size, log) {
                self.orders.prepare(Ordered { size, warm: self.is_slow() });
            }
        }
    }

    /// Whether events come slowly enough for the next segment's pages to be made ahead, so that no append waits for that.
    /// Where they come in large groups as fast as can be, the writer makes them faster itself, several at a time, and
    /// there is no core to spare. Zeroed segments have their pages.
    fn is_slow(&self) -> bool {
        let bytes = self.pen.end() as u128 * 1_000_000_000;
        self.manner.prepared == Prepared::Allocated && bytes / self.begun.elapsed().as_nanos().max(1) < WARM_BELOW
    }

    /// Goes on in a new segment that is as small as can be: the store is about to be closed.
    pub(super) fn roll_small(&mut self, log: &Log) -> Result<()> {
        let needed = 4 * self.state_size(log);
        let _too_large = self.orders.spare(0);
        let spare = Spare::prepare(&*log.directory, grow::next_size(0, needed, self.manner.largest), self.manner)?;
        self.go_on_in(spare, log)
    }

    /// Goes on in a new segment when this one holds something that was removed.
    pub(super) fn end_segment_to_purge(&mut self, log: &Log) -> Result<()> {
        self.take_in_failures();
        self.check_running()?;
        if self.next > self.pen.segment().first() && purge::is_needed(log, &log.parts.newest()) {
            self.roll(&[], log)?;
            log.publish(self.pen.segment(), self.pen.end(), self.next.previous());
        }
        Ok(())
    }

    fn state_size(&self, log: &Log) -> u64 {
        grow::state_size(&guard(&log.state).records(log.parts.firsts()))
    }

    fn go_on_in(&mut self, spare: Spare, log: &Log) -> Result<()> {
        let old = self.pen.segment().clone();
        let has_events = self.next > old.first();
        let mut firsts = log.parts.firsts();
        if !has_events {
            firsts.pop();
        }
        let records = guard(&log.state).records(firsts);
        let previous = if has_events {
            Some(Previous { first: old.first(), end: self.pen.end(), last_crc: self.last_crc })
        } else {
            old.header.previous
        };
        // A file that takes another one's name has to be whole before it does.
        let manner = Manner { synced: self.manner.synced || !has_events, ..self.manner };
        let beginning = Beginning {
            store: log.store,
            first: self.next,
            previous,
            durable: log.durable(),
            time: self.last_time,
            records,
            all_durable: self.all_durable,
        };
        let begun = spare.begin(&*log.directory, beginning, manner)?.take_name(&*log.directory);
        let (segment, pen) = begun.map_err(|error| match error {
            Error::DiskFull { .. } => error,
            // It may be the newest segment now. Whoever opens the store finds out, so nothing more may come before it.
            error => self.stop(&error),
        })?;
        let part = Part::new(segment);
        self.log_bytes += self.pen.end();
        self.pen = pen;
        self.begun = Instant::now();
        self.last_crc = 0;
        self.spare_is_ordered = false;
        self.names_unsynced |= !self.manner.synced;
        self.all_durable = false;
        if has_events {
            let sealed = log.parts.newest();
            log.parts.push(part);
            old.seal(self.next.previous());
            self.let_go_of_durable();
            self.unsynced.push(old);
            log.counts.begun.add(1);
            self.orders.seal(sealed);
        } else {
            log.parts.replace_newest(part);
        }
        Ok(())
    }
}
