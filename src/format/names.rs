//! Which names may be used. The same rules hold for what is written and for what is read.

use crate::error::{Error, Result};
use crate::format::limits;

/// Streams whose names begin with this are the store's own.
pub(crate) const OWN: char = '$';

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
    let short = !name.is_empty() && name.len() <= limits::NAME;
    if name.is_ascii() {
        return short && !name.iter().any(|b| *b < 0x20 || *b == 0x7f);
    }
    short && std::str::from_utf8(name).is_ok_and(|name| !has_control(name))
}

fn has_control(name: &str) -> bool {
    if name.is_ascii() { name.bytes().any(|b| b < 0x20 || b == 0x7f) } else { name.chars().any(char::is_control) }
}
