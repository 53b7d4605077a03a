//! One open group: who holds what until when, and what may be handed out next. All members share it.
//!
//! What must survive lies in the ledger, which changes when the writer's turn writes a record, and only then. What lies here
//! is of this process: leases, lanes, what was decided and is on its way. The lock of `Run` is taken before the ledger's;
//! the ledger's is never held while the writer is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::canal::batch::{Batch, Count};
use crate::canal::group::lanes::Lanes;
use crate::canal::group::letter::{self, Fate};
use crate::canal::group::parked::Parked;
use crate::canal::group::unwritten::Unwritten;
use crate::canal::group::{OnFailure, Order, Settings};
use crate::canal::{Reason, Settlement, Token};
use crate::error::{Damage, Error, Result};
use crate::format::control::{Claimed, Control, Failed, Settled};
use crate::format::runs;
use crate::id::{Position, Timestamp};
use crate::log::event::Event;
use crate::log::ledger::Ledger;
use crate::log::ledger::rows::Row;
use crate::log::parts::Part;
use crate::log::terms::Filter;
use crate::log::walk::{self, Step, Walk};
use crate::store::Store;
use crate::sync::{Owned, Told, guard};
use crate::writer::commit::Commit;
use crate::writer::staging::Patience;
use crate::writer::ticket::{Receipt, Ticket};

/// How many events may be passed because their key is busy or waits for a retry, before no more are looked at.
const LOOKAHEAD: usize = 65_536;

/// After so many positions without anything to hand out, the group records how far it has looked.
const UNRECORDED: u64 = 16_384;

/// When a lease that ran out while its delivery was being committed is looked at again.
const COMMITTING: Duration = Duration::from_secs(1);

const SETTLED_BEFORE: &str = "it is settled already, or was never handed out";
const TAKEN_AWAY: &str = "its lease ran out, or it was given back";

/// What the members of a group share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    run: Mutex<Run>,
    /// Grows when something may be handed out that could not before.
    changed: AtomicU64,
    /// Members that wait for that.
    pub(super) waiting: AtomicU32,
    /// How far the last pull had looked, and how many it had passed without recording them: for those who ask how the
    /// group stands, who must not wait for the lock of `Run` within a rule.
    looked: AtomicU64,
    unrecorded: AtomicU64,
    members: AtomicU32,
    owned: Owned,
}

#[derive(Debug)]
struct Run {
    walk: Walk,
    lanes: Lanes,
    claims: BTreeMap<u64, Claim>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    /// Leases of single deliveries that end later than their claim's.
    extended: HashMap<u64, Timestamp>,
    in_flight: u32,
    /// How many were passed on the way and never handed out.
    passed: usize,
    /// Those of them that are not recorded as such yet.
    unrecorded: BTreeSet<u64>,
    unwritten: Unwritten,
    sent: VecDeque<(Ticket, Unwritten)>,
    parked: Parked,
    members: u32,
    next_member: u64,
    /// The clock never goes back here.
    now: Timestamp,
    told: Told,
}

/// What one pull handed out.
#[derive(Debug)]
struct Claim {
    member: u64,
    deadline: Timestamp,
    held: Vec<Held>,
    left: usize,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    position: u64,
    key: Option<u64>,
}

/// What was chosen for a batch and is not claimed yet.
struct Chosen {
    claim: u64,
    batch: Batch,
    held: Vec<Held>,
    /// Those among them that the ledger does not know.
    new: Vec<u64>,
}

/// What a pull came to.
pub(super) enum Pulled {
    Batch(Batch),
    /// Nothing, before the head moves, or this time comes.
    Nothing {
        seen: u64,
        changed: u64,
        told: Told,
        until: Option<Duration>,
    },
}

impl Core {
    pub(super) fn new(store: &Store, owned: Owned, settings: Settings, ledger: Arc<Mutex<Ledger>>) -> Result<Self> {
        let run = Run::new(store, &settings, &ledger, owned.told())?;
        let name = owned.name().into();
        Ok(Self {
            name,
            settings,
            ledger,
            run: Mutex::new(run),
            changed: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            looked: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
            members: AtomicU32::new(0),
            owned,
        })
    }

    /// Gives a new member its number.
    pub(super) fn join(&self) -> Result<u64> {
        let mut run = guard(&self.run);
        if self.settings.dedicated && run.members > 0 {
            return Err(Error::ConsumerBusy { name: self.name.to_string() });
        }
        run.members += 1;
        self.members.store(run.members, Ordering::Release);
        run.next_member += 1;
        Ok(run.next_member)
    }

