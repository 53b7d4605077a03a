//! The way of an event from the caller into the log: staged by the caller's thread, taken in groups by one writer's
//! turn, answered through tickets. The guide's page on the architecture has the picture.

mod check;
pub(crate) mod commit;
pub(crate) mod durability;
pub(crate) mod housekeeping;
pub(crate) mod limit;
mod retain;
mod roll;
pub(crate) mod staging;
pub(crate) mod standing;
pub(crate) mod streams;
pub(crate) mod ticket;
pub(crate) mod turn;
pub(crate) mod view;

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::log::grow::Manner;
use crate::log::purge::Purged;
use crate::log::recover::Opened;
use crate::log::retain::{Plan, Retention};
use crate::log::{Log, Side};
use crate::segment::map::ForkGuard;
use crate::sync::guard;
use crate::sync::primitive::PoisonError;
use crate::sync::primitive::atomic::{AtomicBool, Ordering};
use crate::sync::primitive::thread;
use crate::sync::primitive::thread::JoinHandle;
use crate::sync::primitive::{Arc, Mutex, TryLockError};
use crate::writer::check::is_in_rule;
use crate::writer::commit::Commit;
use crate::writer::durability::Durability;
use crate::writer::housekeeping::{Housekeeping, Work};
use crate::writer::staging::{Patience, Staging};
use crate::writer::standing::Standing;
use crate::writer::ticket::{Receipt, Ticket};
use crate::writer::turn::Turn;

/// How many turns in a row a waiting caller takes before it leaves the rest to the writer's thread.
const LED_TURNS: u32 = 4;

/// How a store is written.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) manner: Manner,
    pub(crate) durability: Durability,
    /// How many bytes may wait for the writer.
    pub(crate) staging_bytes: usize,
    pub(crate) clock: Arc<dyn Clock>,
    /// The most bytes that the store may have.
    pub(crate) limit: Option<u64>,
    /// What the store keeps to by itself.
    pub(crate) retention: Option<Retention>,
    pub(crate) work: Work,
}

/// The one writer of a store: staging, the turn, and the threads that keep things going.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    /// `None`: callers take the turns, and nobody else does.
    writer: Option<JoinHandle<()>>,
    retainer: Option<JoinHandle<()>>,
    housekeeping: Housekeeping,
}

/// What callers and the writer's thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    log: Arc<Log>,
    staging: Staging,
    turn: Mutex<Turn>,
    durability: Durability,
    /// One sync at a time, outside the turn.
    syncing: Mutex<()>,
    /// One at a time lets go of segments.
    retaining: Mutex<()>,
    standing: Option<Standing>,
    fork: ForkGuard,
    stopping: AtomicBool,
    /// Under `Every`: the writer's thread knows that there is something to sync.
    timer_runs: AtomicBool,
}

impl Writer {
    /// Starts the writer of a log that was just opened.
    pub(crate) fn start(opened: Opened, settings: Settings) -> Result<Self> {
        let log = opened.log.clone();
        let housekeeping = Housekeeping::start(log.clone(), settings.manner, settings.work)?;
        let turn = Turn::new(opened, &settings, housekeeping.orders());
        let orders = housekeeping.orders();
        let standing = settings.retention.map(|retention| Standing::new(retention, settings.clock, orders));
        let fork = ForkGuard::new().map_err(|error| Error::io("map", log.directory.path(), error))?;
        let shared = Arc::new_cyclic(|shared| Shared {
            log: log.clone(),
            staging: Staging::new(settings.staging_bytes, shared.clone()),
            turn: Mutex::new(turn),
            durability: settings.durability,
            syncing: Mutex::new(()),
            retaining: Mutex::new(()),
            standing,
            fork,
            stopping: AtomicBool::new(false),
            timer_runs: AtomicBool::new(false),
        });
        housekeeping.set_writer(Arc::downgrade(&shared));
        let spawn = |name: &str, work: fn(&Shared)| {
            let own = shared.clone();
            let thread = thread::Builder::new().name(format!("towpath-{name}")).spawn(move || work(&own));
            thread.map_err(|error| Error::io("start a thread for", log.directory.path(), error))
        };
        let has_threads = settings.work == Work::Threads;
        // When the other thread cannot be started, this one ends with the housekeeping.
        let is_kept_to = has_threads && shared.standing.is_some();
        let retainer = is_kept_to.then(|| spawn("retain", Shared::keep_to_retention)).transpose()?;
        let writer = has_threads.then(|| spawn("writer", Shared::run)).transpose()?;
        Ok(Self { shared, threads: Mutex::new(Some(Threads { writer, retainer, housekeeping })) })
    }

