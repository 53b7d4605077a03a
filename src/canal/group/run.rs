//! What of an open group is of this process: who holds what until when, what waits, what was decided and is on its way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::canal::group::choose::Chosen;
use crate::canal::group::lanes::Lanes;
use crate::canal::group::parked::Parked;
use crate::canal::group::unwritten::Unwritten;
use crate::canal::group::{OnFailure, Order, Settings};
use crate::error::{Damage, Error, Result};
use crate::id::{Position, Timestamp};
use crate::log::event::Event;
use crate::log::ledger::Ledger;
use crate::log::ledger::rows::Row;
use crate::log::parts::Part;
use crate::log::terms::Filter;
use crate::log::walk::{Step, Walk, lookup};
use crate::store::Store;
use crate::sync::guard;
use crate::sync::owners::Told;
use crate::sync::primitive::atomic::{AtomicU32, Ordering};
use crate::sync::primitive::{Arc, Mutex};
use crate::writer::ticket::Ticket;

/// When a lease that ran out while its delivery was being committed is looked at again.
const COMMITTING: Duration = Duration::from_secs(1);

pub(super) const SETTLED_BEFORE: &str = "it is settled already, or was never handed out";
pub(super) const OF_ANOTHER: &str = "another canal handed it out";
pub(super) const TAKEN_AWAY: &str = "its lease ran out, or it was given back";

/// Behind one lock, which all members share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) walk: Walk,
    /// Up to here the walk has found everything: it does not move on where nothing is meant.
    pub(super) exhausted: Position,
    pub(super) lanes: Lanes,
    pub(super) claims: BTreeMap<u64, Claim>,
    pub(super) deadlines: BTreeSet<(Timestamp, u64)>,
    /// Leases of single deliveries that end later than their claim's.
    pub(super) extended: HashMap<u64, Timestamp>,
    /// Deliveries that are settled in a commit which is on its way, each with the claim that holds it. Nobody may take them
    /// away or settle them meanwhile.
    pub(super) committing: HashMap<u64, u64>,
    /// Shown to those who ask, too, without the lock.
    pub(super) in_flight: Arc<AtomicU32>,
    /// How many were passed on the way and never handed out.
    pub(super) passed: usize,
    /// Those of them that are not recorded as such yet.
    pub(super) unrecorded: BTreeSet<u64>,
    pub(super) unwritten: Unwritten,
    pub(super) sent: VecDeque<(Ticket, Unwritten)>,
    /// What was sent and could not be written. Sent again as it was: with what came since it might grow too large to ever
    /// be written.
    pub(super) again: VecDeque<Unwritten>,
    pub(super) parked: Parked,
    pub(super) next_member: u64,
    /// What leases and waits go by: it never goes back, and never stands still while the clock goes on.
    pub(super) now: Timestamp,
    /// The latest time that the clock has shown, and the last one.
    pub(super) latest: Timestamp,
    shown: Timestamp,
    pub(super) told: Told,
}

/// What one pull handed out.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) member: u64,
    pub(super) deadline: Timestamp,
    pub(super) held: Vec<Held>,
    pub(super) left: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) position: u64,
    pub(super) key: Option<u64>,
}

impl Run {
    pub(super) fn new(store: &Store, settings: &Settings, ledger: &Mutex<Ledger>, told: Told) -> Result<Self> {
        {
            let mut ledger = guard(ledger);
            for row in ledger.rows.iter_mut() {
                row.set_held(false);
                row.set_alone(row.claim > 0);
            }
        }
        let lowest = {
            let ledger = guard(ledger);
            let unsettled = ledger.rows.iter().next().map_or(u64::MAX, |row| row.position);
            ledger.scanned.next().min(Position::new(unsettled))
        };
        let oldest = store.oldest();
        if lowest < oldest {
            return Err(Error::Expired { asked: lowest, oldest });
        }
        // Some at a time: there may be millions, and their keys are read without the lock.
        let (mut lanes, mut next) = (Lanes::default(), Some(0));
        while let Some(from) = next {
            let some = waiting(&guard(ledger), from);
            next = some.last().map(|(position, _)| position + 1);
            for (position, not_before) in some {
                let key = key_of(store, settings, position)?;
                lanes.put(position, key, Some(not_before).filter(|time| *time > Timestamp::default()));
            }
        }
        let (scanned, passed) = {
            let ledger = guard(ledger);
            let is_passed = |row: &&Row| row.attempts == 0 && !ledger.histories.contains_key(&row.position);
            (ledger.scanned, ledger.rows.iter().filter(is_passed).count())
        };
        Ok(Self {
            exhausted: scanned,
            walk: Walk::new(&store.inner.log, Filter::Query(settings.filter.clone()), scanned.next())?,
            lanes,
            claims: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            extended: HashMap::new(),
            committing: HashMap::new(),
            in_flight: Arc::default(),
            passed,
            unrecorded: BTreeSet::new(),
            unwritten: Unwritten::default(),
            sent: VecDeque::new(),
            again: VecDeque::new(),
            parked: Parked::unread(settings.on_failure == OnFailure::Park),
            next_member: 0,
            now: Timestamp::default(),
            latest: Timestamp::default(),
            shown: Timestamp::default(),
            told,
        })
    }

