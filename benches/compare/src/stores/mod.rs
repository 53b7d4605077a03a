//! The stores, one file each.

pub mod batpak;
pub mod commitlog;
pub mod fjall;
mod heads;
pub mod lmdb;
mod record;
pub mod redb;
pub mod sqlite;
pub mod towpath;
pub mod umadb;
pub mod walrus;

use crate::store::{Profile, Store};

/// Something done with one store, whichever it is.
pub trait Task {
    type Output;

    fn run<S: Store>(self) -> Self::Output;
}

macro_rules! stores {
    ($($name:ident = $store:ty),* $(,)?) => {
        /// Every store, in the order of the tables.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Name {
            $($name),*
        }

        impl Name {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn profile(self) -> &'static Profile {
                match self {
                    $(Self::$name => &<$store as Store>::PROFILE),*
                }
            }

            /// Does something with the store of this name.
            pub fn with<T: Task>(self, task: T) -> T::Output {
                match self {
                    $(Self::$name => task.run::<$store>()),*
                }
            }
        }
    };
}

stores! {
    Towpath = towpath::Towpath,
    Sqlite = sqlite::Sqlite,
    Redb = redb::Redb,
    Fjall = fjall::Fjall,
    Lmdb = lmdb::Lmdb,
    Commitlog = commitlog::Commitlog,
    Walrus = walrus::Walrus,
    Umadb = umadb::Umadb,
    Batpak = batpak::Batpak,
}

impl Name {
    /// Also what the command line and the raw results call it.
    pub const fn key(self) -> &'static str {
        self.profile().key
    }
}
