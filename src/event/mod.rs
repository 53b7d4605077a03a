//! What users mean: events to be written, questions about events, and typed payloads.

pub(crate) mod codec;
pub(crate) mod draft;
pub(crate) mod query;
pub(crate) mod typed;
pub(crate) mod upcast;