    /// Takes in what the clock shows. After it was set back, time goes on from where it was: a lease or a wait must not
    /// last for as much longer.
    pub(super) fn pass(&mut self, clock: Timestamp) {
        self.now = self.now.later(clock.since(self.shown));
        self.latest = self.latest.max(clock);
        self.shown = clock;
    }

    /// Goes on in the time of another one.
    pub(super) fn keep_time(&mut self, of: &Self) {
        (self.now, self.latest, self.shown) = (of.now, of.latest, of.shown);
    }

    /// The last position that was looked at.
    pub(super) fn looked(&self) -> Position {
        self.walk.next().previous().max(self.exhausted)
    }

    /// Looks for the answers to what was sent: all of them, or those that are there. What could not be written goes back, and
    /// the first reason is told: whoever goes on after that meets a reason that still holds, or none.
    pub(super) fn answers(&mut self, wait: bool) -> Result<()> {
        let mut told = Ok(());
        while let Some((ticket, unwritten)) = self.sent.pop_front() {
            let answer = match ticket.poll() {
                Some(answer) => answer,
                None if wait => ticket.wait(),
                None => {
                    self.sent.push_front((ticket, unwritten));
                    break;
                }
            };
            if let Err(error) = answer {
                self.again.push_back(unwritten);
                told = told.and(Err(error));
            }
        }
        told
    }

    /// Takes away what is held beyond its lease.
    pub(super) fn expire(&mut self, ledger: &mut Ledger) {
        while let Some((deadline, claim)) = self.deadlines.first().copied()
            && deadline <= self.now
        {
            self.take_away(claim, Some(self.now), ledger);
        }
    }

    /// Takes from a claim what it holds, or what it holds beyond its lease at a time.
    pub(super) fn take_away(&mut self, id: u64, at: Option<Timestamp>, ledger: &mut Ledger) {
        let Some(claim) = self.claims.remove(&id) else { return };
        self.deadlines.remove(&(claim.deadline, id));
        let mut kept = Vec::new();
        let mut deadline = None;
        // Order keys of which something is taken away: what follows under them goes, too, or it would overtake.
        let mut keys = HashSet::new();
        for held in claim.held {
            // Asked first: what is committed may have left the ledger already, and counts as held until its commit is
            // answered. It is looked at again a little later.
            let until = if self.is_committing(id, held.position) {
                Some(self.now.later(COMMITTING))
            } else if ledger.rows.get(held.position).is_some_and(|row| row.claim == id && row.is_held()) {
                let extended = self.extended.get(&held.position).copied();
                let overtakes = held.key.is_some_and(|key| keys.contains(&key));
                extended.filter(|until| !overtakes && at.is_some_and(|now| *until > now))
            } else {
                continue;
            };
            if let Some(until) = until {
                deadline = Some(deadline.map_or(until, |deadline: Timestamp| deadline.min(until)));
                kept.push(held);
                continue;
            }
            if let Some(row) = ledger.rows.get_mut(held.position) {
                row.set_held(false);
                row.set_alone(true);
            }
            keys.extend(held.key);
            self.extended.remove(&held.position);
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            self.lanes.finish(held.key);
            self.lanes.put(held.position, held.key, None);
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
            let left = kept.len();
            self.claims.insert(id, Claim { deadline, held: kept, left, ..claim });
        }
    }

    pub(super) fn is_committing(&self, claim: u64, position: u64) -> bool {
        self.committing.get(&position) == Some(&claim)
    }

    /// The commit of these is answered.
    pub(super) fn end_committing(&mut self, all: &[(u64, Held)]) {
        for (claim, held) in all {
            if self.is_committing(*claim, held.position) {
                self.committing.remove(&held.position);
            }
        }
    }

    /// A delivery is in nobody's hands any more; what becomes of it is decided.
    pub(super) fn let_go(&mut self, ledger: &mut Ledger, claim: u64, held: Held) {
        if let Some(row) = ledger.rows.get_mut(held.position) {
            row.set_held(false);
        }
        self.forget(claim, held);
    }

