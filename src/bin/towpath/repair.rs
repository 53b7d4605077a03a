//! `towpath repair`: what can be kept of a damaged store.

use std::path::PathBuf;

use serde::Serialize;
use towpath::copies::{self, Lost, Noted, PutBack};
use towpath::inspect::Progress;
use towpath::{Damage, Position};

use crate::Answer;
use crate::args::tools::Repair;
use crate::backup::{ANEW, no_room, show};
use crate::failure::Result;
use crate::out::Out;
use crate::verify::Damaged;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Told<'a> {
    oldest: u64,
    head: u64,
    events: u64,
    lost: Vec<LostStretch<'a>>,
    put_back: Vec<Back<'a>>,
    may_bring_back: bool,
    files: Vec<File<'a>>,
    torn_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<Vec<Damaged<'a>>>,
}

#[derive(Serialize)]
struct LostStretch<'a> {
    segment: &'a str,
    offset: u64,
    length: u64,
    first: u64,
    positions: u64,
    records: bool,
    why: &'a str,
}

#[derive(Serialize)]
struct Back<'a> {
    consumer: &'a str,
    next: u64,
}

#[derive(Serialize)]
struct File<'a> {
    file: &'a str,
    what: &'a str,
}

pub(crate) fn run(args: &Repair, out: &mut Out) -> Result<Answer> {
    let plan = copies::plan_repair(&args.dir)?;
    if !args.yes || !plan.is_needed() {
        tell(&plan, None, out)?;
        if !out.is_json() {
            out.line(if plan.is_needed() {
                "nothing was written; --yes writes what is kept into a new store"
            } else {
                "nothing is damaged, there is nothing to repair"
            })?;
        }
        return Ok(if plan.is_needed() { Answer::NotGood } else { Answer::Good });
    }
    let to = args.to.clone().unwrap_or_else(|| {
        // DIR/ and DIR are the same.
        let mut name = args.dir.components().collect::<PathBuf>().into_os_string();
        name.push(".repaired");
        name.into()
    });
    let bar = out.bar(0);
    let made = copies::repair(&args.dir, &to, |progress: Progress| show(&bar, progress));
    bar.finish_and_clear();
    let made = made.map_err(|error| no_room(error, &to, ANEW))?;
    let shown = to.display().to_string();
    tell(&made.repair, Some((&shown, &made.damage)), out)?;
    Ok(if made.damage.is_empty() { Answer::Good } else { Answer::NotGood })
}

fn tell(plan: &copies::Repair, made: Option<(&str, &[Damage])>, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.object(&Told {
            oldest: plan.oldest.get(),
            head: plan.head.get(),
            events: plan.events,
            lost: plan.lost.iter().map(stretch).collect(),
            put_back: plan
                .put_back
                .iter()
                .map(|PutBack { consumer, next, .. }| Back { consumer, next: next.get() })
                .collect(),
            may_bring_back: plan.may_bring_back,
            files: plan.files.iter().map(|Noted { file, what, .. }| File { file, what }).collect(),
            torn_bytes: plan.torn_bytes,
            to: made.map(|(to, _)| to.to_owned()),
            damage: made.map(|(_, damage)| damage.iter().map(Damaged::of).collect()),
        });
    }
    let mut next = plan.oldest;
    let kept = |from: Position, until: Position, out: &mut Out| match until.get().checked_sub(from.get()) {
        None | Some(0) => Ok(()),
        Some(many) => out.line(&format!("kept  {from} to {} ({many})", until.get() - 1)),
    };
    for lost in &plan.lost {
        let Lost { segment, offset, length, first, positions, why, records, .. } = lost;
        kept(next, *first, out)?;
        let place = format!("{segment}, {length} bytes from byte {offset} on: {why}");
        let too = if *records { ", and perhaps records about consumers" } else { "" };
        out.line(&match positions {
            0 => format!("lost  records about consumers before {first}: {place}"),
            _ => format!("lost  {first} to {} ({positions}){too}: {place}", first.get() + positions - 1),
        })?;
        next = Position::new(first.get() + positions);
    }
    kept(next, plan.head.next(), out)?;
    for PutBack { consumer, next, .. } in &plan.put_back {
        out.line(&format!("consumer {consumer:?} goes on at {next}; what it handled since comes again"))?;
    }
    if plan.may_bring_back {
        out.line(
            "if events were removed lately they may be there again, as the record may have stood in what is lost: look, and remove them again",
        )?;
    }
    for Noted { file, what, .. } in &plan.files {
        out.line(&format!("{file}: {what}"))?;
    }
    if plan.torn_bytes > 0 {
        out.line(&format!("{} bytes of an unfinished commit at the end are not kept", plan.torn_bytes))?;
    }
    if let Some((to, damage)) = made {
        for damage in damage {
            out.line(&damage.to_string())?;
        }
        out.line(&format!("{} events are kept and {} positions lost, in {to}", plan.events, plan.positions_lost()))?;
    }
    Ok(())
}

fn stretch(lost: &Lost) -> LostStretch<'_> {
    let Lost { segment, offset, length, first, positions, records, why, .. } = lost;
    LostStretch {
        segment,
        offset: *offset,
        length: *length,
        first: first.get(),
        positions: *positions,
        records: *records,
        why,
    }
}
