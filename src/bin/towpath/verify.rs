//! `towpath verify`: every byte, checked.

use serde::Serialize;
use towpath::Damage;
use towpath::inspect::{self, Verdict};

use crate::Answer;
use crate::args::StoreDir;
use crate::failure::Result;
use crate::out::Out;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Verified<'a> {
    ok: bool,
    events: u64,
    damage: Vec<Damaged<'a>>,
}

#[derive(Serialize)]
struct Damaged<'a> {
    segment: &'a str,
    offset: u64,
    position: u64,
    what: &'a str,
}

pub(crate) fn run(args: &StoreDir, out: &mut Out) -> Result<Answer> {
    let bar = out.bar(0);
    let verdict = inspect::verify(&args.dir, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let verdict = verdict?;
    if out.is_json() {
        out.object(&verified(&verdict))?;
    } else {
        print(&verdict, out)?;
    }
    Ok(if verdict.ok { Answer::Good } else { Answer::NotGood })
}

fn verified(verdict: &Verdict) -> Verified<'_> {
    let damage = verdict.damage.iter().map(|Damage { segment, offset, position, what, .. }| Damaged {
        segment,
        offset: *offset,
        position: position.get(),
        what,
    });
    Verified { ok: verdict.ok, events: verdict.events, damage: damage.collect() }
}

fn print(verdict: &Verdict, out: &mut Out) -> Result<()> {
    for damage in &verdict.damage {
        out.line(&damage.to_string())?;
    }
    let Verdict { ok, events, torn_bytes, .. } = verdict;
    if *torn_bytes > 0 {
        out.line(&format!(
            "{torn_bytes} bytes of an unfinished commit stand at the end; the next opening removes them"
        ))?;
    }
    out.line(&format!("{}, {events} events are whole", if *ok { "good" } else { "not good" }))
}
