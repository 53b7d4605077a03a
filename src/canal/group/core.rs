//! One open group: who holds what until when, and what may be handed out next. All members share it.
//!
//! What must survive lies in the ledger, which changes when the writer's turn writes a record, and only then. What lies here
//! is of this process: leases, lanes, what was decided and is on its way. The lock of `Run` is taken before the ledger's;
//! the ledger's is never held while the writer is waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::canal;
use crate::canal::batch::Batch;
use crate::canal::group::choose::{Chosen, LOOKAHEAD};
use crate::canal::group::letter::{self, Fate};
use crate::canal::group::run::{Claim, Held, OF_ANOTHER, Run, SETTLED_BEFORE, TAKEN_AWAY, fetch, key_of};
use crate::canal::group::unwritten::Unwritten;
use crate::canal::group::{Order, Settings};
use crate::canal::{Reason, Settlement, Token, set_aside};
use crate::error::{Error, Result};
use crate::format::control::{Claimed, Control, Failed, Settled};
use crate::format::runs;
use crate::id::Position;
use crate::log::ledger::Ledger;
use crate::store::Store;
use crate::sync::guard;
use crate::sync::owners::{Owned, Told};
use crate::sync::primitive::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::primitive::{Arc, Mutex, MutexGuard};
use crate::writer::commit::Commit;
use crate::writer::ticket::{Receipt, Ticket};

/// After so many positions without anything to hand out, the group records how far it has looked.
const UNRECORDED: u64 = 16_384;

