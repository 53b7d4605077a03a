//! An event as a JSON object, as sinks and the command line write it.

use std::io::Write;

use serde::de::IgnoredAny;

use crate::canal::batch::Delivery;
use crate::event::codec::Codec;
use crate::id::Timestamp;
use crate::log::event::Event;
use crate::sink::Refusal;

/// Deeper than this a payload is read as a value before it is copied: readers of JSON have limits.
const DEPTH: u32 = 100;

/// Writes events as JSON objects, each on one line without an end.
///
/// The fields, in this order: `position`, `stream`, `revision`, `type`, `time` (RFC 3339, UTC, nine digits), `tags` (array),
/// `headers` (object); where there is something to say, `occurred`, `id`, `correlation`, `causation`, `key`; and then the payload.
///
/// | payload | field |
/// | --- | --- |
/// | JSON | `payload`, as it was stored but for the white space between its tokens |
/// | another codec that describes itself | `payload`, as JSON |
/// | bytes, and what does not read as its codec says | `payload_base64` |
/// | too large for the record | `"cut":true`, `payload_bytes` (what it had), and as much as fits in `payload_base64`, as stored |
///
/// `key` is the [idempotency key](Delivery::idempotency_key) of the delivery.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-record-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// use towpath::{Codec, JsonRecord, NewEvent, Position, Store};
///
/// let store = Store::open(&dir)?;
/// store.append("cart-1", NewEvent::encoded("opened", Codec::Json, br#"{"by": "web"}"#.as_slice()))?;
/// let mut line = Vec::new();
/// JsonRecord::new().event(&store.event(Position::new(1))?.unwrap(), &mut line).unwrap();
/// assert!(line.starts_with(br#"{"position":1,"stream":"cart-1","revision":1,"type":"opened","time":"2"#));
/// assert!(line.ends_with(br#""tags":[],"headers":{},"payload":{"by":"web"}}"#));
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JsonRecord {
    most: usize,
}

/// Whether a record holds its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// All of it.
    Whole,
    /// As much as there was room for; the record says so.
    Cut,
}

impl Default for JsonRecord {
    fn default() -> Self {
        Self::new()
    }
}

impl JsonRecord {
    /// Without a limit on the size.
    pub fn new() -> Self {
        Self { most: usize::MAX }
    }

    /// Records of at most so many bytes.
    #[must_use]
    pub fn most_bytes(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// Adds an event to `out`.
    ///
    /// # Errors
    /// A final [`Refusal`] when it is too large even without its payload; `out` is as it was then.
    pub fn event(&self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<Fit, Refusal> {
        self.write(event, None, out)
    }

    /// The same with the delivery's idempotency key.
    ///
    /// # Errors
    /// As [`event`](JsonRecord::event).
    pub fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>) -> Result<Fit, Refusal> {
        self.write(delivery.event(), Some(delivery), out)
    }

    /// The payload alone, as it stands in the field `payload`; `None` where it would be `payload_base64`.
    pub fn payload(event: &Event<'_>) -> Option<String> {
        let mut out = Vec::new();
        value(event, &mut out).then(|| String::from_utf8(out).expect("JSON is UTF-8"))
    }

    /// The reason that a cut is counted with, in [`SinkCounts::cut`](crate::SinkCounts::cut).
    pub fn cut_reason(&self) -> String {
        format!("larger than {} bytes", self.most)
    }

    fn write(&self, event: &Event<'_>, delivery: Option<&Delivery<'_>>, out: &mut Vec<u8>) -> Result<Fit, Refusal> {
        let start = out.len();
        head(event, delivery, out);
        let payload = out.len();
        // What is larger than the limit as it is stored is seldom smaller as JSON, and need not be made to find out.
        if event.payload().len() <= self.most {
            whole(event, out);
            out.push(b'}');
            if out.len() - start <= self.most {
                return Ok(Fit::Whole);
            }
        }
        out.truncate(payload);
        let bytes = event.payload();
        put(out, format_args!(",\"cut\":true,\"payload_bytes\":{},\"payload_base64\":\"", bytes.len()));
        let Some(room) = self.most.checked_sub(out.len() - start + 2) else {
            out.truncate(start);
            let why = format!("larger than {} bytes even without its payload", self.most);
            return Err(Refusal::refused(0, why));
        };
        base64(&bytes[..bytes.len().min(room / 4 * 3)], out);
        out.extend_from_slice(b"\"}");
        Ok(Fit::Cut)
    }
}

/// Everything but the payload, and the bracket that closes it.
fn head(event: &Event<'_>, delivery: Option<&Delivery<'_>>, out: &mut Vec<u8>) {
    put(out, format_args!("{{\"position\":{},\"stream\":", event.position()));
    string(event.stream(), out);
    put(out, format_args!(",\"revision\":{},\"type\":", event.revision()));
    string(event.type_name(), out);
    out.extend_from_slice(b",\"time\":\"");
    rfc3339(event.time(), out);
    out.extend_from_slice(b"\",\"tags\":[");
    for (number, tag) in event.tags().enumerate() {
        separate(number, out);
        string(tag, out);
    }
    out.extend_from_slice(b"],\"headers\":{");
    for (number, (name, value)) in event.headers().enumerate() {
        separate(number, out);
        string(name, out);
        out.push(b':');
        string(value, out);
    }
    out.push(b'}');
    if let Some(occurred) = event.occurred() {
        out.extend_from_slice(b",\"occurred\":\"");
        rfc3339(occurred, out);
        out.push(b'"');
    }
    if event.own_id().is_some() {
        put(out, format_args!(",\"id\":\"{}\"", event.id()));
    }
    if let Some(correlation) = event.correlation() {
        out.extend_from_slice(b",\"correlation\":");
        string(correlation, out);
    }
    if let Some(causation) = event.causation() {
        put(out, format_args!(",\"causation\":\"{causation}\""));
    }
    if let Some(delivery) = delivery {
        out.extend_from_slice(b",\"key\":");
        string(&delivery.idempotency_key(), out);
    }
}

fn whole(event: &Event<'_>, out: &mut Vec<u8>) {
    let before = out.len();
    out.extend_from_slice(b",\"payload\":");
    if !value(event, out) {
        out.truncate(before);
        out.extend_from_slice(b",\"payload_base64\":\"");
        base64(event.payload(), out);
        out.push(b'"');
    }
}

/// Adds the payload as JSON, if it can be shown so; otherwise what was added has to be taken away again.
fn value(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    match event.codec() {
        Codec::Raw => false,
        // As it was stored: a value read and written again would lose the order of fields and the digits of numbers.
        Codec::Json => match str::from_utf8(event.payload()) {
            Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => {
                compact(text.as_bytes(), out) == Readable::Surely || event.json().is_ok()
            }
            _ => false,
        },
        _ => event.json().is_ok_and(|value| serde_json::to_writer(out, &value).is_ok()),
    }
}

/// Whether everybody reads this JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readable {
    Surely,
    /// It is JSON by its grammar, but is deep, or has numbers with exponents or escaped characters, which may be none.
    Perhaps,
}