    pub(super) fn forget(&mut self, id: u64, held: Held) {
        let Some(claim) = self.claims.get_mut(&id) else { return };
        claim.left -= 1;
        if claim.left == 0 {
            let deadline = claim.deadline;
            self.claims.remove(&id);
            self.deadlines.remove(&(deadline, id));
        } else if claim.held.last().is_some_and(|last| last.position == held.position) {
            // Whoever gives back a long batch begins at its end, and each looks at what follows it.
            claim.held.pop();
        }
        self.extended.remove(&held.position);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.lanes.finish(held.key);
    }

    /// A delivery waits again, and with it what follows under its order key.
    pub(super) fn give_back(&mut self, ledger: &mut Ledger, claim: u64, held: Held, not_before: Option<Timestamp>) {
        self.pull_back(ledger, claim, held);
        self.let_go(ledger, claim, held);
        self.lanes.put(held.position, held.key, not_before);
    }

    /// Takes back what the same claim holds under the same order key behind a delivery: it must not be overtaken.
    pub(super) fn pull_back(&mut self, ledger: &mut Ledger, id: u64, before: Held) {
        let (Some(key), Some(claim)) = (before.key, self.claims.get(&id)) else { return };
        let follows = |held: &&Held| held.key == Some(key);
        let is_held = |held: &Held| {
            ledger.rows.get(held.position).is_some_and(|row| row.claim == id && row.is_held())
                && !self.is_committing(id, held.position)
        };
        let behind = claim.held.partition_point(|held| held.position <= before.position);
        let following: Vec<Held> = claim.held[behind..].iter().filter(follows).copied().filter(is_held).collect();
        for held in following {
            self.unwritten.release(id, held.position, self.now);
            self.let_go(ledger, id, held);
            self.lanes.put(held.position, held.key, None);
        }
    }

    /// Whether what was decided has to stand in the ledger before anything else is handed out: it gives deliveries back,
    /// or frees what was parked.
    pub(super) fn must_be_written(&self) -> bool {
        self.parked.is_stale()
            || self.unwritten.gives_back()
            || self.again.iter().any(Unwritten::gives_back)
            || self.sent.iter().any(|(_, unwritten)| unwritten.gives_back())
    }

    /// Puts back what was chosen and could not be claimed.
    pub(super) fn undo(&mut self, chosen: Chosen) {
        self.passed += chosen.new.len();
        self.unrecorded.extend(chosen.new);
        chosen.held.into_iter().for_each(|held| self.put_back(held));
    }

    /// One that was chosen and is not handed out waits again.
    pub(super) fn put_back(&mut self, held: Held) {
        self.lanes.finish(held.key);
        self.lanes.put(held.position, held.key, None);
    }

    /// When something may happen by itself.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        lease.into_iter().chain(self.lanes.next_time()).min()
    }
}

/// Unsettled deliveries from a position on, each with the time before which it may not come.
fn waiting(ledger: &Ledger, from: u64) -> Vec<(u64, Timestamp)> {
    let not_before = |row: &Row| match ledger.histories.get(&row.position) {
        Some(history) if row.claim == 0 => history.not_before,
        _ => Timestamp::default(),
    };
    ledger.rows.from(from).take(4096).map(|row| (row.position, not_before(row))).collect()
}

/// The part, offset and length of an event, or why there is none.
pub(super) type Found = std::result::Result<(Arc<Part>, u64, u32), Missing>;

/// Why an event that a group waits for is not there.
#[derive(Debug)]
pub(super) enum Missing {
    Damaged(Damage),
    /// Somebody removed it: there is nothing left to deliver.
    Removed,
}

/// Where an event stands, or why it does not.
pub(super) fn fetch(store: &Store, position: u64) -> Result<Found> {
    let log = &store.inner.log;
    match log.costs.of(|| lookup::at(log, Position::new(position)))? {
        Some((part, Step::Event { offset, len, .. })) => Ok(Ok((part, offset, len))),
        Some((_, Step::Damaged(damage))) => Ok(Err(Missing::Damaged(*damage))),
        None if Position::new(position) >= store.oldest() => Ok(Err(Missing::Removed)),
        // What a group waits for is kept, unless the group was named when it was let go of.
        None => {
            let (asked, oldest) = (Position::new(position), store.oldest());
            Err(Error::Expired { asked, oldest })
        }
    }
}

/// The order key of an event that waits. What cannot be read has none.
pub(super) fn key_of(store: &Store, settings: &Settings, position: u64) -> Result<Option<u64>> {
    if settings.order == Order::None {
        return Ok(None);
    }
    let found = fetch(store, position)?.ok();
    Ok(found.and_then(|(part, offset, len)| settings.order.key(&Event::borrowed(&part.segment, offset, len))))
}
