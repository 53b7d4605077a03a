//! What can be said about consumers, their deliveries, and dead letters.

use std::path::PathBuf;

use clap::Subcommand;
use towpath::{Position, Timestamp};

use crate::args::StoreDir;
use crate::dead::condition::Condition;
use crate::dead::rate::Rate;
use crate::time;

const CONSUMERS_HELP: &str = "\
A consumer is a cursor, which has a place in the log, or a group, which settles each delivery by itself. The fields of a
row, with --json:

  name             of the consumer
  kind             cursor or group
  position         the next position that it looks at
  lag              positions between that and the end, and for a group what it has not settled on top
  in_flight        deliveries that were handed out and are not settled
  waiting          deliveries that wait to be handed out again
  dead             dead letters
  paused           whether it hands out nothing

`attempts`, `reason`, `stream`, `source_position`, `first_failed` and `last_failed` stand there too and are null: they belong
to single deliveries, which `pending` and `dead ls` list under the same names.

Verbs that change something need the store for themselves and are refused while another process writes to it.";

const PENDING_HELP: &str = "\
The fields of a row, with --json; those that do not apply are null:

  name             of the group
  kind             delivery
  position, source_position
                   where the event stands in the log
  stream, type     of the event; null when it cannot be read
  attempts         how often it was handed out
  in_flight        whether somebody has it, or had it when the process ended
  error            what the last failed attempt failed of
  handed_out, first_failed, last_failed, not_before
                   times; before `not_before` it does not come again
  lag, reason      null";

const DEAD_HELP: &str = "\
A dead letter is a delivery that failed for good. It stands in the stream $dead/GROUP with the whole event, until it was
redriven with success or dropped; `cat --stream` and `tail --stream` show that stream with all that ever stood in it.

A condition of --where is FIELD OPERATOR VALUE. Given several times, all must hold.

  =  !=            the same, not the same
  ~  !~            has the text in it, has not; for texts
  <  <=  >  >=     for numbers and times

  reason           attempts, rejected, undecodable, too large, expired, damaged or parked
  error            text: what the last attempt failed of
  type, stream     text: of the event that failed
  tag              text: one of its tags; != and !~ hold when no tag is so
  attempts         number: how often it was handed out
  number           number: its place among the dead letters of its group
  position         number: its place in the log
  source_position  number: the place of the event that failed
  first_failed, last_failed
                   time: RFC 3339, a date (UTC), or a span before now such as 2h
  redriven         true or false: whether its event is on its way again

The fields of a row of `ls`, with --json; those that do not apply are null: `name` (of the group), `kind` (dead), `number`,
`position`, `attempts`, `reason`, `error`, `stream`, `type`, `source_position`, `source_revision`, `first_failed`, `last_failed`,
`handed_out`, `replaces` (the number of the dead letter that was redriven and failed again as this one), `lost` (positions, of a
damaged stretch), `redriven`, and `lag` and `in_flight`, always null. `show` adds `event`, the object that `dead export` writes,
whose headers begin with those that made it a dead letter. `export --as-test` gives `name`, `position` and `test`.

`redrive` and `drop` change nothing without --yes. With it they need the store for themselves, and are refused while
another process writes to it. A row of theirs, with --json, is one group: `name`, `action`, `done` (false without --yes), `moved`,
`passed_over` (on their way already), `impossible` (damaged, or no longer kept; makes the exit status 1).";

#[derive(Subcommand)]
#[command(after_help = CONSUMERS_HELP)]
pub(crate) enum ConsumersVerb {
    /// List the consumers
    Ls(StoreDir),
    /// Tell all about one consumer
    Show(Named),
    /// Set where a consumer goes on; a group forgets what it had not settled
    Reset(Reset),
    /// Have a group hand out nothing until it is resumed
    Pause(Named),
    /// Have a group hand out deliveries again
    Resume(Named),
    /// Forget a consumer: its place, and what it had not settled; dead letters stay in the log
    Rm(Named),
}

#[derive(clap::Args)]
pub(crate) struct Named {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The consumer
    pub(crate) name: String,
}

#[derive(clap::Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) consumer: Named,
    /// Where to go on: `start`, `end`, a position, or the first event recorded since a time: RFC 3339, a date (UTC), or a
    /// span before now such as `2h`
    #[arg(long, value_name = "start|end|POS|TIME", value_parser = target)]
    pub(crate) to: Target,
}

/// Where a consumer is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Start,
    End,
    At(Position),
    Since(Timestamp),
}

#[derive(clap::Args)]
#[command(after_help = PENDING_HELP)]
pub(crate) struct Pending {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The group
    pub(crate) group: String,
}

#[derive(Subcommand)]
#[command(after_help = DEAD_HELP)]
pub(crate) enum DeadVerb {
    /// List dead letters, a line each
    Ls(Chosen),
    /// Print dead letters in full
    Show(Chosen),
    /// Write dead letters as NDJSON, as `export` writes events; or one as a test
    Export(DeadExport),
    /// Have their group handle the events again; says what it would do, unless --yes
    Redrive(Redrive),
    /// Forget dead letters; says what it would do, unless --yes
    Drop(DropLetters),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
pub(crate) struct Chosen {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Only those of this group
    pub(crate) group: Option<String>,
    /// Only those of which this holds, such as `reason=rejected`, `error~timeout` or `attempts>=3`; several: all of them.
    /// `towpath dead --help` lists the fields
    #[arg(long = "where", value_name = "CONDITION")]
    pub(crate) conditions: Vec<Condition>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

#[derive(clap::Args)]
pub(crate) struct DeadExport {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Print a Rust test that hands the event of the dead letter at this position to a handler
    #[arg(long, value_name = "POS", conflicts_with_all = ["conditions", "limit"])]
    pub(crate) as_test: Option<Position>,
}

#[derive(clap::Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// No faster than this: so many a second, minute or hour, such as `10/s`, `30/m` or `100/h`
    #[arg(long, value_name = "N/s")]
    pub(crate) rate: Option<Rate>,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(clap::Args)]
pub(crate) struct DropLetters {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
}

fn target(text: &str) -> Result<Target, String> {
    match text {
        "start" => Ok(Target::Start),
        "end" => Ok(Target::End),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Target::At).map_err(|error: towpath::Error| error.to_string())
        }
        _ => time::parse_moment(text)
            .map(Target::Since)
            .map_err(|why| format!("it is neither `start`, `end` nor a position; as a time: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_end_of_the_log_a_position_or_a_time() {
        assert_eq!(target("start"), Ok(Target::Start));
        assert_eq!(target("end"), Ok(Target::End));
        assert_eq!(target("17"), Ok(Target::At(Position::new(17))));
        assert_eq!(target("1970-01-01"), Ok(Target::Since(Timestamp::from_nanos(0))));
        for text in ["", "-1", "beginning", "99999999999999999999"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
