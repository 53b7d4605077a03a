//! `towpath dead`: what groups could not handle, and what is to become of it.

pub(crate) mod condition;
mod moving;
pub(crate) mod rate;
mod replay;

use serde::Serialize;
use towpath::{ConsumerKind, DeadLetter, DeadLetters, Error, Position, Store};

use crate::Answer;
use crate::args::consuming::{Chosen, DeadExport, DeadVerb};
use crate::consumers::find_group;
use crate::failure::{Failure, Result};
use crate::out::Out;
use crate::row::{Moment, lines};
use crate::{read, show};

/// `lag` and `in_flight` belong to consumers and are null here, so that rows of `consumers` and `dead` can be read alike.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'a str,
    number: u64,
    position: u64,
    lag: Option<u64>,
    in_flight: Option<u64>,
    attempts: u32,
    reason: &'a str,
    error: &'a str,
    stream: Option<&'a str>,
    #[serde(rename = "type")]
    type_name: &'a str,
    source_position: u64,
    source_revision: Option<u64>,
    handed_out: Moment,
    first_failed: Moment,
    last_failed: Moment,
    replaces: Option<u64>,
    lost: Option<u64>,
    redriven: bool,
}

#[derive(Serialize)]
struct Test<'a> {
    name: &'a str,
    position: u64,
    test: String,
}

pub(crate) fn run(verb: &DeadVerb, out: &mut Out) -> Result<Answer> {
    match verb {
        DeadVerb::Ls(chosen) => print_each(chosen, out, print),
        DeadVerb::Show(chosen) => print_each(chosen, out, print_fully),
        DeadVerb::Export(DeadExport { chosen, as_test: Some(position) }) => print_test(chosen, *position, out),
        DeadVerb::Export(DeadExport { chosen, as_test: None }) => {
            print_each(chosen, out, |_, letter, out| out.line(&show::object(letter.event())?))
        }
        DeadVerb::Redrive(args) => moving::redrive(args, out),
        DeadVerb::Drop(args) => moving::drop_letters(args, out),
    }
}

fn print_each(
    chosen: &Chosen,
    out: &mut Out,
    print: impl Fn(&str, &DeadLetter, &mut Out) -> Result<()>,
) -> Result<Answer> {
    let store = Store::open_read_only(&chosen.dir)?;
    let (mut answer, mut left) = (Answer::Good, chosen.limit);
    for group in groups(&store, chosen)? {
        let letters = store.dead_letters(&group)?;
        answer = answer.and(each(&letters, chosen, &mut left, |letter| print(&group, &letter, out))?);
    }
    Ok(answer)
}

/// The groups whose dead letters are meant.
fn groups(store: &Store, chosen: &Chosen) -> Result<Vec<String>> {
    if let Some(group) = &chosen.group {
        return Ok(vec![find_group(store, group, "have dead letters")?.name]);
    }
    let groups = store.consumers()?.into_iter().filter(|consumer| consumer.kind == ConsumerKind::Group);
    Ok(groups.map(|group| group.name).collect())
}