    /// Stages a commit and leaves it to the writer's thread.
    pub(crate) fn submit(&self, commit: &Commit, patience: Patience) -> Result<Ticket> {
        self.shared.stage(commit, patience, true)
    }

    /// Stages a commit and writes it on this thread if nobody writes just now, without waking the writer's thread; does not
    /// wait. Whoever writes just now takes it, or has it taken. Under `Sync` a turn may sync what others have staged, so
    /// there it is left to the writer's thread.
    pub(crate) fn submit_here(&self, commit: &Commit) -> Result<Ticket> {
        if self.shared.durability == Durability::Sync {
            return self.submit(commit, Patience::Wait);
        }
        let ticket = self.shared.stage(commit, Patience::Wait, false)?;
        self.shared.lead(|| ticket.poll().is_some());
        Ok(ticket)
    }

    /// Stages a commit and sees to it that it is written.
    pub(crate) fn commit(&self, commit: &Commit) -> Result<Receipt> {
        self.shared.stage(commit, Patience::Wait, false)?.wait()
    }

    /// Refuses what would wait for the writer where that is this thread itself.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.check_may_wait()
    }

    /// Makes everything that was submitted before this call last.
    pub(crate) fn sync(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.check_may_wait()?;
        self.shared.sync()
    }

    /// Whether each commit of events waits for a sync.
    pub(crate) fn syncs(&self) -> bool {
        self.shared.syncs()
    }

    /// Takes what was removed out of all segments, the newest included, and waits for it.
    pub(crate) fn purge(&self) -> Result<Purged> {
        self.check_may_wait()?;
        self.shared.one_turn();
        let (orders, before) = {
            let mut turn = guard(&self.shared.turn);
            let before = turn.orders.purged();
            turn.end_segment_to_purge(&self.shared.log)?;
            (turn.orders.clone(), before)
        };
        let outcome = orders.purge();
        // What came of it was staged.
        self.shared.one_turn();
        // The segment that was ended may have been gone through already when that was asked for.
        let after = orders.purged();
        outcome.map(|_| Purged {
            segments: after.segments - before.segments,
            events: after.events - before.events,
            bytes: after.bytes - before.bytes,
        })
    }

    /// Writes what was submitted, syncs, says that the store was closed in good order, and ends the threads.
    pub(crate) fn close(&self) -> Result<()> {
        if self.shared.fork.is_child() {
            return Err(FORKED);
        }
        self.shared.check_may_wait()?;
        self.end()
    }

    /// Does one piece of the housekeeping. `false`: there is none.
    #[cfg(feature = "simulation")]
    pub(crate) fn step(&self) -> bool {
        let worked = guard(&self.threads).as_mut().is_some_and(|threads| threads.housekeeping.step());
        worked || self.shared.step_retention()
    }

    /// What keeping to a retention came to the last time.
    pub(crate) fn last_retention(&self) -> Option<Result<Plan>> {
        self.shared.standing.as_ref().and_then(Standing::last)
    }

    fn end(&self) -> Result<()> {
        let Some(threads) = guard(&self.threads).take() else { return Err(Error::Closed) };
        let shared = self.shared.clone();
        shared.staging.close();
        shared.stopping.store(true, Ordering::Release);
        shared.staging.wake_writer();
        let is_writer = threads.writer.as_ref().is_some_and(|writer| writer.thread().id() == thread::current().id());
        if !is_writer && !is_in_rule() {
            return threads.end(&shared);
        }
        // The last handle of the store was held by a commit's rule and went in it or with it, on the writer's turn or
        // thread, which cannot wait for itself.
        let closer = thread::Builder::new().name("towpath-close".to_owned());
        let spawned = closer.spawn(move || threads.end(&shared).is_ok());
        spawned.map(drop).map_err(|error| Error::io("start a thread for", self.shared.log.directory.path(), error))
    }
}

impl Threads {
    /// Waits for the threads, which were told to end, and closes what they worked on.
    fn end(self, shared: &Shared) -> Result<()> {
        self.housekeeping.orders().end_retention();
        match self.writer {
            Some(writer) => drop(writer.join()),
            None => shared.run(),
        }
        if let Some(retainer) = self.retainer {
            let _panicked = retainer.join();
        }
        let closed = shared.close_log();
        let housekept = self.housekeeping.finish();
        shared.log.close();
        closed.and(housekept).and(shared.log.release())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An error here has nobody to be told to; whoever wants to know calls `close`. A forked child has no threads to
        // join, and must not touch what belongs to its parent: a lock may have been held when it was forked.
        if self.shared.fork.is_child() {
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            return std::mem::forget(threads.take());
        }
        let _unheard = self.end();
    }
}

