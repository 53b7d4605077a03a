//! Stores that are made of other stores: backups, and what is restored from them. Neither changes the store that it is
//! made of.

mod aside;
pub(crate) mod backup;
pub(crate) mod fork;
mod moment;
mod out;
mod place;
pub(crate) mod repair;

pub use backup::{Backup, Restored, backup, restore};
pub use fork::{Fork, fork};
pub use place::Files;
pub use repair::{Lost, Noted, PutBack, Repair, Repaired, plan_repair, repair};
