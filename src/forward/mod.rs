//! Forwarding: the loop between a canal and a sink.

pub(crate) mod counters;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::canal::batch::{Batch, Delivery};
use crate::canal::breaker::{Breaker, Circuit};
use crate::canal::retry::Retry;
use crate::canal::{Canal, Reason, Settlement, Token};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result, panic_text};
use crate::forward::counters::{ForwardCounters, Watch};
use crate::id::Timestamp;
use crate::reactor::stop::Stop;
use crate::sink::{Refusal, RefusalKind, Sink};

/// How many records a turn pulls unless it is told otherwise.
const BATCH: usize = 256;

/// How long a running forwarder waits before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Pulls records from a canal, writes them to a sink, and settles them once the sink has made them durable.
///
/// Nothing is settled that the sink has not flushed, so whatever ends in between, the process or the sink, costs a
/// repetition and no loss. A sink that is down is asked again for ever, with the waits of [`retry`](Forwarder::retry) in between; its lag
/// shows in [`Store::consumers`](crate::Store::consumers) and its state in [`watch`](Forwarder::watch).
///
/// Several sinks for the same events are several forwarders, each with a canal under a name of its own. Each has its own progress then,
/// and none waits for another:
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-forward-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # let store = towpath::Store::open(&dir)?;
/// # store.append("cart-1", towpath::NewEvent::new("opened", ""))?;
/// use std::time::Duration;
/// use towpath::{Forwarder, MemorySink};
///
/// let (search, archive) = (MemorySink::new("search"), MemorySink::new("archive"));
/// let mut to_search = Forwarder::new(store.cursor("to search").open()?, search.clone());
/// let mut to_archive = Forwarder::new(store.cursor("to archive").open()?, archive.clone());
///
/// search.fail_writes(1, "it is being restarted");
/// assert_eq!(to_search.turn(Duration::ZERO)?.forwarded, 0);
/// assert_eq!(to_archive.turn(Duration::ZERO)?.forwarded, 1);
/// assert_eq!(to_search.watch().counters().last_error.as_deref(), Some("search: it is being restarted"));
/// # drop((to_search, to_archive));
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
///
/// The sink's circuit: when too many turns fail, because the sink is down or refuses all that it is given, it is left
/// alone for a while, and then asked with one record ([`breaker`](Forwarder::breaker)).
pub struct Forwarder<C, S> {
    canal: C,
    sink: S,
    batch: usize,
    retry: Retry,
    on_refusal: OnRefusal,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    watch: Watch,
    /// How many times in a row the sink was not available.
    failures: u32,
    /// It is not asked before, and from when on the wait was counted.
    wait: Option<(Timestamp, Duration)>,
    /// It has asked for the records again at once, and not got further since.
    at_once: bool,
}

/// What a forwarder does with a record that its sink refuses for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRefusal {
    /// Counts it, with the reason, and goes on behind it. The record is not in the sink.
    PassOver,
    /// Counts it, and makes it a dead letter, for canals that promise that; others say [`Error::NotPromised`].
    Reject,
    /// Stops with [`Error::Handler`] before it, and begins with it the next time: nothing is passed over before somebody has
    /// looked. A sink refuses everything, too, when it was set up with a wrong address, or its credentials have run out.
    #[default]
    Stop,
}

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarded {
    /// Records that the sink has made durable.
    pub forwarded: usize,
    /// Records that it refused for good, and that were passed over or became dead letters.
    pub refused: usize,
    /// Records that were given back to the canal, because the sink is not available.
    pub released: usize,
    /// Damaged stretches of the store that were passed over.
    pub damaged: usize,
    /// The sink is not available, and is not asked again before so long from now.
    pub waits: Option<Duration>,
}

/// How far a sink came with some records.
struct Progress {
    /// So many from the front need not be written again: they are durable, or refused.
    through: usize,
    /// Those among them that were refused, with the reason.
    refused: Vec<(usize, String)>,
    /// Why it did not come further, though there is more.
    stopped: Option<Refusal>,
}