    /// Takes back what a member holds. Its attempts count: what it did with them nobody knows.
    pub(super) fn leave(&self, store: &Store, member: u64) {
        let mut run = guard(&self.run);
        run.members -= 1;
        self.members.store(run.members, Ordering::Release);
        let claims: Vec<u64> =
            run.claims.iter().filter(|(_, claim)| claim.member == member).map(|(id, _)| *id).collect();
        let mut ledger = guard(&self.ledger);
        for claim in claims {
            run.take_away(claim, None, &mut ledger);
        }
        drop(ledger);
        drop(run);
        self.tell(store);
    }

    pub(super) fn members(&self) -> u32 {
        self.members.load(Ordering::Acquire)
    }

    pub(super) fn in_flight(&self) -> u32 {
        guard(&self.ledger).rows.iter().filter(|row| row.is_held()).count() as u32
    }

    /// How many positions are to be looked at or handed out still.
    pub(super) fn lag(&self, store: &Store) -> u64 {
        let ledger = guard(&self.ledger);
        let looked = self.looked.load(Ordering::Acquire).max(ledger.scanned.get());
        let unsettled = ledger.rows.len() as u64 + self.unrecorded.load(Ordering::Acquire);
        store.head().get().saturating_sub(looked) + unsettled
    }

    /// Wakes members that wait.
    pub(super) fn tell(&self, store: &Store) {
        self.changed.fetch_add(1, Ordering::AcqRel);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            store.inner.log.head.wake();
        }
    }

    pub(super) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Acquire)
    }

    /// Whether somebody moved the group by its name. Takes no lock that is held while the writer is waited for.
    pub(super) fn is_moved(&self, since: Told) -> bool {
        self.owned.told() != since
    }

    fn lock(&self, store: &Store) -> Result<MutexGuard<'_, Run>> {
        let mut run = guard(&self.run);
        let told = self.owned.told();
        if told != run.told {
            // What was decided before the group was moved belongs to a past that was taken back.
            let (members, next_member) = (run.members, run.next_member);
            *run = Run::new(store, &self.settings, &self.ledger, told)?;
            (run.members, run.next_member) = (members, next_member);
            self.looked.store(0, Ordering::Release);
            self.unrecorded.store(0, Ordering::Release);
        }
        run.now = run.now.max(store.inner.clock.now());
        Ok(run)
    }

    /// Hands out the next deliveries, if there are any now.
    pub(super) fn pull(&self, store: &Store, member: u64, max: usize) -> Result<Pulled> {
        let mut run = self.lock(store)?;
        let changed = self.changed();
        let log = &store.inner.log;
        // Closed is asked before the log is looked at, so nothing can have come behind what is found.
        let closed = log.is_closed();
        let seen = log.head.get();
        run.answers(false)?;
        run.expire(&mut guard(&self.ledger));
        if run.must_be_written() {
            self.submit(store, &mut run)?;
            run.answers(true)?;
        }
        let now = run.now;
        run.lanes.pass(now);
        let paused = guard(&self.ledger).paused;
        let room = self.settings.max_in_flight.saturating_sub(run.in_flight) as usize;
        let max = max.min(room).min(runs::MOST);
        loop {
            let mut chosen = Chosen::new(self.name.clone(), guard(&self.ledger).claims + 1);
            if max > 0 && !paused {
                let chosen_well = self.choose(store, &mut run, &mut chosen, max);
                if let Err(error) = chosen_well {
                    run.undo(chosen);
                    return Err(error);
                }
            }
            let has_letters = run.unwritten.passes_new || !run.unwritten.letters.is_empty();
            if !chosen.held.is_empty() || has_letters {
                let found_some = !chosen.held.is_empty();
                let batch = self.hand_out(store, &mut run, member, chosen)?;
                if found_some {
                    self.show(&run);
                    return Ok(Pulled::Batch(batch));
                }
                // Only dead letters so far: look on.
                continue;
            }
            break;
        }
        self.show(&run);
        if closed {
            return Err(Error::Closed);
        }
        let scanned = guard(&self.ledger).scanned;
        if run.looked().get() > scanned.get() + UNRECORDED || run.unrecorded.len() >= LOOKAHEAD / 2 {
            self.record_progress(store, &mut run)?;
        }
        self.submit(store, &mut run)?;
        let until = run.next_time().map(|time| Duration::from_nanos(time.as_nanos().saturating_sub(now.as_nanos())));
        Ok(Pulled::Nothing { seen, changed, told: run.told, until })
    }

    /// Chooses what to hand out: first what came back, in the order of the log, then what is new.
    fn choose(&self, store: &Store, run: &mut Run, chosen: &mut Chosen, max: usize) -> Result<()> {
        if self.settings.on_failure == OnFailure::Park {
            run.parked.refresh(store, &self.name, &self.ledger)?;
        }
        while chosen.len() < max && !run.unwritten.is_full() {
            let Some((position, key)) = run.lanes.first() else { break };
            let alone = guard(&self.ledger).rows.get(position).is_some_and(|row| row.is_alone());
            if alone && chosen.len() > 0 {
                return Ok(());
            }
            self.choose_again(store, run, chosen, position, key)?;
            if alone && chosen.len() > 0 {
                return Ok(());
            }
            // What follows under the same key may go to the same member.
            while let Some(key) = key.filter(|_| chosen.len() < max && !run.unwritten.is_full())
                && let Some(position) = run.lanes.next_of(key, chosen.claim)
                && !guard(&self.ledger).rows.get(position).is_some_and(|row| row.is_alone())
            {
                self.choose_again(store, run, chosen, position, Some(key))?;
            }
        }
        let until = store.inner.log.head();
        while chosen.len() < max && !run.unwritten.is_full() && run.passed < LOOKAHEAD {
            let step = match run.walk.next_frame(until) {
                Some((offset, len)) => Step::Event { offset, len, position: run.walk.next().previous() },
                None => match run.walk.step(&store.inner.log, until)? {
                    Some(step) => step,
                    None => break,
                },
            };
            match step {
                Step::Event { offset, len, position } => self.choose_new(run, chosen, offset, len, position),
                Step::Damaged(damage) => self.bury_damage(run, &damage),
            }
        }
        Ok(())
    }

    /// One that waited: handed out again, or made a dead letter when it has had its attempts.
    fn choose_again(
        &self,
        store: &Store,
        run: &mut Run,
        chosen: &mut Chosen,
        position: u64,
        key: Option<u64>,
    ) -> Result<()> {
        let Some(row) = guard(&self.ledger).rows.get(position).copied() else {
            // New, and not recorded yet.
            let waiting = run.unrecorded.contains(&position);
            debug_assert!(waiting, "what waits is in the ledger or not recorded yet");
            return self.choose_waiting(store, run, chosen, position, key);
        };
        let (history, handed_out) = {
            let ledger = guard(&self.ledger);
            (ledger.histories.get(&position).cloned(), ledger.handed_out(&row))
        };
        let found = fetch(store, position)?;
        if row.attempts == 0 && history.is_none() {
            run.passed = run.passed.saturating_sub(1);
        }
        let event = match &found {
            Ok((part, offset, len)) => Ok(Event::borrowed(&part.segment, *offset, *len)),
            Err(damage) => Err(damage),
        };
        let redriven = history.as_ref().is_some_and(|history| history.letter > 0);
        let verdict = match &event {
            Err(damage) => Some((Reason::Damaged, damage.to_string())),
            Ok(event) => self.verdict(run, event, key, row.attempts, redriven).map(|reason| {
                let last = history.as_ref().map(|history| history.why.as_str()).filter(|why| !why.is_empty());
                let unanswered =
                    "an attempt ended without an answer: its lease ran out, or its member or process ended";
                let why = match reason {
                    Reason::Attempts if row.claim > 0 => unanswered,
                    Reason::Attempts => last.unwrap_or(unanswered),
                    Reason::Parked => "it follows a dead letter under its order key",
                    _ => "it waited for longer than the group allows",
                };
                (reason, why.to_owned())
            }),
        };
        if let Some((reason, why)) = verdict {
            let fate = Fate {
                group: &self.name,
                reason,
                why: &why,
                attempts: row.attempts,
                handed_out: handed_out.unwrap_or_default(),
                history: history.as_ref(),
                now: run.now,
                key: self.parking_key(key),
            };
            match &event {
                Ok(event) => letter::write(&mut run.unwritten.letters, event, &fate),
                Err(_) => letter::write_damage(&mut run.unwritten.letters, Position::new(position), 1, &fate),
            }
            run.parked.add(fate.key);
            run.lanes.take(position, key);
            run.unwritten.end(row.claim, position, run.now);
            // The row leaves with the commit, which this pull makes before it looks again.
            return Ok(());
        }
        let Ok((part, offset, len)) = &found else { return Ok(()) };
        let count = Count { attempt: row.attempts + 1, first: handed_out.unwrap_or(run.now), order_key: key };
        run.lanes.take(position, key);
        chosen.add(run, part, *offset, *len, Held { position, key }, count);
        Ok(())
    }

    /// One that was passed on the way and is not recorded yet.
    fn choose_waiting(
        &self,
        store: &Store,
        run: &mut Run,
        chosen: &mut Chosen,
        position: u64,
        key: Option<u64>,
    ) -> Result<()> {
        run.lanes.take(position, key);
        run.unrecorded.remove(&position);
        run.passed = run.passed.saturating_sub(1);
        match fetch(store, position)? {
            Ok((part, offset, len)) => self.take_new(run, chosen, &part, offset, len, key),
            Err(damage) => self.bury_damage(run, &damage),
        }
        Ok(())
    }

    fn choose_new(&self, run: &mut Run, chosen: &mut Chosen, offset: u64, len: u32, position: Position) {
        let part = run.walk.part().clone();
        let key = self.settings.order.key(&Event::borrowed(&part.segment, offset, len));
        if let Some(busy) = key.filter(|key| !run.lanes.is_free(*key, chosen.claim)) {
            run.lanes.put(position.get(), Some(busy), None);
            run.unrecorded.insert(position.get());
            run.passed += 1;
            return;
        }
        self.take_new(run, chosen, &part, offset, len, key);
    }

    fn take_new(&self, run: &mut Run, chosen: &mut Chosen, part: &Part, offset: u64, len: u32, key: Option<u64>) {
        let event = Event::borrowed(&part.segment, offset, len);
        let position = event.position().get();
        if let Some(reason) = self.verdict(run, &event, key, 0, false) {
            let why = match reason {
                Reason::Parked => "it follows a dead letter under its order key",
                _ => "it waited for longer than the group allows",
            };
            let fate = Fate {
                group: &self.name,
                reason,
                why,
                attempts: 0,
                handed_out: Timestamp::default(),
                history: None,
                now: run.now,
                key: self.parking_key(key),
            };
            letter::write(&mut run.unwritten.letters, &event, &fate);
            run.unwritten.passes_new = true;
            run.parked.add(fate.key);
            return;
        }
        let count = Count { attempt: 1, first: run.now, order_key: key };
        chosen.new.push(position);
        chosen.add(run, part, offset, len, Held { position, key }, count);
    }

    /// Why an event may not be handed out any more, if so.
    fn verdict(&self, run: &Run, event: &Event<'_>, key: Option<u64>, attempts: u32, redriven: bool) -> Option<Reason> {
        if attempts >= self.settings.retry.most_attempts() {
            return Some(Reason::Attempts);
        }
        if redriven {
            return None;
        }
        if key.is_some_and(|key| run.parked.contains(key)) {
            return Some(Reason::Parked);
        }
        let most = self.settings.expire_after?;
        let age = Duration::from_nanos(run.now.as_nanos().saturating_sub(event.time().as_nanos()));
        (age > most).then_some(Reason::Expired)
    }

    /// A stretch of the log that nobody can read becomes one dead letter.
    fn bury_damage(&self, run: &mut Run, damage: &Damage) {
        let next = run.walk.next();
        let lost = next.get().saturating_sub(damage.position.get()).max(1);
        let why = damage.to_string();
        let fate = Fate {
            group: &self.name,
            reason: Reason::Damaged,
            why: &why,
            attempts: 0,
            handed_out: Timestamp::default(),
            history: None,
            now: run.now,
            key: None,
        };
        letter::write_damage(&mut run.unwritten.letters, damage.position, lost, &fate);
        run.unwritten.passes_new = true;
    }

    fn parking_key(&self, key: Option<u64>) -> Option<u64> {
        key.filter(|_| self.settings.on_failure == OnFailure::Park)
    }

    /// Writes the claim, with everything that was decided before, and hands the batch out.
    fn hand_out(&self, store: &Store, run: &mut Run, member: u64, chosen: Chosen) -> Result<Batch> {
        let mut taken: Vec<u64> = chosen.held.iter().map(|held| held.position).collect();
        taken.sort_unstable();
        let claimed = Claimed {
            claim: if taken.is_empty() { 0 } else { chosen.claim },
            time: run.now,
            scanned: run.looked(),
            taken,
            held: run.unrecorded.iter().copied().collect(),
        };
        let mut unwritten = std::mem::take(&mut run.unwritten);
        let commit = unwritten.commit(&self.name, Some(claimed));
        let written = store.writer().and_then(|writer| writer.commit(&commit));
        if let Err(error) = written {
            run.unwritten.put_back(unwritten);
            run.undo(chosen);
            return Err(error);
        }
        run.unrecorded.clear();
        // Whatever was sent before is answered by now; what failed is told by the next call.
        let mut ledger = guard(&self.ledger);
        chosen.held.iter().for_each(|held| ledger.hand_out(held.position));
        drop(ledger);
        if !chosen.held.is_empty() {
            let deadline = later(run.now, self.settings.lease);
            let mut held = chosen.held;
            held.sort_unstable_by_key(|held| held.position);
            run.deadlines.insert((deadline, chosen.claim));
            run.in_flight += held.len() as u32;
            let left = held.len();
            run.claims.insert(chosen.claim, Claim { member, deadline, held, left });
        }
        Ok(chosen.batch)
    }

    /// Lets others see how far the group has looked.
    fn show(&self, run: &Run) {
        self.looked.store(run.looked().get(), Ordering::Release);
        self.unrecorded.store(run.unrecorded.len() as u64, Ordering::Release);
    }

    /// Records how far the group has looked, for when it is opened again.
    pub(super) fn keep_progress(&self, store: &Store) -> Result<()> {
        let mut run = self.lock(store)?;
        let scanned = guard(&self.ledger).scanned;
        if run.looked() > scanned { self.record_progress(store, &mut run) } else { Ok(()) }
    }

    fn record_progress(&self, store: &Store, run: &mut Run) -> Result<()> {
        let chosen = Chosen::new(self.name.clone(), 0);
        self.hand_out(store, run, 0, chosen).map(drop)
    }

    /// Sends what was decided on its way, without waiting for it.
    fn submit(&self, store: &Store, run: &mut Run) -> Result<()> {
        if run.unwritten.is_empty() {
            return Ok(());
        }
        if run.unwritten.passes_new {
            return self.record_progress(store, run);
        }
        let mut unwritten = std::mem::take(&mut run.unwritten);
        let commit = unwritten.commit(&self.name, None);
        match store.writer().and_then(|writer| writer.submit(&commit, Patience::Wait)) {
            Ok(ticket) => {
                run.sent.push_back((ticket, unwritten));
                Ok(())
            }
            Err(error) => {
                run.unwritten.put_back(unwritten);
                Err(error)
            }
        }
    }

    pub(super) fn settle(&self, store: &Store, token: Token, settlement: Settlement) -> Result<()> {
        let mut run = self.lock(store)?;
        let told = run.answers(false);
        self.settle_one(store, &mut run, token, settlement)?;
        self.send_when_full(store, &mut run, token.claim)?;
        drop(run);
        self.tell(store);
        told
    }

    /// All of them done; the first error, after the others were settled.
    pub(super) fn settle_all(&self, store: &Store, tokens: &[Token]) -> Result<()> {
        let mut run = self.lock(store)?;
        let mut told = run.answers(false);
        for token in tokens {
            let settled = self.settle_one(store, &mut run, *token, Settlement::Done);
            told = told.and(settled);
        }
        if let Some(last) = tokens.last() {
            self.send_when_full(store, &mut run, last.claim)?;
        }
        drop(run);
        self.tell(store);
        told
    }

    fn send_when_full(&self, store: &Store, run: &mut Run, claim: u64) -> Result<()> {
        if run.unwritten.is_full() || !run.claims.contains_key(&claim) {
            self.submit(store, run)?;
        }
        Ok(())
    }

    fn settle_one(&self, store: &Store, run: &mut Run, token: Token, settlement: Settlement) -> Result<()> {
        let mut ledger = guard(&self.ledger);
        run.expire(&mut ledger);
        let held = run.held(&self.name, &ledger, token)?;
        let now = run.now;
        let row = *ledger.rows.get(held.position).ok_or_else(|| self.not_held(token, SETTLED_BEFORE))?;
        let settlement = match settlement {
            Settlement::Retry { why, .. } if row.attempts >= self.settings.retry.most_attempts() => {
                Settlement::Reject { reason: Reason::Attempts, why }
            }
            settlement => settlement,
        };
        match settlement {
            Settlement::Done => {
                if let Some(history) = ledger.histories.get(&held.position)
                    && history.letter > 0
                {
                    run.parked.set_stale();
                }
                run.unwritten.end(token.claim, held.position, now);
                run.let_go(&mut ledger, token.claim, held);
            }
            Settlement::Release => {
                run.unwritten.release(token.claim, held.position, now);
                run.give_back(&mut ledger, token.claim, held, None);
            }
            Settlement::Retry { after, why } => {
                let chance = held.position ^ u64::from(row.attempts) << 48 ^ now.as_nanos();
                let after = after.unwrap_or_else(|| self.settings.retry.delay(row.attempts, chance));
                let not_before = later(now, after);
                let failed = Failed { position: held.position, not_before, why: letter::cut(&why).to_owned() };
                run.unwritten.fail(token.claim, failed, now);
                run.give_back(&mut ledger, token.claim, held, Some(not_before).filter(|_| !after.is_zero()));
            }
            Settlement::Reject { reason, why } => {
                let history = ledger.histories.get(&held.position).cloned();
                let handed_out = ledger.handed_out(&row).unwrap_or(now);
                drop(ledger);
                let found = fetch(store, held.position)?;
                let fate = Fate {
                    group: &self.name,
                    reason,
                    why: &why,
                    attempts: row.attempts,
                    handed_out,
                    history: history.as_ref(),
                    now,
                    key: self.parking_key(held.key),
                };
                match found {
                    Ok((part, offset, len)) => {
                        let event = Event::borrowed(&part.segment, offset, len);
                        letter::write(&mut run.unwritten.letters, &event, &fate);
                    }
                    Err(_) => letter::write_damage(&mut run.unwritten.letters, Position::new(held.position), 1, &fate),
                }
                let mut ledger = guard(&self.ledger);
                run.parked.add(fate.key);
                run.unwritten.end(token.claim, held.position, now);
                if fate.key.is_some() {
                    run.pull_back(&mut ledger, token.claim, held);
                }
                run.let_go(&mut ledger, token.claim, held);
            }
        }
        Ok(())
    }

    /// Writes a commit and settles deliveries as done in it.
    pub(super) fn commit_and_settle(&self, store: &Store, commit: &mut Commit, tokens: &[Token]) -> Result<Receipt> {
        let mut records: BTreeMap<u64, Settled> = BTreeMap::new();
        let mut all = Vec::with_capacity(tokens.len());
        {
            let mut run = self.lock(store)?;
            run.answers(false)?;
            // What was settled before comes before.
            self.submit(store, &mut run)?;
            let mut ledger = guard(&self.ledger);
            run.expire(&mut ledger);
            for token in tokens {
                let held = run.held(&self.name, &ledger, *token);
                let held = held.inspect_err(|_| {
                    ledger.set_committing(all.iter().map(|(_, held): &(u64, Held)| held.position), false)
                })?;
                // Nobody may take it away or settle it while it is on its way.
                ledger.set_committing([held.position], true);
                all.push((token.claim, held));
                let new = Settled { claim: token.claim, time: run.now, ..Settled::default() };
                records.entry(token.claim).or_insert(new).ended.push(held.position);
            }
        }
        let group = self.name.to_string();
        let record = |mut settled: Settled| {
            settled.ended.sort_unstable();
            Control::Settled { group: group.clone(), settled }
        };
        let records: Vec<Control> = records.into_values().map(record).collect();
        let written = store.commit_with(commit, &records);
        let mut run = guard(&self.run);
        if written.is_ok() {
            all.iter().for_each(|(claim, held)| run.forget(*claim, *held));
            run.parked.set_stale();
        } else {
            guard(&self.ledger).set_committing(all.iter().map(|(_, held)| held.position), false);
        }
        drop(run);
        self.tell(store);
        written
    }

    pub(super) fn extend(&self, store: &Store, token: Token, lease: Duration) -> Result<()> {
        let mut run = self.lock(store)?;
        let mut ledger = guard(&self.ledger);
        run.expire(&mut ledger);
        let held = run.held(&self.name, &ledger, token)?;
        let until = later(run.now, lease);
        let Some(claim) = run.claims.get(&token.claim) else { return Err(self.not_held(token, TAKEN_AWAY)) };
        let of_claim = claim.deadline;
        if until > of_claim {
            run.extended.insert(held.position, until);
        }
        Ok(())
    }

    /// Waits until everything that was decided is written.
    pub(super) fn flush(&self, store: &Store) -> Result<()> {
        let mut run = self.lock(store)?;
        run.answers(false)?;
        self.submit(store, &mut run)?;
        run.answers(true)
    }

    /// Takes in dead letters that were handed out again or dropped.
    pub(super) fn letters_changed(&self, store: &Store, redriven: &[Position]) -> Result<()> {
        let mut run = self.lock(store)?;
        run.parked.set_stale();
        for position in redriven {
            let key = key_of(store, &self.settings, position.get())?;
            run.lanes.put(position.get(), key, None);
        }
        drop(run);
        self.tell(store);
        Ok(())
    }

    fn not_held(&self, token: Token, why: &'static str) -> Error {
        Error::NotHeld { name: self.name.to_string(), position: Position::new(token.place), why }
    }
}

