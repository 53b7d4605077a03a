//! The verbs that print events: `cat`, `tail`, `get`, `export`, and the lists `streams` and `types`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use towpath::{Canal, Damage, Error, Event, Position, Query, Reader, Start, Store, inspect};

use crate::Answer;
use crate::args::{Cat, Export, ExportFormat, Get, StoreDir, Tail};
use crate::failure::{Failure, Result, complain};
use crate::out::Out;
use crate::place::Place;
use crate::show;
use crate::signals;

/// Events that `tail -f` takes at once, and how long it waits for the first, and so how soon it notices a signal.
const BATCH: usize = 1_000;
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct StreamLine<'a> {
    stream: &'a str,
    events: u64,
    last_position: u64,
}

#[derive(Serialize)]
struct TypeLine<'a> {
    #[serde(rename = "type")]
    type_name: &'a str,
    events: u64,
}

pub(crate) fn cat(args: &Cat, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&args.dir)?;
    if let Some(from) = args.from.filter(|from| !args.reverse && *from > store.head().next()) {
        complain(&format!("position {from} is past the end, the last event is {}", store.head()));
    }
    print_all(reader(&store, args), out)
}

pub(crate) fn export(args: &Export, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&args.dir)?;
    match args.format {
        ExportFormat::Ndjson => print_each(store.read(Query::new()), |event| out.line(&show::object(event)?)),
    }
}

pub(crate) fn tail(args: &Tail, out: &mut Out) -> Result<Answer> {
    let place = Place::of(&args.dir);
    let store = Store::open_read_only(&args.dir)?;
    let head = store.head();
    let query = args.stream.iter().fold(Query::new(), |query, stream| query.stream(stream));
    let answer = match nth_from_end(&store, &query, head, args.count) {
        Some(first) => print_all(store.read(query.clone()).from(first).until(head), out)?,
        None => Answer::Good,
    };
    if !args.follow {
        return Ok(answer);
    }
    follow(&store, &place, &query, head.next(), out).map(|followed| answer.and(followed))
}

pub(crate) fn get(args: &Get, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&args.dir)?;
    let position = args.position;
    let absent = || Failure::NotGood(format!("no event at position {position}, the last is {}", store.head()));
    let event = match store.event(position) {
        Err(error @ Error::Expired { .. }) => return Err(Failure::NotGood(error.to_string())),
        found => found?.ok_or_else(absent)?,
    };
    if out.is_json() {
        out.line(&show::object(&event)?)?;
    } else {
        show::lines(&event).iter().try_for_each(|line| out.line(line))?;
    }
    Ok(Answer::Good)
}

pub(crate) fn streams(args: &StoreDir, out: &mut Out) -> Result<Answer> {
    let survey = inspect::streams(&args.dir)?;
    for stream in &survey.found {
        let line =
            StreamLine { stream: &stream.name, events: stream.events, last_position: stream.last_position.get() };
        if out.is_json() {
            out.object(&line)?;
        } else {
            out.line(&format!("{:>12}  {}", line.events, line.stream))?;
        }
    }
    Ok(tell_all(&survey.damage))
}

pub(crate) fn types(args: &StoreDir, out: &mut Out) -> Result<Answer> {
    let survey = inspect::types(&args.dir)?;
    for found in &survey.found {
        if out.is_json() {
            out.object(&TypeLine { type_name: &found.name, events: found.events })?;
        } else {
            out.line(&format!("{:>12}  {}", found.events, found.name))?;
        }
    }
    Ok(tell_all(&survey.damage))
}

