//! The next revision of each stream, for the key-value stores: as somebody who has the store to himself would do it.

use anyhow::Result;
use rustc_hash::FxHashMap;

/// What was read or written once is remembered, under the lock of the writer, so that an append need not read.
#[derive(Default)]
pub struct Heads {
    next: FxHashMap<Box<str>, u64>,
}

impl Heads {
    /// Takes the next revision of the stream; `look` reads the last one in the index, within the transaction.
    pub fn take(&mut self, stream: &str, look: impl FnOnce() -> Result<Option<u64>>) -> Result<u64> {
        if let Some(next) = self.next.get_mut(stream) {
            *next += 1;
            return Ok(*next - 1);
        }
        let revision = look()?.map_or(0, |last| last + 1);
        self.next.insert(stream.into(), revision + 1);
        Ok(revision)
    }

    /// Forgets everything, after a commit that failed.
    pub fn forget(&mut self) {
        self.next.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_go_on_after_what_is_stored_and_are_looked_up_once() {
        let mut heads = Heads::default();
        assert_eq!(heads.take("a", || Ok(Some(4))).unwrap(), 5);
        assert_eq!(heads.take("a", || panic!("known already")).unwrap(), 6);
        assert_eq!(heads.take("b", || Ok(None)).unwrap(), 0);
        heads.forget();
        assert_eq!(heads.take("a", || Ok(Some(4))).unwrap(), 5);
    }
}
