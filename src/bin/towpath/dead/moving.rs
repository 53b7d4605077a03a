//! `towpath dead redrive` and `drop`: what would be done, and with `--yes` doing it.

use std::thread;
use std::time::Instant;

use serde::Serialize;
use towpath::{DeadLetter, DeadLetters, Moved, Store};

use crate::Answer;
use crate::args::consuming::{Chosen, DropLetters, Redrive};
use crate::consumers::open_to_change;
use crate::dead::rate::Rate;
use crate::dead::{each, groups, line};
use crate::failure::{Result, complain};
use crate::out::Out;

/// Letters that are held in memory, and moved with one record, when there is no rate.
const AT_ONCE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Redrive,
    Drop,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    action: &'a str,
    done: bool,
    moved: u64,
    passed_over: u64,
    impossible: u64,
}

pub(super) fn redrive(args: &Redrive, out: &mut Out) -> Result<Answer> {
    match args.yes {
        true => carry_out(Action::Redrive, &args.chosen, args.rate, out),
        false => announce(Action::Redrive, &args.chosen, out),
    }
}

pub(super) fn drop_letters(args: &DropLetters, out: &mut Out) -> Result<Answer> {
    match args.yes {
        true => carry_out(Action::Drop, &args.chosen, None, out),
        false => announce(Action::Drop, &args.chosen, out),
    }
}

/// Says what would be done; works beside a live writer.
fn announce(action: Action, chosen: &Chosen, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&chosen.dir)?;
    let (mut answer, mut left) = (Answer::Good, chosen.limit);
    let mut moved_any = false;
    for group in groups(&store, chosen)? {
        let mut would = Counts::default();
        let read = each(&store.dead_letters(&group)?, chosen, &mut left, |letter| {
            let place = would.place(action, &store, &letter);
            if out.is_json() { Ok(()) } else { out.line(&format!("{}{place}", line(&group, &letter))) }
        })?;
        moved_any |= would.moved > 0;
        answer = answer.and(read).and(would.print(action, &group, false, out)?);
    }
    if !out.is_json() {
        out.line(if moved_any { "nothing was changed; the same with --yes does it" } else { "nothing to do" })?;
    }
    Ok(answer)
}

fn carry_out(action: Action, chosen: &Chosen, rate: Option<Rate>, out: &mut Out) -> Result<Answer> {
    let store = open_to_change(&chosen.dir)?;
    let (mut answer, mut left) = (Answer::Good, chosen.limit);
    let mut pace = Pace { rate, begun: Instant::now(), done: 0 };
    for group in groups(&store, chosen)? {
        let letters = store.dead_letters(&group)?;
        let (mut counts, mut some) = (Counts::default(), Vec::new());
        let at_once = rate.map_or(AT_ONCE, |rate| rate.at_once().min(AT_ONCE));
        let read = each(&letters, chosen, &mut left, |letter| {
            some.push(letter);
            if some.len() < at_once {
                return Ok(());
            }
            pace.wait();
            let moved = act(action, &letters, &some)?;
            pace.done += moved.moved;
            counts.add(moved);
            some.clear();
            Ok(())
        })?;
        if !some.is_empty() {
            pace.wait();
            let moved = act(action, &letters, &some)?;
            pace.done += moved.moved;
            counts.add(moved);
        }
        answer = answer.and(read).and(counts.print(action, &group, true, out)?);
    }
    store.close()?;
    Ok(answer)
}

fn act(action: Action, letters: &DeadLetters, some: &[DeadLetter]) -> Result<Moved> {
    Ok(match action {
        Action::Redrive => letters.redrive(some)?,
        Action::Drop => letters.drop_letters(some)?,
    })
}

/// Keeps to a rate.
struct Pace {
    rate: Option<Rate>,
    begun: Instant,
    done: u64,
}

impl Pace {
    /// Waits until the next ones are due.
    fn wait(&self) {
        let due = self.rate.map(|rate| rate.due(self.done));
        thread::sleep(due.unwrap_or_default().saturating_sub(self.begun.elapsed()));
    }
}

#[derive(Default)]
struct Counts {
    moved: u64,
    passed_over: u64,
    impossible: u64,
}

impl Counts {
    fn add(&mut self, moved: Moved) {
        self.moved += moved.moved;
        self.passed_over += moved.passed_over;
        self.impossible += moved.impossible;
    }

    /// Counts where a letter would go, and says so where that is not what was asked for.
    fn place(&mut self, action: Action, store: &Store, letter: &DeadLetter) -> &'static str {
        if action == Action::Redrive && (letter.lost().is_some() || letter.source_position() < store.oldest()) {
            self.impossible += 1;
            " (cannot: its event is damaged, or no longer kept)"
        } else if letter.is_redriven() {
            self.passed_over += 1;
            ""
        } else {
            self.moved += 1;
            ""
        }
    }

    fn print(&self, action: Action, group: &str, done: bool, out: &mut Out) -> Result<Answer> {
        let Counts { moved, passed_over, impossible } = *self;
        if out.is_json() {
            let action = match action {
                Action::Redrive => "redrive",
                Action::Drop => "drop",
            };
            out.object(&Row { name: group, action, done, moved, passed_over, impossible })?;
        } else {
            let what = match (action, done) {
                (Action::Redrive, false) => "would be redriven, to be handled when the group next runs",
                (Action::Redrive, true) => "redriven, to be handled when the group next runs",
                (Action::Drop, false) => "would be dropped",
                (Action::Drop, true) => "dropped",
            };
            let mut line = format!("{group}: {moved} {what}");
            if passed_over > 0 {
                line.push_str(&format!(", {passed_over} on their way already"));
            }
            out.line(&line)?;
        }
        if impossible == 0 {
            return Ok(Answer::Good);
        }
        let why = "cannot be handled again: their events are damaged, or no longer kept";
        complain(&format!("{impossible} dead letters of {group} {why}"));
        Ok(Answer::NotGood)
    }
}
