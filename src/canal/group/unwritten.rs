//! What a group has decided and not written yet: settlements and dead letters, which become one commit.

use std::collections::BTreeMap;

use crate::format::control::{Claimed, Control, Failed, Settled};
use crate::format::runs;
use crate::id::Timestamp;
use crate::writer::commit::Commit;

/// Bytes of dead letters that one commit may gather.
const LETTER_BYTES: usize = 1 << 20;

/// Settlements that one commit may gather.
const SETTLEMENTS: usize = 1024;

/// Decisions on their way.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub(super) letters: Commit,
    /// Some of the dead letters are of events that the group had not recorded as seen: the next commit must do that.
    pub(super) passes_new: bool,
    settled: BTreeMap<u64, Settled>,
    count: usize,
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.letters.is_empty()
    }

    /// Whether it should be written before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.count >= SETTLEMENTS || self.letters.frames.len() >= LETTER_BYTES
    }

    /// Whether deliveries are to be handed out again on its account.
    pub(super) fn gives_back(&self) -> bool {
        self.settled.values().any(|settled| !settled.released.is_empty() || !settled.failed.is_empty())
    }

    /// A delivery that is done, or a dead letter.
    pub(super) fn end(&mut self, claim: u64, position: u64, now: Timestamp) {
        self.of(claim, now).ended.push(position);
    }

    pub(super) fn release(&mut self, claim: u64, position: u64, now: Timestamp) {
        self.of(claim, now).released.push(position);
    }

    pub(super) fn fail(&mut self, claim: u64, failed: Failed, now: Timestamp) {
        self.of(claim, now).failed.push(failed);
    }

    fn of(&mut self, claim: u64, now: Timestamp) -> &mut Settled {
        self.count += 1;
        let settled = self.settled.entry(claim).or_insert_with(|| Settled { claim, ..Settled::default() });
        settled.time = now;
        settled
    }

    /// Everything as one commit. A claim comes last: what it takes may have been given back by the settlements.
    pub(super) fn commit(&mut self, group: &str, claimed: Option<Claimed>) -> Commit {
        let mut commit = self.letters.clone();
        for settled in self.settled.values_mut() {
            settled.ended.sort_unstable();
            settled.released.sort_unstable();
            commit.control(&Control::Settled { group: group.to_owned(), settled: settled.clone() });
        }
        if let Some(mut claim) = claimed {
            // After failed writes more may wait than one record can name.
            for held in claim.held.chunks(runs::MOST).skip(1) {
                let held = Claimed { claim: 0, held: held.to_vec(), taken: Vec::new(), ..claim };
                commit.control(&Control::Claimed { group: group.to_owned(), claim: held });
            }
            claim.held.truncate(runs::MOST);
            commit.control(&Control::Claimed { group: group.to_owned(), claim });
        }
        commit
    }

    /// Takes back what could not be written, to be written with what came since.
    pub(super) fn put_back(&mut self, before: Unwritten) {
        let since = std::mem::replace(self, before);
        self.letters.append(&since.letters);
        self.passes_new |= since.passes_new;
        self.count += since.count;
        for (claim, more) in since.settled {
            let settled = self.settled.entry(claim).or_insert_with(|| Settled { claim, ..Settled::default() });
            settled.time = more.time;
            settled.ended.extend(more.ended);
            settled.released.extend(more.released);
            settled.failed.extend(more.failed);
        }
    }
}
