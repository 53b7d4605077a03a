//! What the disk was told, in order: writes, flushes, and marks of what had been acknowledged by then.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

const WRITE: u32 = 1;
const FLUSH: u32 = 2;
const MARK: u32 = 3;
const FAILED: u32 = 4;

/// A kind, a length, an offset.
const HEADER: usize = 16;

#[derive(Debug)]
pub(crate) enum Entry {
    Write {
        offset: u64,
        bytes: Range<usize>,
    },
    Flush,
    Mark(String),
    /// A write that was answered with an error, and changed nothing.
    Failed,
}

/// Appends to a log; the side of the disk.
pub(crate) struct Recorder(File);

impl Recorder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(File::options().append(true).create(true).open(path).unwrap())
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.entry(WRITE, offset, bytes);
    }

    pub(crate) fn flush(&mut self) {
        self.entry(FLUSH, 0, &[]);
    }

    pub(crate) fn mark(&mut self, text: &[u8]) {
        self.entry(MARK, 0, text);
    }

    pub(crate) fn failed(&mut self) {
        self.entry(FAILED, 0, &[]);
    }

    fn entry(&mut self, kind: u32, offset: u64, bytes: &[u8]) {
        let mut entry = Vec::with_capacity(HEADER + bytes.len());
        entry.extend_from_slice(&kind.to_le_bytes());
        entry.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        entry.extend_from_slice(&offset.to_le_bytes());
        entry.extend_from_slice(bytes);
        self.0.write_all(&entry).unwrap();
    }
}

/// A log that was read back.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) bytes: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let header = &bytes[at..at + HEADER];
            let kind = u32::from_le_bytes(header[0..4].try_into().unwrap());
            let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
            let offset = u64::from_le_bytes(header[8..16].try_into().unwrap());
            let body = at + HEADER..at + HEADER + len;
            at = body.end;
            entries.push(match kind {
                WRITE => Entry::Write { offset, bytes: body },
                FLUSH => Entry::Flush,
                MARK => Entry::Mark(String::from_utf8(bytes[body].to_vec()).unwrap().trim().to_owned()),
                _ => Entry::Failed,
            });
        }
        Self { bytes, entries }
    }

    /// The marks in front of an entry.
    pub(crate) fn marks(&self, at: usize) -> impl Iterator<Item = &str> {
        self.entries[..at].iter().filter_map(|entry| match entry {
            Entry::Mark(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Offset and bytes of every write.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Write { offset, bytes } => Some((*offset, &self.bytes[bytes.clone()])),
            _ => None,
        })
    }

    pub(crate) fn failures(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Failed)).count()
    }
}
