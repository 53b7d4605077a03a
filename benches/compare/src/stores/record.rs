//! An event as the key-value stores keep it: every store of that kind the same bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::events::{Draft, TYPE};
use crate::store::Seen;

const TIME: usize = 8;
const REVISION: usize = 8;
const LENGTHS: usize = 2;
const HEAD: usize = TIME + REVISION + LENGTHS;

/// Time and revision, then type and stream, each behind its length in one byte, then the payload.
pub fn encode(into: &mut Vec<u8>, event: &Draft<'_>, revision: u64, time: u64) {
    into.clear();
    into.extend_from_slice(&time.to_le_bytes());
    into.extend_from_slice(&revision.to_le_bytes());
    into.push(TYPE.len() as u8);
    into.push(event.stream.len() as u8);
    into.extend_from_slice(TYPE.as_bytes());
    into.extend_from_slice(event.stream.as_bytes());
    into.extend_from_slice(event.payload);
}

/// Microseconds since 1970: asked for once a commit.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// The key of an event in the index by stream: the name, a zero, and the revision so that keys sort by it.
pub fn index_key(into: &mut Vec<u8>, stream: &str, revision: u64) {
    into.clear();
    into.extend_from_slice(stream.as_bytes());
    into.push(0);
    into.extend_from_slice(&revision.to_be_bytes());
}

pub fn revision_of_key(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What `encode` wrote.
pub struct Record<'a>(pub &'a [u8]);

impl Record<'_> {
    fn stream_ends(&self) -> (usize, usize) {
        let begin = HEAD + usize::from(self.0[HEAD - LENGTHS]);
        (begin, begin + usize::from(self.0[HEAD - 1]))
    }
}

impl Seen for Record<'_> {
    fn payload(&self) -> &[u8] {
        &self.0[self.stream_ends().1..]
    }

    fn stream(&self) -> Option<&str> {
        let (begin, end) = self.stream_ends();
        std::str::from_utf8(&self.0[begin..end]).ok()
    }

    fn revision(&self) -> Option<u64> {
        self.0[TIME..].first_chunk::<REVISION>().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_was_put_in() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &Draft { stream: "stream-7", payload: b"content" }, 3, 99);
        let record = Record(&bytes);
        let seen = (record.payload(), record.stream(), record.revision());
        assert_eq!(seen, (b"content".as_slice(), Some("stream-7"), Some(3)));
    }

    #[test]
    fn index_keys_of_a_stream_sort_by_revision_and_apart_from_longer_names() {
        let key = |stream, revision| {
            let mut key = Vec::new();
            index_key(&mut key, stream, revision);
            key
        };
        assert!(key("stream-1", 255) < key("stream-1", 256));
        assert!(key("stream-1", u64::MAX) < key("stream-10", 0));
        assert_eq!(revision_of_key(&key("a", 77)), 77);
    }
}