impl Run {
    fn new(store: &Store, settings: &Settings, ledger: &Mutex<Ledger>, told: Told) -> Result<Self> {
        let mut lanes = Lanes::default();
        let waiting: Vec<(u64, Timestamp)> = {
            let mut ledger = guard(ledger);
            for row in ledger.rows.iter_mut() {
                row.set_held(false);
                row.set_alone(row.claim > 0);
            }
            let time = |position| ledger.histories.get(&position).map_or(Timestamp::default(), |kept| kept.not_before);
            ledger
                .rows
                .iter()
                .map(|row| (row.position, if row.claim > 0 { Timestamp::default() } else { time(row.position) }))
                .collect()
        };
        for (position, not_before) in waiting {
            let key = key_of(store, settings, position)?;
            lanes.put(position, key, Some(not_before).filter(|time| *time > Timestamp::default()));
        }
        let (scanned, passed) = {
            let ledger = guard(ledger);
            let is_passed = |row: &&Row| row.attempts == 0 && !ledger.histories.contains_key(&row.position);
            (ledger.scanned, ledger.rows.iter().filter(is_passed).count())
        };
        Ok(Self {
            walk: Walk::new(&store.inner.log, Filter::Query(settings.filter.clone()), scanned.next())?,
            lanes,
            claims: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            extended: HashMap::new(),
            in_flight: 0,
            passed,
            unrecorded: BTreeSet::new(),
            unwritten: Unwritten::default(),
            sent: VecDeque::new(),
            parked: Parked::unread(settings.on_failure == OnFailure::Park),
            members: 0,
            next_member: 0,
            now: Timestamp::default(),
            told,
        })
    }

