//! `towpath retain`: what would go of a store's history, and letting go of it.

use serde::Serialize;
use towpath::{Hold, Plan, Retention, Store};

use crate::Answer;
use crate::args::retaining::{Retain, RetainVerb};
use crate::consumers::open_to_change;
use crate::failure::Result;
use crate::out::Out;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Planned<'a> {
    done: bool,
    oldest: u64,
    keeps_from: u64,
    segments: u64,
    events: u64,
    bytes: u64,
    held: Vec<Held<'a>>,
}

#[derive(Serialize)]
struct Held<'a> {
    consumer: &'a str,
    need: &'static str,
    position: u64,
    bytes: u64,
}

pub(crate) fn run(verb: &RetainVerb, out: &mut Out) -> Result<Answer> {
    let (plan, done) = match verb {
        RetainVerb::Plan(args) => (Store::open_read_only(&args.dir)?.plan_retention(&retention(args))?, false),
        RetainVerb::Apply(args) => {
            let store = open_to_change(&args.dir)?;
            let plan = store.retain(&retention(args))?;
            store.close()?;
            (plan, true)
        }
    };
    if out.is_json() {
        out.object(&planned(&plan, done))?;
    } else {
        print(&plan, done, out)?;
    }
    Ok(Answer::Good)
}

fn retention(args: &Retain) -> Retention {
    let mut retention = Retention::new();
    if let Some(age) = args.max_age {
        retention = retention.max_age(age);
    }
    if let Some(bytes) = args.max_bytes {
        retention = retention.max_bytes(bytes);
    }
    if let Some(events) = args.max_events {
        retention = retention.max_events(events);
    }
    args.even_from.iter().fold(retention, Retention::even_from)
}

fn planned(plan: &Plan, done: bool) -> Planned<'_> {
    let held = plan.held.iter().map(|hold| Held {
        consumer: &hold.consumer,
        need: hold.need.as_str(),
        position: hold.position.get(),
        bytes: hold.bytes,
    });
    Planned {
        done,
        oldest: plan.oldest.get(),
        keeps_from: plan.keeps_from.get(),
        segments: plan.segments,
        events: plan.events,
        bytes: plan.bytes,
        held: held.collect(),
    }
}

fn print(plan: &Plan, done: bool, out: &mut Out) -> Result<()> {
    let Plan { oldest, keeps_from, segments, events, bytes, held, .. } = plan;
    let verb = if done { "went" } else { "would go" };
    out.line(&match segments {
        0 => format!("nothing {verb}; kept from position {oldest}"),
        1 => format!("1 segment {verb}: {events} events, {bytes} bytes; kept from position {keeps_from}"),
        _ => format!("{segments} segments {verb}: {events} events, {bytes} bytes; kept from position {keeps_from}"),
    })?;
    for Hold { consumer, need, position, bytes, .. } in held {
        out.line(&format!("kept back by {consumer} from position {position} ({need}): {bytes} bytes"))?;
    }
    Ok(())
}