/// Copies JSON without the white space between its tokens.
fn compact(json: &[u8], out: &mut Vec<u8>) -> Readable {
    let (mut quoted, mut escaped, mut depth, mut readable) = (false, false, 0u32, Readable::Surely);
    let (mut copied, mut last) = (0, 0);
    for (at, &byte) in json.iter().enumerate() {
        if quoted {
            if escaped {
                escaped = false;
                if byte == b'u' {
                    readable = Readable::Perhaps;
                }
            } else {
                escaped = byte == b'\\';
                quoted = byte != b'"';
            }
        } else {
            match byte {
                b'"' => quoted = true,
                b' ' | b'\t' | b'\r' | b'\n' => {
                    out.extend_from_slice(&json[copied..at]);
                    copied = at + 1;
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                b'e' | b'E' if u8::is_ascii_digit(&last) => readable = Readable::Perhaps,
                _ => {}
            }
            if depth > DEPTH {
                readable = Readable::Perhaps;
            }
        }
        last = byte;
    }
    out.extend_from_slice(&json[copied..]);
    readable
}

fn separate(number: usize, out: &mut Vec<u8>) {
    if number > 0 {
        out.push(b',');
    }
}

/// Text in quotes.
fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing text to memory cannot fail");
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

/// `2013-01-01T10:00:00.000000000Z`.
pub(super) fn rfc3339(time: Timestamp, out: &mut Vec<u8>) {
    let (seconds, nanos) = (time.as_nanos() / 1_000_000_000, time.as_nanos() % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], nanos);
    out.extend_from_slice(&text);
}

/// A number with leading zeroes.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from March on, in eras of 400 years, so that the leap day is the last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The other way round, for a day that there is.
#[cfg(feature = "sink-file")]
pub(crate) fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (from_march, year_from_march) = ((month + 9) % 12, year.checked_sub(u64::from(month <= 2))?);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let day_of_year = (153 * from_march + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let sign = |shift: u32| SIGNS[(bits >> shift & 63) as usize];
        let mut four = [sign(18), sign(12), sign(6), sign(0)];
        four[chunk.len() + 1..].fill(b'=');
        out.extend_from_slice(&four);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(time: u64) -> String {
        let mut text = Vec::new();
        rfc3339(Timestamp::from_nanos(time), &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn times_are_shown_in_utc_with_nine_digits() {
        const SECOND: u64 = 1_000_000_000;
        for (time, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_357_034_400 * SECOND + 5, "2013-01-01T10:00:00.000000005Z"),
            (951_782_399 * SECOND, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800 * SECOND, "2000-03-01T00:00:00.000000000Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00.000000000Z"),
            (4_107_542_400 * SECOND - 1, "2100-02-28T23:59:59.999999999Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(shown(time), text);
        }
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            base64(bytes.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn compact_takes_white_space_between_tokens_only_and_tells_what_not_everybody_reads() {
        let compact = |json: &str| {
            let mut out = Vec::new();
            let readable = compact(json.as_bytes(), &mut out);
            (String::from_utf8(out).unwrap(), readable)
        };
        let surely = |text: &str| (text.to_owned(), Readable::Surely);
        assert_eq!(compact("{ \"b a\" : [1.10,\n 2, true ] }"), surely("{\"b a\":[1.10,2,true]}"));
        assert_eq!(compact(r#"[ "\" \\" , " " ]"#), surely(r#"["\" \\"," "]"#));
        assert_eq!(compact(r#"{"a":"[[ 1e5 \\u"}"#), surely(r#"{"a":"[[ 1e5 \\u"}"#));
        for json in [r#"["\ud800"]"#, "[1e999]", "[2E5]", &"[".repeat(101)] {
            assert_eq!(compact(json), (json.to_owned(), Readable::Perhaps));
        }
    }
}
