//! Which names may be used. The same rules hold for what is written and for what is read.

use crate::error::{Error, Result};
use crate::format::limits;

/// Streams whose names begin with this are the store's own.
pub(crate) const OWN: char = '$';

/// What the streams of dead letters begin with; the group's name follows.
pub(crate) const DEAD_LETTERS: &str = "$dead/";

/// The header of a dead letter that says where the event stands that failed.
pub(crate) const DEAD_POSITION: &str = "$position";

/// Checks a name that a user chose: not empty, at most [`limits::NAME`] bytes, no control characters.
pub(crate) fn check(what: &'static str, name: &str) -> Result<()> {
    if name.len() > limits::NAME {
        return Err(Error::TooLarge { what, size: name.len() as u64, limit: limits::NAME as u64 });
    }
    if name.is_empty() {
        return Err(Error::invalid(what, name, "it is empty"));
    }
    if has_control(name) {
        return Err(Error::invalid(what, name, "it has control characters"));
    }
    Ok(())
}

/// The same for streams, types and consumers, where a `$` at the start is the store's own.
pub(crate) fn check_users(what: &'static str, name: &str) -> Result<()> {
    check(what, name)?;
    if name.starts_with(OWN) {
        return Err(Error::invalid(what, name, "names that begin with $ are the store's own"));
    }
    Ok(())
}

/// Whether a name as it is stored could have been written.
pub(crate) fn is_sound(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= limits::NAME
        && (is_plain(name) || std::str::from_utf8(name).is_ok_and(|name| !name.chars().any(char::is_control)))
}

fn has_control(name: &str) -> bool {
    !is_plain(name.as_bytes()) && name.chars().any(char::is_control)
}

/// Whether these are visible ASCII characters and spaces only, as most names are. Eight at a time, since every frame
/// that is read is asked.
#[inline]
pub(crate) fn is_plain(text: &[u8]) -> bool {
    let (chunks, rest) = text.as_chunks::<8>();
    let mut odd = 0;
    for chunk in chunks {
        odd |= odd_bytes(u64::from_le_bytes(*chunk));
    }
    match text.last_chunk::<8>() {
        // Some of these bytes are looked at twice, which is cheaper than taking the rest one by one.
        Some(last) => odd |= odd_bytes(u64::from_le_bytes(*last)),
        None => return rest.iter().all(|byte| (0x20..0x7f).contains(byte)),
    }
    odd == 0
}

/// Sets the high bit of some byte if any of the eight is below 0x20, 0x7f, or above.
#[inline]
fn odd_bytes(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let high = eight;
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    let delete = (eight ^ (ONES * 0x7f)).wrapping_sub(ONES);
    (high | control | (delete & !(eight ^ (ONES * 0x7f)))) & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_is_judged_as_one_by_one() {
        for len in 1..=17 {
            for at in 0..len {
                for byte in 0..=255u8 {
                    let mut name = vec![b'a'; len];
                    name[at] = byte;
                    assert_eq!(is_plain(&name), (0x20..0x7f).contains(&byte), "{byte} at {at} of {len}");
                }
            }
        }
    }
}
