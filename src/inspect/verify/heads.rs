//! Heads files: what is known of streams whose older events were let go of.

use crate::error::{Error, Result};
use crate::inspect::verify::{Check, Depth, of_file};

impl Check<'_> {
    /// Each file has to be there, as nothing else knows what it says.
    pub(super) fn heads(&mut self, depth: Depth) -> Result<()> {
        let known = match self.log.heads_now() {
            Ok(known) => known,
            Err(Error::NotAStore { path, why }) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                self.verdict.damage.push(of_file(name, 0, self.log.oldest(), &why));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if depth != Depth::Fast {
            for file in &known.files {
                self.verdict.damage.append(&mut file.faults()?);
            }
        }
        Ok(())
    }
}