impl<C: Canal, S: Sink> Forwarder<C, S> {
    /// A forwarder from a canal to a sink.
    pub fn new(canal: C, sink: S) -> Self {
        Self {
            canal,
            sink,
            batch: BATCH,
            retry: Retry::default(),
            on_refusal: OnRefusal::default(),
            breaker: Breaker::at_percent(50).of_last(20).at_least(5),
            clock: Arc::new(SystemClock),
            watch: Watch::default(),
            failures: 0,
            wait: None,
            at_once: false,
        }
    }

    /// How many records are pulled, written and settled together, at least 1; 256 unless set.
    #[must_use]
    pub fn batch(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// How long to wait before a sink that is down is asked again, where it does not say so itself; [`Retry::default`]
    /// unless set. Its number of attempts is of no account: a sink that is down takes nothing, however often it is
    /// asked.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What to do with a record that the sink refuses for good; the forwarder stops before it unless set otherwise.
    #[must_use]
    pub fn on_refusal(mut self, what: OnRefusal) -> Self {
        self.on_refusal = what;
        self
    }

    /// When to leave the sink alone. One outcome is one turn that wrote something: it failed when the sink was down, or refused everything.
    /// Unless set: half of the last 20 outcomes, of at least 5, for 30 seconds.
    #[must_use]
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// The clock that waits are counted by; the system's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What it has done and how its sink is, to be looked at while it runs.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Pulls one batch, waiting up to `patience` for it, and writes it, or, while the sink is not to be asked, waits
    /// for as long as that takes, up to `patience`. Damage and refusals are counted, see [`watch`](Forwarder::watch). A
    /// panic of the sink is a failure of it.
    ///
    /// # Errors
    /// [`Error::Handler`] for a record that the sink refuses, where that is to stop it: what came before it is settled. What
    /// [`Canal::pull_batch`] can fail with but for damage, and what [`Canal::settle`] can but for deliveries that were
    /// taken away meanwhile: they come again.
    pub fn turn(&mut self, patience: Duration) -> Result<Forwarded> {
        if let Some(left) = self.not_yet(patience) {
            return Ok(Forwarded { waits: Some(left), ..Forwarded::default() });
        }
        let probing = self.breaker.circuit() == Circuit::Probing;
        let batch = match self.canal.pull_batch(if probing { 1 } else { self.batch }, patience) {
            Err(Error::Damaged(damage)) => {
                self.watch.note(|counters| counters.lost.add(&damage.what, 1));
                return Ok(Forwarded { damaged: 1, ..Forwarded::default() });
            }
            pulled => pulled?,
        };
        if batch.skipped() > 0 {
            self.watch
                .note(|counters| counters.lost.add("passed over by the canal, as this is too slow", batch.skipped()));
        }
        if batch.is_empty() {
            // What a failure means for the checkpoint is told by the next settlement or flush.
            let _told_later = self.canal.idle();
        }
        let forwarded = if batch.is_empty() { Ok(Forwarded::default()) } else { self.forward(&batch) };
        let (sink, circuit) = (self.sink.counts(), self.breaker.circuit());
        self.watch.note(|counters| (counters.sink, counters.circuit) = (sink, circuit));
        forwarded
    }

    /// Takes turns on this thread until it is asked to stop, or until the store is closed and everything in it forwarded.
    /// Says how many records were. A write to the sink is not interrupted.
    ///
    /// # Errors
    /// As [`turn`](Forwarder::turn): the first error ends it, and running again goes on where it ended.
    pub fn run(&mut self, stop: &Stop) -> Result<u64> {
        let mut forwarded = 0;
        while !stop.is_stopped() {
            match self.turn(PATIENCE) {
                Ok(done) => forwarded += done.forwarded as u64,
                Err(Error::Closed) => return Ok(forwarded),
                Err(error) => return Err(error),
            }
        }
        self.flush()?;
        Ok(forwarded)
    }

    /// Waits until everything that was settled stands where the canal keeps it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn flush(&mut self) -> Result<()> {
        self.canal.flush()
    }

    /// Gives the canal and the sink back.
    pub fn into_parts(self) -> (C, S) {
        (self.canal, self.sink)
    }

