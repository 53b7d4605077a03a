//! Control records: what consumers and recovery need to remember, in the log itself. FORMAT.md, "Control records".

use crate::format::definition::Definition;
use crate::format::gap::{self, Gap};
use crate::format::{extras, names, runs, u64_at, varint};
use crate::id::{Position, Timestamp};

const SEGMENTS: u8 = 1;
const CHECKPOINT: u8 = 2;
const CLOSED: u8 = 3;
const GROUP: u8 = 4;
const CLAIMED: u8 = 5;
const SETTLED: u8 = 6;
const UNSETTLED: u8 = 7;
const LETTERS: u8 = 8;
const PAUSED: u8 = 9;
const RESET: u8 = 10;
const REMOVED: u8 = 11;
const KEPT: u8 = 13; // 12 is the gap record
const DROPPED: u8 = 14;
const PURGED: u8 = 15;

/// Bytes of a failure's text that are kept; the rest is cut off.
pub(crate) const WHY: usize = 1024;

/// One control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// At the head of a segment: the first positions of all segments that are kept before it, rising.
    Segments(Vec<Position>),
    /// A consumer goes on here.
    Checkpoint { name: String, next: Position },
    /// The writer closed the store in good order; everything before is durable.
    Closed,
    /// A group, as it is made or as it stands at the head of a segment, but for its unsettled deliveries.
    Group { name: String, standing: Standing },
    /// Members of a group were given deliveries.
    Claimed { group: String, claim: Claimed },
    /// What became of deliveries of one claim.
    Settled { group: String, settled: Settled },
    /// At the head of a segment: unsettled deliveries of a group.
    Unsettled { group: String, rows: Vec<Row> },
    /// Dead letters of a group were handed out again, or dropped.
    Letters { group: String, redriven: Vec<(u64, Position)>, dropped: Vec<u64> },
    /// A group hands out nothing, or again.
    Paused { group: String, paused: bool },
    /// A group goes on behind this position, and what was unsettled is forgotten.
    Reset { group: String, scanned: Position },
    /// The store forgets a consumer.
    Removed { name: String },
    /// No events stand here any more.
    Gap(Gap),
    /// The log is kept from here on.
    Kept(Kept),
    /// Events of a stream are gone for readers, by first and last revision, rising, though they may still stand in segments.
    Dropped { stream: String, gone: Vec<(u64, u64)> },
    /// Nothing of these is left in any segment.
    Purged { stream: String, gone: Vec<(u64, u64)> },
}

/// From where on the log is kept, and what is still known of what came before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The first position of the oldest segment that is kept.
    pub(crate) oldest: Position,
    /// The first positions of the heads files, rising. Each ends where the next one begins, the last one at `oldest`.
    pub(crate) heads: Vec<Position>,
}

/// How a group stands, but for its unsettled deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) definition: Definition,
    /// Every event up to here was handed out, is unsettled, or is not meant.
    pub(crate) scanned: Position,
    /// The last claim, a number that only rises: the fencing token.
    pub(crate) claims: u64,
    pub(crate) paused: bool,
    /// Dead letters that are gone, as first and last revision in the group's dead-letter stream, rising.
    pub(crate) gone: Vec<(u64, u64)>,
}

/// A hand-out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// 0 when nothing was handed out, and the group only moved on.
    pub(crate) claim: u64,
    pub(crate) time: Timestamp,
    pub(crate) scanned: Position,
    /// Positions that were handed out; each counts as an attempt.
    pub(crate) taken: Vec<u64>,
    /// Positions that were passed on the way and wait for their turn.
    pub(crate) held: Vec<u64>,
}

/// What became of deliveries. Applies only to those that the claim still has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) claim: u64,
    pub(crate) time: Timestamp,
    /// Done, or made dead letters in the same commit.
    pub(crate) ended: Vec<u64>,
    /// Given back without having been tried.
    pub(crate) released: Vec<u64>,
    pub(crate) failed: Vec<Failed>,
}

/// A failed attempt that another one follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) position: u64,
    pub(crate) not_before: Timestamp,
    pub(crate) why: String,
}

/// Unsettled deliveries that follow each other and have the same history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) attempts: u32,
    /// The claim that has or had them; 0 when they wait.
    pub(crate) claim: u64,
    /// When they were handed out for the first time; 0 when they never were.
    pub(crate) handed_out: Timestamp,
    /// Only of a single delivery.
    pub(crate) history: Option<History>,
}

