//! What can be said on the command line.

pub(crate) mod consuming;
pub(crate) mod removing;
pub(crate) mod retaining;
pub(crate) mod tools;

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use towpath::{Expected, Position, Revision, Timestamp, limits};

use crate::args::consuming::{ConsumersVerb, DeadVerb, Pending};
use crate::args::removing::StreamVerb;
use crate::args::retaining::RetainVerb;
use crate::args::tools::{Backup, Doctor, Fork, Repair, Restore, Verify};
use crate::template::Template;
use crate::time;

const IMPORT_HELP: &str = "\
Each row becomes one event, its payload the row as a JSON object: of NDJSON the object as it stands, of CSV all fields
as text under the names in the first line. A TEMPLATE is text with fields of the row in it, such as `plane-{tailnum}`;
`{a.b}` is a field within a field, `{{` and `}}` are braces. A row that has not got the field, or null in it, is a bad
row. So is one of more than 16 MiB, and one that the store refuses. Bad rows are left out and counted, and make the exit
status 1.";

const BENCH_HELP: &str = "\
Workloads, in the order they run in, and what one sample of p50, p99 and max is:

  append           pipelined, from all producers; one call of submit, which waits only when the staging is full
  append_blocking  at most 200,000 single events (20,000 with sync), each waited for; one call
  replay           all events, CRC checked; 10,000 events
  replay_hashed    the same, and a hash of each payload, byte by byte; 10,000 events
  replay_parallel  the same on as many threads as there are processors; 10,000 events
  streams          all events of 1,000 streams, one stream after the other; one stream
  reopen           opening after a clean close; one opening (`seconds` is the mean, `events` what is stored)
  tail_latency     at most 20,000 single events to a waiting reader; from before the append to in the reader's hands
  cursor           all events by a cursor without a name, payloads touched; one batch of 64
  cursor_checkpoint
                   all events by a cursor that keeps its checkpoint after each batch; one batch of 256
  group            all events by the one member of a group, all of them done; one batch of 256
  group_ordered    all events by four members of a group that is ordered by stream; one batch of 256
  reactor_exactly_once
                   all appended events by a reactor over a group that appends one for each, in the commit that settles it; one
                   batch of 256
  reactor_latency  at most 20,000 single events to the handler of a reactor over a group; from before the append to in
                   the handler
  sink_ndjson      all appended events into a file of JSON lines beside DIR, removed afterwards; one batch of 8,192, synced
  append_1000_subscribers
                   append, while a thousand subscriptions wait for events of a type that never comes; one call
  latency_append   events at a rate, appended by blocking calls: see below
  latency_consumer the same, and a cursor that waits for them: see below

The two latencies are measured at each --rate, for --seconds each. Every event has a time at which it is due, whatever became of
those before it. One thread appends whatever is due by then, at most --commit events, in one blocking commit: one event a call
where calls keep up with the rate, and more where they do not, as at a million a second. A line for each of these gives p50,
p99, p99.9 and max:

  event            from the moment an event was due until the call returned, for latency_consumer until the reader had it, so
                   a stall counts for all events that were due in it
  call             one call, for latency_consumer from before the call until the reader had the event
  rolled           one call in which the store went on in a new segment

and how often that was, and how many segments were sealed meanwhile.

`anon_mib` is the anonymous memory of the process at the end of a workload, `disk_bytes_per_event` what segments, index
files and tiers hold once the store is closed, without the blank end of the newest segment. The store is left in DIR.";

const FORWARD_HELP: &str = "\
Addresses:

  file:PATH                          lines of JSON as `export` writes them, with the idempotency key
  http://HOST/PATH, https://         a POST for each event
  redis://HOST:PORT/DB/KEY, rediss://
                                     entries of a stream, when built with the feature sink-redis
  kafka://HOST:PORT/TOPIC            records of a topic, when built with the feature sink-kafka

A user and a password in an address (user:password@HOST) are used and never shown; say - and write the address to standard
input to keep it out of lists of processes.

What was forwarded is remembered as the checkpoint of a cursor called NAME, which `consumers` lists, and the next run goes on from
there: a stream needs a NAME of its own, because what lies before the checkpoint is not looked at. After a crash some events come again, with the same key. The checkpoint lies in the store, so this needs
the store for itself, and is refused while another process writes to it.

An event that the other side refuses for good ends it with exit status 1, before that event; with --pass-over such events are
counted, told and passed over. SIGINT and SIGTERM have it finish what it has in hand and end with exit status 0, or 1 when events
were passed over so, or lost to damage. A second signal ends it at once.

