//! A heads file: where streams stood whose events are not kept any more. FORMAT.md, "Heads file".

use std::ops::Range;

use crate::format::{PAGE, VERSION, crc, limits, names, u16_at, u32_at, u64_at, varint};
use crate::id::{Position, Revision, StoreId};

const MAGIC_BYTES: &[u8; 8] = b"towheads";

const MAGIC: Range<usize> = 0..8;
const FORMAT: Range<usize> = 8..12;
const PAGES: Range<usize> = 12..16;
const STORE: Range<usize> = 16..32;
const FIRST: Range<usize> = 32..40;
const END: Range<usize> = 40..48;
const STREAMS: Range<usize> = 48..56;
const CRC: Range<usize> = PAGE - 4..PAGE; // over everything before it

/// Of every other page: its checksum, how many streams stand on it, and the streams.
const PAGE_CRC: Range<usize> = 0..4;
const COUNT: Range<usize> = 4..6;
const BODY: usize = 6;

/// Stands before the revision of a stream that was deleted. No stream stands at it.
const GONE: u64 = 0;

/// A stream takes at most this much, so that each fits onto a page.
const ENTRY_MAX: usize = 2 + 2 + limits::NAME + 1 + 10;
const _: () = assert!(BODY + ENTRY_MAX <= PAGE && limits::NAME < 1 << 14);

/// Where a stream stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stood {
    /// Of its last event; [`Revision::ABSENT`] when it never had any.
    pub(crate) revision: Revision,
    /// That event was removed, and with it all before: the stream was deleted, though its revisions go on.
    pub(crate) is_gone: bool,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) store: StoreId,
    /// The first position that its streams had events at, and the one behind the last.
    pub(crate) first: Position,
    pub(crate) end: Position,
    pub(crate) streams: u64,
    /// Pages behind the header.
    pub(crate) pages: u32,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[MAGIC].copy_from_slice(MAGIC_BYTES);
        page[FORMAT].copy_from_slice(&VERSION.to_le_bytes());
        page[PAGES].copy_from_slice(&self.pages.to_le_bytes());
        page[STORE].copy_from_slice(self.store.as_bytes());
        page[FIRST].copy_from_slice(&self.first.get().to_le_bytes());
        page[END].copy_from_slice(&self.end.get().to_le_bytes());
        page[STREAMS].copy_from_slice(&self.streams.to_le_bytes());
        let sum = crc(0, &page[..CRC.start]);
        page[CRC].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// `None` when this is not the header of a file of `len` bytes.
    pub(crate) fn decode(page: &[u8], len: u64) -> Option<Self> {
        let sound = page.len() == PAGE
            && &page[MAGIC] == MAGIC_BYTES
            && crc(0, &page[..CRC.start]) == u32_at(page, CRC.start)
            && u32_at(page, FORMAT.start) == VERSION;
        if !sound {
            return None;
        }
        let head = Self {
            store: StoreId(page[STORE].try_into().ok()?),
            first: Position::new(u64_at(page, FIRST.start)),
            end: Position::new(u64_at(page, END.start)),
            streams: u64_at(page, STREAMS.start),
            pages: u32_at(page, PAGES.start),
        };
        let fits = head.first > Position::START && head.first < head.end && head.len() == len;
        fits.then_some(head)
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        (1 + u64::from(self.pages)) * PAGE as u64
    }

    /// What the checksum of a page starts from, so that no page passes in another place or file.
    fn salt(&self, page: u32) -> u32 {
        let salt = crc(crc(0, self.store.as_bytes()), &self.first.get().to_le_bytes());
        crc(crc(salt, &self.end.get().to_le_bytes()), &page.to_le_bytes())
    }

    /// Whether page `number`, counted from 0 behind the header, is what was written.
    pub(crate) fn is_sound(&self, number: u32, page: &[u8]) -> bool {
        page.len() == PAGE && crc(self.salt(number), &page[COUNT.start..]) == u32_at(page, 0)
    }

    /// Puts its checksum onto page `number`.
    pub(crate) fn seal(&self, number: u32, page: &mut [u8]) {
        let sum = crc(self.salt(number), &page[COUNT.start..]);
        page[PAGE_CRC].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Makes the pages of a file from streams in the order of their names.
#[derive(Debug)]
pub(crate) struct Pages {
    /// `streams` and `pages` count what was made so far.
    head: Head,
    page: Vec<u8>,
    count: u16,
    last: Vec<u8>,
}

impl Pages {
    pub(crate) fn new(store: StoreId, first: Position, end: Position) -> Self {
        let head = Head { store, first, end, streams: 0, pages: 0 };
        Self { head, page: vec![0; BODY], count: 0, last: Vec::new() }
    }

    /// Adds a stream. Gives a page when one is full.
    pub(crate) fn add(&mut self, name: &[u8], stood: Stood) -> Option<Vec<u8>> {
        let full = if self.page.len() + ENTRY_MAX > PAGE { self.finish_page() } else { None };
        let shared = name.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        varint::put(&mut self.page, shared as u64);
        varint::put(&mut self.page, (name.len() - shared) as u64);
        self.page.extend_from_slice(&name[shared..]);
        if stood.is_gone {
            varint::put(&mut self.page, GONE);
        }
        varint::put(&mut self.page, stood.revision.get());
        self.last.clear();
        self.last.extend_from_slice(name);
        self.count += 1;
        self.head.streams += 1;
        full
    }

    /// The last page, if there is something on it.
    pub(crate) fn finish_page(&mut self) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        let mut page = std::mem::replace(&mut self.page, vec![0; BODY]);
        page.resize(PAGE, 0);
        page[COUNT].copy_from_slice(&self.count.to_le_bytes());
        self.head.seal(self.head.pages, &mut page);
        self.head.pages += 1;
        self.count = 0;
        self.last.clear();
        Some(page)
    }

    /// The header of what was made so far.
    pub(crate) fn head(&self) -> Head {
        self.head
    }
}