/// What happened to a delivery beyond being handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// When it was handed out for the first time.
    pub(crate) handed_out: Timestamp,
    /// When it failed for the first and the last time; 0 when it never did.
    pub(crate) first_failed: Timestamp,
    pub(crate) last_failed: Timestamp,
    pub(crate) not_before: Timestamp,
    /// The dead letter that it was, by its revision in the group's dead-letter stream; 0 when it was none.
    pub(crate) letter: u64,
    pub(crate) why: String,
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Control::Segments(firsts) => {
                out.push(SEGMENTS);
                put_rising(&mut out, firsts);
            }
            Control::Checkpoint { name, next } => {
                out.push(CHECKPOINT);
                out.extend_from_slice(&next.get().to_le_bytes());
                extras::put_text(&mut out, name);
            }
            Control::Closed => out.push(CLOSED),
            Control::Group { name, standing } => {
                begin(&mut out, GROUP, name);
                varint::put(&mut out, standing.scanned.get());
                varint::put(&mut out, standing.claims);
                out.push(u8::from(standing.paused));
                put_ranges(&mut out, &standing.gone);
                standing.definition.put(&mut out);
            }
            Control::Claimed { group, claim } => {
                begin(&mut out, CLAIMED, group);
                varint::put(&mut out, claim.claim);
                varint::put(&mut out, claim.time.as_nanos());
                varint::put(&mut out, claim.scanned.get());
                runs::put(&mut out, &claim.taken);
                runs::put(&mut out, &claim.held);
            }
            Control::Settled { group, settled } => {
                begin(&mut out, SETTLED, group);
                varint::put(&mut out, settled.claim);
                varint::put(&mut out, settled.time.as_nanos());
                runs::put(&mut out, &settled.ended);
                runs::put(&mut out, &settled.released);
                for failed in &settled.failed {
                    varint::put(&mut out, failed.position);
                    varint::put(&mut out, failed.not_before.as_nanos());
                    extras::put_text(&mut out, &failed.why);
                }
            }
            Control::Unsettled { group, rows } => {
                begin(&mut out, UNSETTLED, group);
                rows.iter().for_each(|row| row.put(&mut out));
            }
            Control::Letters { group, redriven, dropped } => {
                begin(&mut out, LETTERS, group);
                runs::put(&mut out, dropped);
                for (letter, position) in redriven {
                    varint::put(&mut out, *letter);
                    varint::put(&mut out, position.get());
                }
            }
            Control::Paused { group, paused } => {
                begin(&mut out, PAUSED, group);
                out.push(u8::from(*paused));
            }
            Control::Reset { group, scanned } => {
                begin(&mut out, RESET, group);
                varint::put(&mut out, scanned.get());
            }
            Control::Removed { name } => begin(&mut out, REMOVED, name),
            Control::Gap(gap) => gap.put(&mut out),
            Control::Kept(kept) => {
                out.push(KEPT);
                varint::put(&mut out, kept.oldest.get());
                put_rising(&mut out, &kept.heads);
            }
            Control::Dropped { stream, gone } => {
                begin(&mut out, DROPPED, stream);
                put_ranges(&mut out, gone);
            }
            Control::Purged { stream, gone } => {
                begin(&mut out, PURGED, stream);
                put_ranges(&mut out, gone);
            }
        }
        out
    }

    /// `None` when these bytes could not have been written by this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        let record = match kind {
            SEGMENTS => Control::Segments(take_rising(&mut rest)?),
            CHECKPOINT if rest.len() >= 10 => {
                let next = Position::new(u64_at(rest, 0));
                rest = &rest[8..];
                Control::Checkpoint { name: take_name(&mut rest)?, next }
            }
            CLOSED => Control::Closed,
            GROUP => {
                let name = take_name(&mut rest)?;
                let scanned = Position::new(varint::take(&mut rest)?);
                let claims = varint::take(&mut rest)?;
                let paused = take_bool(&mut rest)?;
                let gone = take_ranges(&mut rest)?;
                let definition = Definition::take(&mut rest)?;
                Control::Group { name, standing: Standing { definition, scanned, claims, paused, gone } }
            }
            CLAIMED => {
                let group = take_name(&mut rest)?;
                let claim = Claimed {
                    claim: varint::take(&mut rest)?,
                    time: Timestamp::from_nanos(varint::take(&mut rest)?),
                    scanned: Position::new(varint::take(&mut rest)?),
                    taken: runs::take(&mut rest)?,
                    held: runs::take(&mut rest)?,
                };
                // 0 stands for nothing that was handed out.
                if claim.claim == 0 && !claim.taken.is_empty() {
                    return None;
                }
                Control::Claimed { group, claim }
            }
            SETTLED => {
                let group = take_name(&mut rest)?;
                let mut settled = Settled {
                    claim: varint::take(&mut rest)?,
                    time: Timestamp::from_nanos(varint::take(&mut rest)?),
                    ended: runs::take(&mut rest)?,
                    released: runs::take(&mut rest)?,
                    failed: Vec::new(),
                };
                while !rest.is_empty() {
                    settled.failed.push(Failed {
                        position: varint::take(&mut rest)?,
                        not_before: Timestamp::from_nanos(varint::take(&mut rest)?),
                        why: take_text(&mut rest)?,
                    });
                }
                Control::Settled { group, settled }
            }
            UNSETTLED => {
                let group = take_name(&mut rest)?;
                let (mut rows, mut count) = (Vec::new(), 0);
                while !rest.is_empty() {
                    let row = Row::take(&mut rest)?;
                    count += row.count;
                    if count > runs::MOST as u64 {
                        return None;
                    }
                    rows.push(row);
                }
                Control::Unsettled { group, rows }
            }
            LETTERS => {
                let group = take_name(&mut rest)?;
                // Dead letters are counted from 1.
                let dropped = runs::take(&mut rest).filter(|dropped| dropped.first() != Some(&0))?;
                let mut redriven = Vec::new();
                while !rest.is_empty() {
                    let letter = varint::take(&mut rest).filter(|letter| *letter > 0)?;
                    redriven.push((letter, Position::new(varint::take(&mut rest)?)));
                }
                Control::Letters { group, redriven, dropped }
            }
            PAUSED => Control::Paused { group: take_name(&mut rest)?, paused: take_bool(&mut rest)? },
            RESET => {
                let group = take_name(&mut rest)?;
                Control::Reset { group, scanned: Position::new(varint::take(&mut rest)?) }
            }
            REMOVED => Control::Removed { name: take_name(&mut rest)? },
            gap::KIND => Control::Gap(Gap::take(&mut rest)?),
            KEPT => {
                let oldest = Position::new(varint::take(&mut rest)?);
                let heads = take_rising(&mut rest)?;
                // There is something before, and the files end there.
                if oldest <= Position::new(1) || heads.last().is_some_and(|last| *last >= oldest) {
                    return None;
                }
                Control::Kept(Kept { oldest, heads })
            }
            DROPPED => {
                let stream = take_name(&mut rest)?;
                Control::Dropped { stream, gone: take_ranges(&mut rest)? }
            }
            PURGED => {
                let stream = take_name(&mut rest)?;
                Control::Purged { stream, gone: take_ranges(&mut rest)? }
            }
            _ => return None,
        };
        rest.is_empty().then_some(record)
    }
}

