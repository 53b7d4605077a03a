//! `towpath append`: one event.

use std::io::{self, Read};

use serde::Serialize;
use towpath::{Codec, Commit, NewEvent, Store, limits};

use crate::Answer;
use crate::args::Append;
use crate::failure::{Failure, Result};
use crate::out::Out;

#[derive(Serialize)]
struct Appended {
    position: u64,
    revision: u64,
    duplicate: bool,
}

pub(crate) fn run(args: &Append, out: &mut Out) -> Result<Answer> {
    let payload = payload(args)?;
    let commit = commit(args, payload.as_deref());
    let store = Store::open(&args.dir)?;
    let receipt = store.commit(&commit)?;
    store.close()?;
    let done = Appended {
        position: receipt.last().get(),
        revision: receipt.revision().get(),
        duplicate: receipt.is_duplicate(),
    };
    print(&done, out)?;
    Ok(Answer::Good)
}

fn print(done: &Appended, out: &mut Out) -> Result<()> {
    let Appended { position, revision, duplicate } = done;
    if out.is_json() {
        return out.object(done);
    }
    let again = if *duplicate { ", written before under this key" } else { "" };
    out.line(&format!("position {position}, revision {revision}{again}"))
}

/// The JSON as given, without white space around it.
fn payload(args: &Append) -> Result<Option<String>> {
    let text = match args.payload.as_deref() {
        None => return Ok(None),
        Some("-") => read_input()?,
        Some(text) => text.to_owned(),
    };
    let text = text.trim();
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(Some(text.to_owned())),
        Err(error) => Err(Failure::because("the payload is not JSON", &error)),
    }
}

fn read_input() -> Result<String> {
    let mut text = String::new();
    let limit = limits::PAYLOAD as u64;
    let read = io::stdin().lock().take(limit + 1).read_to_string(&mut text);
    match read.map_err(|error| Failure::because("could not read standard input", &error))? as u64 {
        size if size > limit => Err(Failure::new(format!("the payload has more than {limit} bytes, the limit"))),
        _ => Ok(text),
    }
}

fn commit(args: &Append, payload: Option<&str>) -> Commit {
    let event = match payload {
        Some(json) => NewEvent::encoded(&args.type_name, Codec::Json, json.as_bytes()),
        None => NewEvent::new(&args.type_name, b""),
    };
    let mut event = event.tags(args.tags.iter().map(String::as_str));
    for (name, value) in &args.headers {
        event = event.header(name, value);
    }
    if let Some(time) = args.occurred {
        event = event.occurred(time);
    }
    let mut commit = Commit::new();
    commit.event(&args.stream, event);
    if let Some(expected) = args.expect {
        commit.expect(&args.stream, expected);
    }
    if let Some(key) = &args.key {
        commit.key(key);
    }
    commit
}
