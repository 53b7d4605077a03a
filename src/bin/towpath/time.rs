//! Moments as text: RFC 3339 with nanoseconds out, RFC 3339 and a little more in.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use towpath::Timestamp;

/// What a timestamp can hold.
const BOUNDS: &str = "not a time from 1970 to 2554";

/// `2013-01-01T10:00:00.000000000Z`.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let known = jiff::Timestamp::from_nanosecond(i128::from(time.as_nanos()));
    // 2^64 ns end in the year 2554, far within what jiff can tell.
    known.map_or_else(|_| time.as_nanos().to_string(), |time| format!("{time:.9}"))
}

/// RFC 3339, a date or date and time (UTC), or a span that reaches back from now.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    parse_moment_at(text, &jiff::Timestamp::now().to_zoned(TimeZone::UTC))
}

fn parse_moment_at(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return from_jiff(time);
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return civil
            .to_zoned(TimeZone::UTC)
            .map_err(|_| BOUNDS.to_owned())
            .and_then(|zoned| from_jiff(zoned.timestamp()));
    }
    let Ok(span) = text.parse::<Span>() else {
        return Err("it is neither RFC 3339, nor a date, nor a span such as 2h".to_owned());
    };
    now.checked_sub(span.abs()).map_err(|_| BOUNDS.to_owned()).and_then(|zoned| from_jiff(zoned.timestamp()))
}

/// How long a span such as `30d` or `1mo` is when it ends now, in UTC.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    parse_span_at(text, &jiff::Timestamp::now().to_zoned(TimeZone::UTC))
}

fn parse_span_at(text: &str, now: &Zoned) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|_| "it is not a span such as 2h")?;
    let from = now.checked_sub(span.abs()).map_err(|_| "it is too long")?;
    now.duration_since(&from).try_into().map_err(|_| "it is too long".to_owned())
}

/// What stands in a field of a row: RFC 3339, or a whole number of seconds since 1970 UTC.
pub(crate) fn parse_occurred(text: &str) -> Result<Timestamp, String> {
    let time = match text.parse::<i64>() {
        Ok(seconds) => jiff::Timestamp::from_second(seconds),
        Err(_) => text.parse::<jiff::Timestamp>(),
    };
    time.map_err(|_| "neither RFC 3339 nor seconds since 1970".to_owned()).and_then(from_jiff)
}

fn from_jiff(time: jiff::Timestamp) -> Result<Timestamp, String> {
    let nanos = u64::try_from(time.as_nanosecond()).map_err(|_| BOUNDS)?;
    Ok(Timestamp::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_nine_digits_and_read_back() {
        for nanos in [0, 1, 1_357_034_400_000_000_000, u64::MAX] {
            let time = Timestamp::from_nanos(nanos);
            assert_eq!(parse_moment(&rfc3339(time)), Ok(time));
        }
        assert_eq!(rfc3339(Timestamp::from_nanos(1)), "1970-01-01T00:00:00.000000001Z");
    }

    #[test]
    fn a_moment_may_be_a_date_or_a_span_before_now() {
        let now = "2013-01-03T00:00:00Z".parse::<jiff::Timestamp>().unwrap().to_zoned(TimeZone::UTC);
        let shown = |text| parse_moment_at(text, &now).map(rfc3339);
        assert_eq!(shown("2013-01-01").unwrap(), "2013-01-01T00:00:00.000000000Z");
        assert_eq!(shown("2013-01-01T10:00:00+02:00").unwrap(), "2013-01-01T08:00:00.000000000Z");
        assert_eq!(shown("2h").unwrap(), "2013-01-02T22:00:00.000000000Z");
        assert_eq!(shown("3d ago").unwrap(), "2012-12-31T00:00:00.000000000Z");
        assert!(shown("yesterday").is_err());
        for text in ["1969-12-31", "9999-12-31", "2554-12-31", "9000y"] {
            assert_eq!(shown(text), Err(BOUNDS.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_span_has_the_length_that_it_has_when_it_ends_now() {
        let now = "2013-03-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().to_zoned(TimeZone::UTC);
        let days = |text| parse_span_at(text, &now).map(|span| span.as_secs_f64() / 86_400.0);
        assert_eq!(["30d", "12h", "1mo", "1w 1d", "0s"].map(days), [30.0, 0.5, 28.0, 8.0, 0.0].map(Ok));
        for text in ["", "30", "yesterday", "99999y"] {
            assert!(days(text).is_err(), "{text}");
        }
    }

    #[test]
    fn occurred_is_rfc_3339_or_whole_seconds() {
        assert_eq!(parse_occurred("1357034400").map(rfc3339).unwrap(), "2013-01-01T10:00:00.000000000Z");
        assert_eq!(parse_occurred("2013-01-01T10:00:00Z").map(rfc3339).unwrap(), "2013-01-01T10:00:00.000000000Z");
        for text in ["", "-1", "1.5", "NA", "99999999999999999999", "2013-01-01"] {
            assert!(parse_occurred(text).is_err(), "{text}");
        }
    }
}