/// Which of the optional parts a row has, below its attempts.
const HAS_CLAIM: u64 = 1;
const HAS_HISTORY: u64 = 2;

impl Row {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.first);
        varint::put(out, self.count - 1);
        let parts = if self.claim > 0 { HAS_CLAIM } else { 0 } | if self.history.is_some() { HAS_HISTORY } else { 0 };
        varint::put(out, u64::from(self.attempts) << 2 | parts);
        if self.claim > 0 {
            varint::put(out, self.claim);
            varint::put(out, self.handed_out.as_nanos());
        }
        if let Some(history) = &self.history {
            let times = [history.handed_out, history.first_failed, history.last_failed, history.not_before];
            times.iter().for_each(|time| varint::put(out, time.as_nanos()));
            varint::put(out, history.letter);
            extras::put_text(out, &history.why);
        }
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let first = varint::take(rest)?;
        let count = varint::take(rest)?.checked_add(1).filter(|count| *count <= runs::MOST as u64)?;
        first.checked_add(count)?;
        let head = varint::take(rest)?;
        let attempts = u32::try_from(head >> 2).ok()?;
        let (mut claim, mut handed_out) = (0, Timestamp::default());
        if head & HAS_CLAIM != 0 {
            claim = varint::take(rest).filter(|claim| *claim > 0)?;
            handed_out = Timestamp::from_nanos(varint::take(rest)?);
        }
        let history = if head & HAS_HISTORY == 0 {
            None
        } else {
            let mut time = || varint::take(rest).map(Timestamp::from_nanos);
            let (handed_out, first_failed, last_failed, not_before) = (time()?, time()?, time()?, time()?);
            let letter = varint::take(rest)?;
            Some(History { handed_out, first_failed, last_failed, not_before, letter, why: take_text(rest)? })
        };
        (history.is_none() || count == 1).then_some(Self { first, count, attempts, claim, handed_out, history })
    }
}

fn begin(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    extras::put_text(out, name);
}

fn take_name(rest: &mut &[u8]) -> Option<String> {
    take_text(rest).filter(|name| names::is_sound(name.as_bytes()))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    extras::take_text(rest).filter(|text| text.len() <= WHY).map(str::to_owned)
}

fn take_bool(rest: &mut &[u8]) -> Option<bool> {
    let (&byte, behind) = rest.split_first()?;
    *rest = behind;
    (byte < 2).then_some(byte == 1)
}

/// Rising positions up to the end, each as the difference to the one before.
fn put_rising(out: &mut Vec<u8>, positions: &[Position]) {
    let mut before = 0;
    for position in positions {
        varint::put(out, position.get() - before);
        before = position.get();
    }
}

