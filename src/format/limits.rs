//! How large things may be. A commit over a limit is refused whole, with the limit and the size in the error.

/// Bytes of a name: stream, event type, tag, correlation id, idempotency key, consumer, header name.
pub const NAME: usize = 1024;

/// Bytes of one payload.
pub const PAYLOAD: usize = 16 << 20;

/// Tags of one event.
pub const TAGS: usize = 256;

/// Bytes that one event's id, times, correlation, causation, tags and headers take together. A key has room beside them.
pub const EXTRAS: usize = u16::MAX as usize - NAME - 2;

/// Bytes of one commit, with everything that its frames hold.
pub const COMMIT: usize = 64 << 20;

/// Events of one commit.
pub const COMMIT_EVENTS: usize = 65_536;

/// Streams whose revision one commit expects.
pub const EXPECTATIONS: usize = 4_096;

/// Consumers whose checkpoints one store keeps.
pub const CONSUMERS: usize = 10_000;

/// Bytes of the list of what was removed from streams and not purged yet: the names of streams, and 8 for each stretch of
/// revisions.
pub const REMOVALS: usize = 1 << 20;

/// Positions that a subscription may be allowed to fall behind.
pub const SUBSCRIPTION: u64 = 1 << 24;

/// Bytes that events of this commit may stay in the staging buffer before producers wait, unless set otherwise.
pub const STAGING: usize = 1 << 20;

/// The largest segment size that may be chosen: offsets in an index are 32 bits of 8 bytes each, and one commit may go over.
pub const SEGMENT: u64 = 16 << 30;
