//! The numbers and names that places have: positions, revisions, times, and ids of events and stores.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// A place in the log. Dense, from 1, never reused once acknowledged; [`Position::START`] (0) is before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

/// A place in one stream: its n-th event has revision n. A stream that does not exist is at [`Revision::ABSENT`] (0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

macro_rules! number {
    ($name:ident, $what:literal) => {
        impl $name {
            #[doc = concat!("The ", $what, " with this number.")]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number itself.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this; stays at the largest.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                text.parse().map(Self).map_err(|_| Error::invalid($what, text, "it is not a number from 0 to 2^64 - 1"))
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }
    };
}

number!(Position, "position");
number!(Revision, "revision");

impl Position {
    /// Before the first event.
    pub const START: Position = Position(0);

    /// The one before this; stays at 0.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Revision {
    /// Where a stream stands that has no event.
    pub const ABSENT: Revision = Revision(0);
}

/// A moment: nanoseconds since 1970-01-01 UTC, up to the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment so many nanoseconds after 1970-01-01 UTC.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970-01-01 UTC.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment so much later; the last that can be told where that is beyond it.
    #[must_use]
    pub(crate) fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long it is from an earlier moment to this one; nothing from a later one.
    pub(crate) fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Moments before 1970 become 1970, moments after 2554 the last that can be told.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

/// 16 random bytes that a store is given when it is made. Shown like a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub(crate) [u8; 16]);

impl StoreId {
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(u128::from_be_bytes(self.0), f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// What identifies an event: an id of its own, or, for free, the store it stands in and its position there.
///
/// As text it is a UUID (`6ba7b810-9dad-11d1-80b4-00c04fd430c8`), or the store's id, `@` and the position
/// (`6ba7b810-9dad-11d1-80b4-00c04fd430c8@17`). Both read back with [`str::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventId {
    /// An id that the writer of the event chose, such as a UUID.
    Own(u128),
    /// The event's place. Every event without an id of its own has this one.
    Place {
        /// The store.
        store: StoreId,
        /// The position in that store.
        position: Position,
    },
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventId::Own(id) => write_uuid(*id, f),
            EventId::Place { store, position } => write!(f, "{store}@{position}"),
        }
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('@') {
            None => read_uuid(text).map(EventId::Own),
            Some((store, position)) => read_uuid(store).zip(position.parse().ok()).map(|(store, position)| {
                EventId::Place { store: StoreId(store.to_be_bytes()), position: Position(position) }
            }),
        };
        parsed.ok_or_else(|| Error::invalid("event id", text, "it is neither a UUID nor UUID@position"))
    }
}

fn write_uuid(id: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let hex = format!("{id:032x}");
    write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Reads 32 hexadecimal digits, with or without the four hyphens of a UUID.
fn read_uuid(text: &str) -> Option<u128> {
    let hyphens = text.bytes().filter(|b| *b == b'-').count();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let hyphens_fit = hyphens == 0
        || (hyphens == 4 && text.len() == 36 && [8, 13, 18, 23].iter().all(|i| text.as_bytes()[*i] == b'-'));
    let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    (hyphens_fit && plain).then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_read_back_what_they_show() {
        let store = StoreId(*b"0123456789abcdef");
        for id in
            [EventId::Own(0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8), EventId::Place { store, position: Position(17) }]
        {
            assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
        for text in [
            "",
            "x",
            "6ba7b8109dad-11d180b400c04fd430c8",
            "@1",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8@",
            "+ba7b8109dad11d180b400c04fd430c8",
        ] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }
}
