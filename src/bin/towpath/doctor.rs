//! `towpath doctor`: how a store stands, and what somebody should look at.

use std::time::Duration;

use serde::Serialize;
use towpath::inspect::{self, Surroundings};
use towpath::{Consumer, ConsumerKind, Store, SystemClock, Timestamp};

use crate::Answer;
use crate::args::tools::Doctor;
use crate::failure::Result;
use crate::out::Out;
use crate::row::Moment;
use crate::time;

/// Less than this is little, whatever the size of the disk.
const LITTLE: u64 = 256 << 20;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Told<'a> {
    ok: bool,
    writer: Option<Writer>,
    head: u64,
    durable: u64,
    at_risk: u64,
    longest_unsynced: u64,
    used: u64,
    free: Option<u64>,
    total: Option<u64>,
    file_system: Option<&'a str>,
    consumers: &'a [Row],
    quarantined: u64,
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct Writer {
    process: u32,
    since: Moment,
    lives: bool,
    closed: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: &'static str,
    lag: u64,
    in_flight: u64,
    waiting: u64,
    dead: u64,
    paused: bool,
    /// When the oldest delivery was handed out that is not settled.
    oldest_handed_out: Moment,
}

/// Something to look at.
#[derive(Serialize)]
struct Finding {
    about: &'static str,
    what: String,
    /// What to do about it.
    remedy: String,
}

pub(crate) fn run(args: &Doctor, out: &mut Out) -> Result<Answer> {
    let around = inspect::surroundings(&args.dir)?;
    let store = Store::open_read_only(&args.dir)?;
    let now = towpath::Clock::now(&SystemClock);
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for consumer in store.consumers()? {
        let row = row(&store, &consumer)?;
        findings.extend(about_consumer(&row, args, now));
        rows.push(row);
    }
    findings.extend(about_place(&around, args));
    let ok = findings.is_empty();
    if out.is_json() {
        out.object(&told(&around, &rows, &findings))?;
    } else {
        print(&around, &rows, &findings, out)?;
    }
    Ok(if ok { Answer::Good } else { Answer::NotGood })
}

fn row(store: &Store, consumer: &Consumer) -> Result<Row> {
    let unsettled = match consumer.kind {
        ConsumerKind::Group => store.unsettled(&consumer.name)?,
        _ => Vec::new(),
    };
    let handed_out = unsettled.iter().filter(|delivery| delivery.in_flight).filter_map(|one| one.first_handed_out);
    Ok(Row {
        name: consumer.name.clone(),
        kind: consumer.kind.as_str(),
        lag: consumer.lag,
        in_flight: consumer.in_flight,
        waiting: consumer.waiting,
        dead: consumer.dead,
        paused: consumer.paused,
        oldest_handed_out: Moment(handed_out.min()),
    })
}

fn about_consumer(row: &Row, args: &Doctor, now: Timestamp) -> Vec<Finding> {
    let Row { name, lag, in_flight, dead, .. } = row;
    let mut findings = Vec::new();
    if *lag >= args.behind {
        let remedy = match row.paused {
            true => format!("`towpath consumers resume` has {name:?} go on"),
            false => "see whether what consumes runs, and keeps up; what needs nothing of that can go on at the end: \
                      `towpath consumers reset`"
                .to_owned(),
        };
        findings.push(Finding {
            about: "consumer",
            what: format!("{name:?} is {lag} positions behind the head"),
            remedy,
        });
    }
    let age = row.oldest_handed_out.0.map(|at| since(at, now)).filter(|age| *age > Duration::from_secs(args.older));
    if let Some(age) = age {
        let what = format!(
            "{name:?} has {in_flight} deliveries in flight, one of them for {} seconds; they come again when its process \
             or their leases end",
            age.as_secs()
        );
        let remedy = "`towpath pending` lists them; see what keeps that process from settling them".to_owned();
        findings.push(Finding { about: "consumer", what, remedy });
    }
    if *dead > 0 {
        let what = format!("{dead} of {name:?} stand; `towpath dead ls` shows them");
        let remedy = "`towpath dead redrive` has them handled again, `towpath dead drop` forgets them".to_owned();
        findings.push(Finding { about: "dead letters", what, remedy });
    }
    findings
}

fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    Duration::from_nanos(now.as_nanos().saturating_sub(earlier.as_nanos()))
}

fn about_place(around: &Surroundings, args: &Doctor) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |about, what, remedy: String| findings.push(Finding { about, what, remedy });
    if let (Some(free), Some(total)) = (around.free, around.total)
        && (free < LITTLE || free < total / 20)
    {
        let remedy = "make room there, or let go of old events: `towpath retain plan` tells how much goes";
        find("disk", format!("{free} of {total} bytes are free"), remedy.to_owned());
    }
    if let Some(caution) = around.file_system.and_then(|kind| kind.caution) {
        let remedy = "keep what has to last on a disk of this machine with a journal, such as ext4 or XFS; `towpath backup` and \
                      `restore` take it there";
        find("file system", caution.to_owned(), remedy.to_owned());
    }
    for (file, mode) in &around.wide {
        let remedy = format!("unless they are to: chmod go= {}", args.dir.join(file).display());
        find("modes", format!("{file} has mode {mode:04o}; others than its owner may do something with it"), remedy);
    }
    if around.quarantined > 0 {
        let remedy =
            "recovery cut them off, as they were never whole: look at what was lost, and remove them".to_owned();
        find("quarantine", format!("{} files lie in quarantine/", around.quarantined), remedy);
    }
    findings
}

fn told<'a>(around: &'a Surroundings, consumers: &'a [Row], findings: &'a [Finding]) -> Told<'a> {
    Told {
        ok: findings.is_empty(),
        writer: around.writer.map(|writer| Writer {
            process: writer.process,
            since: Moment(Some(writer.since)),
            lives: writer.lives,
            closed: writer.closed,
        }),
        head: around.head.get(),
        durable: around.durable.get(),
        at_risk: around.head.get() - around.durable.get(),
        longest_unsynced: around.longest_unsynced,
        used: around.used,
        free: around.free,
        total: around.total,
        file_system: around.file_system.map(|kind| kind.name),
        consumers,
        quarantined: around.quarantined,
        findings,
    }
}

fn print(around: &Surroundings, rows: &[Row], findings: &[Finding], out: &mut Out) -> Result<()> {
    out.line(&match around.writer {
        None => "writer       nobody has written to it".to_owned(),
        Some(writer) => {
            let since = time::rfc3339(writer.since);
            match (writer.lives, writer.closed) {
                (true, _) => format!("writer       process {} has it open since {since}", writer.process),
                (false, true) => format!("writer       none; process {} closed it in good order", writer.process),
                (false, false) => format!(
                    "writer       none; process {}, which wrote since {since}, did not close it; the next one recovers it",
                    writer.process
                ),
            }
        }
    })?;
    let (head, durable) = (around.head.get(), around.durable.get());
    out.line(&match head - durable {
        0 => format!("power cut    would cost nothing: all events up to {head} are on the disk"),
        many => format!(
            "power cut    would cost up to {many} events: those behind position {durable} are not surely on the disk"
        ),
    })?;
    let most = around.longest_unsynced;
    out.line(&format!("durability   at most {most} events stood unsynced at once in the newest segment"))?;
    let name = around.file_system.map_or("not told", |kind| kind.name);
    let room = match (around.free, around.total) {
        (Some(free), Some(total)) => format!(", {free} of {total} bytes free"),
        _ => String::new(),
    };
    out.line(&format!("disk         {} bytes used, on {name}{room}", around.used))?;
    for Row { name, kind, lag, in_flight, waiting, dead, paused, oldest_handed_out } in rows {
        let since = oldest_handed_out.0.map_or(String::new(), |at| format!(", the oldest since {}", time::rfc3339(at)));
        let paused = if *paused { ", paused" } else { "" };
        out.line(&format!(
            "{kind:<12} {name:?} {lag} behind, {in_flight} in flight{since}, {waiting} waiting, {dead} dead letters{paused}"
        ))?;
    }
    for Finding { about, what, remedy } in findings {
        out.line(&format!("look at      {about}: {what}"))?;
        out.line(&format!("to do        {remedy}"))?;
    }
    out.line(if findings.is_empty() { "good" } else { "not good" })
}
