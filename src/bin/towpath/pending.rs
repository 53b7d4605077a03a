//! `towpath pending`: the deliveries of a group that are not settled.

use serde::Serialize;
use towpath::{Event, Store, Unsettled};

use crate::Answer;
use crate::args::consuming::Pending;
use crate::consumers::find_group;
use crate::failure::Result;
use crate::out::Out;
use crate::row::Moment;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'a str,
    position: u64,
    lag: Option<u64>,
    in_flight: bool,
    attempts: u32,
    /// Always null, as no delivery is a dead letter yet; it stands here so that rows can be read alike.
    reason: Option<&'a str>,
    error: Option<&'a str>,
    stream: Option<&'a str>,
    #[serde(rename = "type")]
    type_name: Option<&'a str>,
    source_position: u64,
    handed_out: Moment,
    first_failed: Moment,
    last_failed: Moment,
    not_before: Moment,
}

pub(crate) fn run(args: &Pending, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&args.dir)?;
    find_group(&store, &args.group, "have deliveries to settle")?;
    for delivery in store.unsettled(&args.group)? {
        // What cannot be read is told by verbs that print events; here it is enough that it is not settled.
        let event = store.event(delivery.position).ok().flatten();
        print(&args.group, &delivery, event.as_ref(), out)?;
    }
    Ok(Answer::Good)
}

fn print(group: &str, delivery: &Unsettled, event: Option<&Event<'_>>, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.object(&Row {
            name: group,
            kind: "delivery",
            position: delivery.position.get(),
            lag: None,
            in_flight: delivery.in_flight,
            attempts: delivery.attempts,
            reason: None,
            error: Some(delivery.why.as_str()).filter(|why| !why.is_empty()),
            stream: event.map(Event::stream),
            type_name: event.map(Event::type_name),
            source_position: delivery.position.get(),
            handed_out: Moment(delivery.first_handed_out),
            first_failed: Moment(delivery.first_failed),
            last_failed: Moment(delivery.last_failed),
            not_before: Moment(delivery.not_before),
        });
    }
    let (position, attempts) = (delivery.position, delivery.attempts);
    let (stream, type_name) = event.map_or(("-", "-"), |event| (event.stream(), event.type_name()));
    let state = if delivery.in_flight { "in flight" } else { "waiting" };
    let mut line = format!("{position}  {stream}  {type_name}  {state}, attempts {attempts}");
    if delivery.not_before.is_some() {
        line.push_str(&format!(", not before {}", Moment(delivery.not_before).text()));
    }
    if delivery.last_failed.is_some() {
        line.push_str(&format!(", failed {}: {}", Moment(delivery.last_failed).text(), delivery.why));
    }
    out.line(&line)?;
    Ok(())
}