It ends with a row, with --json an object: `name`, `stream`, `to`, `position` (where the next run goes on), `forwarded`, `refused`,
`lost` and `released` (given back because the other side was down; they come again).";

/// Looks into a towpath store, appends to it, checks it, and measures it. All reading works beside a live writer.
#[derive(Parser)]
#[command(name = "towpath", version)]
#[command(after_help = "Exit status: 0 good, 1 what was asked about is not good, 2 could not run.")]
pub(crate) struct Args {
    /// Print JSON: one object, or one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Tell what a store holds
    Info(StoreDir),
    /// List the streams
    Streams(StoreDir),
    /// List the event types
    Types(StoreDir),
    /// Print events
    Cat(Cat),
    /// Print the last events, and with -f those to come
    Tail(Tail),
    /// Print the event at one position
    Get(Get),
    /// Append one event; makes the store when there is none
    Append(Append),
    /// Append the rows of a file as events; makes the store when there is none
    Import(Import),
    /// Print all events, as objects, in the order of the log
    Export(Export),
    /// List consumers, and set where they go on
    #[command(subcommand)]
    Consumers(ConsumersVerb),
    /// List the deliveries of a group that are not settled
    Pending(Pending),
    /// List dead letters, export them, have them handled again, drop them
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Take the events of a stream to a file or a server, until stopped; goes on where it ended the last time
    Forward(Forward),
    /// Let go of old events, or tell what would go
    #[command(subcommand)]
    Retain(RetainVerb),
    /// Remove events of a stream, or tell what would go
    #[command(subcommand)]
    Stream(StreamVerb),
    /// Check a store
    Verify(Verify),
    /// Tell how a store stands: who has it, what it lies on, who is stuck, what a power cut would cost
    Doctor(Doctor),
    /// Make a backup of a store beside its writer, or bring it up to date
    Backup(Backup),
    /// Make a store of a backup
    Restore(Restore),
    /// Make an independent store of a store's history up to a position
    Fork(Fork),
    /// Tell what can be kept of a damaged store, or write that into a new one
    Repair(Repair),
    /// Measure this machine with a fresh store
    Bench(Bench),
}

#[derive(clap::Args)]
pub(crate) struct StoreDir {
    /// The store's directory
    pub(crate) dir: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Cat {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Only this stream; streams that begin with $ show up only when named here
    #[arg(long)]
    pub(crate) stream: Option<String>,
    /// Only streams of this category: the part of the name before the first `-`
    #[arg(long)]
    pub(crate) category: Option<String>,
    /// Only streams that fit this pattern: parts separated by dots, `*` is any one part, `>` any one or more at the end
    #[arg(long, value_name = "PATTERN")]
    pub(crate) subject: Option<String>,
    /// Only this type; given several times: any of them
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<String>,
    /// Only events with this tag; given several times: with all of them
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Begin at this position, itself included
    #[arg(long, value_name = "POS")]
    pub(crate) from: Option<Position>,
    /// Nothing older: RFC 3339, a date (UTC), or a span before now such as `2h`
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    pub(crate) since: Option<Timestamp>,
    /// Newest first; --from is then where to start going back
    #[arg(long)]
    pub(crate) reverse: bool,
    /// At most so many
    #[arg(short = 'n', value_name = "N")]
    pub(crate) limit: Option<u64>,
}

#[derive(clap::Args)]
pub(crate) struct Tail {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Only this stream; streams that begin with $ show up only when named here
    #[arg(long)]
    pub(crate) stream: Option<String>,
    /// So many of the last events
    #[arg(short = 'n', value_name = "N", default_value_t = 10)]
    pub(crate) count: u64,
    /// Go on with new events as they come, until interrupted. What was let go of before it was printed is told on stderr. It ends
    /// with status 1 when events that it has printed were lost in a crash of their writer, and when the directory is moved away,
    /// removed or replaced by another one
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
}

#[derive(clap::Args)]
pub(crate) struct Get {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The position
    #[arg(value_name = "POS")]
    pub(crate) position: Position,
}

#[derive(clap::Args)]
pub(crate) struct Append {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The stream
    pub(crate) stream: String,
    /// The event type
    #[arg(value_name = "TYPE")]
    pub(crate) type_name: String,
    /// The payload, or `-` to read it from standard input; without it the payload is empty
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) payload: Option<String>,
    /// Add a tag
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Add a header
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Idempotency key: said again with the same event, nothing is written twice
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Append only if the stream is at this revision, or absent
    #[arg(long, value_name = "N|absent", value_parser = expected)]
    pub(crate) expect: Option<Expected>,
    /// When it happened: RFC 3339, a date (UTC), or a span before now such as `2h`
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    pub(crate) occurred: Option<Timestamp>,
}

