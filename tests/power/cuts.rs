//! The states that a power cut may leave behind.

use crate::log::{Entry, Log};
use crate::random::Random;

/// The smallest piece that a disk writes whole.
const SECTOR: usize = 512;

/// What became of the writes behind the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All of them reached the disk.
    Prefix,
    /// Each of them did or did not.
    Reordered,
    /// Each of them did, did not, or did in part, sector by sector.
    Torn,
}

impl Manner {
    pub(crate) const ALL: [Self; 3] = [Self::Prefix, Self::Reordered, Self::Torn];
}

/// What the disk holds after a power cut, and what had been acknowledged by then.
pub(crate) struct State<'a> {
    /// In the order in which they were written.
    pub(crate) pieces: Vec<(u64, &'a [u8])>,
    pub(crate) known: Vec<&'a str>,
}

impl Log {
    /// The state after a cut in front of an entry.
    pub(crate) fn cut(&self, at: usize, manner: Manner, random: &mut Random) -> State<'_> {
        let flushed = self.entries[..at].iter().rposition(|entry| matches!(entry, Entry::Flush)).unwrap_or(0);
        let mut pieces = Vec::new();
        for (number, entry) in self.entries[..at].iter().enumerate() {
            let Entry::Write { offset, bytes } = entry else { continue };
            let data = &self.bytes[bytes.clone()];
            let fate = match manner {
                _ if number < flushed => 0,
                Manner::Prefix => 0,
                Manner::Reordered => random.below(2),
                // Ext4 writes its superblock in place, over two sectors, and cannot be mounted when one of them is older. That is
                // for its own repair; no store is there to be asked.
                Manner::Torn if *offset == 0 => random.below(2),
                Manner::Torn => random.below(3),
            };
            match fate {
                0 => pieces.push((*offset, data)),
                1 => {}
                _ => {
                    for (sector, part) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            pieces.push((*offset + (sector * SECTOR) as u64, part));
                        }
                    }
                }
            }
        }
        State { pieces, known: self.marks(at).collect() }
    }

    /// The nth of so many cuts, spread evenly over the log, behind a write, a flush or a mark.
    pub(crate) fn spread(&self, nth: u64, of: u64, random: &mut Random) -> usize {
        let entries = self.entries.len() as u64;
        let (from, to) = (nth * entries / of, (nth + 1) * entries / of);
        (from + 1 + random.below((to - from).max(1))).min(entries) as usize
    }
}
