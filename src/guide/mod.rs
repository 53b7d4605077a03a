//! The guide: how it works, what it promises, and how common things are done.
//!
//! | page | read it when |
//! | --- | --- |
//! | [`cookbook`] | you want to do something: each recipe compiles |
//! | [`consuming`] | something is to be done with events: which canal, groups, what they cost |
//! | [`delivery`] | you have to know how often and in which order events come |
//! | [`dead_letters`] | something failed for good, or events are to leave the store |
//! | [`guarantees`] | you have to know what you can rely on, and on what that rests |
//! | [`retention`] | old events are to go |
//! | [`beside`] | other processes are to read, beside the one that writes |
//! | [`operating`] | you look after a store: how it stands, checking, backups, forks |
//! | [`recovery`] | a store was not closed in good order, or opening it fails |
//! | [`architecture`] | you want to know why it is built as it is, or to change it |
//! | [`performance`] | you want to know where the time of an append goes, and what may hold it up |
//! | [`cost`] | you mean to keep events for years: files, bytes, probes and memory up to 10^11 events |
//! | [`mod@format`] | you want to read the files without this crate |
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | store | one directory, one writing process, any number of readers |
//! | log | all events in one order |
//! | event | a stream's name, a type, a payload; perhaps tags, headers, an id, causes |
//! | stream, revision | a named sequence within the log; its n-th event has revision n, a stream without events is at 0 |
//! | position | a place in the log: 1, 2, 3 …; 0 is before the first |
//! | commit | 1 to 65,536 events, of one stream or several, written all or none |
//! | head | the last position that readers see |
//! | durable | the last position that a power cut cannot take |
//! | segment | one file of the log; a frame is one record in it |
//! | term | what an event can be found by: its stream, a tag, a key … |
//! | tier | a file that says which of several neighbouring segments bear a term |
//! | canal | anything that batches of events can be pulled from |
//! | settle | to say what became of a delivery |
//! | group, member | a consumer that several threads share; one of them |
//! | lease | how long a delivery belongs to the member that pulled it |
//! | fencing token | the number of a hand-out, which only rises; an older one settles nothing |
//! | dead letter | what a delivery becomes that failed for good |
//! | redrive | to hand a dead letter's source out again |
//! | sink | where a consumer's events are forwarded to, outside or inside the store |
//! | checkpoint | where a consumer goes on: the next position to read |
//! | category | a stream's name up to its first `-`, or all of it |

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("beside.md")]
pub mod beside {}

#[doc = include_str!("consuming.md")]
pub mod consuming {}

#[doc = include_str!("cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("cost.md")]
pub mod cost {}

#[doc = include_str!("dead_letters.md")]
pub mod dead_letters {}

#[doc = include_str!("delivery.md")]
pub mod delivery {}

pub mod format;

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("recovery.md")]
pub mod recovery {}

#[doc = include_str!("retention.md")]
pub mod retention {}
