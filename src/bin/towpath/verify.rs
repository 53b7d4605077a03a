//! `towpath verify`: what is whole, and what is not.

use serde::Serialize;
use towpath::Damage;
use towpath::inspect::{self, Depth, LostForGood, Verdict};

use crate::Answer;
use crate::args::tools::Verify;
use crate::failure::Result;
use crate::out::Out;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Verified<'a> {
    ok: bool,
    events: u64,
    damage: Vec<Damaged<'a>>,
    /// Of `--fast` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments_read: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    torn_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    removed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<Lost<'a>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A damaged stretch, as every verb gives it.
#[derive(Serialize)]
pub(crate) struct Damaged<'a> {
    segment: &'a str,
    offset: u64,
    position: u64,
    what: &'a str,
}

impl<'a> Damaged<'a> {
    pub(crate) fn of(damage: &'a Damage) -> Self {
        let Damage { segment, offset, position, what, .. } = damage;
        Self { segment, offset: *offset, position: position.get(), what }
    }
}

#[derive(Serialize)]
struct Lost<'a> {
    first: u64,
    positions: u64,
    why: &'a str,
}

pub(crate) fn run(args: &Verify, out: &mut Out) -> Result<Answer> {
    let depth = match (args.fast, args.deep) {
        (true, _) => Depth::Fast,
        (_, true) => Depth::Deep,
        _ => Depth::Whole,
    };
    let bar = out.bar(0);
    let verdict = inspect::verify_to(&args.dir, depth, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let verdict = verdict?;
    if out.is_json() {
        out.object(&verified(&verdict, depth))?;
    } else {
        print(&verdict, depth, out)?;
    }
    Ok(if verdict.ok { Answer::Good } else { Answer::NotGood })
}

fn verified(verdict: &Verdict, depth: Depth) -> Verified<'_> {
    let of_fast = |number| (depth == Depth::Fast).then_some(number);
    Verified {
        ok: verdict.ok,
        events: verdict.events,
        damage: verdict.damage.iter().map(Damaged::of).collect(),
        segments: of_fast(verdict.segments),
        segments_read: of_fast(verdict.segments_read),
        torn_bytes: verdict.torn_bytes,
        removed: verdict.removed,
        lost: verdict
            .lost
            .iter()
            .map(|LostForGood { first, positions, why, .. }| Lost { first: first.get(), positions: *positions, why })
            .collect(),
    }
}

fn print(verdict: &Verdict, depth: Depth, out: &mut Out) -> Result<()> {
    for damage in &verdict.damage {
        out.line(&damage.to_string())?;
    }
    for LostForGood { first, positions, why, .. } in &verdict.lost {
        out.line(&match positions {
            0 => format!("records about consumers before position {first} were lost, which is known: {why}"),
            _ => {
                let last = first.get() + positions - 1;
                format!("positions {first} to {last} were lost, which is known: {why}")
            }
        })?;
    }
    if verdict.removed > 0 {
        out.line(&format!("{} positions were removed on purpose", verdict.removed))?;
    }
    let Verdict { ok, events, torn_bytes, .. } = verdict;
    if *torn_bytes > 0 {
        out.line(&format!(
            "{torn_bytes} bytes of an unfinished commit stand at the end; the next opening removes them"
        ))?;
    }
    if verdict.streams_unchecked > 0 {
        out.line(&format!(
            "at most {} streams had no room, their revisions were not checked; --deep does",
            verdict.streams_unchecked
        ))?;
    }
    if depth == Depth::Fast {
        let (read, all) = (verdict.segments_read, verdict.segments);
        let sealed = all - read;
        out.line(&format!(
            "left out: the frames of {sealed} of {all} segments, pages of index files and tiers, revisions, payloads"
        ))?;
    }
    out.line(&format!("{}, {events} events are whole", if *ok { "good" } else { "not good" }))
}
