//! Makes rows of records: an NDJSON object as it stands, a CSV record with the names in the first one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufRead, Cursor, SeekFrom};

use csv::{ReaderBuilder, StringRecord};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::args::Format;
use crate::failure::{Failure, Result};
use crate::import::records::Records;
use crate::template::Fields;

/// What some programs put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// As much of a record that is too long is given back.
const EXCERPT: usize = 1024;

pub(crate) struct Rows {
    records: Records,
    format: Format,
    columns: Option<Columns>,
    splitter: Splitter,
}

/// The names in the first line of a CSV file.
pub(crate) struct Columns {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

/// Splits CSV records, one at a time. Kept, because making a reader costs more than reading a hundred records.
struct Splitter(csv::Reader<Cursor<Vec<u8>>>);

/// One row, good or bad.
pub(crate) struct Found<'a> {
    /// Where it begins.
    pub(crate) line: u64,
    /// Itself, or the beginning of it when it is too long.
    pub(crate) bytes: &'a [u8],
    pub(crate) row: Result<Row<'a>, String>,
}

pub(crate) enum Row<'a> {
    Json { text: &'a str, value: Value },
    Csv { columns: &'a Columns, fields: StringRecord },
}

/// A CSV row as a JSON object of text fields, in the order of the columns.
struct Object<'a>(&'a Columns, &'a StringRecord);

impl Rows {
    pub(crate) fn new(input: Box<dyn BufRead>, format: Format) -> Self {
        Self { records: Records::new(input, format), format, columns: None, splitter: Splitter::new() }
    }

    /// The next row; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>> {
        if self.format == Format::Csv && self.columns.is_none() {
            let Some(line) = self.advance()? else { return Ok(None) };
            let names = self.read_names(line);
            self.columns = Some(names.map_err(|why| Failure::new(format!("line {line} names no columns: {why}")))?);
        }
        let Some(line) = self.advance()? else { return Ok(None) };
        let bytes = content(&self.records, self.format, line);
        if !self.records.is_whole() {
            let row = Err(format!("it has more than {} bytes", bytes.len()));
            return Ok(Some(Found { line, bytes: &bytes[..EXCERPT.min(bytes.len())], row }));
        }
        let row = match &self.columns {
            None => json_row(bytes),
            Some(columns) => csv_row(self.splitter.split(bytes), columns),
        };
        Ok(Some(Found { line, bytes, row }))
    }

    /// Goes to the next record that is not blank.
    fn advance(&mut self) -> Result<Option<u64>> {
        loop {
            let next = self.records.advance();
            match next.map_err(|error| cut_short(self.records.lines(), &error))? {
                Some(line) if content(&self.records, self.format, line).is_empty() => {}
                next => return Ok(next),
            }
        }
    }

    fn read_names(&mut self, line: u64) -> Result<Columns, String> {
        if !self.records.is_whole() {
            return Err("it is too long".to_owned());
        }
        let names: Vec<String> =
            self.splitter.split(content(&self.records, self.format, line))?.iter().map(str::to_owned).collect();
        let places: HashMap<_, _> = names.iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
        match names.iter().enumerate().find(|(place, name)| places[*name] != *place) {
            Some((_, name)) => Err(format!("{name:?} stands there twice")),
            None => Ok(Columns { names, places }),
        }
    }
}

impl Row<'_> {
    /// The row as a JSON object.
    pub(crate) fn payload(&self) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Row::Json { text, .. } => Ok(Cow::Borrowed(text.as_bytes())),
            Row::Csv { columns, fields } => {
                serde_json::to_vec(&Object(columns, fields)).map(Cow::Owned).map_err(|error| error.to_string())
            }
        }
    }
}

impl Fields for Row<'_> {
    fn text(&self, path: &str) -> Result<Cow<'_, str>, String> {
        match self {
            Row::Json { value, .. } => text_of(path, find(value, path)),
            Row::Csv { columns, fields } => {
                let field = columns.places.get(path).and_then(|place| fields.get(*place));
                field.map(Cow::Borrowed).ok_or_else(|| format!("there is no field {path}"))
            }
        }
    }
}

impl Splitter {
    fn new() -> Self {
        Self(ReaderBuilder::new().has_headers(false).flexible(true).from_reader(Cursor::default()))
    }

