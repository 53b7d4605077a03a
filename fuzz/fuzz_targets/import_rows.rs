//! A file of rows as `towpath import` reads it: whatever it holds, reading comes to its end, tells lines in their order, and what
//! it takes for a row is a JSON object with the fields that the row has. First byte: 1 for CSV, NDJSON otherwise.
#![no_main]
#![expect(dead_code, reason = "the program's other verbs use the rest of these modules")]

use std::io::Cursor;

use import::rows::Rows;
use template::{Fields, Template};

#[path = "../../src/bin/towpath/failure.rs"]
mod failure;
#[path = "../import/mod.rs"]
mod import;
#[path = "../../src/bin/towpath/show.rs"]
mod show;
#[path = "../../src/bin/towpath/template.rs"]
mod template;
#[path = "../../src/bin/towpath/time.rs"]
mod time;

/// What the command line says of the rows, without the library that reads command lines.
mod args {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Format {
        Ndjson,
        Csv,
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let format = if mode & 1 == 1 { args::Format::Csv } else { args::Format::Ndjson };
    // A line of the input is a template, too.
    let template = str::from_utf8(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default());
    let template: Option<Template> = template.ok().and_then(|text| text.parse().ok());
    let mut rows = Rows::new(Box::new(Cursor::new(bytes.to_vec())), format);
    let (mut line, mut count) = (0, 0);
    while let Ok(Some(found)) = rows.next() {
        // A carriage return alone ends a record of CSV, and no line.
        assert!(found.line >= line, "lines go up: {} behind {line}", found.line);
        (line, count) = (found.line, count + 1);
        assert!(count <= bytes.len(), "more rows than bytes");
        let Ok(row) = &found.row else { continue };
        let payload = row.payload().expect("a row that was taken has a payload");
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&payload).expect("a payload is an object");
        for (name, value) in &object {
            match row.text(name) {
                Ok(text) => assert!(value.as_str().is_none_or(|value| value == text), "{name} has {text:?}"),
                Err(why) => assert!(value.is_null() || value.is_object() || value.is_array(), "{name}: {why}"),
            }
        }
        if let Some(template) = &template {
            let _filled = template.fill(row);
        }
        if let Some(text) = object.values().find_map(|value| value.as_str()) {
            let _moment = (time::parse_moment(text), time::parse_occurred(text));
        }
    }
});
