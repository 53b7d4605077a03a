//! What the log knows of one consumer group: what its control records add up to. Changed by the writer's turn when a
//! record is written, and by nobody else, but for the marks of rows, which say what members of this process hold.

pub(crate) mod ranges;
pub(crate) mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::format::control::{Claimed, Control, History, Row as StoredRow, Settled, Standing};
use crate::format::definition::Definition;
use crate::format::runs;
use crate::id::{Position, Timestamp};
use crate::log::ledger::ranges::Ranges;
use crate::log::ledger::rows::{Row, Rows};

/// The state of a group.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) definition: Definition,
    pub(crate) scanned: Position,
    pub(crate) claims: u64,
    pub(crate) paused: bool,
    /// Dead letters that are gone, by their revision.
    pub(crate) gone: Ranges,
    pub(crate) rows: Rows,
    /// Of deliveries that failed, were handed out twice, or are dead letters handed out again.
    pub(crate) histories: HashMap<u64, History>,
    /// When claims that still have rows were made, and how many rows they have.
    times: BTreeMap<u64, (Timestamp, usize)>,
}

impl Ledger {
    pub(crate) fn new(standing: Standing) -> Self {
        Self {
            definition: standing.definition,
            scanned: standing.scanned,
            claims: standing.claims,
            paused: standing.paused,
            gone: Ranges::new(standing.gone),
            rows: Rows::default(),
            histories: HashMap::new(),
            times: BTreeMap::new(),
        }
    }

    /// When a delivery was handed out for the first time.
    pub(crate) fn handed_out(&self, row: &Row) -> Option<Timestamp> {
        let kept = self.histories.get(&row.position).map(|history| history.handed_out);
        let kept = kept.filter(|time| *time > Timestamp::default());
        kept.or_else(|| self.times.get(&row.claim).map(|(time, _)| *time))
    }

    pub(crate) fn claimed(&mut self, claim: Claimed) {
        self.scanned = self.scanned.max(claim.scanned);
        self.claims = self.claims.max(claim.claim);
        let (mut taken, mut held) = (claim.taken.into_iter().peekable(), claim.held.into_iter().peekable());
        // In one rising order, so that new rows come at the end.
        loop {
            let take = match (taken.peek(), held.peek()) {
                (None, None) => break,
                (Some(taken), Some(held)) => taken < held,
                (taken, _) => taken.is_some(),
            };
            if !take {
                held.next().into_iter().for_each(|position| _ = self.rows.entry(position));
                continue;
            }
            if let Some(position) = taken.next() {
                let row = self.rows.entry(position);
                let before = std::mem::replace(&mut row.claim, claim.claim);
                row.attempts = row.attempts.saturating_add(1);
                if before > 0 {
                    let time = self.times.get(&before).map(|(time, _)| *time);
                    let history = self.histories.entry(position).or_default();
                    if history.handed_out == Timestamp::default() {
                        history.handed_out = time.unwrap_or_default();
                    }
                    self.leave(before);
                }
                self.times.entry(claim.claim).or_insert((claim.time, 0)).1 += 1;
            }
        }
    }

    pub(crate) fn settled(&mut self, settled: Settled) {
        for position in settled.ended {
            if self.rows.get(position).is_some_and(|row| row.claim == settled.claim) {
                self.rows.remove(position);
                self.leave(settled.claim);
                if let Some(history) = self.histories.remove(&position)
                    && history.letter > 0
                {
                    self.gone.insert(history.letter);
                }
            }
        }
        for position in settled.released {
            if let Some(row) = self.give_back(position, settled.claim) {
                row.attempts = row.attempts.saturating_sub(1);
            }
        }
        for failed in settled.failed {
            if self.give_back(failed.position, settled.claim).is_some() {
                let history = self.histories.entry(failed.position).or_default();
                if history.first_failed == Timestamp::default() {
                    history.first_failed = settled.time;
                }
                history.last_failed = settled.time;
                history.not_before = failed.not_before;
                history.why = failed.why;
            }
        }
    }

    /// Takes a row from its claim; when it was first handed out is remembered beside it.
    fn give_back(&mut self, position: u64, claim: u64) -> Option<&mut Row> {
        let row = self.rows.get(position).filter(|row| row.claim == claim)?;
        if claim > 0 {
            let time = self.handed_out(row).unwrap_or_default();
            self.histories.entry(position).or_default().handed_out = time;
            self.leave(claim);
        }
        let row = self.rows.get_mut(position)?;
        row.claim = 0;
        Some(row)
    }