    /// The fields of one record.
    fn split(&mut self, bytes: &[u8]) -> Result<StringRecord, String> {
        let held = self.0.get_mut().get_mut();
        held.clear();
        held.extend_from_slice(bytes);
        let mut fields = StringRecord::new();
        let start = self.0.seek_raw(SeekFrom::Start(0), csv::Position::new());
        match start.and_then(|()| self.0.read_record(&mut fields)) {
            Ok(_) => Ok(fields),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => Err("it is not UTF-8".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.names.iter().zip(self.1))
    }
}

/// The record without what may stand around it.
fn content(records: &Records, format: Format, line: u64) -> &[u8] {
    let bytes = records.bytes();
    let bytes = if line == 1 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes };
    match format {
        Format::Ndjson => bytes.trim_ascii(),
        Format::Csv => bytes,
    }
}

fn json_row(bytes: &[u8]) -> Result<Row<'_>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if value.is_object() { Ok(Row::Json { text, value }) } else { Err("it is not a JSON object".to_owned()) }
}

fn csv_row(fields: Result<StringRecord, String>, columns: &Columns) -> Result<Row<'_>, String> {
    let fields = fields?;
    match (fields.len(), columns.names.len()) {
        (found, wanted) if found != wanted => Err(format!("it has {found} fields, the first line names {wanted}")),
        _ => Ok(Row::Csv { columns, fields }),
    }
}

fn cut_short(lines: u64, error: &io::Error) -> Failure {
    Failure::because(format!("could not read on behind line {lines}, the rows before it are stored"), error)
}

/// A field by its whole name, or by the names on the way to it.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    value.get(path).or_else(|| path.split('.').try_fold(value, |value, name| value.get(name)))
}

fn text_of<'a>(path: &str, field: Option<&'a Value>) -> Result<Cow<'a, str>, String> {
    match field {
        None => Err(format!("there is no field {path}")),
        Some(Value::Null) => Err(format!("field {path} is null")),
        Some(Value::String(text)) => Ok(Cow::Borrowed(text)),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Cow::Owned(value.to_string())),
        Some(_) => Err(format!("field {path} is no text, number or boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &'static str, format: Format) -> Rows {
        Rows::new(Box::new(Cursor::new(text)), format)
    }

    #[test]
    fn an_object_is_kept_byte_for_byte_without_the_space_around_it() {
        let mut rows = rows("\u{feff} {\"a\" :1} \r\n", Format::Ndjson);
        let found = rows.next().unwrap().unwrap();
        assert_eq!(found.row.as_ref().unwrap().payload().unwrap(), b"{\"a\" :1}".as_slice());
        assert!(rows.next().unwrap().is_none());
    }

    #[test]
    fn fields_within_fields_are_found_and_only_scalars_are_text() {
        let row = json_row(br#"{"a": {"b": 1, "c": [1]}, "a.d": true, "n": null, "s": "x"}"#).unwrap();
        for (path, text) in [("a.b", "1"), ("a.d", "true"), ("s", "x")] {
            assert_eq!(row.text(path).unwrap(), text);
        }
        for path in ["a", "a.c", "n", "x", "s.x", ""] {
            assert!(row.text(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_csv_row_is_an_object_in_the_order_of_its_columns() {
        let mut rows = rows("z,a\n1,\"x\ny\"\n", Format::Csv);
        let found = rows.next().unwrap().unwrap();
        let row = found.row.unwrap();
        assert_eq!((found.line, row.text("a").unwrap()), (2, "x\ny".into()));
        assert_eq!(row.payload().unwrap(), br#"{"z":"1","a":"x\ny"}"#.as_slice());
    }

    #[test]
    fn bad_rows_are_told_with_their_lines_and_the_next_one_is_read() {
        let bad = |text, format| {
            let mut rows = rows(text, format);
            let mut bad = Vec::new();
            while let Some(found) = rows.next().unwrap() {
                bad.extend(found.row.err().map(|_| found.line));
            }
            bad
        };
        assert_eq!(bad("{}\n[1]\n\n{\n{}\n12345678901234567\n", Format::Ndjson), [2, 4, 6]);
        assert_eq!(bad("a,b\n1,2\n1\n\n1,2,3\n1,\"", Format::Csv), [3, 5]);
    }

    #[test]
    fn a_column_that_stands_there_twice_is_refused() {
        assert!(rows("a,a\n1,2\n", Format::Csv).next().is_err());
    }
}
