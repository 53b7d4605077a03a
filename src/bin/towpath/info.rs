//! `towpath info`: what a store holds.

use serde::Serialize;
use towpath::Store;
use towpath::inspect::{self, Summary};

use crate::Answer;
use crate::args::StoreDir;
use crate::failure::Result;
use crate::out::Out;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Info<'a> {
    events: u64,
    streams: u64,
    gone: u64,
    segments: u64,
    index_files: u64,
    bytes: u64,
    first_position: u64,
    last_position: u64,
    durable_position: u64,
    format_version: u64,
    consumers: Vec<Consumer<'a>>,
}

#[derive(Serialize)]
struct Consumer<'a> {
    name: &'a str,
    kind: &'a str,
    position: u64,
    lag: u64,
}

pub(crate) fn run(args: &StoreDir, out: &mut Out) -> Result<Answer> {
    let summary = inspect::summary(&args.dir)?;
    let consumers = Store::open_read_only(&args.dir)?.consumers()?;
    let info = info(&summary, &consumers);
    if out.is_json() {
        out.object(&info)?;
    } else {
        print(&info, out)?;
    }
    Ok(Answer::Good)
}

fn info<'a>(summary: &Summary, consumers: &'a [towpath::Consumer]) -> Info<'a> {
    let consumers = consumers.iter().map(|consumer| Consumer {
        name: &consumer.name,
        kind: consumer.kind.as_str(),
        position: consumer.position.get(),
        lag: consumer.lag,
    });
    Info {
        events: summary.events,
        streams: summary.streams,
        gone: summary.gone,
        segments: summary.segments,
        index_files: summary.index_files,
        bytes: summary.bytes,
        first_position: summary.first_position.get(),
        last_position: summary.last_position.get(),
        durable_position: summary.durable_position.get(),
        format_version: summary.format_version.into(),
        consumers: consumers.collect(),
    }
}

fn print(info: &Info<'_>, out: &mut Out) -> Result<()> {
    let (first, last, durable) = (info.first_position, info.last_position, info.durable_position);
    out.line(&format!("events     {}", info.events))?;
    out.line(&match info.gone {
        0 => format!("streams    {}", info.streams),
        _ => format!(
            "streams    {} whose first event is there; `towpath streams` finds all that have events",
            info.streams
        ),
    })?;
    out.line(&format!("positions  {first} to {last}, durable to {durable}"))?;
    if info.gone > 0 {
        out.line(&format!("gone       {} positions hold no event any more", info.gone))?;
    }
    out.line(&format!("segments   {}, {} bytes, format version {}", info.segments, info.bytes, info.format_version))?;
    out.line(&format!("index      a look-up asks {} files besides the newest segment", info.index_files))?;
    for Consumer { name, kind, position, lag } in &info.consumers {
        out.line(&format!("consumer   {name} ({kind}), next {position}, {lag} behind"))?;
    }
    Ok(())
}
