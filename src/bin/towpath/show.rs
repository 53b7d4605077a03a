//! An event as a JSON object, as one line for humans, or in full for humans.

use std::borrow::Cow;
use std::fmt::Write;

use towpath::{Codec, Event, JsonRecord};

use crate::failure::{Failure, Result};
use crate::time::rfc3339;

/// The event as a JSON object on one line.
pub(crate) fn object(event: &Event<'_>) -> Result<String> {
    let mut text = Vec::new();
    JsonRecord::new().event(event, &mut text).map_err(|e| Failure::because("could not write JSON", &e))?;
    String::from_utf8(text).map_err(|e| Failure::because("could not write JSON", &e))
}

/// The event as a line: position, time, stream@revision, type, payload.
pub(crate) fn line(event: &Event<'_>) -> String {
    let (position, stream, revision) = (event.position(), event.stream(), event.revision());
    let (time, type_name, payload) = (rfc3339(event.time()), event.type_name(), payload_text(event));
    format!("{position}  {time}  {stream}@{revision}  {type_name}  {payload}")
}

/// Everything about the event, a field a line.
pub(crate) fn lines(event: &Event<'_>) -> Vec<String> {
    let mut fields = vec![
        ("position", event.position().to_string()),
        ("stream", format!("{}@{}", event.stream(), event.revision())),
        ("type", event.type_name().to_owned()),
        ("time", rfc3339(event.time())),
    ];
    fields.extend(event.occurred().map(|time| ("occurred", rfc3339(time))));
    fields.extend(event.own_id().map(|_| ("id", event.id().to_string())));
    fields.extend(event.correlation().map(|id| ("correlation", id.to_owned())));
    fields.extend(event.causation().map(|id| ("causation", id.to_string())));
    fields.extend(event.tags().map(|tag| ("tag", tag.to_owned())));
    fields.extend(event.headers().map(|(name, value)| ("header", format!("{name}={value}"))));
    fields.push(("payload", payload_text(event)));
    fields.into_iter().map(|(name, value)| format!("{name:<12}{value}")).collect()
}

/// Text that cannot drive a terminal: what moves the cursor, ends a line or turns the direction becomes `\u001b`.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || !text.contains(drives_a_terminal) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if drives_a_terminal(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// A text without what addresses in it have before an `@` and behind a `?`: secrets that were typed into the wrong place. Hides
/// too much rather than too little.
pub(crate) fn without_secrets(text: &str) -> String {
    let Some((before, address)) = text.split_once("://") else { return text.to_owned() };
    let mut shown = match address.rsplit_once('@') {
        Some((_, behind)) => format!("{before}://…@{behind}"),
        None => text.to_owned(),
    };
    // The quotes that a usage error puts around it are no part of it.
    let begin = before.len();
    let end = shown[begin..].rfind('\'').map_or(shown.len(), |quote| begin + quote);
    if let Some(query) = shown[begin..end].find('?') {
        shown.replace_range(begin + query..end, "?…");
    }
    shown
}

pub(crate) fn drives_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

pub(crate) fn payload_text(event: &Event<'_>) -> String {
    let bytes = event.payload().len();
    match JsonRecord::payload(event) {
        Some(json) => json,
        None if event.codec() == Codec::Raw => format!("<{bytes} bytes raw>"),
        None => format!("<{bytes} bytes that do not show as JSON>"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use towpath::{NewEvent, Position, Store, Timestamp};

    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(safe("plain \u{e9}"), "plain \u{e9}");
        assert_eq!(safe("a\u{1b}[2J\nb"), "a\\u001b[2J\\u000ab");
        assert_eq!(safe("\u{9b}\u{202e}"), "\\u009b\\u202e");
    }

    #[test]
    fn secrets_of_an_address_are_hidden() {
        let hidden = without_secrets("unexpected argument 'http://ann:s3c r@t@host/p?token=1' found");
        assert_eq!(hidden, "unexpected argument 'http://…@host/p?…' found");
        assert_eq!(without_secrets("'a@b' and http://host/p"), "'a@b' and http://host/p");
        assert_eq!(without_secrets("is it? see 'http://host/p?a=b c' found"), "is it? see 'http://host/p?…' found");
    }

    #[test]
    fn escaped_json_still_says_the_same() {
        let text = Value::from("\u{7f}\u{9b}\u{2028}").to_string();
        assert_eq!(serde_json::from_str::<Value>(&safe(&text)).unwrap(), Value::from("\u{7f}\u{9b}\u{2028}"));
    }

    #[test]
    fn an_object_has_the_fixed_fields_and_the_payload_as_stored() {
        let event = NewEvent::encoded("placed", Codec::Json, b"{ \"z\": 1.10, \"a\": 1 }".as_slice())
            .tag("customer:7")
            .header("by", "web")
            .occurred(Timestamp::from_nanos(1));
        let shown = stored("fields", event, object);
        assert!(shown.ends_with("\"payload\":{\"z\":1.10,\"a\":1}}"), "{shown}");
        let value: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["position"], 1);
        assert_eq!(value["stream"], "cart-1");
        assert_eq!(value["revision"], 1);
        assert_eq!(value["type"], "placed");
        assert_eq!(value["tags"], json!(["customer:7"]));
        assert_eq!(value["headers"], json!({"by": "web"}));
        assert_eq!(value["occurred"], "1970-01-01T00:00:00.000000001Z");
        assert_eq!((value.get("id"), value.get("correlation"), value.get("causation")), (None, None, None));
    }

    #[test]
    fn bytes_that_are_no_json_are_base64_and_counted() {
        let value: Value = serde_json::from_str(&stored("raw", NewEvent::new("x", b"hi"), object)).unwrap();
        assert_eq!(value["payload_base64"], "aGk=");
        assert_eq!(value.get("payload"), None);
        let told = stored("raw-line", NewEvent::new("x", b"hi"), |event| Ok(line(event)));
        assert!(told.starts_with("1  ") && told.ends_with("  cart-1@1  x  <2 bytes raw>"), "{told}");
        let broken = NewEvent::encoded("x", Codec::Json, b"{".as_slice());
        assert!(stored("broken", broken, object).ends_with("\"payload_base64\":\"ew==\"}"));
    }

    #[test]
    fn message_pack_shows_as_json() {
        #[derive(serde::Serialize)]
        enum Order {
            Placed { total: u32 },
        }
        let event = NewEvent::typed(&Order::Placed { total: 7 }).unwrap();
        assert!(stored("typed", event, object).ends_with("\"payload\":{\"total\":7}}"));
    }

    fn stored(name: &str, event: NewEvent<'_>, show: impl Fn(&Event<'_>) -> Result<String>) -> String {
        let dir = std::env::temp_dir().join(format!("towpath-show-{name}-{}", std::process::id()));
        let store = Store::open(&dir).unwrap();
        store.append("cart-1", event).unwrap();
        let text = show(&store.event(Position::new(1)).unwrap().unwrap()).unwrap();
        store.close().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        text
    }
}
