//! `towpath consumers`: cursors and groups by name, where they stand, and where they are to go on.

use std::path::Path;

use serde::Serialize;
use towpath::{Consumer, ConsumerKind, Error, Options, Position, Query, Store};

use crate::Answer;
use crate::args::StoreDir;
use crate::args::consuming::{ConsumersVerb, Named, Reset, Target};
use crate::failure::{Failure, Result};
use crate::out::Out;
use crate::row::{Moment, lines};

/// The last six belong to deliveries and are null here, so that rows of `consumers` and `dead` can be read alike.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'a str,
    position: u64,
    lag: u64,
    in_flight: u64,
    waiting: u64,
    dead: u64,
    paused: bool,
    attempts: Option<u32>,
    reason: Option<&'a str>,
    stream: Option<&'a str>,
    source_position: Option<u64>,
    first_failed: Moment,
    last_failed: Moment,
}

pub(crate) fn run(verb: &ConsumersVerb, out: &mut Out) -> Result<Answer> {
    match verb {
        ConsumersVerb::Ls(store) => list(store, out),
        ConsumersVerb::Show(named) => print_fully(&find(&Store::open_read_only(&named.dir)?, &named.name)?, out),
        ConsumersVerb::Reset(reset) => set_place(reset, out),
        ConsumersVerb::Pause(named) => pause_or_resume(named, Store::pause_consumer, out),
        ConsumersVerb::Resume(named) => pause_or_resume(named, Store::resume_consumer, out),
        ConsumersVerb::Rm(named) => remove(named, out),
    }?;
    Ok(Answer::Good)
}

/// The consumer of this name.
pub(crate) fn find(store: &Store, name: &str) -> Result<Consumer> {
    let found = store.consumers()?.into_iter().find(|consumer| consumer.name == name);
    found.ok_or_else(|| Failure::NotGood(format!("there is no consumer {name:?}; `towpath consumers ls` lists them")))
}

/// The group of this name; of a cursor it is told what it has not got.
pub(crate) fn find_group(store: &Store, name: &str, what: &str) -> Result<Consumer> {
    match find(store, name)? {
        group if group.kind == ConsumerKind::Group => Ok(group),
        other => Err(Failure::new(format!("{name:?} is a {}; only groups {what}", other.kind))),
    }
}

/// Opens a store that is there for writing. Refused, with the process that holds it, while another one writes.
pub(crate) fn open_to_change(dir: &Path) -> Result<Store> {
    Ok(Options::new().create(false).open(dir)?)
}

fn list(args: &StoreDir, out: &mut Out) -> Result<()> {
    for consumer in Store::open_read_only(&args.dir)?.consumers()? {
        print(&consumer, out)?;
    }
    Ok(())
}

fn set_place(args: &Reset, out: &mut Out) -> Result<()> {
    change(&args.consumer, out, |store, consumer| {
        let place = place(store, args.to)?;
        let last = store.head().next();
        match store.seek(&consumer.name, place) {
            Err(Error::NotDelivered { .. }) => Err(Failure::new(format!(
                "position {place} is past the end; the furthest place to go on from is {last}"
            ))),
            sought => Ok(sought?),
        }
    })
}

fn pause_or_resume(args: &Named, act: fn(&Store, &str) -> towpath::Result<()>, out: &mut Out) -> Result<()> {
    change(args, out, |store, _| {
        find_group(store, &args.name, "can be paused")?;
        Ok(act(store, &args.name)?)
    })
}

/// Changes something about a consumer, and prints how it stands then.
fn change(args: &Named, out: &mut Out, what: impl FnOnce(&Store, &Consumer) -> Result<()>) -> Result<()> {
    let store = open_to_change(&args.dir)?;
    what(&store, &find(&store, &args.name)?)?;
    let after = find(&store, &args.name)?;
    store.close()?;
    print(&after, out)
}

/// Prints what is gone.
fn remove(args: &Named, out: &mut Out) -> Result<()> {
    let store = open_to_change(&args.dir)?;
    let gone = find(&store, &args.name)?;
    store.remove_consumer(&args.name)?;
    store.close()?;
    if out.is_json() { out.object(&Row::of(&gone)) } else { out.line(&format!("{}, gone", line(&gone))) }
}

fn place(store: &Store, target: Target) -> Result<Position> {
    Ok(match target {
        Target::Start => store.oldest(),
        Target::End => store.head().next(),
        Target::At(position) => position,
        Target::Since(time) => match store.read(Query::new()).since(time).limit(1).next() {
            None => store.head().next(),
            Some(Ok(event)) => event.position(),
            // What is lost there may have been recorded since.
            Some(Err(Error::Damaged(damage))) => damage.position,
            Some(Err(error)) => return Err(error.into()),
        },
    })
}

impl<'a> Row<'a> {
    fn of(consumer: &'a Consumer) -> Self {
        Self {
            name: &consumer.name,
            kind: consumer.kind.as_str(),
            position: consumer.position.get(),
            lag: consumer.lag,
            in_flight: consumer.in_flight,
            waiting: consumer.waiting,
            dead: consumer.dead,
            paused: consumer.paused,
            attempts: None,
            reason: None,
            stream: None,
            source_position: None,
            first_failed: Moment(None),
            last_failed: Moment(None),
        }
    }
}

fn print(consumer: &Consumer, out: &mut Out) -> Result<()> {
    if out.is_json() { out.object(&Row::of(consumer)) } else { out.line(&line(consumer)) }
}

fn line(consumer: &Consumer) -> String {
    let Consumer { name, kind, position, lag, in_flight, waiting, dead, paused, .. } = consumer;
    let mut line = format!("{name}  {kind}  next {position}, {lag} behind");
    if *kind == ConsumerKind::Group {
        line.push_str(&format!(", {in_flight} in flight, {waiting} waiting, {dead} dead"));
    }
    if *paused {
        line.push_str(", paused");
    }
    line
}

fn print_fully(consumer: &Consumer, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.object(&Row::of(consumer));
    }
    let mut fields = vec![
        ("name", consumer.name.clone()),
        ("kind", consumer.kind.to_string()),
        ("next position", consumer.position.to_string()),
        ("lag", consumer.lag.to_string()),
    ];
    if consumer.kind == ConsumerKind::Group {
        let is_paused = if consumer.paused { "yes" } else { "no" };
        fields.extend([
            ("in flight", consumer.in_flight.to_string()),
            ("waiting", consumer.waiting.to_string()),
            ("dead letters", consumer.dead.to_string()),
            ("paused", is_paused.to_owned()),
        ]);
    }
    lines(&fields).iter().try_for_each(|line| out.line(line))
}