fn reader(store: &Store, args: &Cat) -> Reader {
    let mut query = Query::new().types(args.types.iter()).tags(args.tags.iter());
    query = args.stream.iter().fold(query, |query, stream| query.stream(stream));
    query = args.category.iter().fold(query, |query, category| query.category(category));
    query = args.subject.iter().fold(query, |query, pattern| query.subject(pattern));
    let mut reader = store.read(query);
    reader = match (args.from, args.reverse) {
        (Some(from), false) => reader.from(from),
        (Some(from), true) => reader.until(from).backwards(),
        (None, true) => reader.backwards(),
        (None, false) => reader,
    };
    reader = args.since.into_iter().fold(reader, Reader::since);
    args.limit.into_iter().fold(reader, Reader::limit)
}

fn print_all(reader: Reader, out: &mut Out) -> Result<Answer> {
    print_each(reader, |event| print(event, out))
}

/// Damage is told where it is met, and reading goes on behind it.
fn print_each(mut reader: Reader, mut print: impl FnMut(&Event<'_>) -> Result<()>) -> Result<Answer> {
    let mut answer = Answer::Good;
    while let Some(item) = reader.next_borrowed() {
        match item {
            Ok(event) => print(&event)?,
            Err(Error::Damaged(damage)) => answer = tell(&damage),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

fn print(event: &Event<'_>, out: &mut Out) -> Result<()> {
    if out.is_json() { out.line(&show::object(event)?) } else { out.line(&show::line(event)) }
}

pub(crate) fn tell(damage: &Damage) -> Answer {
    complain(&damage.to_string());
    Answer::NotGood
}

/// What a list does not count.
fn tell_all(damage: &[Damage]) -> Answer {
    damage.iter().fold(Answer::Good, |_, damage| tell(damage))
}

/// Where the last `count` events up to `head` begin; none when there are none. Holds no event.
fn nth_from_end(store: &Store, query: &Query, head: Position, count: u64) -> Option<Position> {
    let mut first = None;
    let mut back = store.read(query.clone()).until(head).backwards().limit(count);
    while let Some(item) = back.next_borrowed() {
        // Damage is told when the same stretch is printed.
        first = item.ok().map(|event| event.position()).or(first);
    }
    first
}

/// Prints what comes, until interrupted or until nobody reads the output. What cannot be printed is told. Damage that does not
/// pass ends it, and so do a crash that has taken away what was printed, and whoever takes the directory away.
fn follow(store: &Store, place: &Place, query: &Query, next: Position, out: &mut Out) -> Result<Answer> {
    let stop = signals::stop()?;
    let open = |next| store.follow().filter(query.clone()).start(Start::At(next)).open();
    let mut cursor = open(next);
    let mut answer = Answer::Good;
    let mut met: Option<Damage> = None;
    // What is wrong with the directory, and how far the log went when that was seen: so much is still printed.
    let mut ending: Option<(String, Position)> = None;
    loop {
        out.flush()?;
        if stop.load(Ordering::Relaxed) {
            return Ok(answer);
        }
        if !out.is_heard() {
            return Err(Failure::OutputClosed);
        }
        if ending.is_none() {
            ending = place.fault().map(|fault| (fault, store.head()));
        }
        let pulled = match &mut cursor {
            Ok(cursor) => cursor.pull_batch(BATCH, PATIENCE),
            Err(error) => Err(error.clone()),
        };
        match pulled {
            Ok(batch) => {
                batch.iter().try_for_each(|event| print(&event, out))?;
                let last = batch.iter().last().map(|event| event.position());
                if let Some((fault, _)) = ending.take_if(|(_, head)| last.is_none_or(|last| last >= *head)) {
                    out.flush()?;
                    return Err(Failure::NotGood(fault));
                }
            }
            Err(Error::Expired { asked, oldest }) => {
                // Nothing is bad about the store.
                complain(&format!("positions {asked} to {} are not kept any more", oldest.previous()));
                cursor = open(oldest);
            }
            Err(Error::Damaged(damage)) if met.as_ref() != Some(&damage) => {
                answer = tell(&damage);
                met = Some(damage);
            }
            Err(error) => return Err(ending.map_or(error.into(), |(fault, _)| Failure::NotGood(fault))),
        }
    }
}
