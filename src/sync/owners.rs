//! Who has the right to a name in this process.

use std::collections::HashMap;

use crate::sync::guard;
use crate::sync::primitive::{Arc, Mutex};

/// Names that have an owner now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners(Arc<Mutex<HashMap<String, Told>>>);

/// What the owner of a name was told by others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// How often.
    pub(crate) times: u64,
    /// The last time.
    pub(crate) number: u64,
}

/// The right to a name, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    owners: Owners,
    name: String,
}

impl Owners {
    /// Takes a name, unless it has an owner.
    pub(crate) fn take(&self, name: &str) -> Option<Owned> {
        let mut taken = guard(&self.0);
        if taken.contains_key(name) {
            return None;
        }
        taken.insert(name.to_owned(), Told::default());
        Some(Owned { owners: self.clone(), name: name.to_owned() })
    }

    /// Tells the owner of a name, if there is one, a number.
    pub(crate) fn tell(&self, name: &str, number: u64) {
        if let Some(told) = guard(&self.0).get_mut(name) {
            *told = Told { times: told.times + 1, number };
        }
    }
}

impl Owned {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the owner was told, and how often.
    pub(crate) fn told(&self) -> Told {
        let owners = guard(&self.owners.0);
        owners.get(&self.name).copied().unwrap_or_default()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        guard(&self.owners.0).remove(&self.name);
    }
}