/// Hands on those letters of a group that are chosen, as long as there are any left to choose. Damage is told where it is met.
fn each(
    letters: &DeadLetters,
    chosen: &Chosen,
    left: &mut Option<u64>,
    mut take: impl FnMut(DeadLetter) -> Result<()>,
) -> Result<Answer> {
    let mut answer = Answer::Good;
    for letter in letters.iter()? {
        if *left == Some(0) {
            break;
        }
        match letter {
            Ok(letter) if chosen.conditions.iter().all(|condition| condition.holds(&letter)) => {
                take(letter)?;
                *left = left.map(|left| left - 1);
            }
            Ok(_) => {}
            Err(Error::Damaged(damage)) => answer = read::tell(&damage),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

fn print(group: &str, letter: &DeadLetter, out: &mut Out) -> Result<()> {
    if out.is_json() { out.object(&Row::of(group, letter)) } else { out.line(&line(group, letter)) }
}

impl<'a> Row<'a> {
    fn of(group: &'a str, letter: &'a DeadLetter) -> Self {
        Self {
            name: group,
            kind: "dead",
            number: letter.number().get(),
            position: letter.event().position().get(),
            lag: None,
            in_flight: None,
            attempts: letter.attempts(),
            reason: letter.reason().as_str(),
            error: letter.why(),
            stream: letter.source_stream(),
            type_name: letter.event().type_name(),
            source_position: letter.source_position().get(),
            source_revision: letter.source_revision().map(|revision| revision.get()),
            handed_out: Moment(letter.first_handed_out()),
            first_failed: Moment(Some(letter.first_failed())),
            last_failed: Moment(Some(letter.last_failed())),
            replaces: letter.replaces().map(|number| number.get()),
            lost: letter.lost(),
            redriven: letter.is_redriven(),
        }
    }
}

/// The letter as a line: position, group and number, when, the event that failed, why.
fn line(group: &str, letter: &DeadLetter) -> String {
    let (position, number, failed) = (letter.event().position(), letter.number(), Moment(Some(letter.last_failed())));
    let (type_name, reason, attempts) = (letter.event().type_name(), letter.reason(), letter.attempts());
    let source = source(letter);
    let redriven = if letter.is_redriven() { ", on its way again" } else { "" };
    let mut line = format!("{position}  {group}#{number}  {}  {source}  {type_name}  {reason}", failed.text());
    line.push_str(&format!(", attempts {attempts}{redriven}"));
    if !letter.why().is_empty() {
        line.push_str(&format!(": {}", letter.why()));
    }
    line
}

/// The event that failed: `cart-1@3`, or what is known of it.
fn source(letter: &DeadLetter) -> String {
    match (letter.source_stream(), letter.source_revision(), letter.lost()) {
        (Some(stream), Some(revision), _) => format!("{stream}@{revision}"),
        (_, _, Some(lost)) => format!("{lost} lost from {}", letter.source_position()),
        _ => format!("position {}", letter.source_position()),
    }
}

fn print_fully(group: &str, letter: &DeadLetter, out: &mut Out) -> Result<()> {
    if out.is_json() {
        let row = serde_json::to_string(&Row::of(group, letter))
            .map_err(|error| Failure::because("could not write JSON", &error))?;
        let row = row.strip_suffix('}').unwrap_or(&row);
        return out.line(&format!("{row},\"event\":{}}}", show::object(letter.event())?));
    }
    let event = letter.event();
    let mut fields = vec![
        ("dead letter", format!("{group}#{}, position {}", letter.number(), event.position())),
        ("of", format!("{}, position {}", source(letter), letter.source_position())),
        ("type", event.type_name().to_owned()),
        ("reason", letter.reason().to_string()),
        ("error", letter.why().to_owned()),
        ("attempts", letter.attempts().to_string()),
        ("handed out", Moment(letter.first_handed_out()).text()),
        ("first failed", Moment(Some(letter.first_failed())).text()),
        ("last failed", Moment(Some(letter.last_failed())).text()),
    ];
    fields.extend(letter.replaces().map(|number| ("replaces", format!("{group}#{number}"))));
    fields.extend(letter.is_redriven().then(|| ("redriven", "on its way again".to_owned())));
    fields.extend(event.tags().map(|tag| ("tag", tag.to_owned())));
    fields.extend(letter.headers().map(|(name, value)| ("header", format!("{name}={value}"))));
    fields.push(("payload", show::payload_text(event)));
    lines(&fields).iter().try_for_each(|line| out.line(line))?;
    out.line("")
}

fn print_test(chosen: &Chosen, position: Position, out: &mut Out) -> Result<Answer> {
    let store = Store::open_read_only(&chosen.dir)?;
    let (group, letter) = letter_at(&store, chosen, position)?;
    let lines = replay::test(&store, &group, &letter)?;
    if out.is_json() {
        out.object(&Test { name: &group, position: position.get(), test: lines.join("\n") })?;
    } else {
        lines.iter().try_for_each(|line| out.line(line))?;
    }
    Ok(Answer::Good)
}

/// The letter that stands at this position, and its group.
fn letter_at(store: &Store, chosen: &Chosen, position: Position) -> Result<(String, DeadLetter)> {
    let event = store.event(position)?;
    let mut made_of_it = Vec::new();
    for group in groups(store, chosen)? {
        let letters = store.dead_letters(&group)?;
        if let Some(event) = event.as_ref().filter(|event| event.stream() == letters.stream()) {
            let gone = || format!("the dead letter at position {position} was dropped, or redriven with success");
            let letter = letters.get(event.revision())?.ok_or_else(|| Failure::NotGood(gone()))?;
            return Ok((group, letter));
        }
        let of_it = letters.iter()?.filter_map(Result::ok).filter(|letter| letter.source_position() == position);
        made_of_it.extend(of_it.map(|letter| letter.event().position().to_string()));
    }
    let mut why = format!("no dead letter at position {position}; `towpath dead ls` lists them");
    if !made_of_it.is_empty() {
        why = format!(
            "the event at position {position} is no dead letter; what it became stands at {}",
            made_of_it.join(", ")
        );
    }
    Err(Failure::NotGood(why))
}