    /// Writes a batch, in as many pieces as refusals make of it, and settles what need not come again.
    fn forward(&mut self, batch: &Batch) -> Result<Forwarded> {
        let records: Vec<Delivery<'_>> = batch.iter().collect();
        let (mut done, mut left) = (Forwarded::default(), &records[..]);
        while !left.is_empty() {
            let progress = self.write(left);
            self.settle(&left[..progress.through], &progress.refused)?;
            done.refused += progress.refused.len();
            done.forwarded += progress.through - progress.refused.len();
            left = &left[progress.through..];
            let Some(refusal) = progress.stopped else { continue };
            self.give_back(left)?;
            let told = format!("{}: {}", self.sink.name(), refusal.why);
            if refusal.is_final() {
                return Err(Error::Handler { position: left[0].position(), why: told });
            }
            done.released = left.len();
            self.unavailable(&refusal, told, done, left);
            done.waits = self.left_to_wait();
            return Ok(done);
        }
        self.available(done);
        Ok(done)
    }

    /// Has the sink take records and flush them.
    fn write(&mut self, records: &[Delivery<'_>]) -> Progress {
        let mut progress = Progress { through: 0, refused: Vec::new(), stopped: None };
        // The sink's own panics are failures like others, but what it has taken by then nobody knows.
        let outcome = catch_unwind(AssertUnwindSafe(|| write(&mut self.sink, records, self.on_refusal)));
        match outcome {
            Ok(known) => progress = known,
            Err(panic) => {
                progress.stopped = Some(Refusal::again(0, format!("it panicked: {}", panic_text(&*panic))));
                // It counts from here on, whatever it says to this.
                let _forgotten = catch_unwind(AssertUnwindSafe(|| self.sink.flush()));
            }
        }
        progress
    }

    /// Settles records that are durable, or refused.
    fn settle(&mut self, records: &[Delivery<'_>], refused: &[(usize, String)]) -> Result<()> {
        let cumulative = self.canal.promises().cumulative;
        let mut begin = 0;
        for (at, why) in refused {
            if self.on_refusal == OnRefusal::Reject {
                self.settle_done(&records[begin..*at], cumulative)?;
                let reject = Settlement::Reject { reason: Reason::Rejected, why: why.clone() };
                self.say(records[*at].token(), reject)?;
                begin = at + 1;
            }
        }
        self.settle_done(&records[begin..], cumulative)?;
        let forwarded = (records.len() - refused.len()) as u64;
        self.watch.note(|counters| {
            counters.forwarded += forwarded;
            refused.iter().for_each(|(_, why)| counters.refused.add(why, 1));
        });
        Ok(())
    }

    fn settle_done(&mut self, records: &[Delivery<'_>], cumulative: bool) -> Result<()> {
        let Some(last) = records.last() else { return Ok(()) };
        if cumulative {
            return self.say(last.token(), Settlement::Done);
        }
        let tokens: Vec<_> = records.iter().map(Delivery::token).collect();
        self.canal.settle_all(&tokens)?.into_iter().try_for_each(|refused| self.hear(Err(refused)))
    }

    /// Gives records back that the sink did not take.
    fn give_back(&mut self, records: &[Delivery<'_>]) -> Result<()> {
        let count = if self.canal.promises().cumulative { records.len().min(1) } else { records.len() };
        for record in &records[..count] {
            match self.say(record.token(), Settlement::Release) {
                // It hands out nothing twice.
                Err(Error::NotPromised { canal, .. }) => {
                    let why = format!("a {canal} does not hand out again what a sink did not take");
                    self.watch.note(|counters| counters.lost.add(&why, records.len() as u64));
                    return Ok(());
                }
                said => said?,
            }
        }
        Ok(())
    }

    fn say(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        let settled = self.canal.settle(token, settlement);
        self.hear(settled)
    }

    /// A delivery that somebody else has by now, or that lies behind a consumer which was moved, is not ours.
    fn hear(&mut self, settled: Result<()>) -> Result<()> {
        match settled {
            Err(Error::NotHeld { .. } | Error::NotDelivered { .. }) => {
                self.watch.note(|counters| counters.late += 1);
                Ok(())
            }
            said => said,
        }
    }

    /// The sink took everything that it did not refuse.
    fn available(&mut self, done: Forwarded) {
        (self.failures, self.wait, self.at_once) = (0, None, false);
        self.breaker.record(done.forwarded > 0, self.clock.now());
        self.watch.note(|counters| counters.down_since = None);
    }

    /// The sink may take the rest later.
    fn unavailable(&mut self, refusal: &Refusal, told: String, done: Forwarded, left: &[Delivery<'_>]) {
        let now = self.clock.now();
        let got_further = done.forwarded + done.refused > 0;
        let asked = match refusal.kind {
            RefusalKind::Again { after } => after,
            RefusalKind::Refused => None,
        };
        if asked == Some(Duration::ZERO) && (got_further || !self.at_once) {
            self.at_once = true;
            self.watch.note(|counters| counters.released += left.len() as u64);
            return;
        }
        self.failures = if got_further { 1 } else { self.failures.saturating_add(1) };
        let chance = now.as_nanos() ^ left[0].position().get();
        let asked = asked.filter(|wait| !wait.is_zero());
        let wait = asked.unwrap_or_else(|| self.retry.delay(self.failures, chance));
        self.wait = Some((now, wait));
        self.breaker.record(false, now);
        self.watch.note(|counters| {
            counters.released += left.len() as u64;
            counters.last_error = Some(told);
            counters.down_since.get_or_insert(now);
        });
    }

    /// How long the sink is not to be asked yet, after having waited for that.
    fn not_yet(&mut self, patience: Duration) -> Option<Duration> {
        let left = self.left_to_wait()?;
        std::thread::sleep(left.min(patience));
        self.left_to_wait()
    }

    fn left_to_wait(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        // A clock that was set back makes no wait longer.
        let retry = self.wait.and_then(|(since, wait)| wait.checked_sub(now.since(since)));
        let pause = match self.breaker.allows(now) {
            true => None,
            false => match self.breaker.circuit() {
                Circuit::Open { until } => Some(until.since(now)),
                _ => None,
            },
        };
        retry.max(pause).filter(|left| !left.is_zero())
    }
}

/// Has a sink take records and flush them, and goes on behind those that it refuses when it is written to.
fn write(sink: &mut impl Sink, records: &[Delivery<'_>], on_refusal: OnRefusal) -> Progress {
    let mut progress = Progress { through: 0, refused: Vec::new(), stopped: None };
    let mut taken = Vec::with_capacity(records.len());
    while progress.through < records.len() && progress.stopped.is_none() {
        let rest = &records[progress.through..];
        let refusal = sink.write(rest).err();
        let took = refusal.as_ref().map_or(rest.len(), |refusal| refusal.taken.min(rest.len() - 1));
        taken.extend(progress.through..progress.through + took);
        progress.through += took;
        if let Some(refusal) = refusal {
            progress.meet(refusal, on_refusal);
        }
    }
    if taken.is_empty() {
        return progress;
    }
    if let Err(refusal) = sink.flush() {
        let first = taken[refusal.taken.min(taken.len() - 1)];
        // Whatever was refused behind it comes again, and is counted then.
        progress.refused.retain(|(at, _)| *at < first);
        (progress.through, progress.stopped) = (first, None);
        progress.meet(refusal, on_refusal);
    }
    progress
}

impl Progress {
    /// Goes on behind the next record if it is refused for good and that is no reason to stop.
    fn meet(&mut self, refusal: Refusal, on_refusal: OnRefusal) {
        if refusal.is_final() && on_refusal != OnRefusal::Stop {
            self.refused.push((self.through, refusal.why.into_owned()));
            self.through += 1;
        } else {
            self.stopped = Some(refusal);
        }
    }
}

impl<C, S: Sink> std::fmt::Debug for Forwarder<C, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counters: ForwardCounters = self.watch.counters();
        f.debug_struct("Forwarder")
            .field("sink", &self.sink.name())
            .field("counters", &counters)
            .finish_non_exhaustive()
    }
}