#[derive(clap::Args)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct Import {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The rows, or `-` for standard input; gzip is recognised
    pub(crate) file: PathBuf,
    /// What the rows are; needed when the name does not end in .csv, .ndjson or .jsonl, with or without .gz
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Name of the stream
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) stream: Template,
    /// Event type
    #[arg(long = "type", value_name = "TEMPLATE")]
    pub(crate) type_name: Template,
    /// The field that says when it happened: RFC 3339, or a whole number of seconds since 1970 UTC
    #[arg(long, value_name = "FIELD")]
    pub(crate) occurred: Option<String>,
    /// Add a tag
    #[arg(long = "tag", value_name = "TEMPLATE")]
    pub(crate) tags: Vec<Template>,
    /// Rows in a commit, written all or none; fewer when they have more than a mebibyte
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: u64,
    /// Write bad rows here, an object a line: line, reason, row
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Ndjson,
    Csv,
}

#[derive(clap::Args)]
pub(crate) struct Export {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "ndjson")]
    pub(crate) format: ExportFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Ndjson,
}

#[derive(clap::Args)]
#[command(after_help = FORWARD_HELP)]
pub(crate) struct Forward {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The stream; $dead/GROUP for dead letters
    #[arg(long)]
    pub(crate) stream: String,
    /// Where to: file:PATH, http://…, https://…, redis://…, kafka://…, or `-` to read the address from standard input
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: String,
    /// The name that it remembers under how far it came
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: String,
    /// Pass over events that the other side refuses for good, instead of ending there
    #[arg(long)]
    pub(crate) pass_over: bool,
    /// End once everything there is was forwarded; or with exit status 1 when the other side cannot take it now
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(clap::Args)]
#[command(after_help = BENCH_HELP)]
pub(crate) struct Bench {
    /// Where to make the store; must be empty, or not there yet
    pub(crate) dir: PathBuf,
    /// Events to append
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: u64,
    /// Size of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(crate) size: u32,
    /// Streams, written to in turn
    #[arg(long, value_name = "S", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) streams: u64,
    /// Events a commit
    #[arg(long, value_name = "K", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) commit: u64,
    /// When an append is answered; `every` is every 10 ms
    #[arg(long, value_enum, default_value = "os")]
    pub(crate) durability: Lasting,
    /// Threads that append
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) producers: u64,
    /// The largest size of a segment file
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20,
        value_parser = clap::value_parser!(u64).range(64 << 10..=limits::SEGMENT))]
    pub(crate) segment: u64,
    /// Events a second of the latency workloads; given several times: one after the other
    #[arg(long = "rate", value_name = "N", default_values_t = [10_000, 1_000_000],
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rates: Vec<u64>,
    /// How long each of them takes
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Only this workload; given several times: these. Without `append` that runs first, unreported
    #[arg(long = "workload", value_name = "NAME", value_enum)]
    pub(crate) workloads: Vec<Workload>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lasting {
    Os,
    Every,
    Sync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Workload {
    Append,
    AppendBlocking,
    Replay,
    ReplayHashed,
    ReplayParallel,
    Streams,
    Reopen,
    TailLatency,
    Cursor,
    CursorCheckpoint,
    Group,
    GroupOrdered,
    ReactorExactlyOnce,
    ReactorLatency,
    SinkNdjson,
    #[value(name = "append_1000_subscribers")]
    Append1000Subscribers,
    LatencyAppend,
    LatencyConsumer,
}

fn size() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(0..=limits::PAYLOAD as u64)
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn expected(text: &str) -> Result<Expected, String> {
    match text {
        "absent" => Ok(Expected::Absent),
        _ => match text.parse::<Revision>() {
            Ok(revision) => Ok(Expected::Exact(revision)),
            Err(_) => Err("it is neither a revision nor `absent`".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_expectation_is_a_revision_or_absent() {
        assert_eq!(expected("absent"), Ok(Expected::Absent));
        assert_eq!(expected("3"), Ok(Expected::Exact(Revision::new(3))));
        assert!(expected("-1").is_err());
    }
}
