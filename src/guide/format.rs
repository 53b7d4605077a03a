#![doc = include_str!("../format/FORMAT.md")]
