//! Terms: what an event can be found by. An index holds the 64-bit hash of kind and text; whoever finds a frame by it
//! compares the text, so two texts with one hash cost time and nothing else. FORMAT.md, "Terms".

/// What an event can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Stream = 1,
    Category = 2,
    Type = 3,
    Tag = 4,
    Correlation = 5,
    Causation = 6,
    Key = 7,
    Id = 8,
}

/// The hash of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Term(pub(crate) u64);

const K0: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / golden ratio
const K1: u64 = 0xd6e8_feb8_6659_fd93; // an odd constant with well-mixed bits (Mulvey's rrmxmx)

impl Term {
    /// Eight bytes at a time through a folded 64 x 64 -> 128 bit multiplication, as wyhash does.
    pub(crate) fn of(kind: Kind, text: &[u8]) -> Self {
        let mut hash = K0 ^ ((kind as u64) << 56) ^ text.len() as u64;
        let mut chunks = text.chunks_exact(8);
        for chunk in &mut chunks {
            hash = fold(hash ^ u64::from_le_bytes(chunk.try_into().expect("eight bytes")), K1);
        }
        hash = fold(hash ^ rest(text, chunks.remainder()), K1);
        Term(fold(hash ^ K1, K0))
    }
}

/// The last bytes of a text, those behind its last whole eight, as a number; 0 if there are none.
fn rest(text: &[u8], rest: &[u8]) -> u64 {
    match text.last_chunk::<8>() {
        // The bytes in front of them were taken already. Shifting them out is cheaper than a copy of varying length.
        Some(_) if rest.is_empty() => 0,
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_million_similar_names_have_a_million_hashes() {
        let hashes: HashSet<u64> =
            (0..1_000_000).map(|i| Term::of(Kind::Stream, format!("stream-{i}").as_bytes()).0).collect();
        assert_eq!(hashes.len(), 1_000_000);
    }

    #[test]
    fn the_last_bytes_count_as_if_zeroes_followed() {
        let text: Vec<u8> = (1..=24).collect();
        for len in 0..=text.len() {
            let (text, behind) = (&text[..len], &text[len / 8 * 8..len]);
            let mut padded = [0; 8];
            padded[..behind.len()].copy_from_slice(behind);
            assert_eq!(rest(text, behind), u64::from_le_bytes(padded), "{len}");
        }
    }

    #[test]
    fn kind_and_length_count() {
        assert_ne!(Term::of(Kind::Stream, b"a"), Term::of(Kind::Type, b"a"));
        assert_ne!(Term::of(Kind::Tag, b"a"), Term::of(Kind::Tag, b"a\0"));
    }
}
