//! How fast dead letters may be redriven.

use std::str::FromStr;
use std::time::Duration;

/// So many in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    count: u32,
    span: Duration,
}

impl Rate {
    /// How long after the first one the next is due, when so many were done.
    pub(crate) fn due(self, done: u64) -> Duration {
        let nanos = self.span.as_nanos() * u128::from(done) / u128::from(self.count);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many to do at once: what falls due in a tenth of a second, so that slow ones go one by one, and fast ones
    /// do not wait for the log each time.
    pub(crate) fn at_once(self) -> usize {
        let tenth = u128::from(self.count) * 100 / self.span.as_millis();
        usize::try_from(tenth).unwrap_or(usize::MAX).max(1)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "it is not a number, at least 1, and /s, /m or /h, such as 10/s";
        let (count, unit) = text.split_once('/').ok_or(FORM)?;
        let count: u32 = count.parse().ok().filter(|count| *count > 0).ok_or(FORM)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(FORM.to_owned()),
        };
        Ok(Self { count, span: Duration::from_secs(seconds) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_says_when_the_next_one_is_due() {
        let rate: Rate = "10/s".parse().unwrap();
        assert_eq!([0, 1, 25].map(|done| rate.due(done).as_millis()), [0, 100, 2500]);
        let slow: Rate = "2/m".parse().unwrap();
        assert_eq!([1, 2].map(|done| slow.due(done).as_secs()), [30, 60]);
        assert_eq!(slow.due(u64::MAX), Duration::from_nanos(u64::MAX));
        let at_once = |text: &str| text.parse::<Rate>().unwrap().at_once();
        assert_eq!(["1/h", "10/s", "25/s", "5000/s"].map(at_once), [1, 1, 2, 500]);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "10", "/s", "0/s", "-1/s", "1.5/s", "10/d", "10/", "4294967296/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
