//! Cuts a stream of bytes into records: lines, or CSV records, which may have line ends within quotes. Holds one.

use std::io::{self, BufRead, ErrorKind};

use towpath::limits;

use crate::args::Format;

/// Bytes of one record, without its line end.
const RECORD_MAX: usize = if cfg!(test) { 16 } else { limits::PAYLOAD };

pub(crate) struct Records {
    input: Box<dyn BufRead>,
    ends: Ends,
    bytes: Vec<u8>,
    is_whole: bool,
    /// Lines that begin before the next record.
    lines: u64,
}

/// What ends a record, and within CSV how far into a field it is.
#[derive(Clone, Copy)]
enum Ends {
    Line,
    Csv(Field),
}

#[derive(Clone, Copy)]
enum Field {
    Start,
    Plain,
    Quoted,
    /// After a quote within quotes: the end of them, or the first half of a quote.
    QuoteInQuotes,
}

impl Records {
    pub(crate) fn new(input: Box<dyn BufRead>, format: Format) -> Self {
        let ends = match format {
            Format::Ndjson => Ends::Line,
            Format::Csv => Ends::Csv(Field::Start),
        };
        Self { input, ends, bytes: Vec::new(), is_whole: true, lines: 0 }
    }

    /// Goes to the next record and says in which line it begins; none at the end.
    pub(crate) fn advance(&mut self) -> io::Result<Option<u64>> {
        self.bytes.clear();
        self.is_whole = true;
        let line = self.lines + 1;
        let mut is_any = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok(is_any.then_some(line));
            }
            is_any = true;
            let end = self.ends.find(chunk);
            let content = &chunk[..end.unwrap_or(chunk.len())];
            let kept = content.len().min(RECORD_MAX - self.bytes.len());
            self.is_whole &= kept == content.len();
            self.bytes.extend_from_slice(&content[..kept]);
            let used = content.len() + usize::from(end.is_some());
            self.lines += chunk[..used].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }

    /// The record, or as much of it as may be held.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether that is all of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Lines that were read to their end.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }
}

impl Ends {
    /// Where the record ends in this chunk, which goes on where the last one stopped.
    fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        match self {
            Ends::Line => chunk.iter().position(|byte| *byte == b'\n'),
            Ends::Csv(field) => chunk.iter().position(|byte| field.step(*byte)),
        }
    }
}

impl Field {
    /// Whether the record ends at this byte.
    fn step(&mut self, byte: u8) -> bool {
        let is_quoted = matches!(self, Field::Quoted);
        let is_end = !is_quoted && (byte == b'\n' || byte == b'\r');
        *self = match (*self, byte) {
            (Field::Quoted, b'"') => Field::QuoteInQuotes,
            (Field::Quoted, _) | (Field::Start | Field::QuoteInQuotes, b'"') => Field::Quoted,
            (_, b',' | b'\n' | b'\r') => Field::Start,
            _ => Field::Plain,
        };
        is_end
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn cut(text: &'static str, format: Format) -> Vec<(u64, String, bool)> {
        // A buffer of three bytes, so that records go over its ends.
        let mut records = Records::new(Box::new(BufReader::with_capacity(3, Cursor::new(text))), format);
        let mut found = Vec::new();
        while let Some(line) = records.advance().unwrap() {
            found.push((line, String::from_utf8(records.bytes().to_vec()).unwrap(), records.is_whole()));
        }
        found
    }

    fn texts(text: &'static str, format: Format) -> Vec<String> {
        cut(text, format).into_iter().map(|(_, text, _)| text).filter(|text| !text.is_empty()).collect()
    }

    #[test]
    fn lines_end_at_line_ends_and_at_the_end() {
        assert_eq!(texts("a\nb\"\n\nc", Format::Ndjson), ["a", "b\"", "c"]);
        assert_eq!(texts("", Format::Ndjson), [""; 0]);
    }

    #[test]
    fn csv_records_have_line_ends_within_quotes() {
        assert_eq!(texts("a,\"b\nc\"\r\nd\re", Format::Csv), ["a,\"b\nc\"", "d", "e"]);
        assert_eq!(texts("\"a\"\"\nb\"\nc", Format::Csv), ["\"a\"\"\nb\"", "c"]);
        assert_eq!(texts("a\"b\nc", Format::Csv), ["a\"b", "c"]);
    }

    #[test]
    fn a_record_knows_the_line_it_begins_in() {
        let lines = |text, format| cut(text, format).into_iter().map(|(line, ..)| line).collect::<Vec<_>>();
        assert_eq!(lines("a\n\nb\n", Format::Ndjson), [1, 2, 3]);
        assert_eq!(lines("\"a\nb\"\nc", Format::Csv), [1, 3]);
    }

    #[test]
    fn a_long_record_is_held_up_to_the_limit_and_the_next_one_is_whole() {
        let found = cut("0123456789abcdef\n0123456789abcdefg\nx\n", Format::Ndjson);
        let held: Vec<_> = found.iter().map(|(line, text, is_whole)| (*line, text.len(), *is_whole)).collect();
        assert_eq!(held, [(1, 16, true), (2, 16, false), (3, 1, true)]);
    }
}
