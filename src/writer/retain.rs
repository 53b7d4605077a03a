//! Letting go of old segments, beside appends and reads. The guide's page on retention tells why in these steps.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::id::Position;
use crate::log::heads::{Collector, Known};
use crate::log::retain::{self, Plan, Retention};
use crate::sync::guard;
use crate::writer::commit::Commit;
use crate::writer::staging::Patience;
use crate::writer::{Shared, Writer};

/// So often a plan is made again because a consumer came to need meanwhile what was to go.
const PLANS: u32 = 16;

impl Writer {
    /// Lets go of what a retention means, and tells what that was.
    pub(crate) fn retain(&self, retention: &Retention, clock: &dyn Clock) -> Result<Plan> {
        self.shared.retain(retention, clock)
    }
}

impl Shared {
    pub(super) fn retain(&self, retention: &Retention, clock: &dyn Clock) -> Result<Plan> {
        self.check_process()?;
        self.check_may_wait()?;
        let _one = guard(&self.retaining);
        let log = &self.log;
        let mut plans = 0;
        loop {
            let plan = retain::plan(log, retention, clock.now())?;
            if plan.segments == 0 {
                self.remove_what_went()?;
                return Ok(plan);
            }
            // 1. Where streams stood that lose their last event there.
            let known = self.collect(plan.keeps_from)?;
            // 2. From here on it is decided: the record says what is kept, and is on the disk before anything goes.
            match self.write_kept(retention, &known) {
                Err(Error::Refused { .. }) if plans < PLANS => {
                    plans += 1;
                    continue;
                }
                written => written?,
            }
            self.sync()?;
            // 3. Nobody finds it any more; whoever reads there reads on in what is mapped.
            log.heads.set(Known { oldest: known.oldest, files: known.files.clone() });
            {
                // A segment that is written again just now must not come back under its name.
                let _files = log.parts.changes_files();
                log.parts.let_go_before(known.oldest);
            }
            log.counts.let_go.add(plan.segments);
            log.counts.events_let_go.add(plan.events);
            log.counts.bytes_let_go.add(plan.bytes);
            self.remove_what_went()?;
            return Ok(plan);
        }
    }

    /// Step 4: removes the files of what is not kept any more. What a crash leaves here is removed when the store is opened, and what
    /// could not be removed by the next call. An index file that is made from now on, of a segment that was sealed just before,
    /// is removed by whoever makes it.
    fn remove_what_went(&self) -> Result<()> {
        let log = &self.log;
        let _files = log.parts.changes_files();
        let names = log.directory.names()?;
        let removed = retain::remove_files(&*log.directory, &names, &log.heads.known());
        if !matches!(removed, Ok(false)) {
            log.counts.changed.add(1);
        }
        removed.map(drop)
    }

    /// What is known of the streams before `oldest`.
    fn collect(&self, oldest: Position) -> Result<Known> {
        let log = &self.log;
        let mut collector = Collector::new(&*log.directory, log.store, &log.heads.known());
        if let Some(removals) = log.removals() {
            collector.take_in_removed(&log.heads.known(), &removals)?;
        }
        for first in log.parts.firsts().into_iter().take_while(|first| *first < oldest) {
            // Asked before the segment: when there is nothing to hide any more it is one without the events.
            let removals = log.removals();
            collector.take_in(&log.parts.of(first)?.segment, removals.as_deref())?;
        }
        collector.finish(oldest)
    }

    /// Writes the control record, unless a consumer has come to need meanwhile what is to go.
    fn write_kept(&self, retention: &Retention, known: &Known) -> Result<()> {
        let mut commit = Commit::new();
        commit.control(&Control::Kept(known.kept()));
        let (log, retention, oldest) = (self.log.clone(), retention.clone(), known.oldest);
        commit.rule(move |_, _| {
            let holds = retain::still_holds(&log, &retention, oldest);
            if holds { Ok(()) } else { Err("a consumer needs it".to_owned()) }
        });
        self.stage(&commit, Patience::Wait, false)?.wait().map(drop)
    }
}
