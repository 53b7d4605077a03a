//! Unsettled deliveries, by position.

use std::collections::VecDeque;

/// One unsettled delivery: 24 bytes, because there may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) position: u64,
    /// The claim that has it, or had it when the process ended; 0 when it waits.
    pub(crate) claim: u64,
    pub(crate) attempts: u32,
    marks: u32,
}

/// Settled, and not taken out yet.
const GONE: u32 = 1;

/// Held by a member of this process.
const HELD: u32 = 2;

/// To be handed out alone: an attempt at it ended without an answer, and nothing else may be blamed for the next.
const ALONE: u32 = 4;

/// Rows in the order of their positions. New ones come at the end, and old ones leave near the front; a row that leaves the
/// middle only gets a mark, until half of them have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    rows: VecDeque<Row>,
    gone: usize,
}

impl Row {
    pub(crate) fn waiting(position: u64) -> Self {
        Self { position, claim: 0, attempts: 0, marks: 0 }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.marks & HELD != 0
    }

    pub(crate) fn set_held(&mut self, held: bool) {
        self.mark(HELD, held);
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.marks & ALONE != 0
    }

    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.mark(ALONE, alone);
    }

    fn mark(&mut self, mark: u32, on: bool) {
        self.marks = if on { self.marks | mark } else { self.marks & !mark };
    }
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.gone
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.marks & GONE == 0)
    }

    /// Those from a position on.
    pub(crate) fn from(&self, position: u64) -> impl Iterator<Item = &Row> {
        let at = self.place(position).unwrap_or_else(|at| at);
        self.rows.range(at..).filter(|row| row.marks & GONE == 0)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut().filter(|row| row.marks & GONE == 0)
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.rows.front().map(|row| row.position)
    }

    pub(crate) fn get(&self, position: u64) -> Option<&Row> {
        let at = self.place(position).ok()?;
        Some(&self.rows[at]).filter(|row| row.marks & GONE == 0)
    }

    pub(crate) fn get_mut(&mut self, position: u64) -> Option<&mut Row> {
        let at = self.place(position).ok()?;
        Some(&mut self.rows[at]).filter(|row| row.marks & GONE == 0)
    }

    /// The row of a position, made if there is none.
    pub(crate) fn entry(&mut self, position: u64) -> &mut Row {
        let at = match self.place(position) {
            Ok(at) => {
                if self.rows[at].marks & GONE != 0 {
                    self.gone -= 1;
                    self.rows[at] = Row::waiting(position);
                }
                at
            }
            Err(at) => {
                self.rows.insert(at, Row::waiting(position));
                at
            }
        };
        &mut self.rows[at]
    }

    /// Takes a row out. `None` when there is none.
    pub(crate) fn remove(&mut self, position: u64) -> Option<Row> {
        let at = self.place(position).ok()?;
        let row = self.rows[at];
        if row.marks & GONE != 0 {
            return None;
        }
        self.rows[at].marks = GONE;
        self.gone += 1;
        while self.rows.front().is_some_and(|row| row.marks & GONE != 0) {
            self.rows.pop_front();
            self.gone -= 1;
        }
        if self.gone > 64 + self.rows.len() / 2 {
            self.rows.retain(|row| row.marks & GONE == 0);
            self.gone = 0;
        }
        Some(row)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn place(&self, position: u64) -> Result<usize, usize> {
        let Some(first) = self.first() else { return Err(0) };
        if position < first {
            return Err(0);
        }
        // Where no position is missing, this is the place; and most are behind the last one.
        let guess = (position - first) as usize;
        match self.rows.get(guess) {
            Some(row) if row.position == position => return Ok(guess),
            _ if self.rows.back().is_some_and(|last| last.position < position) => return Err(self.rows.len()),
            _ => {}
        }
        self.rows.binary_search_by_key(&position, |row| row.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn rows_are_kept_as_a_map_would_keep_them() {
        let (mut rows, mut model) = (Rows::default(), BTreeMap::new());
        let mut seed = 7u64;
        for step in 0..200_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chosen = if seed >> 63 == 0 { step } else { (seed >> 33) % (step + 1) };
            if seed >> 62 & 1 == 0 {
                rows.entry(chosen).attempts += 1;
                *model.entry(chosen).or_insert(0) += 1;
            } else {
                assert_eq!(rows.remove(chosen).map(|row| row.attempts), model.remove(&chosen));
            }
            assert_eq!(rows.get(chosen).map(|row| row.attempts), model.get(&chosen).copied());
            assert_eq!(rows.len(), model.len());
        }
        assert!(rows.iter().map(|row| (row.position, row.attempts)).eq(model));
        assert!(rows.rows.len() < 3 * rows.len() + 200, "those that are gone were kept");
    }
}
