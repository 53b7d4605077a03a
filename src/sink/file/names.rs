//! The names of files that were rotated away: when, and which number it was.

use crate::id::Timestamp;
use crate::sink::record::{civil, days};

/// What stands behind a file that is compressed.
pub(super) const GZIP: &str = ".gz";

/// The names of the files of one sink.
#[derive(Debug)]
pub(super) struct Names {
    /// The file that is written to: `events.ndjson`.
    pub(super) active: String,
    stem: String,
    /// With its point, or empty.
    extension: String,
}

/// A file that was rotated away: `events.20130101T100000Z-000017.ndjson`, and perhaps `.gz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rotated {
    pub(super) number: u64,
    /// In seconds since 1970.
    pub(super) time: u64,
    pub(super) name: String,
    pub(super) is_compressed: bool,
}

impl Names {
    pub(super) fn new(active: &str) -> Self {
        let (stem, extension) = match active.rfind('.') {
            Some(point) if point > 0 => active.split_at(point),
            _ => (active, ""),
        };
        Self { active: active.to_owned(), stem: stem.to_owned(), extension: extension.to_owned() }
    }

    /// The name of the file that is rotated away now.
    pub(super) fn rotated(&self, now: Timestamp, number: u64) -> String {
        let seconds = now.as_nanos() / 1_000_000_000;
        let ((year, month, day), second) = (civil(seconds / 86_400), seconds % 86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (stem, extension) = (&self.stem, &self.extension);
        format!("{stem}.{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{number:06}{extension}")
    }

    /// Those among some names that are rotated files of this sink, oldest first.
    pub(super) fn among<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<Rotated> {
        let mut found: Vec<Rotated> = names.into_iter().filter_map(|name| self.parse(name)).collect();
        found.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
        found
    }

    /// Whether this is what an interrupted compression has left.
    pub(super) fn is_left_over(&self, name: &str) -> bool {
        name.strip_suffix(".tmp").and_then(|name| self.parse(name)).is_some_and(|rotated| rotated.is_compressed)
    }

    /// Only what [`rotated`](Names::rotated) would have written.
    fn parse(&self, name: &str) -> Option<Rotated> {
        let plain = name.strip_suffix(GZIP).unwrap_or(name);
        let inner = plain.strip_prefix(&self.stem)?.strip_prefix('.')?.strip_suffix(&self.extension)?;
        let (time, number) = inner.split_once('-')?;
        let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
        let digits = |text: &str, len: usize| {
            let fits = text.len() >= len && text.bytes().all(|byte| byte.is_ascii_digit());
            fits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (date, clock, number) = (digits(date, 8)?, digits(clock, 6)?, digits(number, 6)?);
        let days = days(date / 10_000, date / 100 % 100, date % 100)?;
        let (hour, minute, second) = (clock / 10_000, clock / 100 % 100, clock % 100);
        let seconds = days.checked_mul(86_400)?.checked_add(hour * 3600 + minute * 60 + second)?;
        let time = Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?);
        let rotated = Rotated { number, time: seconds, name: name.to_owned(), is_compressed: plain.len() < name.len() };
        (self.rotated(time, number) == plain).then_some(rotated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_left_alone() {
        let names = Names::new("events.ndjson");
        let time = Timestamp::from_nanos(1_357_034_400_000_000_000);
        let name = names.rotated(time, 17);
        assert_eq!(name, "events.20130101T100000Z-000017.ndjson");
        let found = names.parse(&name).unwrap();
        assert_eq!((found.number, found.time, found.is_compressed), (17, 1_357_034_400, false));
        let compressed = names.parse(&format!("{name}.gz")).unwrap();
        assert!(compressed.is_compressed && compressed.number == 17);
        assert!(names.is_left_over(&format!("{name}.gz.tmp")) && !names.is_left_over(&format!("{name}.tmp")));
        for other in [
            "events.ndjson",
            "events.ndjson.gz",
            "events.20130101T100000Z-17.ndjson",
            "events.20131301T100000Z-000017.ndjson",
            "events.20130230T100000Z-000017.ndjson",
            "events.20130101T250000Z-000017.ndjson",
            "events.20130101T100000Z-+00017.ndjson",
            "events.99999999999999999999T100000Z-000017.ndjson",
            "event.20130101T100000Z-000017.ndjson",
            "events.20130101T100000Z-000017.json",
            "events.\u{e9}T100000Z-000017.ndjson",
        ] {
            assert_eq!(names.parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_millionth_file_stands_behind_the_one_before_it() {
        let names = Names::new("log");
        let list: Vec<String> =
            [1_000_000, 999_999, 2].map(|number| names.rotated(Timestamp::default(), number)).into();
        let numbers: Vec<u64> = names.among(&list).iter().map(|rotated| rotated.number).collect();
        assert_eq!(numbers, [2, 999_999, 1_000_000]);
        assert_eq!(Names::new(".hidden").rotated(Timestamp::default(), 1), ".hidden.19700101T000000Z-000001");
    }
}
