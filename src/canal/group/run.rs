//! What of an open group is of this process: who holds what until when, what waits, what was decided and is on its way.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::canal::Token;
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
use crate::log::walk::{self, Step, Walk};
use crate::store::Store;
use crate::sync::{Told, guard};
use crate::writer::ticket::Ticket;

/// When a lease that ran out while its delivery was being committed is looked at again.
const COMMITTING: Duration = Duration::from_secs(1);

pub(super) const SETTLED_BEFORE: &str = "it is settled already, or was never handed out";
pub(super) const TAKEN_AWAY: &str = "its lease ran out, or it was given back";

/// Behind one lock, which all members share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) walk: Walk,
    pub(super) lanes: Lanes,
    pub(super) claims: BTreeMap<u64, Claim>,
    pub(super) deadlines: BTreeSet<(Timestamp, u64)>,
    /// Leases of single deliveries that end later than their claim's.
    pub(super) extended: HashMap<u64, Timestamp>,
    pub(super) in_flight: u32,
    /// How many were passed on the way and never handed out.
    pub(super) passed: usize,
    /// Those of them that are not recorded as such yet.
    pub(super) unrecorded: BTreeSet<u64>,
    pub(super) unwritten: Unwritten,
    pub(super) sent: VecDeque<(Ticket, Unwritten)>,
    pub(super) parked: Parked,
    pub(super) members: u32,
    pub(super) next_member: u64,
    /// The clock never goes back here.
    pub(super) now: Timestamp,
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
    pub(super) fn looked(&self) -> Position {
        self.walk.next().previous()
    }

    /// Looks for the answers to what was sent: all of them, or those that are there. What could not be written goes back.
    pub(super) fn answers(&mut self, wait: bool) -> Result<()> {
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
    pub(super) fn held(&self, name: &str, ledger: &Ledger, token: Token) -> Result<Held> {
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
        }
        self.extended.remove(&held.position);
        self.in_flight -= 1;
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
    pub(super) fn must_be_written(&self) -> bool {
        self.parked.is_stale()
            || self.unwritten.gives_back()
            || self.sent.iter().any(|(_, unwritten)| unwritten.gives_back())
    }

    /// Puts back what was chosen and could not be claimed.
    pub(super) fn undo(&mut self, chosen: Chosen) {
        self.passed += chosen.new.len();
        self.unrecorded.extend(chosen.new);
        for held in chosen.held {
            self.lanes.finish(held.key);
            self.lanes.put(held.position, held.key, None);
        }
    }

    /// When something may happen by itself.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        lease.into_iter().chain(self.lanes.next_time()).min()
    }
}

/// Where an event stands, or the damage in its place.
pub(super) fn fetch(store: &Store, position: u64) -> Result<std::result::Result<(Arc<Part>, u64, u32), Damage>> {
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
pub(super) fn key_of(store: &Store, settings: &Settings, position: u64) -> Result<Option<u64>> {
    if settings.order == Order::None {
        return Ok(None);
    }
    let found = fetch(store, position)?.ok();
    Ok(found.and_then(|(part, offset, len)| settings.order.key(&Event::borrowed(&part.segment, offset, len))))
}

pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanos(time.as_nanos().saturating_add(nanos))
}
