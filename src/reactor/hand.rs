//! The batch in hand: which of its deliveries are handled, and how each is settled, exactly once.
//!
//! Two kinds of canals. Where settling is cumulative, deliveries are handled one after the other, `Done` for the last one that was
//! handled stands for all before it, and giving one back gives back everything behind it. Elsewhere each is settled by
//! itself, and a failed one holds up only what follows it under the same order key: that is given back first, last one
//! first, so that nothing can overtake.

use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::canal::breaker::Circuit;
use crate::canal::{Canal, Promises, Settlement, Token};
use crate::error::{Error, Result};
use crate::id::{Position, Timestamp};
use crate::reactor::care::{Answer, Care};
use crate::reactor::failure::Failure;
use crate::reactor::notice::{Notice, Turn};
use crate::reactor::stop::Stop;

/// What was handled is settled after so long, though the batch is not at its end.
const SETTLE: Duration = Duration::from_millis(100);

/// A batch while it is handled.
#[derive(Debug)]
pub struct Hand<'t, 'b, C> {
    pub(super) canal: &'t mut C,
    care: &'t mut Care,
    stop: &'t Stop,
    promises: Promises,
    deliveries: &'b [Delivery<'b>],
    states: Vec<State>,
    /// Handled and not settled.
    done: Vec<Token>,
    /// When those that wait were leased, or their leases extended.
    leased: Timestamp,
    settled: Timestamp,
    /// Nothing more is handled.
    over: bool,
    turn: &'t mut Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Handled, and in a commit that is not written.
    Pending,
    /// Handled, and not settled.
    Done,
    /// Settled one way or another, or not ours any more.
    Settled,
}

