//! Putting one file into a copy: by a second name, by sharing its blocks, or byte by byte.

use crate::copies::moment::changed;
use crate::error::Result;
use crate::format::{PAGE, header, set_store};
use crate::id::StoreId;
use crate::segment::disk::{Directory, File, Prepared, link, share_blocks};
use crate::segment::map::Access;

/// How much is copied in one go.
const AT_ONCE: usize = 1 << 20;

/// How files came into a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Files {
    /// They were there already, from an earlier copy: a second name, no bytes.
    pub kept: u64,
    /// They share their blocks with the original, until one of the two changes (btrfs, XFS).
    pub shared: u64,
    /// They were copied.
    pub copied: u64,
    /// The bytes of those.
    pub bytes_copied: u64,
}

/// One file to be put into a copy.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    /// So much of it counts.
    pub(super) len: u64,
    /// The copy bears this store's id instead. It has that before it has its name.
    pub(super) store: Option<StoreId>,
}

impl Wanted<'_> {
    /// Puts it into `to`, unless it stands there already, whole and synced, under its name.
    pub(super) fn put(
        &self,
        from: &dyn Directory,
        earlier: Option<&dyn Directory>,
        to: &dyn Directory,
        files: &mut Files,
    ) -> Result<()> {
        let original = from.open(self.name, Access::Read)?;
        if original.len()? < self.len {
            return Err(changed(&from.path().join(self.name)));
        }
        if self.is_in(to, &*original) {
            files.kept += 1;
            return Ok(());
        }
        if let Some(earlier) = earlier.filter(|earlier| self.is_in(*earlier, &*original)) {
            to.remove(self.name)?;
            if link(earlier, to, self.name) {
                files.kept += 1;
                return Ok(());
            }
        }
        let temporary = format!("{}.tmp", self.name);
        to.remove(&temporary)?;
        let file = to.create(&temporary)?;
        if share_blocks(&*original, &*file) {
            file.truncate(self.len)?;
            files.shared += 1;
        } else {
            copy(&*original, &*file, 0, self.len)?;
            files.copied += 1;
            files.bytes_copied += self.len;
        }
        if let Some(store) = self.store {
            let mut page = [0; PAGE];
            file.read_at(&mut page, 0)?;
            set_store(&mut page, store);
            file.write_at(&page, 0)?;
        }
        file.sync()?;
        to.rename(&temporary, self.name)
    }

    /// Whether a directory has this very file: a segment's first page bears its nonce, an index file's that of its segment,
    /// and neither is ever written in place. The last page is looked at, too. Of a heads file, which bears none, all pages are.
    fn is_in(&self, there: &dyn Directory, original: &dyn File) -> bool {
        let Ok(file) = there.open(self.name, Access::Read) else { return false };
        let page = |file: &dyn File, at: u64| {
            let mut bytes = [0; PAGE];
            let want = (self.len - at).min(PAGE as u64) as usize;
            file.read_at(&mut bytes[..want], at).ok().filter(|read| *read == want).map(|_| bytes)
        };
        let last = self.len.saturating_sub(PAGE as u64);
        let step = if header::parse_heads_name(self.name).is_some() { PAGE } else { last.max(1) as usize };
        let mut pages = (0..=last).step_by(step);
        file.len().is_ok_and(|len| len == self.len)
            && pages.all(|at| {
                let found = page(&*file, at);
                found.is_some() && found == page(original, at)
            })
    }
}

/// Copies bytes to the same place in a new file. Behind the end of the original stand zeroes.
pub(super) fn copy(from: &dyn File, to: &dyn File, start: u64, end: u64) -> Result<()> {
    if end > 0 && to.len()? == 0 {
        to.allocate(end, Prepared::Allocated)?;
    }
    let mut bytes = vec![0; AT_ONCE.min((end - start) as usize)];
    let mut at = start;
    while at < end {
        let want = bytes.len().min((end - at) as usize);
        let read = from.read_at(&mut bytes[..want], at)?;
        if read == 0 {
            break;
        }
        to.write_at(&bytes[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
