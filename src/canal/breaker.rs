//! A circuit breaker: what fails too often is left alone for a while, and then tried with one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Timestamp;

/// Decides from the share of failures among the last outcomes whether to go on, or to pause and then try one.
///
/// It has no clock and no thread: time is passed in. Closed: everything goes. Open: nothing until the pause is over.
/// Then probing: one at a time, until one outcome closes it, with nothing remembered, or opens it for another pause.
///
/// ```
/// use std::time::Duration;
/// use towpath::{Breaker, Circuit, Timestamp};
///
/// let second = |number: u64| Timestamp::from_nanos(number * 1_000_000_000);
/// let mut breaker = Breaker::at_percent(50).of_last(10).at_least(4).pause(Duration::from_secs(30));
/// for ok in [true, false, true, false] {
///     breaker.record(ok, second(0));
/// }
/// assert_eq!(breaker.circuit(), Circuit::Open { until: second(30) });
/// assert!(!breaker.allows(second(29)) && breaker.allows(second(30)));
/// assert_eq!(breaker.record(true, second(31)), Circuit::Closed);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    percent: u32,
    window: usize,
    least: usize,
    pause: Duration,
    /// Whether each of the last ones failed, oldest first.
    failed: VecDeque<bool>,
    failures: usize,
    circuit: Circuit,
}

/// How a [`Breaker`] stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    /// Everything goes.
    #[default]
    Closed,
    /// Nothing goes.
    Open {
        /// Then one is tried.
        until: Timestamp,
    },
    /// The pause is over: the next outcome decides.
    Probing,
}

/// The most outcomes that are remembered.
const MOST: usize = 65_536;

impl Default for Breaker {
    /// Opens for 30 seconds at half of the last 100 failing, of at least 20.
    fn default() -> Self {
        Self::at_percent(50)
    }
}

impl Breaker {
    /// One that opens when this share of the outcomes, or more, are failures: from 1 to 100 percent.
    pub fn at_percent(percent: u32) -> Self {
        Self {
            percent: percent.clamp(1, 100),
            window: 100,
            least: 20,
            pause: Duration::from_secs(30),
            failed: VecDeque::new(),
            failures: 0,
            circuit: Circuit::Closed,
        }
    }

    /// How many outcomes are looked at, from 1 to 65,536; the last 100 unless set.
    #[must_use]
    pub fn of_last(mut self, outcomes: usize) -> Self {
        self.window = outcomes.clamp(1, MOST);
        self
    }

    /// How many outcomes there must be before a share is made of them; 20 unless set. More than are looked at counts as
    /// that many.
    #[must_use]
    pub fn at_least(mut self, outcomes: usize) -> Self {
        self.least = outcomes;
        self
    }

    /// How long it stays open before one is tried; 30 seconds unless set.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How it stands, as of the last call of [`allows`](Breaker::allows) or [`record`](Breaker::record).
    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Whether the next one may go. Once the pause is over it says yes until an outcome is recorded: go one at a time
    /// while [`Circuit::Probing`].
    pub fn allows(&mut self, now: Timestamp) -> bool {
        let Circuit::Open { until } = self.circuit else { return true };
        // A clock that was set back does not make the pause longer.
        let until = until.min(now.later(self.pause));
        self.circuit = if now >= until { Circuit::Probing } else { Circuit::Open { until } };
        self.circuit == Circuit::Probing
    }

    /// Takes an outcome into account and says how it stands now. What was begun before it opened and ends after that
    /// changes nothing.
    pub fn record(&mut self, ok: bool, now: Timestamp) -> Circuit {
        match self.circuit {
            Circuit::Open { .. } => {}
            Circuit::Probing if ok => self.move_to(Circuit::Closed),
            Circuit::Probing => self.move_to(Circuit::Open { until: now.later(self.pause) }),
            Circuit::Closed => {
                self.remember(!ok);
                if self.is_too_much() {
                    self.move_to(Circuit::Open { until: now.later(self.pause) });
                }
            }
        }
        self.circuit
    }

    fn remember(&mut self, failed: bool) {
        while self.failed.len() >= self.window {
            self.failures -= usize::from(self.failed.pop_front().unwrap_or_default());
        }
        self.failed.push_back(failed);
        self.failures += usize::from(failed);
    }

    fn is_too_much(&self) -> bool {
        let seen = self.failed.len();
        seen >= self.least.min(self.window) && self.failures * 100 >= seen * self.percent as usize && self.failures > 0
    }

    /// The outcomes of before say nothing about what comes now.
    fn move_to(&mut self, circuit: Circuit) {
        self.circuit = circuit;
        self.failed.clear();
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_nanos(second * 1_000_000_000)
    }

    fn fed(mut breaker: Breaker, outcomes: &str) -> Breaker {
        for one in outcomes.chars() {
            breaker.record(one == '+', at(0));
        }
        breaker
    }

    #[test]
    fn it_opens_at_the_share_and_not_at_one_failure_fewer() {
        let half_of_ten = Breaker::at_percent(50).of_last(10).at_least(10);
        assert_eq!(fed(half_of_ten.clone(), "+++++-----").circuit(), Circuit::Open { until: at(30) });
        assert_eq!(fed(half_of_ten.clone(), "++++++----").circuit(), Circuit::Closed);
        assert_eq!(fed(half_of_ten, "-----++++").circuit(), Circuit::Closed, "one is missing to the least number");
        assert_eq!(fed(Breaker::at_percent(0).at_least(0), "++++").circuit(), Circuit::Closed, "nothing failed");
    }

    #[test]
    fn it_looks_at_the_last_outcomes_only() {
        let breaker = Breaker::at_percent(75).of_last(4).at_least(100);
        assert_eq!(fed(breaker.clone(), "--++-+").circuit(), Circuit::Closed);
        assert_eq!(fed(breaker.clone(), "++++++++++--").circuit(), Circuit::Closed);
        assert_eq!(fed(breaker, "++++++++++---").circuit(), Circuit::Open { until: at(30) });
    }

    #[test]
    fn after_the_pause_one_outcome_decides() {
        let mut breaker = fed(Breaker::at_percent(100).at_least(1).pause(Duration::from_secs(5)), "-");
        assert!(!breaker.allows(at(4)));
        assert_eq!(breaker.record(true, at(4)), Circuit::Open { until: at(5) }, "a late outcome changes nothing");
        assert!(breaker.allows(at(5)) && breaker.allows(at(6)), "a probe that came to nothing may be made again");
        assert_eq!(breaker.record(false, at(7)), Circuit::Open { until: at(12) });
        assert!(!breaker.allows(at(11)) && breaker.allows(at(12)));
        assert_eq!(breaker.record(true, at(13)), Circuit::Closed);
    }

    #[test]
    fn nothing_of_before_the_pause_is_counted_after_it() {
        let mut breaker = fed(Breaker::at_percent(50).of_last(4).at_least(4), "+---");
        assert!(breaker.allows(at(30)));
        breaker.record(true, at(30));
        assert_eq!(fed(breaker.clone(), "---").circuit(), Circuit::Closed);
        assert_eq!(fed(breaker, "----").circuit(), Circuit::Open { until: at(30) }, "control: it still can open");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_lengthen_the_pause() {
        let mut breaker = Breaker::at_percent(100).at_least(1).pause(Duration::from_secs(5));
        breaker.record(false, at(1_000));
        assert!(!breaker.allows(at(10)));
        assert!(!breaker.allows(at(14)) && breaker.allows(at(15)));
        let mut forever = fed(Breaker::at_percent(100).at_least(1).pause(Duration::MAX), "-");
        assert!(!forever.allows(at(1 << 32)));
    }
}
