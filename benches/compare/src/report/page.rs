//! What RESULTS.md and the README say around the tables.

use crate::measure::EVENTS;
use crate::raw::{Figure, Machine, Results};
use crate::report::metrics::{Group, groups};
use crate::report::table::{self, Detail};
use crate::report::{goals, losses};
use crate::stats::Summary;
use crate::store::Waits;
use crate::stores::Name;
use crate::workload::{Sizes, Workload};

const COMMAND: &str = "cargo run --release --manifest-path benches/compare/Cargo.toml";

/// For the README: goals, medians, charts, losses.
pub fn short(results: &Results, charts: &str) -> String {
    let mut text = introduction(results);
    text.push_str(
        "\nEach store's settings, and the spread of the rounds, are in [RESULTS.md](benches/compare/RESULTS.md).\n",
    );
    text.push_str(&format!("\n### Goals\n\n{}", goals::table(results)));
    for group in groups().iter().filter(|group| is_there(results, group)) {
        let (title, key) = (group.title, group.key);
        let table = table::table(results, group, Detail::Medians);
        text.push_str(&format!("\n### {title}\n\n{table}\n![{title}]({charts}/{key}.svg)\n"));
    }
    text.push_str(&notes(results));
    text.push_str(&format!("\n### Where towpath loses\n\n{}", losses::list(results)));
    text
}

/// For RESULTS.md: the same with the spread of all rounds, and how each store is set up.
pub fn whole(results: &Results) -> String {
    let mut text = format!("# towpath beside other stores\n\n{}", introduction(results));
    text.push_str(&format!("\n## Goals\n\n{}", goals::table(results)));
    text.push_str("\nThe median, and below it the lowest and the highest of all rounds.\n");
    for group in groups().iter().filter(|group| is_there(results, group)) {
        let (title, key) = (group.title, group.key);
        let table = table::table(results, group, Detail::Spread);
        text.push_str(&format!("\n## {title}\n\n{table}\n![{title}](charts/{key}.svg)\n"));
    }
    text.push_str(&notes(results));
    text.push_str(&format!("\n## Where towpath loses\n\n{}", losses::list(results)));
    text.push_str(&failures(results));
    text.push_str("\n## How each store is used\n");
    results.stores().iter().for_each(|store| text.push_str(&settings(*store)));
    text.push_str(WORK);
    text
}

const WORK: &str = "
## The work

- Every measurement is a process of its own; within a round the stores take turns, each round begins with another one, and
  before each measurement everything written so far is synced, so that nobody pays for another's writes.
- Events of 100 bytes or 1 KiB, one half noise, in 10,000 streams in turn; each payload holds its number, and reading adds the
  numbers up, so that every payload is looked at and none is missing.
- An append workload is as many events as are done in one second, up to 400 MB of payloads: a slow store ends with a smaller
  log, which is no disadvantage to it.
- Key-value stores and SQLite keep a log by position (stream, type, time, revision, payload) and an index by stream and
  revision; the dense revision is given under the writer's lock in the same transaction, the last one of each stream
  being remembered in memory.
- Reading and opening are done on a store of 1,000,000 events that another process has written and closed, from the page cache.
  The first pass is that of a process which has just opened it.
- For opening at 10 M events each store is filled once, for at most 20 seconds, and opened by a new process in each round, for
  a minute in all; the stores do not take turns there, because together they would not fit on a small disk.
- Append → consumer: one thread appends single events, unsynced, some 20 µs apart; the time is from before the append until a
  second thread holds the event.
- Memory is `RssAnon`, the harness included (under 1 MiB); disk is what the files take of it after a close.
";

fn introduction(results: &Results) -> String {
    let rounds = results.rounds();
    let machine = results.machine.as_ref().map_or_else(String::new, described);
    let versions: Vec<String> =
        results.stores().iter().filter(|store| **store != Name::Towpath).map(|store| named(*store)).collect();
    let rounds = if rounds == 1 { "One round".into() } else { format!("Medians of {rounds} rounds") };
    format!(
        "{machine}{rounds} of `{COMMAND}`, the same work for all: {}. {}Bold is the best of a column.\n",
        versions.join(", "),
        spread(results)
    )
}

