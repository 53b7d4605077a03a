//! `towpath import`: the rows of a file, an event each.

mod batches;
mod records;
pub(crate) mod rejects;
mod rows;
mod source;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use towpath::{Codec, NewEvent, Store, Timestamp};

use crate::Answer;
use crate::args::{Format, Import};
use crate::failure::{Failure, Result, complain};
use crate::import::batches::Batches;
use crate::import::rejects::Rejects;
use crate::import::rows::{Row, Rows};
use crate::out::Out;
use crate::template::Fields;
use crate::time;

#[derive(Serialize)]
struct Imported {
    /// All rows that were met, bad ones included.
    rows: u64,
    events: u64,
    rejected: u64,
    seconds: f64,
}

/// What the templates made of a row.
struct Named {
    stream: String,
    type_name: String,
    tags: Vec<String>,
    occurred: Option<Timestamp>,
}

pub(crate) fn run(args: &Import, out: &mut Out) -> Result<Answer> {
    let started = Instant::now();
    let format = args.format.or_else(|| guess(&args.file)).ok_or_else(|| unknown(&args.file))?;
    let (input, bar) = source::open(&args.file, out)?;
    let store = Store::open(&args.dir)?;
    // Last, so that nothing is overwritten by an import that cannot run.
    let mut rejects = Rejects::create(args.rejects.as_deref(), &args.file, &args.dir)?;
    let mut batches = Batches::new(&store, args.batch);
    let mut rows = Rows::new(input, format);
    let read = import(args, &mut rows, &mut batches, &mut rejects);
    let events = batches.finish();
    bar.finish_and_clear();
    let rejected = rejects.finish()?;
    read.map_err(|failure| failure.within(args.file.display()))?;
    let events = events?;
    store.close()?;
    tell(&rejected);
    let seconds = (started.elapsed().as_secs_f64() * 1e6).round() / 1e6;
    print(&Imported { rows: events + rejected.count, events, rejected: rejected.count, seconds }, out)?;
    Ok(if rejected.count == 0 { Answer::Good } else { Answer::NotGood })
}

/// Reads to the end, or to where it cannot go on.
fn import(args: &Import, rows: &mut Rows, batches: &mut Batches<'_>, rejects: &mut Rejects) -> Result<()> {
    while let Some(found) = rows.next()? {
        let taken = match &found.row {
            Ok(row) => take(args, row, found.line, batches)?,
            Err(reason) => Err(reason.clone()),
        };
        if let Err(reason) = taken {
            rejects.add(found.line, &reason, found.bytes)?;
        }
    }
    Ok(())
}

/// Puts a row into a batch, or says why the row is bad.
fn take(args: &Import, row: &Row<'_>, line: u64, batches: &mut Batches<'_>) -> Result<Result<(), String>> {
    let (named, payload) = match name(args, row).and_then(|named| Ok((named, row.payload()?))) {
        Ok(made) => made,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Err(error) = batches.check(&named.stream, event(&named, &payload)) {
        return Ok(Err(error.to_string()));
    }
    batches.add(&named.stream, event(&named, &payload), line).map(Ok)
}

fn name(args: &Import, row: &impl Fields) -> Result<Named, String> {
    let occurred = match &args.occurred {
        Some(field) => {
            let text = row.text(field)?;
            Some(time::parse_occurred(&text).map_err(|why| format!("field {field} has {text:?}, {why}"))?)
        }
        None => None,
    };
    Ok(Named {
        stream: args.stream.fill(row)?,
        type_name: args.type_name.fill(row)?,
        tags: args.tags.iter().map(|tag| tag.fill(row)).collect::<Result<_, _>>()?,
        occurred,
    })
}

fn event<'a>(named: &'a Named, payload: &'a [u8]) -> NewEvent<'a> {
    let event = NewEvent::encoded(&named.type_name, Codec::Json, payload);
    let event = event.tags(named.tags.iter().map(String::as_str));
    named.occurred.into_iter().fold(event, NewEvent::occurred)
}

fn guess(file: &Path) -> Option<Format> {
    let name = file.file_name()?.to_str()?.to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        _ => None,
    }
}

fn unknown(file: &Path) -> Failure {
    Failure::new(format!("the name {} does not tell what the rows are; say --format ndjson or csv", file.display()))
}

fn tell(rejected: &rejects::Rejected) {
    if let Some((line, reason)) = &rejected.first {
        complain(&format!("rejected rows: {}, the first in line {line}: {reason}", rejected.count));
    }
}

fn print(done: &Imported, out: &mut Out) -> Result<()> {
    let Imported { rows, events, rejected, seconds } = done;
    if out.is_json() {
        return out.object(done);
    }
    out.line(&format!("{rows} rows, {events} events, {rejected} rejected, {seconds:.3} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_by_the_name() {
        let guessed = |name| guess(Path::new(name));
        assert_eq!(guessed("a/flights.csv.gz"), Some(Format::Csv));
        assert_eq!(guessed("B.NDJSON"), Some(Format::Ndjson));
        assert_eq!(guessed("b.jsonl"), Some(Format::Ndjson));
        for name in ["-", "csv", "a.gz", "a.txt", "a.csv/b", "a.csv.zip"] {
            assert_eq!(guessed(name), None, "{name}");
        }
    }
}
