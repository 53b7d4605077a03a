//! An event as a JSON object, as one line for humans, or in full for humans.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use towpath::{Codec, Event};

use crate::failure::{Failure, Result};
use crate::time::rfc3339;

/// All but the payload. Its field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Shown<'a> {
    position: u64,
    stream: &'a str,
    revision: u64,
    #[serde(rename = "type")]
    type_name: &'a str,
    time: String,
    tags: Vec<&'a str>,
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation: Option<String>,
}

/// An object, in the order they were given in.
struct Headers<'a>(Vec<(&'a str, &'a str)>);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// The event as a JSON object on one line.
pub(crate) fn object(event: &Event<'_>) -> Result<String> {
    let mut text = serde_json::to_string(&shown(event)).map_err(|e| Failure::because("could not write JSON", &e))?;
    text.pop();
    match payload_json(event) {
        Some(payload) => text.extend([",\"payload\":", &payload, "}"]),
        None => text.extend([",\"payload_base64\":\"", &STANDARD.encode(event.payload()), "\"}"]),
    }
    Ok(text)
}

/// The event as a line: position, time, stream@revision, type, payload.
pub(crate) fn line(event: &Event<'_>) -> String {
    let (position, stream, revision) = (event.position(), event.stream(), event.revision());
    let (time, type_name, payload) = (rfc3339(event.time()), event.type_name(), payload_text(event));
    format!("{position}  {time}  {stream}@{revision}  {type_name}  {payload}")
}

/// Everything about the event, a field a line.
pub(crate) fn lines(event: &Event<'_>) -> Vec<String> {
    let shown = shown(event);
    let mut fields = vec![
        ("position", shown.position.to_string()),
        ("stream", format!("{}@{}", shown.stream, shown.revision)),
        ("type", shown.type_name.to_owned()),
        ("time", shown.time),
    ];
    fields.extend(shown.occurred.map(|time| ("occurred", time)));
    fields.extend(shown.id.map(|id| ("id", id)));
    fields.extend(shown.correlation.map(|id| ("correlation", id.to_owned())));
    fields.extend(shown.causation.map(|id| ("causation", id)));
    fields.extend(shown.tags.iter().map(|tag| ("tag", (*tag).to_owned())));
    fields.extend(shown.headers.0.iter().map(|(name, value)| ("header", format!("{name}={value}"))));
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

fn drives_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown<'a>(event: &'a Event<'_>) -> Shown<'a> {
    Shown {
        position: event.position().get(),
        stream: event.stream(),
        revision: event.revision().get(),
        type_name: event.type_name(),
        time: rfc3339(event.time()),
        tags: event.tags().collect(),
        headers: Headers(event.headers().collect()),
        occurred: event.occurred().map(rfc3339),
        id: event.own_id().map(|_| event.id().to_string()),
        correlation: event.correlation(),
        causation: event.causation().map(|id| id.to_string()),
    }
}

fn payload_text(event: &Event<'_>) -> String {
    let bytes = event.payload().len();
    match payload_json(event) {
        Some(json) => json,
        None if event.codec() == Codec::Raw => format!("<{bytes} bytes raw>"),
        None => format!("<{bytes} bytes that do not show as JSON>"),
    }
}

/// The payload as JSON on one line, where it is a value.
fn payload_json(event: &Event<'_>) -> Option<String> {
    if event.codec() == Codec::Raw {
        return None;
    }
    let value = event.json().ok()?;
    match event.codec() {
        // As it was stored: a value read and written again would lose the order of fields and the digits of numbers.
        Codec::Json => str::from_utf8(event.payload()).ok().map(compact),
        _ => Some(value.to_string()),
    }
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        let kept = quoted || !c.is_ascii_whitespace();
        quoted ^= *c == '"' && !escaped;
        escaped = quoted && *c == '\\' && !escaped;
        kept
    };
    json.chars().filter(keep).collect()
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
    fn escaped_json_still_says_the_same() {
        let text = Value::from("\u{7f}\u{9b}\u{2028}").to_string();
        assert_eq!(serde_json::from_str::<Value>(&safe(&text)).unwrap(), Value::from("\u{7f}\u{9b}\u{2028}"));
    }

    #[test]
    fn compact_takes_white_space_between_tokens_only() {
        assert_eq!(compact("{ \"b a\" : [1.10,\n 2 ] }"), "{\"b a\":[1.10,2]}");
        assert_eq!(compact(r#"[ "\" \\" , " " ]"#), r#"["\" \\"," "]"#);
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
        #[derive(Serialize)]
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