/// The streams of a sound page, in the order of their names. Ends at what was not written so.
pub(crate) struct Streams<'a> {
    rest: &'a [u8],
    left: u16,
    name: Vec<u8>,
}

impl<'a> Streams<'a> {
    pub(crate) fn of(page: &'a [u8]) -> Self {
        let left = if page.len() == PAGE { u16_at(page, COUNT.start) } else { 0 };
        Self { rest: page.get(BODY..).unwrap_or_default(), left, name: Vec::new() }
    }

    /// The next stream: its name, and where it stood.
    pub(crate) fn next(&mut self) -> Option<(&[u8], Stood)> {
        self.left = self.left.checked_sub(1)?;
        let shared = usize::try_from(varint::take(&mut self.rest)?).ok().filter(|shared| *shared <= self.name.len())?;
        let len = usize::try_from(varint::take(&mut self.rest)?).ok()?;
        let rest = self.rest.get(..len)?;
        self.rest = &self.rest[len..];
        self.name.truncate(shared);
        self.name.extend_from_slice(rest);
        let (number, is_gone) = match varint::take(&mut self.rest)? {
            GONE => (varint::take(&mut self.rest)?, true),
            number => (number, false),
        };
        let stood = Stood { revision: Revision::new(number), is_gone };
        (names::is_sound(&self.name) && number != GONE).then_some((&self.name[..], stood))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every third one was deleted.
    fn stood(number: u64) -> Stood {
        Stood { revision: Revision::new(number), is_gone: number.is_multiple_of(3) }
    }

    fn made(names: &[String]) -> (Head, Vec<Vec<u8>>) {
        let mut pages = Pages::new(StoreId([7; 16]), Position::new(1), Position::new(900));
        let mut made: Vec<Vec<u8>> =
            names.iter().zip(1..).filter_map(|(name, n)| pages.add(name.as_bytes(), stood(n))).collect();
        made.extend(pages.finish_page());
        (pages.head(), made)
    }

    #[test]
    fn streams_read_back_in_order_and_no_page_passes_for_another() {
        let mut names: Vec<String> = (0..5_000).map(|n| format!("order-{n:07}")).collect();
        names.push("x".repeat(limits::NAME));
        let (head, pages) = made(&names);
        assert_eq!((head.streams, head.pages as usize), (5_001, pages.len()));
        assert!(pages.len() < 20, "names share their beginnings: {}", pages.len());
        let mut read = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            assert!(head.is_sound(number as u32, page));
            assert!(!head.is_sound(number as u32 + 1, page), "control: another place");
            let mut streams = Streams::of(page);
            while let Some((name, found)) = streams.next() {
                read.push((String::from_utf8(name.to_vec()).unwrap(), found));
            }
        }
        assert_eq!(read, names.into_iter().zip((1..).map(stood)).collect::<Vec<_>>());
        assert_eq!(Head::decode(&head.encode(), head.len()), Some(head));
        assert_eq!(Head::decode(&head.encode(), head.len() - 1), None);
    }
}
