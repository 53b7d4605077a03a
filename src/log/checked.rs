//! Files that are checked page by page, each page when it is first used.

use crate::sync::primitive::atomic::{AtomicU64, Ordering};

/// A file that can be made again is not what was written.
#[derive(Debug)]
pub(crate) struct Unsound;

/// Which pages were found whole: one bit a page.
#[derive(Debug)]
pub(crate) struct Checked(Vec<AtomicU64>);

impl Checked {
    pub(crate) fn new(pages: usize) -> Self {
        Self((0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Checks a page unless it was found whole before.
    #[inline]
    pub(crate) fn check(&self, page: usize, is_sound: impl FnOnce() -> bool) -> Result<(), Unsound> {
        let (word, bit) = (&self.0[page / 64], 1 << (page % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            if !is_sound() {
                return Err(Unsound);
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }
}