/// What the members of a group share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) name: Arc<str>,
    /// Its number, for its tokens.
    pub(super) number: u64,
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
    in_flight: Arc<AtomicU32>,
    owned: Owned,
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
        let in_flight = run.in_flight.clone();
        let name = owned.name().into();
        Ok(Self {
            name,
            number: canal::number(),
            settings,
            ledger,
            run: Mutex::new(run),
            changed: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            looked: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
            members: AtomicU32::new(0),
            in_flight,
            owned,
        })
    }

    /// Gives a new member its number.
    pub(super) fn join(&self) -> Result<u64> {
        let mut run = guard(&self.run);
        if self.settings.dedicated && self.members() > 0 {
            return Err(Error::ConsumerBusy { name: self.name.to_string() });
        }
        self.members.fetch_add(1, Ordering::AcqRel);
        run.next_member += 1;
        Ok(run.next_member)
    }

    /// Takes back what a member holds. Its attempts count: what it did with them nobody knows.
    pub(super) fn leave(&self, store: &Store, member: u64) {
        let mut run = guard(&self.run);
        self.members.fetch_sub(1, Ordering::AcqRel);
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
        // A group that was moved holds nothing, and takes that in with its next pull.
        let unsettled = guard(&self.ledger).rows.len();
        self.in_flight.load(Ordering::Acquire).min(u32::try_from(unsettled).unwrap_or(u32::MAX))
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
        self.changed.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            store.inner.log.head.wake();
        }
    }

    pub(super) fn changed(&self) -> u64 {
        self.changed.load(Ordering::SeqCst)
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
            let mut anew = Run::new(store, &self.settings, &self.ledger, told)?;
            anew.next_member = run.next_member;
            anew.keep_time(&run);
            run.in_flight.store(0, Ordering::Release);
            anew.in_flight = run.in_flight.clone();
            *run = anew;
            self.looked.store(0, Ordering::Release);
            self.unrecorded.store(0, Ordering::Release);
        }
        run.pass(store.inner.clock.now());
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
        // What follows under an order key something that could not be written would overtake it.
        let is_ordered = self.settings.order != Order::None;
        if run.must_be_written() || is_ordered && !run.again.is_empty() {
            self.submit(store, &mut run)?;
            run.answers(true)?;
        }
        self.submit_again(store, &mut run)?;
        let now = run.now;
        run.lanes.pass(now);
        let paused = guard(&self.ledger).paused;
        let room = self.settings.max_in_flight.saturating_sub(run.in_flight.load(Ordering::Acquire)) as usize;
        let max = max.min(room).min(runs::MOST);
        loop {
            let mut chosen = Chosen::new(self, guard(&self.ledger).claims + 1);
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
        if run.looked().get().saturating_sub(scanned.get()) > UNRECORDED || run.unrecorded.len() >= LOOKAHEAD / 2 {
            self.record_progress(store, &mut run)?;
        }
        self.submit(store, &mut run)?;
        let until = run.next_time().map(|time| time.since(now));
        Ok(Pulled::Nothing { seen, changed, told: run.told, until })
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
        // Whatever was sent before is answered by now. Where nothing can be overtaken, what failed is told by the next call.
        if self.settings.order != Order::None
            && !chosen.held.is_empty()
            && let Err(error) = run.answers(true)
        {
            let claim = chosen.claim;
            chosen.held.iter().for_each(|held| run.unwritten.release(claim, held.position, run.now));
            chosen.held.into_iter().for_each(|held| run.put_back(held));
            return Err(error);
        }
        let mut ledger = guard(&self.ledger);
        chosen.held.iter().for_each(|held| ledger.hand_out(held.position));
        drop(ledger);
        if !chosen.held.is_empty() {
            let deadline = run.now.later(self.settings.lease);
            let mut held = chosen.held;
            held.sort_unstable_by_key(|held| held.position);
            run.deadlines.insert((deadline, chosen.claim));
            run.in_flight.fetch_add(held.len() as u32, Ordering::AcqRel);
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
        let chosen = Chosen::new(self, 0);
        self.hand_out(store, run, 0, chosen).map(drop)
    }

    /// Sends what was decided on its way, without waiting for it.
    fn submit(&self, store: &Store, run: &mut Run) -> Result<()> {
        self.submit_again(store, run)?;
        if run.unwritten.is_empty() {
            return Ok(());
        }
        if run.unwritten.passes_new {
            return self.record_progress(store, run);
        }
        let mut unwritten = std::mem::take(&mut run.unwritten);
        match self.send(store, &mut unwritten) {
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

    /// Sends what could not be written the last time.
    fn submit_again(&self, store: &Store, run: &mut Run) -> Result<()> {
        while let Some(mut unwritten) = run.again.pop_front() {
            match self.send(store, &mut unwritten) {
                Ok(ticket) => run.sent.push_back((ticket, unwritten)),
                Err(error) => {
                    run.again.push_front(unwritten);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn send(&self, store: &Store, unwritten: &mut Unwritten) -> Result<Ticket> {
        let commit = unwritten.commit(&self.name, None);
        store.writer()?.submit_here(&commit)
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

    /// All of them done. Gives what was told of those that are not this consumer's to settle.
    pub(super) fn settle_all(&self, store: &Store, tokens: &[Token]) -> Result<Vec<Error>> {
        let mut run = self.lock(store)?;
        let (mut told, mut refused) = (run.answers(false), Vec::new());
        for token in tokens {
            let settled = self.settle_one(store, &mut run, *token, Settlement::Done);
            told = told.and(set_aside(settled, &mut refused));
        }
        if let Some(last) = tokens.last() {
            self.send_when_full(store, &mut run, last.claim)?;
        }
        drop(run);
        self.tell(store);
        told.map(|()| refused)
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
        let held = self.held(run, &ledger, token)?;
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
                let not_before = now.later(after);
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
                self.bury(run, held.position, &found, &fate);
                let mut ledger = guard(&self.ledger);
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
                let held = match self.held(&run, &ledger, *token) {
                    Ok(held) => held,
                    Err(error) => {
                        run.end_committing(&all);
                        return Err(error);
                    }
                };
                run.committing.insert(held.position, token.claim);
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
        run.end_committing(&all);
        if written.is_ok() {
            all.iter().for_each(|(claim, held)| run.forget(*claim, *held));
        }
        drop(run);
        self.tell(store);
        written
    }

    pub(super) fn extend(&self, store: &Store, token: Token, lease: Duration) -> Result<()> {
        let mut run = self.lock(store)?;
        let mut ledger = guard(&self.ledger);
        run.expire(&mut ledger);
        let held = self.held(&run, &ledger, token)?;
        let until = run.now.later(lease);
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
        self.settle_down(store, &mut run)
    }

    /// Writes down that the group goes on elsewhere, with nobody handing out in between, who would go on from where it was.
    pub(super) fn seek(&self, store: &Store, scanned: Position) -> Result<()> {
        let mut run = self.lock(store)?;
        self.settle_down(store, &mut run)?;
        store.seek_to(&Control::Reset { group: self.name.to_string(), scanned }, scanned.next())?;
        // Whoever takes the lock next begins anew.
        store.inner.owners.tell(&self.name, scanned.next().get());
        drop(run);
        self.tell(store);
        Ok(())
    }

    /// Hands the sources of dead letters out again, those that are not on their way or gone, and says how many they are.
    pub(super) fn redrive(&self, store: &Store, letters: &[(u64, Position)]) -> Result<u64> {
        let mut run = self.lock(store)?;
        // What is settled and not written yet may be one of them, and so may what was passed.
        self.settle_down(store, &mut run)?;
        if !run.unrecorded.is_empty() {
            self.record_progress(store, &mut run)?;
        }
        let fresh = guard(&self.ledger).redrivable(letters);
        let key = |(_, position): &(u64, Position)| key_of(store, &self.settings, position.get());
        let keys: Vec<Option<u64>> = fresh.iter().map(key).collect::<Result<_>>()?;
        let letters: Vec<(u64, u64, Option<u64>)> =
            fresh.iter().zip(keys).map(|((number, source), key)| (*number, source.get(), key)).collect();
        store.write_redriven(&self.name, fresh)?;
        run.parked.redriven(&letters);
        letters.iter().for_each(|(_, source, key)| run.lanes.put(*source, *key, None));
        drop(run);
        self.tell(store);
        Ok(letters.len() as u64)
    }

    /// Takes in that dead letters were dropped.
    pub(super) fn letters_dropped(&self, store: &Store) -> Result<()> {
        self.lock(store)?.parked.set_stale();
        self.tell(store);
        Ok(())
    }

    /// Writes everything that was decided, and waits for it.
    fn settle_down(&self, store: &Store, run: &mut Run) -> Result<()> {
        run.answers(false)?;
        self.submit(store, run)?;
        run.answers(true)
    }

    /// The delivery that a token names, if it is held still.
    fn held(&self, run: &Run, ledger: &Ledger, token: Token) -> Result<Held> {
        let not_held = |why| Err(self.not_held(token, why));
        if token.canal != self.number {
            return not_held(OF_ANOTHER);
        }
        let Some(row) = ledger.rows.get(token.place) else { return not_held(SETTLED_BEFORE) };
        let Some(claim) = run.claims.get(&token.claim).filter(|_| row.claim == token.claim) else {
            return not_held(TAKEN_AWAY);
        };
        match claim.held.binary_search_by_key(&token.place, |held| held.position) {
            Ok(at) if row.is_held() && !run.is_committing(token.claim, token.place) => Ok(claim.held[at]),
            _ => not_held(SETTLED_BEFORE),
        }
    }

    fn not_held(&self, token: Token, why: &'static str) -> Error {
        Error::NotHeld { name: self.name.to_string(), position: Position::new(token.place), why }
    }
}
