//! `towpath dead export --as-test`: the event of a dead letter as a Rust test that hands it to a handler.
//!
//! What is printed comes from the log and becomes source code: every text goes through `literal` or `comment`.

use towpath::{Codec, DeadLetter, Event, Store};

use crate::dead::source;
use crate::failure::{Failure, Result};
use crate::show;

/// More of these around a raw literal than anybody writes; Rust takes 255.
const HASHES: usize = 16;

/// The lines of the test.
pub(super) fn test(store: &Store, group: &str, letter: &DeadLetter) -> Result<Vec<String>> {
    let position = letter.event().position();
    if letter.lost().is_some() {
        let what = "stands for a damaged stretch, of which no event is left to be replayed";
        return Err(Failure::NotGood(format!("the dead letter at position {position} {what}")));
    }
    // The event as it was appended, if it can be read; otherwise what the dead letter kept of it.
    let kept = store.event(letter.source_position()).ok().flatten();
    let mut event = vec![format!("NewEvent::encoded({})", content(kept.as_ref().unwrap_or(letter.event()))?)];
    event.extend(details(kept.as_ref(), letter).into_iter().map(|detail| format!("    .{detail}")));
    if let Some(last) = event.last_mut() {
        last.push(';');
    }
    let time = kept.as_ref().unwrap_or(letter.event()).time().as_nanos();
    let stream = literal(&not_own(letter.source_stream().unwrap_or("source")));
    let name = format!("dead_letter_{position}_of_{}_is_handled", word(group));
    let (said, source) = (comment(letter.why()), comment(&source(letter)));
    let mut lines = vec![
        format!("// A dead letter of group {}: {}, attempts {}.", comment(group), letter.reason(), letter.attempts()),
        format!(
            "// Its event is {source}, which stood at position {}. The last failure said:",
            letter.source_position()
        ),
        format!("// {}", if said.is_empty() { "nothing" } else { &said }),
        "#[test]".to_owned(),
        format!("fn {name}() {{"),
        "    use std::sync::Arc;".to_owned(),
        "    use std::time::Duration;".to_owned(),
        "    use towpath::{Canal, Codec, Delivery, Durability, ManualClock, NewEvent, Options, Timestamp};".to_owned(),
        String::new(),
        "    fn handle(delivery: &Delivery<'_>) -> Result<(), String> {".to_owned(),
        "        // Call your handler here; until then this test proves nothing.".to_owned(),
        "        let _ = delivery;".to_owned(),
        "        Ok(())".to_owned(),
        "    }".to_owned(),
        String::new(),
    ];
    event.first_mut().into_iter().for_each(|first| first.insert_str(0, "let event = "));
    lines.extend(event.iter().map(|line| format!("    {line}")));
    lines.extend([
        format!(
            "    let dir = std::env::temp_dir().join(format!(\"towpath-dead-letter-{position}-{{}}\", std::process::id()));"
        ),
        "    let _ = std::fs::remove_dir_all(&dir);".to_owned(),
        format!("    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos({time})));"),
        "    let store = Options::new().durability(Durability::Os).clock(clock).open(&dir).unwrap();".to_owned(),
        format!("    store.append({stream}, event).unwrap();"),
        "    let mut cursor = store.cursor(\"replay\").open().unwrap();".to_owned(),
        "    let batch = cursor.pull_batch(1, Duration::ZERO).unwrap();".to_owned(),
        "    let handled = handle(&batch.get(0).unwrap());".to_owned(),
        "    drop((batch, cursor));".to_owned(),
        "    store.close().unwrap();".to_owned(),
        "    std::fs::remove_dir_all(&dir).unwrap();".to_owned(),
        "    assert_eq!(handled, Ok(()));".to_owned(),
        "}".to_owned(),
    ]);
    Ok(lines)
}

/// Type, codec and payload.
fn content(event: &Event<'_>) -> Result<String> {
    let codec = match event.codec() {
        Codec::Raw => "Raw",
        Codec::MessagePack => "MessagePack",
        Codec::Json => "Json",
        Codec::Bincode => "Bincode",
        other => return Err(Failure::new(format!("codec {other:?} cannot be written as a test"))),
    };
    Ok(format!("{}, Codec::{codec}, {}", literal(&not_own(event.type_name())), bytes(event.payload())))
}