    fn leave(&mut self, claim: u64) {
        if let Some((_, rows)) = self.times.get_mut(&claim) {
            *rows -= 1;
            if *rows == 0 {
                self.times.remove(&claim);
            }
        }
    }

    /// A member of this process holds it now.
    pub(crate) fn hand_out(&mut self, position: u64) {
        if let Some(row) = self.rows.get_mut(position) {
            row.set_held(true);
            row.set_alone(false);
        }
    }

    /// Those of these dead letters that can be handed out again: neither gone nor on their way, nor of events that the group
    /// comes to anyway, because it was moved back.
    pub(crate) fn redrivable(&self, letters: &[(u64, Position)]) -> Vec<(u64, Position)> {
        let mut sources = HashSet::new();
        let is_fresh = |(letter, position): &&(u64, Position)| {
            !self.gone.contains(*letter)
                && *position <= self.scanned
                && self.rows.get(position.get()).is_none()
                && sources.insert(*position)
        };
        letters.iter().filter(is_fresh).copied().collect()
    }

    /// Hands dead letters out again, and forgets others.
    pub(crate) fn letters(&mut self, redriven: Vec<(u64, Position)>, dropped: Vec<u64>) {
        for (letter, position) in self.redrivable(&redriven) {
            self.rows.entry(position.get());
            self.histories.insert(position.get(), History { letter, ..History::default() });
        }
        dropped.into_iter().for_each(|letter| self.gone.insert(letter));
    }

    pub(crate) fn reset(&mut self, scanned: Position) {
        self.scanned = scanned;
        self.rows.clear();
        self.histories.clear();
        self.times.clear();
    }

    /// Goes back to a place where the group once was: what came after it comes again. What was unsettled before stays so.
    pub(crate) fn go_back(&mut self, scanned: Position) {
        let later: Vec<u64> = self.rows.from(scanned.next().get()).map(|row| row.position).collect();
        for position in later {
            if let Some(row) = self.rows.remove(position)
                && row.claim > 0
            {
                self.leave(row.claim);
            }
            self.histories.remove(&position);
        }
        self.scanned = self.scanned.min(scanned);
    }

    /// Takes in rows as they stood at the head of a segment.
    pub(crate) fn unsettled(&mut self, rows: Vec<StoredRow>) {
        for stored in rows {
            for position in stored.first..stored.first + stored.count {
                let row = self.rows.entry(position);
                (row.attempts, row.claim) = (stored.attempts, stored.claim);
            }
            if stored.claim > 0 {
                self.times.entry(stored.claim).or_insert((stored.handed_out, 0)).1 += stored.count as usize;
            }
            if let Some(history) = stored.history {
                self.histories.insert(stored.first, history);
            }
        }
    }

    /// The whole state as records.
    pub(crate) fn records(&self, name: &str, out: &mut Vec<Control>) {
        let standing = Standing {
            definition: self.definition.clone(),
            scanned: self.scanned,
            claims: self.claims,
            paused: self.paused,
            gone: self.gone.stretches().collect(),
        };
        out.push(Control::Group { name: name.to_owned(), standing });
        let (mut rows, mut count): (Vec<StoredRow>, u64) = (Vec::new(), 0);
        for row in self.rows.iter() {
            if count == ROWS_OF_A_RECORD {
                out.push(Control::Unsettled { group: name.to_owned(), rows: std::mem::take(&mut rows) });
                count = 0;
            }
            count += 1;
            let history = self.histories.get(&row.position).cloned();
            let handed_out = self.times.get(&row.claim).map_or(Timestamp::default(), |(time, _)| *time);
            match rows.last_mut() {
                Some(last)
                    if last.first + last.count == row.position
                        && (last.attempts, last.claim) == (row.attempts, row.claim)
                        && last.history.is_none()
                        && history.is_none() =>
                {
                    last.count += 1;
                }
                _ => rows.push(StoredRow {
                    first: row.position,
                    count: 1,
                    attempts: row.attempts,
                    claim: row.claim,
                    handed_out,
                    history,
                }),
            }
        }
        if !rows.is_empty() {
            out.push(Control::Unsettled { group: name.to_owned(), rows });
        }
    }
}

