//! Choosing what to hand out next, and burying what may not be handed out any more.

use crate::canal::Reason;
use crate::canal::batch::{Batch, Count};
use crate::canal::group::OnFailure;
use crate::canal::group::core::Core;
use crate::canal::group::letter::{self, Fate};
use crate::canal::group::run::{Found, Held, Missing, Run, fetch};
use crate::error::{Damage, Result};
use crate::id::{Position, Timestamp};
use crate::log::event::Event;
use crate::log::parts::Part;
use crate::log::walk::Step;
use crate::store::Store;
use crate::sync::guard;

/// How many events may be passed because their key is busy or waits for a retry, before no more are looked at.
pub(super) const LOOKAHEAD: usize = 65_536;

/// What was chosen for a batch and is not claimed yet.
pub(super) struct Chosen {
    pub(super) claim: u64,
    pub(super) batch: Batch,
    pub(super) held: Vec<Held>,
    /// Those among them that the ledger does not know.
    pub(super) new: Vec<u64>,
}

impl Core {
    /// Chooses what to hand out: first what came back, in the order of the log, then what is new.
    pub(super) fn choose(&self, store: &Store, run: &mut Run, chosen: &mut Chosen, max: usize) -> Result<()> {
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
                Some(place) => {
                    let position = run.walk.next().previous();
                    Step::Event { offset: place.offset, len: place.len(), position }
                }
                None => match run.walk.step(&store.inner.log, until)? {
                    Some(step) => step,
                    None => {
                        run.exhausted = until;
                        break;
                    }
                },
            };
            match step {
                Step::Event { offset, len, position } => self.choose_new(run, chosen, offset, len, position),
                Step::Damaged(damage) => {
                    let lost = run.walk.lost_with(&damage);
                    if lost > 0 {
                        self.bury_damage(run, damage.position, lost, &damage);
                    }
                }
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
            Err(Missing::Damaged(damage)) => Err(damage),
            Err(Missing::Removed) => {
                run.lanes.take(position, key);
                run.unwritten.end(row.claim, position, run.now);
                return Ok(());
            }
        };
        let redriven = history.as_ref().map_or(0, |history| history.letter);
        let verdict = match &event {
            Err(damage) => Some((Reason::Damaged, damage.to_string())),
            Ok(event) => self.verdict(run, event, key, row.attempts, redriven).map(|reason| {
                let last = history.as_ref().map(|history| history.why.as_str()).filter(|why| !why.is_empty());
                let unanswered =
                    "an attempt ended without an answer: its lease ran out, or its member or process ended";
                let why = match reason {
                    Reason::Attempts if row.claim > 0 => unanswered,
                    Reason::Attempts => last.unwrap_or(unanswered),
                    other => why_not(other),
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
            self.bury(run, position, &found, &fate);
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
        let found = fetch(store, position)?;
        run.lanes.take(position, key);
        run.unrecorded.remove(&position);
        run.passed = run.passed.saturating_sub(1);
        match found {
            Ok((part, offset, len)) => self.take_new(run, chosen, &part, offset, len, key),
            Err(Missing::Damaged(damage)) => self.bury_damage(run, Position::new(position), 1, &damage),
            Err(Missing::Removed) => {}
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
        if let Some(reason) = self.verdict(run, &event, key, 0, 0) {
            let fate = self.untried(run, reason, why_not(reason), self.parking_key(key));
            letter::write(&mut run.unwritten.letters, &event, &fate);
            run.unwritten.passes_new = true;
            run.parked.add(fate.key, position);
            return;
        }
        let count = Count { attempt: 1, first: run.now, order_key: key };
        chosen.new.push(position);
        chosen.add(run, part, offset, len, Held { position, key }, count);
    }

    /// Why an event may not be handed out any more, if so. `redriven`: the dead letter that it was, or 0.
    fn verdict(&self, run: &Run, event: &Event<'_>, key: Option<u64>, attempts: u32, redriven: u64) -> Option<Reason> {
        if attempts >= self.settings.retry.most_attempts() {
            return Some(Reason::Attempts);
        }
        if key.is_some_and(|key| run.parked.holds_up(key, event.position().get(), redriven)) {
            return Some(Reason::Parked);
        }
        let most = self.settings.expire_after.filter(|_| redriven == 0)?;
        (run.latest.since(event.time()) > most).then_some(Reason::Expired)
    }

    /// A stretch of the log that nobody can read becomes one dead letter.
    fn bury_damage(&self, run: &mut Run, position: Position, lost: u64, damage: &Damage) {
        let why = damage.to_string();
        let fate = self.untried(run, Reason::Damaged, &why, None);
        letter::write_damage(&mut run.unwritten.letters, position, lost, &fate);
        run.unwritten.passes_new = true;
    }

    /// A delivery becomes a dead letter; where its event cannot be read, one that says so. Of one that was removed nothing is
    /// kept.
    pub(super) fn bury(&self, run: &mut Run, position: u64, found: &Found, fate: &Fate<'_>) {
        let letters = &mut run.unwritten.letters;
        match found {
            Ok((part, offset, len)) => letter::write(letters, &Event::borrowed(&part.segment, *offset, *len), fate),
            Err(Missing::Damaged(_)) => letter::write_damage(letters, Position::new(position), 1, fate),
            Err(Missing::Removed) => return,
        }
        run.parked.add(fate.key, position);
    }

    /// What becomes of an event that was never handed out.
    fn untried<'a>(&'a self, run: &Run, reason: Reason, why: &'a str, key: Option<u64>) -> Fate<'a> {
        let handed_out = Timestamp::default();
        Fate { group: &self.name, reason, why, attempts: 0, handed_out, history: None, now: run.now, key }
    }

    pub(super) fn parking_key(&self, key: Option<u64>) -> Option<u64> {
        key.filter(|_| self.settings.on_failure == OnFailure::Park)
    }
}

impl Chosen {
    pub(super) fn new(core: &Core, claim: u64) -> Self {
        let batch = Batch::new(Some(core.name.clone()), core.number, claim);
        Self { claim, batch, held: Vec::new(), new: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn add(&mut self, run: &mut Run, part: &Part, offset: u64, len: u32, held: Held, count: Count) {
        run.lanes.begin(held.key, self.claim);
        self.batch.push_counted(&part.segment, offset, len, count);
        self.held.push(held);
    }
}

/// Why an event is not handed out that no attempt was made at.
fn why_not(reason: Reason) -> &'static str {
    match reason {
        Reason::Parked => "it follows a dead letter under its order key",
        _ => "it waited for longer than the group allows",
    }
}