/// Everything else that an event can have.
fn details(kept: Option<&Event<'static>>, letter: &DeadLetter) -> Vec<String> {
    let event = kept.unwrap_or(letter.event());
    let mut details = Vec::new();
    // A dead letter has no id of its own, and its cause is the event that failed.
    details.extend(kept.and_then(Event::own_id).map(|id| format!("id(0x{id:032x})")));
    details.extend(event.occurred().map(|time| format!("occurred(Timestamp::from_nanos({}))", time.as_nanos())));
    details.extend(Some(event.schema_version()).filter(|version| *version > 0).map(|v| format!("schema_version({v})")));
    details.extend(event.correlation().map(|id| format!("correlation({})", literal(id))));
    details.extend(kept.and_then(Event::causation).map(|id| format!("causation(\"{id}\".parse().unwrap())")));
    details.extend(event.tags().map(|tag| format!("tag({})", literal(tag))));
    let header = |(name, value): (&str, &str)| format!("header({}, {})", literal(name), literal(value));
    match kept {
        Some(event) => details.extend(event.headers().map(header)),
        None => details.extend(letter.headers().map(header)),
    }
    details
}

/// The payload as an expression: as text where it is text, and as it stands where that is no harm.
fn bytes(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok("") => "b\"\".as_slice()".to_owned(),
        Ok(text) => match raw(text) {
            Some(raw) => format!("{raw}.as_bytes()"),
            None => format!("{}.as_bytes()", literal(text)),
        },
        Err(_) => format!("b\"{}\".as_slice()", payload.escape_ascii()),
    }
}

/// A raw literal, if the text can be shown in one.
fn raw(text: &str) -> Option<String> {
    let hashes = (0..HASHES).map(|count| "#".repeat(count)).find(|hashes| !text.contains(&format!("\"{hashes}")))?;
    let is_plain = text.contains('"') && text.chars().all(is_harmless);
    is_plain.then(|| format!("r{hashes}\"{text}\"{hashes}"))
}

/// A text in quotes.
fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            // A single quote needs no escape between double ones.
            '\'' => quoted.push(c),
            _ if is_harmless(c) && c != '"' && c != '\\' => quoted.push(c),
            _ => quoted.extend(c.escape_default()),
        }
    }
    quoted.push('"');
    quoted
}

/// A text that does not end the line that it stands on.
fn comment(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// Whether a character shows as itself, in a terminal and in source code.
fn is_harmless(c: char) -> bool {
    c.is_ascii_graphic() || c == ' ' || (c.is_alphanumeric() && !show::drives_a_terminal(c))
}

/// Names that begin with $ are the store's own, and cannot be appended under.
fn not_own(name: &str) -> String {
    match name.trim_start_matches('$') {
        "" => "own".to_owned(),
        name => name.to_owned(),
    }
}

/// A text as a part of a Rust name.
fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_its_quotes_or_its_comment() {
        assert_eq!(literal("it's \u{e9} \"a\\\n"), r#""it's é \"a\\\n""#);
        assert_eq!(literal("\u{202e}\u{0}"), r#""\u{202e}\u{0}""#);
        assert_eq!(comment("one\ntwo\r\u{2028}"), r"one\ntwo\r\u{2028}");
    }

    #[test]
    fn a_payload_is_shown_as_plainly_as_it_can_be() {
        assert_eq!(bytes(b""), "b\"\".as_slice()");
        assert_eq!(bytes(b"{\"a\":1}"), "r#\"{\"a\":1}\"#.as_bytes()");
        assert_eq!(bytes(b"{\"a\":\"#1\"}"), "r##\"{\"a\":\"#1\"}\"##.as_bytes()");
        assert_eq!(bytes(b"plain"), "\"plain\".as_bytes()");
        assert_eq!(bytes(b"a\n\"b\""), "\"a\\n\\\"b\\\"\".as_bytes()");
        assert_eq!(bytes(b"\x00\xff\""), "b\"\\x00\\xff\\\"\".as_slice()");
    }

    #[test]
    fn a_name_of_the_stores_own_is_one_that_can_be_appended_under() {
        assert_eq!([not_own("$dead/mail"), not_own("cart-1"), not_own("$")], ["dead/mail", "cart-1", "own"]);
        assert_eq!(word("Mail-out é"), "mail_out__");
    }
}