fn take_rising(rest: &mut &[u8]) -> Option<Vec<Position>> {
    let (mut positions, mut last) = (Vec::new(), 0u64);
    while !rest.is_empty() {
        last = varint::take(rest).filter(|step| *step > 0).and_then(|step| last.checked_add(step))?;
        positions.push(Position::new(last));
    }
    Some(positions)
}

fn put_ranges(out: &mut Vec<u8>, ranges: &[(u64, u64)]) {
    varint::put(out, ranges.len() as u64);
    let mut before = 0;
    for (first, last) in ranges {
        varint::put(out, first - before);
        varint::put(out, last - first);
        before = *last;
    }
}

fn take_ranges(rest: &mut &[u8]) -> Option<Vec<(u64, u64)>> {
    let (mut ranges, mut before) = (Vec::new(), 0u64);
    for _ in 0..varint::take(rest)? {
        let first = varint::take(rest).filter(|step| *step > 0).and_then(|step| before.checked_add(step))?;
        before = first.checked_add(varint::take(rest)?)?;
        ranges.push((first, before));
    }
    Some(ranges)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::event::query::Query;
    use crate::format::gap::Reason;

    pub(crate) fn examples() -> Vec<Control> {
        let group = || "mail".to_owned();
        let time = Timestamp::from_nanos(1_700_000_000_000_000_000);
        let filter =
            Query::new().stream("a").types(["b"]).or(Query::new().tags(["c", "d"])).or(Query::new().subject("e.>"));
        let definition =
            Definition { start: 3, start_at: 17, order: 2, order_tag: "customer:".into(), parks: true, filter };
        let standing =
            Standing { definition, scanned: Position::new(99), claims: 4, paused: true, gone: vec![(1, 1), (3, 9)] };
        let history = History { handed_out: time, letter: 2, why: "no such plane".into(), ..History::default() };
        let row = Row { first: 4, count: 300, attempts: 1, claim: 9, handed_out: time, history: None };
        let failed = Failed { position: 12, not_before: time, why: "timeout".into() };
        vec![
            Control::Segments(vec![Position::new(1), Position::new(7)]),
            Control::Checkpoint { name: group(), next: Position::new(5) },
            Control::Closed,
            Control::Group { name: group(), standing },
            Control::Claimed {
                group: group(),
                claim: Claimed { claim: 3, time, scanned: Position::new(9), taken: vec![1, 2, 3], held: vec![4] },
            },
            Control::Settled {
                group: group(),
                settled: Settled { claim: 3, time, ended: vec![1, 2], released: vec![9], failed: vec![failed] },
            },
            Control::Unsettled {
                group: group(),
                rows: vec![
                    row.clone(),
                    Row {
                        first: 900,
                        count: 1,
                        claim: 0,
                        handed_out: Timestamp::default(),
                        history: Some(history),
                        ..row
                    },
                ],
            },
            Control::Letters { group: group(), redriven: vec![(2, Position::new(7))], dropped: vec![1, 4] },
            Control::Paused { group: group(), paused: false },
            Control::Reset { group: group(), scanned: Position::START },
            Control::Removed { name: group() },
            Control::Gap(Gap { reason: Reason::Lost, positions: 300, why: "the checksum does not fit".into() }),
            Control::Gap(Gap { reason: Reason::Removed, positions: 1, why: String::new() }),
            Control::Kept(Kept { oldest: Position::new(843), heads: vec![Position::new(1), Position::new(600)] }),
            Control::Dropped { stream: "cart-1".into(), gone: vec![(1, 41), (43, 43)] },
            Control::Purged { stream: "cart-1".into(), gone: vec![(1, 41)] },
        ]
    }

    #[test]
    fn records_read_back_and_no_cut_or_longer_one_is_taken_for_another() {
        for record in examples() {
            let bytes = record.encode();
            assert_eq!(Control::decode(&bytes).as_ref(), Some(&record));
            let mut longer = bytes.clone();
            longer.push(0xff);
            assert_ne!(Control::decode(&longer).as_ref(), Some(&record), "bytes behind it were passed over");
            for cut in 0..bytes.len() {
                assert_ne!(Control::decode(&bytes[..cut]), Some(record.clone()), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_few_bytes_never_stand_for_many_rows() {
        let row =
            Row { first: 1, count: 60_000, attempts: 1, claim: 0, handed_out: Timestamp::default(), history: None };
        let one = Control::Unsettled { group: "g".into(), rows: vec![row.clone()] };
        assert!(Control::decode(&one.encode()).is_some());
        let two = Control::Unsettled { group: "g".into(), rows: vec![row.clone(), row] };
        assert_eq!(Control::decode(&two.encode()), None);
    }
}