/// So a record stays well below what a commit may have, whatever the failures said.
const ROWS_OF_A_RECORD: u64 = 4096;
const _: () = assert!(ROWS_OF_A_RECORD <= runs::MOST as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::control::Failed;

    fn claim(claim: u64, scanned: u64, taken: &[u64], held: &[u64]) -> Claimed {
        let time = Timestamp::from_nanos(claim * 100);
        Claimed { claim, time, scanned: Position::new(scanned), taken: taken.to_vec(), held: held.to_vec() }
    }

    /// Rows, histories, dead letters that are gone.
    type Shown = (Vec<(u64, u64, u32)>, Vec<(u64, History)>, Vec<(u64, u64)>);

    /// What it is made of, in an order.
    fn shown(ledger: &Ledger) -> Shown {
        let rows = ledger.rows.iter().map(|row| (row.position, row.claim, row.attempts)).collect();
        let mut histories: Vec<_> = ledger.histories.clone().into_iter().collect();
        histories.sort_by_key(|(position, _)| *position);
        (rows, histories, ledger.gone.stretches().collect())
    }

    /// The same ledger, as a new segment would carry it.
    fn carried(ledger: &Ledger) -> Ledger {
        let mut records = Vec::new();
        ledger.records("mail", &mut records);
        let mut carried = Ledger::new(Standing::default());
        for record in records {
            match Control::decode(&record.encode()).unwrap() {
                Control::Group { standing, .. } => carried = Ledger::new(standing),
                Control::Unsettled { rows, .. } => carried.unsettled(rows),
                other => panic!("{other:?}"),
            }
        }
        carried
    }

    #[test]
    fn a_settlement_counts_only_for_the_claim_that_still_has_the_delivery() {
        let mut ledger = Ledger::new(Standing::default());
        ledger.claimed(claim(1, 4, &[1, 2, 3], &[4]));
        ledger.claimed(claim(2, 4, &[2], &[]));
        ledger.settled(Settled { claim: 1, ended: vec![1, 2], released: vec![4], ..Settled::default() });
        assert_eq!(shown(&ledger).0, [(2, 2, 2), (3, 1, 1), (4, 0, 0)]);
        assert_eq!(ledger.handed_out(ledger.rows.get(2).unwrap()), Some(Timestamp::from_nanos(100)));
        ledger.settled(Settled { claim: 2, ended: vec![2], ..Settled::default() });
        assert_eq!(shown(&ledger).0, [(3, 1, 1), (4, 0, 0)]);
    }

    #[test]
    fn what_a_new_segment_carries_is_the_same_ledger() {
        let mut ledger = Ledger::new(Standing { scanned: Position::new(3), ..Standing::default() });
        let all: Vec<u64> = (4..10_004).collect();
        ledger.claimed(claim(1, 20_000, &all, &[10_010]));
        ledger.claimed(claim(2, 20_000, &[10, 11], &[]));
        let failed = Failed { position: 10, not_before: Timestamp::from_nanos(7), why: "no".into() };
        ledger.settled(Settled { claim: 2, released: vec![11], failed: vec![failed], ..Settled::default() });
        ledger.letters(vec![(3, Position::new(2))], vec![1, 2]);
        let carried = carried(&ledger);
        assert_eq!(shown(&carried), shown(&ledger));
        assert_eq!((carried.scanned, carried.claims), (ledger.scanned, ledger.claims));
        assert_eq!(carried.times, ledger.times);

        let mut without_rows = carried.clone();
        without_rows.rows.remove(10);
        assert_ne!(shown(&without_rows), shown(&ledger), "the control: a row less is noticed");
    }

    #[test]
    fn a_dead_letter_is_gone_once_its_redelivery_is_settled_and_not_before() {
        let mut ledger = Ledger::new(Standing::default());
        ledger.scanned = Position::new(9);
        ledger.letters(vec![(1, Position::new(5))], vec![]);
        ledger.claimed(claim(1, 9, &[5], &[]));
        assert!(!ledger.gone.contains(1));
        ledger.settled(Settled { claim: 1, ended: vec![5], ..Settled::default() });
        assert!(ledger.gone.contains(1) && ledger.rows.len() == 0);
    }
}
