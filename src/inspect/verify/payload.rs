//! Whether a payload is what its codec says, as far as that can be told without its type.

use serde::de::IgnoredAny;

use crate::event::codec::Codec;
use crate::format::frame::Frame;

pub(super) fn decodes(frame: Frame<'_>) -> bool {
    match frame.codec() {
        #[cfg(feature = "json")]
        Codec::Json => serde_json::from_slice::<IgnoredAny>(frame.payload()).is_ok(),
        Codec::MessagePack => is_message_pack(frame.payload()),
        // bincode says nothing of itself.
        _ => true,
    }
}

fn is_message_pack(payload: &[u8]) -> bool {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(payload);
    // Deeply nested ones are refused by its own limit.
    <IgnoredAny as serde::Deserialize>::deserialize(&mut decoder).is_ok()
}
