//! Several sinks, of which each takes what the one before it did not.

use std::fmt;
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::id::{Position, StoreId};
use crate::sink::tally::{SinkCounts, Tally};
use crate::sink::{Refusal, Sink};

/// When a [`Cascade`] hands a record on to its next sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fall {
    /// When it was refused for good. A sink that is not available holds everything up, in its order.
    #[default]
    Refused,
    /// Also when the sink is not available now. Nothing waits then, and what fell does not come back to the first sink
    /// once that is there again.
    Unavailable,
}

/// Tries sinks in their order: the next one gets only what the one before it did not take.
///
/// Each fall is counted in [`SinkCounts::fallen`], as `first -> second: why`. What the last one refuses is refused. Records that fall
/// stand in another sink than their neighbours, so no sink alone has all of them in order. To have everything in several
/// sinks instead, run a [`Forwarder`](crate::Forwarder) for each, under a name of its own.
///
/// ```
/// use towpath::{Cascade, Fall, MemorySink};
///
/// let (service, shelf) = (MemorySink::new("service"), MemorySink::new("shelf"));
/// let sink = Cascade::new(service).then(shelf).fall(Fall::Unavailable);
/// # let _ = sink;
/// ```
pub struct Cascade {
    name: String,
    stages: Vec<Box<dyn Sink>>,
    fall: Fall,
    /// The records since the last flush, in their order, and which stage took each.
    taken: Vec<(Id, usize)>,
    late: Option<Late>,
    fallen: Tally,
}

/// Names a record.
type Id = (StoreId, Position);

/// What a stage did not take after all when it was flushed. It comes again, and goes to the stage behind that one.
struct Late {
    stage: usize,
    refusal: Refusal,
    record: Id,
}

impl Cascade {
    /// One that begins with this sink.
    pub fn new(first: impl Sink + 'static) -> Self {
        Self {
            name: first.name().to_owned(),
            stages: vec![Box::new(first)],
            fall: Fall::default(),
            taken: Vec::new(),
            late: None,
            fallen: Tally::default(),
        }
    }

    /// Adds a sink for what those before it did not take.
    #[must_use]
    pub fn then(mut self, next: impl Sink + 'static) -> Self {
        self.name = format!("{}, then {}", self.name, next.name());
        self.stages.push(Box::new(next));
        self
    }

    /// When a record is handed on; only when it was refused, unless set otherwise.
    #[must_use]
    pub fn fall(mut self, fall: Fall) -> Self {
        self.fall = fall;
        self
    }

    /// Hands records to a stage, and to those behind it. Says in the refusal how many of these were taken.
    fn hand(&mut self, stage: usize, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let mut taken = 0;
        while taken < records.len() {
            let rest = &records[taken..];
            let Err(refusal) = self.try_stage(stage, rest) else { break };
            taken += refusal.taken;
            let next = stage + 1;
            if next == self.stages.len() || !self.falls(&refusal) {
                return Err(refusal.at(taken));
            }
            // What is not available for one record need not be asked for those behind it.
            let falling = if refusal.is_final() { &records[taken..=taken] } else { &records[taken..] };
            let handed = self.hand(next, falling);
            let fell = handed.as_ref().map_or_else(|refusal| refusal.taken, |()| falling.len());
            self.fell(stage, next, &refusal, fell);
            taken += fell;
            handed.map_err(|refusal| refusal.at(taken))?;
        }
        Ok(())
    }

    /// Writes to one stage, and notes what it took.
    fn try_stage(&mut self, stage: usize, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let late = self.late.take_if(|late| late.stage == stage);
        let late = late.and_then(|late| {
            let at = records.iter().position(|record| id(record) == late.record)?;
            Some(late.refusal.at(at))
        });
        let mut offered = records.len();
        if let Some(late) = &late {
            offered = late.taken;
        }
        let written = if offered == 0 { Ok(()) } else { self.stages[stage].write(&records[..offered]) };
        let took = written.as_ref().map_or_else(|refusal| refusal.taken.min(offered - 1), |()| offered);
        self.taken.extend(records[..took].iter().map(|record| (id(record), stage)));
        written.map_err(|refusal| refusal.at(took))?;
        late.map_or(Ok(()), Err)
    }

    fn falls(&self, refusal: &Refusal) -> bool {
        refusal.is_final() || self.fall == Fall::Unavailable
    }

    fn fell(&mut self, from: usize, to: usize, refusal: &Refusal, records: usize) {
        let (from, to) = (self.stages[from].name(), self.stages[to].name());
        self.fallen.add(&format!("{from} -> {to}: {}", refusal.why), records as u64);
    }
}

impl Sink for Cascade {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        self.hand(0, records)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let taken = std::mem::take(&mut self.taken);
        let mut first: Option<(usize, Refusal)> = None;
        // All of them: what one has made durable does not depend on another.
        for (stage, sink) in self.stages.iter_mut().enumerate() {
            let Err(refusal) = sink.flush() else { continue };
            // Its count is of its own records; which one is that among all?
            let own = taken.iter().enumerate().filter(|(_, (_, by))| *by == stage);
            let at = own.map(|(at, _)| at).nth(refusal.taken).unwrap_or(taken.len());
            if first.as_ref().is_none_or(|(_, earlier)| at < earlier.taken) {
                first = Some((stage, refusal.at(at)));
            }
        }
        let Some((stage, refusal)) = first else { return Ok(()) };
        let at = refusal.taken;
        if let Some((record, _)) = taken.get(at).filter(|_| stage + 1 < self.stages.len() && self.falls(&refusal)) {
            // The records themselves are not here any more. They come again at once, and this one then falls.
            let again = Refusal::again(at, refusal.why.clone()).after(Duration::ZERO);
            self.late = Some(Late { stage, refusal, record: *record });
            return Err(again);
        }
        Err(refusal)
    }

    fn counts(&self) -> SinkCounts {
        let mut counts = SinkCounts::default();
        for sink in &self.stages {
            counts.merge(&sink.counts());
        }
        counts.fallen.merge(&self.fallen);
        counts
    }
}

impl fmt::Debug for Cascade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cascade").field("name", &self.name).field("fall", &self.fall).finish_non_exhaustive()
    }
}

fn id(record: &Delivery<'_>) -> Id {
    (record.event().store(), record.position())
}
