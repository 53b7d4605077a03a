//! What can be said about removing events of a stream.

use std::path::PathBuf;

use clap::Subcommand;

const STREAM_HELP: &str = "\
Without --yes nothing changes: it tells what would go, and works beside a process that writes. With --yes it needs the store for
itself, and is refused while another process writes to it; the events are gone for readers at once, and then the segments that hold
some are written again without them, which needs room on the disk for one more segment.

Positions and revisions stay what they are and are not given again. Consumers are not handed what is gone. What a backup or a dead
letter has of it stays there.

An object, with --json:

  done             whether it went; false without --yes
  stream, revision the stream, and the revision that it stood at before
  events           how many events go
  kept             how many events of the stream stay
  left             how many would have gone, too, had there been room for the list; say it again
  segments, bytes  how many segments were written again, and how many bytes they have less; null without --yes";

#[derive(Subcommand)]
#[command(after_help = STREAM_HELP)]
pub(crate) enum StreamVerb {
    /// Remove the events of a stream before a revision
    Truncate(Truncate),
    /// Remove all events of a stream; its revisions go on if it is appended to again
    Delete(OfStream),
    /// Remove all events of a stream but the latest of each key
    Compact(Compact),
}

#[derive(clap::Args)]
pub(crate) struct OfStream {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The stream's name
    pub(crate) stream: String,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(clap::Args)]
pub(crate) struct Truncate {
    #[command(flatten)]
    pub(crate) of: OfStream,
    /// The first revision that stays
    #[arg(long, value_name = "REVISION")]
    pub(crate) before: u64,
}

#[derive(clap::Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    pub(crate) of: OfStream,
    /// What is an event's key: `type`, `tag:PREFIX` (its first tag that begins so) or `header:NAME`; events without one stay
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) by: Key,
}

/// What is compared of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Type,
    /// The first tag that begins so.
    Tag(String),
    /// What stands in the header of this name.
    Header(String),
}

fn key(text: &str) -> Result<Key, String> {
    match text.split_once(':') {
        None if text == "type" => Ok(Key::Type),
        Some(("tag", prefix)) => Ok(Key::Tag(prefix.to_owned())),
        Some(("header", name)) if !name.is_empty() => Ok(Key::Header(name.to_owned())),
        _ => Err("it is none of type, tag:PREFIX and header:NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_types_tags_and_headers() {
        assert_eq!(key("type"), Ok(Key::Type));
        assert_eq!(key("tag:sku:"), Ok(Key::Tag("sku:".to_owned())));
        assert_eq!(key("tag:"), Ok(Key::Tag(String::new())));
        assert_eq!(key("header:by"), Ok(Key::Header("by".to_owned())));
        for text in ["", "tag", "header:", "type:x", "payload"] {
            assert!(key(text).is_err(), "{text}");
        }
    }
}