impl<'t, 'b, C: Canal> Hand<'t, 'b, C> {
    pub(super) fn new(
        canal: &'t mut C,
        care: &'t mut Care,
        stop: &'t Stop,
        deliveries: &'b [Delivery<'b>],
        turn: &'t mut Turn,
    ) -> Self {
        let now = care.now();
        Self {
            promises: canal.promises(),
            canal,
            care,
            stop,
            states: vec![State::Waiting; deliveries.len()],
            deliveries,
            done: Vec::with_capacity(deliveries.len()),
            leased: now,
            settled: now,
            over: false,
            turn,
        }
    }

    pub(super) fn deliveries(&self) -> &'b [Delivery<'b>] {
        self.deliveries
    }

    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn is_cumulative(&self) -> bool {
        self.promises.cumulative
    }

    pub(super) fn is_waiting(&self, at: usize) -> bool {
        self.states[at] == State::Waiting
    }

    pub(super) fn is_pending(&self, at: usize) -> bool {
        self.states[at] == State::Pending
    }

    /// Whether a delivery is to be handled now.
    #[inline]
    pub(super) fn take(&mut self, at: usize) -> Result<bool> {
        self.look_up()?;
        let take = !self.over && self.is_waiting(at);
        if take {
            self.care.set_in_hand(self.deliveries[at].position());
        }
        Ok(take)
    }

    /// Those of a range that are to be handled now, by their places.
    pub(super) fn take_all(&mut self, from: usize, to: usize) -> Result<Vec<usize>> {
        self.look_up()?;
        if self.over {
            return Ok(Vec::new());
        }
        let waiting: Vec<usize> = (from..to).filter(|at| self.is_waiting(*at)).collect();
        if let Some(first) = waiting.first() {
            self.care.set_in_hand(self.deliveries[*first].position());
        }
        Ok(waiting)
    }

    /// What has to be looked after between two calls of the handler.
    fn look_up(&mut self) -> Result<()> {
        self.over |= self.stop.is_now() || matches!(self.care.circuit(), Circuit::Open { .. });
        let now = self.care.now();
        if !self.done.is_empty() && (now.since(self.settled) >= SETTLE || now < self.settled) {
            self.settle_done(now)?;
        }
        if let Some(lease) = self.care.lease.filter(|_| self.promises.leased)
            // How long it has been cannot be told of a clock that was set back.
            && (now.since(self.leased) >= lease / 2 || now < self.leased)
        {
            self.extend(lease, now)?;
        }
        Ok(())
    }

    /// Keeps everything that is not settled.
    fn extend(&mut self, lease: Duration, now: Timestamp) -> Result<()> {
        self.settle_done(now)?;
        for at in 0..self.len() {
            if self.states[at] != State::Settled {
                let extended = self.canal.extend(self.deliveries[at].token(), lease);
                self.unless_gone(at, extended)?;
            }
        }
        self.leased = now;
        Ok(())
    }

    /// One was handled.
    #[inline]
    pub(super) fn done(&mut self, at: usize) {
        self.handled(at);
        self.states[at] = State::Done;
        self.done.push(self.deliveries[at].token());
    }

    /// One was handled, and is settled by a commit that is to come.
    pub(super) fn pend(&mut self, at: usize) {
        self.states[at] = State::Pending;
    }

    /// The commit came.
    pub(super) fn committed(&mut self, at: usize) {
        self.handled(at);
        self.states[at] = State::Settled;
    }

    #[inline]
    fn handled(&mut self, at: usize) {
        self.turn.done += 1;
        self.care.record(true);
        self.care.forget(self.deliveries[at].position());
    }

    /// One is settled too late, or lost because the canal takes nothing back, if that is what a settlement came to. Every
    /// other error is one.
    pub(super) fn unless_gone(&mut self, at: usize, settled: Result<()>) -> Result<bool> {
        let Err(error) = settled else { return Ok(false) };
        let position = self.deliveries[at].position();
        if matches!(error, Error::NotPromised { .. }) && !self.promises.lossless {
            self.turn.lost += 1;
            self.care.tell(Notice::Lost { position });
        } else if not_ours(&error).is_some() {
            self.turn.late += 1;
            self.care.tell(Notice::Late { position, error: &error });
        } else {
            return Err(error);
        }
        self.states[at] = State::Settled;
        Ok(true)
    }

    /// One failed, alone.
    pub(super) fn failed(&mut self, at: usize, failure: Failure) -> Result<()> {
        let delivery = &self.deliveries[at];
        let answer = self.care.answer(self.promises, delivery, failure);
        let (settlement, ended) = match answer {
            Answer::Settle(settlement) => (settlement, None),
            Answer::End(error) => (Settlement::Release, Some(error)),
        };
        let rejects = matches!(settlement, Settlement::Reject { .. });
        if self.promises.cumulative {
            self.settle_done(self.care.now())?;
        }
        if !rejects || self.promises.parks {
            self.release_followers(at)?;
        }
        let counter = match settlement {
            Settlement::Reject { .. } => &mut self.turn.rejected,
            Settlement::Release => &mut self.turn.released,
            _ => &mut self.turn.retried,
        };
        *counter += 1;
        let settled = self.canal.settle(delivery.token(), settlement.clone());
        if self.unless_gone(at, settled)? {
            match settlement {
                Settlement::Reject { .. } => self.turn.rejected -= 1,
                Settlement::Release => self.turn.released -= 1,
                _ => self.turn.retried -= 1,
            }
        }
        self.states[at] = State::Settled;
        ended.map_or(Ok(()), Err)
    }

    /// Gives back what must not overtake a delivery that is about to be given back.
    fn release_followers(&mut self, at: usize) -> Result<()> {
        if self.promises.cumulative {
            // Giving that one back gives them back.
            for later in at + 1..self.len() {
                self.turn.released += u64::from(self.states[later] != State::Settled);
                self.states[later] = State::Settled;
            }
            return Ok(());
        }
        let Some(key) = self.deliveries[at].order_key() else { return Ok(()) };
        for later in (at + 1..self.len()).rev() {
            if matches!(self.states[later], State::Waiting | State::Pending)
                && self.deliveries[later].order_key() == Some(key)
            {
                self.release(later)?;
            }
        }
        Ok(())
    }

    /// Gives back those in these places.
    pub(super) fn release_all(&mut self, places: &[usize]) -> Result<()> {
        for at in places.iter().rev() {
            if self.is_waiting(*at) {
                self.release(*at)?;
            }
        }
        Ok(())
    }

    fn release(&mut self, at: usize) -> Result<()> {
        let released = self.canal.settle(self.deliveries[at].token(), Settlement::Release);
        if !self.unless_gone(at, released)? {
            self.states[at] = State::Settled;
            self.turn.released += 1;
        }
        Ok(())
    }

    /// Settles what is left: done what was handled, and the rest is given back.
    pub(super) fn finish(mut self, handled: Result<()>) -> Result<()> {
        let settled = self.settle_done(self.care.now());
        // After an error, too: a canal that hands out in one order would go on behind what was not handled.
        let released = self.release_rest();
        handled.and(settled).and(released)
    }

    fn settle_done(&mut self, now: Timestamp) -> Result<()> {
        self.settled = now;
        if self.done.is_empty() {
            return Ok(());
        }
        let settled = self.canal.settle_all(&self.done);
        self.done.clear();
        for state in &mut self.states {
            if *state == State::Done {
                *state = State::Settled;
            }
        }
        for refused in settled? {
            let Some(position) = not_ours(&refused) else { return Err(refused) };
            if let Some(at) = self.deliveries.iter().position(|delivery| delivery.position() == position) {
                self.turn.done -= 1;
                self.unless_gone(at, Err(refused))?;
            }
        }
        Ok(())
    }

    fn release_rest(&mut self) -> Result<()> {
        let is_left = |state: &State| matches!(state, State::Waiting | State::Pending);
        if self.promises.cumulative {
            let Some(first) = self.states.iter().position(is_left) else { return Ok(()) };
            self.release_followers(first)?;
            return self.release(first);
        }
        for at in (0..self.len()).rev() {
            if is_left(&self.states[at]) {
                self.release(at)?;
            }
        }
        Ok(())
    }
}

/// The delivery that is not ours any more, if that is what an error says: somebody else has it, or the consumer was moved
/// back and comes to it again.
pub(super) fn not_ours(error: &Error) -> Option<Position> {
    match error {
        Error::NotHeld { position, .. } => Some(*position),
        Error::NotDelivered { asked, .. } => Some(*asked),
        _ => None,
    }
}
