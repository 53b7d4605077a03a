//! `towpath forward`: takes the events of a stream to somewhere else, until it is stopped.

mod sinks;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use towpath::{Cursor, Error, ForwardCounters, Forwarded, Forwarder, OnRefusal, Query, Sink, Tally};

use crate::Answer;
use crate::args::Forward;
use crate::consumers::open_to_change;
use crate::failure::{Failure, Result, complain};
use crate::out::Out;
use crate::signals;

/// How long a turn waits for events, and so how soon a signal is noticed.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    stream: &'a str,
    to: &'a str,
    position: u64,
    forwarded: u64,
    refused: u64,
    lost: u64,
    released: u64,
}

pub(crate) fn run(args: &Forward, out: &mut Out) -> Result<Answer> {
    let stop = signals::stop()?;
    let store = open_to_change(&args.dir)?;
    let target = sinks::open(&sinks::address(&args.to)?, &args.dir)?;
    let to = target.sink.name().to_owned();
    let cursor = store.cursor(&args.name).filter(Query::new().stream(&args.stream)).open()?;
    if !out.is_json() && !args.once {
        let from = cursor.checkpoint();
        out.line(&format!(
            "forwarding {} to {to} as {}, from position {from} on, until stopped",
            args.stream, args.name
        ))?;
        out.flush()?;
    }
    let on_refusal = if args.pass_over { OnRefusal::PassOver } else { OnRefusal::Stop };
    let mut forwarder = Forwarder::new(cursor, target.sink).batch(target.batch).on_refusal(on_refusal);
    let ended = take_turns(&mut forwarder, args.once, &stop);
    // What was settled stands in the log, whatever ended it.
    forwarder.flush()?;
    let counters = forwarder.watch().counters();
    let position = forwarder.into_parts().0.checkpoint().get();
    store.close()?;
    let row = Row {
        name: &args.name,
        stream: &args.stream,
        to: &to,
        position,
        forwarded: counters.forwarded,
        refused: counters.refused.total(),
        lost: counters.lost.total(),
        released: counters.released,
    };
    print(&row, out)?;
    ended?;
    Ok(if row.refused + row.lost == 0 { Answer::Good } else { Answer::NotGood })
}

fn take_turns(forwarder: &mut Forwarder<Cursor, Box<dyn Sink>>, once: bool, stop: &AtomicBool) -> Result<()> {
    let watch = forwarder.watch();
    let mut told = Told::default();
    let patience = if once { Duration::ZERO } else { PATIENCE };
    while !stop.load(Ordering::Relaxed) {
        let done = match forwarder.turn(patience) {
            Err(Error::Handler { position, why }) => {
                let go_on = "nothing was passed over; mend it, or say --pass-over to go on behind such events";
                return Err(Failure::NotGood(format!("the event at position {position} was refused: {why}; {go_on}")));
            }
            done => done?,
        };
        let counters = watch.counters();
        told.tell_losses(&counters);
        if !once {
            told.tell_state(&counters);
        } else if done.waits.is_some() {
            let why = counters.last_error.unwrap_or_default();
            return Err(Failure::NotGood(format!("{why}; the rest is forwarded the next time")));
        }
        if once && done == Forwarded::default() {
            break;
        }
    }
    Ok(())
}

/// What was told of a sink's troubles already.
#[derive(Default)]
struct Told {
    down: Option<String>,
    refused: u64,
    lost: u64,
}

impl Told {
    /// Tells it once when the sink is down, and why, and once when it is back.
    fn tell_state(&mut self, counters: &ForwardCounters) {
        let down = counters.last_error.clone().filter(|_| counters.down_since.is_some());
        if down != self.down {
            match &down {
                Some(why) => complain(&format!("{why}; it is asked again until it works")),
                None => complain("it works again"),
            }
            self.down = down;
        }
    }

    /// Tells what was passed over since the last time.
    fn tell_losses(&mut self, counters: &ForwardCounters) {
        tell_more("refused", &counters.refused, &mut self.refused);
        tell_more("lost", &counters.lost, &mut self.lost);
    }
}

fn tell_more(what: &str, tally: &Tally, told: &mut u64) {
    if tally.total() > *told {
        *told = tally.total();
        let reasons: Vec<String> = tally.iter().map(|(reason, count)| format!("{count} {what}: {reason}")).collect();
        complain(&reasons.join("; "));
    }
}

fn print(row: &Row<'_>, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.object(row);
    }
    let Row { name, stream, to, position, forwarded, refused, lost, .. } = row;
    let mut line = format!("{name}: forwarded {forwarded} of {stream} to {to}, next position {position}");
    if refused + lost > 0 {
        line.push_str(&format!(", refused {refused}, lost {lost}"));
    }
    out.line(&line)
}