/// How far the rounds lie apart, over all figures.
fn spread(results: &Results) -> String {
    let groups = groups();
    let metrics = groups.iter().flat_map(|group| &group.metrics);
    let figures = metrics.flat_map(|metric| {
        results.stores().into_iter().map(|store| results.figure(store, metric.workload, metric.value))
    });
    let spreads = figures.filter_map(|figure| match figure {
        Figure::Measured { summary, marks } if marks.is_empty() => Some(summary.spread()),
        _ => None,
    });
    match Summary::of(spreads) {
        Some(spread) if results.rounds() > 1 => format!(
            "From the lowest to the highest round it is {:.0} % of the median for one half of all figures, at most {:.0} %. ",
            spread.median, spread.highest
        ),
        _ => String::new(),
    }
}

fn described(machine: &Machine) -> String {
    let Machine { processor, cores, memory_gib, system, rustc, date, quick } = machine;
    let quick = if *quick { "**A quick run: its figures mean nothing.** " } else { "" };
    format!("{quick}{processor}, {cores} cores, {memory_gib} GiB, {system}, {rustc}, {date}. ")
}

fn settings(store: Name) -> String {
    let profile = store.profile();
    let checks = profile.checks.unwrap_or("nothing checks what is read");
    let waits = match profile.waits {
        Waits::Woken => "woken by the store",
        Waits::Polls => "polls: reads again and again, giving up the core in between",
        Waits::No => "none",
    };
    let lines: String = profile.settings.iter().map(|setting| format!("- {setting}\n")).collect();
    let name = if store == Name::Towpath { profile.name.into() } else { named(store) };
    format!("\n### {name}\n\nA {}. Checksums: {checks}. Consumer: {waits}.\n\n{lines}", profile.kind)
}

/// Who reads without checking, and which figures are of fewer events than the column says.
fn notes(results: &Results) -> String {
    let unchecked = results.stores().into_iter().filter(|store| store.profile().checks.is_none());
    let unchecked: Vec<&str> = unchecked.map(|store| store.profile().name).collect();
    let unchecked = match unchecked.as_slice() {
        [] => String::new(),
        names => format!("\nNothing checks what these read, the others verify checksums: {}.\n", names.join(", ")),
    };
    let mut notes = Vec::new();
    for store in results.stores() {
        if let Some(events) = results.median(store, Workload::FillLarge, EVENTS)
            && events < Sizes::FULL.fill_large as f64
        {
            notes.push(format!("{} {:.1} M", store.profile().name, events / 1e6));
        }
    }
    if notes.is_empty() {
        return unchecked;
    }
    format!("{unchecked}\nFewer than 10 M events were appended in the time given: {}.\n", notes.join(", "))
}

fn failures(results: &Results) -> String {
    let failures = results.failures();
    if failures.is_empty() {
        return String::new();
    }
    let line = |(store, workload, why): &(Name, &str, &str)| format!("- {}, {workload}: {why}\n", store.profile().name);
    format!("\n## Failed\n\n{}", failures.iter().map(line).collect::<String>())
}

fn is_there(results: &Results, group: &Group) -> bool {
    group.metrics.iter().any(|metric| {
        let figure = |store: &Name| results.figure(*store, metric.workload, metric.value);
        results.stores().iter().any(|store| matches!(figure(store), Figure::Measured { .. }))
    })
}

/// With its version, and with the package when that has another name.
fn named(store: Name) -> String {
    let profile = store.profile();
    let version = version(profile.package);
    if profile.package == profile.key {
        format!("{} {version}", profile.name)
    } else {
        format!("{} ({} {version})", profile.name, profile.package)
    }
}

/// Of a package, from this package's lock file.
fn version(package: &str) -> &'static str {
    const LOCK: &str = include_str!("../../Cargo.lock");
    let entry = LOCK.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{package}\"\n")));
    let line = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = \"")));
    line.map_or("?", |version| version.trim_end_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::results;

    #[test]
    fn every_store_has_a_version() {
        for store in Name::ALL {
            assert!(version(store.profile().package).starts_with(|first: char| first.is_ascii_digit()));
        }
        assert_eq!(version("no-such-package"), "?");
    }

    #[test]
    fn the_page_tells_where_towpath_loses() {
        let page = short(&results(&[(Name::Towpath, "replay", 30e6), (Name::Lmdb, "replay", 35e6)]), "charts");
        assert!(
            page.contains("| Reading 1,000,000 events: replay, first pass | 30.0 M | LMDB 35.0 M (1.17 ×) |"),
            "{page}"
        );
        assert!(page.contains("![Reading 1,000,000 events](charts/reading.svg)"), "{page}");
        assert!(!page.contains("opening.svg"), "{page}");
        assert!(page.contains("the others verify checksums: LMDB."), "{page}");
    }
}
