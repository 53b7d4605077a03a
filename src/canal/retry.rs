//! When to try again, and how often.

use std::time::Duration;

/// How often a failing delivery is tried, and how long to wait between the attempts.
///
/// ```
/// use std::time::Duration;
/// use towpath::Retry;
///
/// let retry = Retry::exponential(Duration::from_millis(100), Duration::from_secs(60)).attempts(8);
/// assert_eq!(Retry::fixed(Duration::from_secs(1)).delay(3, 0), Duration::from_secs(1));
/// let list = Retry::list([Duration::from_secs(1), Duration::from_secs(10)]);
/// assert_eq!((list.delay(2, 0), list.delay(9, 0)), (Duration::from_secs(10), Duration::from_secs(10)));
/// # let _ = retry;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    waits: Waits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Waits {
    Fixed(Duration),
    Exponential { first: Duration, most: Duration },
    List(Vec<Duration>),
}

/// How often a delivery is tried unless it is said otherwise.
const ATTEMPTS: u32 = 5;

impl Default for Retry {
    /// Five attempts, half a second after the first failure, doubling up to a minute.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(500), Duration::from_secs(60))
    }
}

impl Retry {
    /// The same wait before every attempt.
    pub fn fixed(wait: Duration) -> Self {
        Self { attempts: ATTEMPTS, waits: Waits::Fixed(wait) }
    }

    /// A wait that doubles from attempt to attempt, up to the longest. Each is shortened by up to half, at random, so
    /// that what failed together does not come back together.
    pub fn exponential(first: Duration, most: Duration) -> Self {
        Self { attempts: ATTEMPTS, waits: Waits::Exponential { first, most } }
    }

    /// The waits after the first failure, the second, and so on; the last one goes on for ever. As many attempts as
    /// there are waits, and one more. No waits: one attempt.
    pub fn list(waits: impl IntoIterator<Item = Duration>) -> Self {
        let waits: Vec<Duration> = waits.into_iter().collect();
        Self { attempts: u32::try_from(waits.len() + 1).unwrap_or(u32::MAX), waits: Waits::List(waits) }
    }

    /// One attempt only.
    pub fn never() -> Self {
        Self::list([])
    }

    /// How many attempts there are in all, at least 1; 5 unless set.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How many attempts there are in all.
    pub fn most_attempts(&self) -> u32 {
        self.attempts
    }

    /// How long to wait after a failed attempt, counted from 1. `chance` is any number: where there is jitter, it says
    /// how much.
    pub fn delay(&self, attempt: u32, chance: u64) -> Duration {
        match &self.waits {
            Waits::Fixed(wait) => *wait,
            Waits::List(waits) => {
                let at = (attempt.max(1) as usize - 1).min(waits.len().saturating_sub(1));
                waits.get(at).copied().unwrap_or_default()
            }
            Waits::Exponential { first, most } => {
                let doubled = first.saturating_mul(1u32.checked_shl(attempt.max(1) - 1).unwrap_or(u32::MAX));
                let full = u64::try_from(doubled.min(*most).as_nanos()).unwrap_or(u64::MAX);
                Duration::from_nanos(full - mixed(chance) % (full / 2 + 1))
            }
        }
    }
}

/// Spreads a number over all its bits (the finalizer of SplitMix64, by Sebastiano Vigna).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_takes_at_most_half() {
        let retry = Retry::exponential(Duration::from_millis(100), Duration::from_secs(1));
        for attempt in 1..100 {
            let full =
                Duration::from_millis(100).saturating_mul(1 << (attempt - 1).min(20)).min(Duration::from_secs(1));
            let delays: Vec<Duration> = (0..100).map(|chance| retry.delay(attempt, chance)).collect();
            assert!(delays.iter().all(|delay| *delay <= full && *delay >= full / 2), "{attempt}: {delays:?}");
            assert!(delays.iter().max() > delays.iter().min(), "no jitter");
        }
    }

    #[test]
    fn a_list_says_how_often_too() {
        let second = Duration::from_secs(1);
        assert_eq!(Retry::list([second, second * 2]).most_attempts(), 3);
        assert_eq!((Retry::never().most_attempts(), Retry::never().delay(1, 0)), (1, Duration::ZERO));
        assert_eq!(Retry::default().attempts(0).most_attempts(), 1);
    }
}
