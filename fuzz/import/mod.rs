//! The parts of `towpath import` that read rows.

#[path = "../../src/bin/towpath/import/records.rs"]
mod records;
#[path = "../../src/bin/towpath/import/rows.rs"]
pub(crate) mod rows;
