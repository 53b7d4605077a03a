//! Index files and tiers: sound, of the segments that stand there, and saying what those say.

use crate::error::Result;
use crate::format::{PAGE, header, index};
use crate::inspect::verify::{Check, Depth, is_missing, of_file};
use crate::log::index::Index;
use crate::log::parts::Part;
use crate::segment::disk::File;
use crate::segment::map::Access;

const AGAIN: &str = "delete it, and it is made again";

impl Check<'_> {
    /// An index file has to say what the events say. A missing one is no damage: it is made again. Of a damaged segment
    /// there is nothing to compare it with, and it would not be made again.
    pub(super) fn derived(&mut self, part: &Part, depth: Depth) -> Result<()> {
        let name = header::index_name(part.segment.first());
        if !part.segment.is_sealed() || self.frames.is_damaged() {
            return Ok(());
        }
        let file = match self.log.directory.open(&name, Access::Read) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (read, first) = (file.len()?, part.segment.first());
        let index = Index::of_sealed(part.segment.clone(), &*self.log.directory);
        let what = match index.file() {
            // Nobody takes it for this one's: the segment was, or is to be, written again.
            None if is_of_another(&*file, part)? => None,
            None => Some("it is no index of the segment that stands there"),
            Some(found) if depth != Depth::Fast && !found.is_sound() => Some("a checksum does not fit"),
            Some(_) if depth == Depth::Deep => {
                let Some(made) = Index::in_memory(part.segment.clone()).encode() else { return Ok(()) };
                // Only a file of the right length is worth room for what it holds.
                let mut stored = vec![0; if read == made.len() as u64 { made.len() } else { 0 }];
                file.read_at(&mut stored, 0)?;
                (made != stored).then_some("it does not say what the events say")
            }
            Some(_) => None,
        };
        if let Some(what) = what {
            self.verdict.damage.push(of_file(name, read, first, &format!("{what}; {AGAIN}")));
        }
        Ok(())
    }

    /// A tier may name segments that do not bear a term. It must not leave out one that does.
    pub(super) fn tiers(&mut self, depth: Depth) -> Result<()> {
        if depth == Depth::Fast {
            return Ok(());
        }
        for (tier, covered) in self.log.parts.tiers.all() {
            let found = |what: &str| of_file(tier.name(), tier.len(), covered[0], &format!("{what}; {AGAIN}"));
            if !tier.is_sound() {
                self.verdict.damage.push(found("a checksum does not fit"));
                continue;
            }
            // It may cover what was let go of.
            for (number, first) in covered.iter().enumerate() {
                // An index that is damaged was told of, and says nothing against the tier.
                let index = self.log.parts.still_there(*first)?.and_then(|part| part.index.file());
                let Some(file) = index.filter(|file| file.is_sound()) else { continue };
                if !tier.names_all(number, &file) {
                    self.verdict.damage.push(found("it does not say what the indexes of its segments say"));
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether an index file is of another file of the same segment, before or after it was written again.
fn is_of_another(file: &dyn File, part: &Part) -> Result<bool> {
    let mut page = [0; PAGE];
    file.read_at(&mut page, 0)?;
    let layout = index::layout(&page, usize::try_from(file.len()?).unwrap_or(usize::MAX));
    let header = &part.segment.header;
    Ok(layout.is_some_and(|layout| layout.summary.first == header.first && layout.summary.nonce != header.nonce))
}
