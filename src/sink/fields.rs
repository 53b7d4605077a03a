//! What goes beside a payload: the fields of an event, each with a name, as headers or fields of a record elsewhere.

use std::borrow::Cow;
use std::fmt::Write;

use crate::canal::batch::Delivery;
use crate::event::codec::Codec;
use crate::id::Timestamp;
use crate::sink::record::rfc3339;

/// How many bytes of payload go into one request, where there may be several events in it.
#[cfg(any(feature = "sink-http", feature = "sink-redis"))]
const CHUNK: usize = 1 << 20;

/// A payload as it goes out: whole, or cut.
pub(super) struct Payload<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) content_type: &'static str,
    /// The size that it had.
    size: usize,
}

impl<'a> Payload<'a> {
    pub(super) fn of(record: &'a Delivery<'_>, most_bytes: usize) -> Self {
        let whole = record.payload();
        let bytes = &whole[..whole.len().min(most_bytes)];
        // The beginning of something is not of its type any more.
        let codec = if bytes.len() < whole.len() { Codec::Raw } else { record.codec() };
        Self { bytes, content_type: content_type(codec), size: whole.len() }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.bytes.len() < self.size
    }
}

/// What cutting is counted as.
pub(super) fn too_large(most_bytes: usize) -> String {
    format!("larger than {most_bytes} bytes")
}

/// How many of the records go into one request: at least one.
#[cfg(any(feature = "sink-http", feature = "sink-redis"))]
pub(super) fn chunk(records: &[Delivery<'_>], most: usize) -> usize {
    let mut bytes = 0usize;
    let fits = records.iter().take(most).take_while(|record| {
        bytes = bytes.saturating_add(record.payload().len());
        bytes <= CHUNK
    });
    fits.count().max(1)
}

/// Calls `field` with the name and the value of everything that goes beside the payload. Names have lower-case letters and
/// hyphens only.
///
/// Tags are joined by commas, headers are `name=value` joined by commas, both [`plain`] so that commas and equals signs
/// stand for nothing else.
pub(super) fn each_field(
    record: &Delivery<'_>,
    payload: &Payload<'_>,
    mut field: impl FnMut(&'static str, Cow<'_, str>),
) {
    let number = |number: u64| Cow::Owned(number.to_string());
    field("key", Cow::Owned(record.idempotency_key()));
    field("position", number(record.position().get()));
    field("stream", Cow::Borrowed(record.stream()));
    field("revision", number(record.revision().get()));
    field("type", Cow::Borrowed(record.type_name()));
    field("time", time(record.time()));
    field("codec", Cow::Owned(record.codec().to_string()));
    if record.schema_version() != 0 {
        field("schema-version", number(u64::from(record.schema_version())));
    }
    if record.own_id().is_some() {
        field("id", Cow::Owned(record.id().to_string()));
    }
    if let Some(occurred) = record.occurred() {
        field("occurred", time(occurred));
    }
    if let Some(correlation) = record.correlation() {
        field("correlation", Cow::Borrowed(correlation));
    }
    if let Some(causation) = record.causation() {
        field("causation", Cow::Owned(causation.to_string()));
    }
    let tags = list(record.tags().map(|tag| (tag, None)));
    if !tags.is_empty() {
        field("tags", Cow::Owned(tags));
    }
    let headers = list(record.headers().map(|(name, value)| (name, Some(value))));
    if !headers.is_empty() {
        field("headers", Cow::Owned(headers));
    }
    if payload.is_cut() {
        field("cut", Cow::Borrowed("true"));
        field("payload-bytes", number(payload.size as u64));
    }
}

fn time(time: Timestamp) -> Cow<'static, str> {
    let mut text = Vec::new();
    rfc3339(time, &mut text);
    Cow::Owned(String::from_utf8_lossy(&text).into_owned())
}

/// The media type of a payload.
fn content_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Json => "application/json",
        Codec::MessagePack => "application/vnd.msgpack",
        Codec::Raw | Codec::Bincode => "application/octet-stream",
    }
}

/// A text in visible ASCII: every other byte, and `%`, `,`, `=`, as `%XX`.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b',' | b'=');
    if text.bytes().all(fits) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if fits(byte) {
            plain.push(char::from(byte));
        } else {
            let _infallible = write!(plain, "%{byte:02X}");
        }
    }
    Cow::Owned(plain)
}

fn list<'a>(items: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut list = String::new();
    for (name, value) in items {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&plain(name));
        if let Some(value) = value {
            list.push('=');
            list.push_str(&plain(value));
        }
    }
    list
}

#[cfg(all(test, any(feature = "sink-http", feature = "sink-redis")))]
mod tests {
    use super::*;
    use crate::sink::url::decoded;

    #[test]
    fn a_plain_text_is_visible_ascii_and_reads_back() {
        for text in ["", "plain", "two words", "é", "a%20b", "x\r\nEvil: yes", "a,b=c", "\u{0}\u{7f}"] {
            let plain = plain(text);
            assert!(plain.bytes().all(|byte| byte.is_ascii_graphic()), "{plain}");
            assert_eq!(decoded(&plain).as_deref(), Some(text));
        }
        // The control: without encoding, one of them would not be a value of a header.
        assert!(!"x\r\nEvil: yes".bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn a_list_is_taken_apart_where_it_was_joined() {
        assert_eq!(list([("a,b", None), ("c", None)].into_iter()), "a%2Cb,c");
        assert_eq!(list([("a=b", Some("c,d"))].into_iter()), "a%3Db=c%2Cd");
    }
}