    /// The last position that was looked at.
    fn looked(&self) -> Position {
        self.walk.next().previous()
    }

    /// Looks for the answers to what was sent: all of them, or those that are there. What could not be written goes back.
    fn answers(&mut self, wait: bool) -> Result<()> {
        while let Some((ticket, _)) = self.sent.front() {
            let answer = match ticket.poll() {
                Some(answer) => answer,
                None if !wait => return Ok(()),
                None => {
                    let Some((ticket, unwritten)) = self.sent.pop_front() else { return Ok(()) };
                    if let Err(error) = ticket.wait() {
                        self.unwritten.put_back(unwritten);
                        return Err(error);
                    }
                    continue;
                }
            };
            let Some((_, unwritten)) = self.sent.pop_front() else { return Ok(()) };
            if let Err(error) = answer {
                self.unwritten.put_back(unwritten);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The delivery that a token names, if it is held still.
    fn held(&self, name: &str, ledger: &Ledger, token: Token) -> Result<Held> {
        let not_held = |why| Err(Error::NotHeld { name: name.to_owned(), position: Position::new(token.place), why });
        let Some(row) = ledger.rows.get(token.place) else { return not_held(SETTLED_BEFORE) };
        let Some(claim) = self.claims.get(&token.claim).filter(|_| row.claim == token.claim) else {
            return not_held(if token.claim == 0 || token.claim > ledger.claims { SETTLED_BEFORE } else { TAKEN_AWAY });
        };
        match claim.held.binary_search_by_key(&token.place, |held| held.position) {
            Ok(at) if row.is_held() && !row.is_committing() => Ok(claim.held[at]),
            _ => not_held(SETTLED_BEFORE),
        }
    }

    /// Takes away what is held beyond its lease.
    fn expire(&mut self, ledger: &mut Ledger) {
        while let Some((deadline, claim)) = self.deadlines.first().copied()
            && deadline <= self.now
        {
            self.take_away(claim, Some(self.now), ledger);
        }
    }

    /// Takes from a claim what it holds, or what it holds beyond its lease at a time.
    fn take_away(&mut self, id: u64, at: Option<Timestamp>, ledger: &mut Ledger) {
        let Some(claim) = self.claims.remove(&id) else { return };
        self.deadlines.remove(&(claim.deadline, id));
        let mut kept = Vec::new();
        let mut deadline = None;
        for held in claim.held {
            let Some(row) = ledger.rows.get_mut(held.position).filter(|row| row.claim == id) else { continue };
            let extended =
                self.extended.get(&held.position).copied().filter(|until| at.is_some_and(|now| *until > now));
            // What is on its way in a commit is looked at again a little later.
            let until = if row.is_committing() { Some(later(self.now, COMMITTING)) } else { extended };
            if !row.is_held() {
                continue;
            }
            if let Some(until) = until {
                deadline = Some(deadline.map_or(until, |deadline: Timestamp| deadline.min(until)));
                kept.push(held);
                continue;
            }
            row.set_held(false);
            row.set_alone(true);
            self.extended.remove(&held.position);
            self.in_flight -= 1;
            self.lanes.finish(held.key);
            self.lanes.put(held.position, held.key, None);
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
            let left = kept.len();
            self.claims.insert(id, Claim { deadline, held: kept, left, ..claim });
        }
    }

    /// A delivery is in nobody's hands any more; what becomes of it is decided.
    fn let_go(&mut self, ledger: &mut Ledger, claim: u64, held: Held) {
        if let Some(row) = ledger.rows.get_mut(held.position) {
            row.set_held(false);
        }
        self.forget(claim, held);
    }

    fn forget(&mut self, id: u64, held: Held) {
        let Some(claim) = self.claims.get_mut(&id) else { return };
        claim.left -= 1;
        if claim.left == 0 {
            let deadline = claim.deadline;
            self.claims.remove(&id);
            self.deadlines.remove(&(deadline, id));
        }
        self.extended.remove(&held.position);
        self.in_flight -= 1;
        self.lanes.finish(held.key);
    }

    /// A delivery waits again, and with it what follows under its order key.
    fn give_back(&mut self, ledger: &mut Ledger, claim: u64, held: Held, not_before: Option<Timestamp>) {
        self.pull_back(ledger, claim, held);
        self.let_go(ledger, claim, held);
        self.lanes.put(held.position, held.key, not_before);
    }

    /// Takes back what the same claim holds under the same order key behind a delivery: it must not be overtaken.
    fn pull_back(&mut self, ledger: &mut Ledger, id: u64, before: Held) {
        let (Some(key), Some(claim)) = (before.key, self.claims.get(&id)) else { return };
        let follows = |held: &&Held| held.key == Some(key) && held.position > before.position;
        let is_held = |held: &Held| ledger.rows.get(held.position).is_some_and(|row| row.claim == id && row.is_held());
        let following: Vec<Held> = claim.held.iter().filter(follows).copied().filter(is_held).collect();
        for held in following {
            self.unwritten.release(id, held.position, self.now);
            self.let_go(ledger, id, held);
            self.lanes.put(held.position, held.key, None);
        }
    }

    /// Whether what was decided has to stand in the ledger before anything else is handed out: it gives deliveries back,
    /// or frees what was parked.
    fn must_be_written(&self) -> bool {
        self.parked.is_stale()
            || self.unwritten.gives_back()
            || self.sent.iter().any(|(_, unwritten)| unwritten.gives_back())
    }

    /// Puts back what was chosen and could not be claimed.
    fn undo(&mut self, chosen: Chosen) {
        self.passed += chosen.new.len();
        self.unrecorded.extend(chosen.new);
        for held in chosen.held {
            self.lanes.finish(held.key);
            self.lanes.put(held.position, held.key, None);
        }
    }

    /// When something may happen by itself.
    fn next_time(&self) -> Option<Timestamp> {
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        lease.into_iter().chain(self.lanes.next_time()).min()
    }
}

impl Chosen {
    fn new(consumer: Arc<str>, claim: u64) -> Self {
        Self { claim, batch: Batch::new(Some(consumer), claim), held: Vec::new(), new: Vec::new() }
    }

    fn len(&self) -> usize {
        self.held.len()
    }

    fn add(&mut self, run: &mut Run, part: &Part, offset: u64, len: u32, held: Held, count: Count) {
        run.lanes.begin(held.key, self.claim);
        self.batch.push_counted(&part.segment, offset, len, count);
        self.held.push(held);
    }
}

/// Where an event stands, or the damage in its place.
fn fetch(store: &Store, position: u64) -> Result<std::result::Result<(Arc<Part>, u64, u32), Damage>> {
    match walk::at(&store.inner.log, Position::new(position))? {
        Some((part, Step::Event { offset, len, .. })) => Ok(Ok((part, offset, len))),
        Some((_, Step::Damaged(damage))) => Ok(Err(*damage)),
        // What a group waits for stands in the log; opening makes sure of that.
        None => {
            let (asked, oldest) = (Position::new(position), store.oldest());
            Err(Error::Expired { asked, oldest })
        }
    }
}

/// The order key of an event that waits. What cannot be read has none.
fn key_of(store: &Store, settings: &Settings, position: u64) -> Result<Option<u64>> {
    if settings.order == Order::None {
        return Ok(None);
    }
    let found = fetch(store, position)?.ok();
    Ok(found.and_then(|(part, offset, len)| settings.order.key(&Event::borrowed(&part.segment, offset, len))))
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(time.as_nanos().saturating_add(nanos))
}
