//! What can be said about letting go of old events.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::time;

const RETAIN_HELP: &str = "\
What is beyond any of the limits may go: segments as a whole, the oldest first, and never the newest. What a consumer still needs
stays, with everything behind it, unless that consumer is named with --even-from; it is then told, and has to be put somewhere
else: `towpath consumers reset`. Positions are not given again, and streams go on at their revisions.

`plan` changes nothing and works beside a process that writes. `apply` needs the store for itself, and is refused while another
process writes to it.

An object, with --json:

  done             whether it went; false of a plan
  oldest           the oldest position that was kept before
  keeps_from       the oldest position that is kept afterwards
  segments, events, bytes
                   how much goes; bytes with the index files, events with those of the store's own streams
  held             who keeps back what the limits alone would let go of: `consumer`, `need` (unread, unsettled or dead letter),
                   `position` (the oldest that it needs) and `bytes` (what would go if nobody else needed it)";

#[derive(Subcommand)]
#[command(after_help = RETAIN_HELP)]
pub(crate) enum RetainVerb {
    /// Tell what would go, and who keeps back what; changes nothing
    Plan(Retain),
    /// Let go of it
    Apply(Retain),
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("limits").required(true).multiple(true).args(["max_age", "max_bytes", "max_events"]))]
pub(crate) struct Retain {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Segments may go whose events were all recorded longer ago, such as `30d` or `12h`
    #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
    pub(crate) max_age: Option<Duration>,
    /// The oldest may go until segments and index files have at most so many bytes, such as `500MiB` or `10GiB`
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_bytes: Option<u64>,
    /// Segments may go that hold none of the newest so many events; those that were removed count
    #[arg(long, value_name = "N")]
    pub(crate) max_events: Option<u64>,
    /// Let go even of what this consumer still needs; given several times: what each of these needs
    #[arg(long, value_name = "NAME")]
    pub(crate) even_from: Vec<String>,
}

/// A number of bytes, or of kibibytes and so on.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err("it is not a number, with or without KiB, MiB, GiB or TiB behind it".to_owned()),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_number_with_or_without_a_unit() {
        assert_eq!(
            ["0", "17", "17B", "2KiB", "3MiB", "1GiB"].map(bytes),
            [0, 17, 17, 2 << 10, 3 << 20, 1 << 30].map(Ok)
        );
        assert_eq!(bytes("16777215TiB"), Ok(16_777_215 << 40));
        for text in ["", "-1", "1.5GiB", "KiB", "10GB", "10 KiB", "16777216TiB", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