const FORKED: Error = Error::ReadOnly { why: "this process was forked from the one that opened it" };

/// A rule that waited for the writer would wait for itself.
const IN_RULE: Error =
    Error::ReadOnly { why: "a rule runs on the writer's turn and may not append, sync, close, or wait for a ticket" };

impl Shared {
    /// Whether this is the process that opened the store.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.fork.is_child() { Err(FORKED) } else { Ok(()) }
    }

    fn stage(&self, commit: &Commit, patience: Patience, wake: bool) -> Result<Ticket> {
        self.check_process()?;
        self.check_may_wait()?;
        commit.check()?;
        let (group, at) = self.staging.stage(commit, patience, wake)?;
        Ok(Ticket::new(group, at))
    }

    /// Whether this thread may wait for the writer.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        if is_in_rule() { Err(IN_RULE) } else { Ok(()) }
    }

    /// Whether each turn with events syncs.
    pub(crate) fn syncs(&self) -> bool {
        self.durability == Durability::Sync
    }

    /// Takes the writer's place for a few turns, if it is free, until `done`. Says whether it is.
    pub(crate) fn lead(&self, done: impl Fn() -> bool) -> bool {
        let mut turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return done(),
        };
        for _ in 0..LED_TURNS {
            if done() || !turn.take(&self.staging, &self.log) {
                break;
            }
        }
        let spent = turn.spent();
        drop(turn);
        drop(spent);
        if self.staging.has_work() || self.wants_a_timer() {
            self.staging.wake_writer();
        }
        done()
    }

    /// Under `Every`, the writer's thread has to know that there is something to sync before long.
    fn wants_a_timer(&self) -> bool {
        matches!(self.durability, Durability::Every(_)) && !self.timer_runs.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn wake_writer(&self) {
        self.staging.wake_writer();
    }

    /// Takes what is staged, if anything is.
    fn one_turn(&self) {
        let mut turn = guard(&self.turn);
        turn.take(&self.staging, &self.log);
        let spent = turn.spent();
        drop(turn);
        drop(spent);
    }

    /// The writer's thread.
    fn run(&self) {
        let mut unsynced_since: Option<Instant> = None;
        loop {
            while self.staging.has_work() {
                self.staging.gather();
                self.one_turn();
            }
            if self.stopping.load(Ordering::Acquire) && !self.staging.has_work() {
                return;
            }
            let patience = self.time_to_sync(&mut unsynced_since);
            if patience == Some(Duration::ZERO) {
                // A failed sync stops the writer; every later append is told.
                let _told_by_the_turn = self.sync();
                unsynced_since = None;
                continue;
            }
            self.staging.wait_for_work(patience, &self.stopping);
        }
    }

    /// How long the next sync may wait under `Every`; `None` when there is nothing to sync.
    fn time_to_sync(&self, unsynced_since: &mut Option<Instant>) -> Option<Duration> {
        let Durability::Every(most) = self.durability else { return None };
        self.timer_runs.store(true, Ordering::Release);
        if self.log.durable() >= self.log.head() || guard(&self.turn).is_stopped() {
            *unsynced_since = None;
            self.timer_runs.store(false, Ordering::Release);
            // Something may have been written since the look above, by a caller that saw the timer run.
            if self.log.durable() >= self.log.head() || guard(&self.turn).is_stopped() {
                return None;
            }
        }
        let since = *unsynced_since.get_or_insert_with(Instant::now);
        Some(most.saturating_sub(since.elapsed()))
    }

    /// Syncs what is written, without holding up the writer.
    fn sync(&self) -> Result<()> {
        let _one = guard(&self.syncing);
        // What was submitted before counts, too.
        self.one_turn();
        let unsynced = guard(&self.turn).unsynced()?;
        match unsynced.sync(&self.log) {
            Ok(()) => {
                guard(&self.turn).synced(&unsynced);
                self.log.set_durable(unsynced.head);
                Ok(())
            }
            Err(error) => Err(guard(&self.turn).stop(&error)),
        }
    }

    fn close_log(&self) -> Result<()> {
        let mut turn = guard(&self.turn);
        turn.close(&self.log)?;
        if let Side::Writer(held) = &self.log.side {
            held.set_closed(turn.end());
        }
        Ok(())
    }
}
