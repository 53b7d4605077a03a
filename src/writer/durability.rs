//! When an append returns.

use std::time::Duration;

/// When an append returns, and what a power cut may take then. `Store::sync` is a barrier under all three.
///
/// | | returns after | a killed process loses | a power cut loses |
/// |---|---|---|---|
/// | `Sync` | an fdatasync, shared by all who wait | nothing | nothing acknowledged |
/// | `Every(d)` | the copy into the page cache | nothing | at most the last `d`, plus the sync that is under way |
/// | `Os` | the copy into the page cache | nothing | what the kernel had not written yet, usually up to 30 s |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync, shared with all who wait. Readers see the events only then.
    #[default]
    Sync,
    /// After the copy; another thread syncs this often while there is something to sync.
    Every(Duration),
    /// After the copy; the kernel writes when it likes.
    Os,
}
