//! D2, G3, G8, L5, X2: a group that settles with results, rejections and retries, and a cursor that keeps a checkpoint.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use towpath::{
    Canal as _, Commit, Cursor, Member, NewEvent, Options, Order, Query, Reason, Retry, Settlement, Store,
    Transact as _,
};

use super::append::payload;
use super::{Marks, Story, marked, wrong};

const ROUNDS: u64 = 24;
const A_ROUND: u64 = 4;
const WORK: &str = "work";
const READER: &str = "reader";
const RESULTS: &str = "results";

pub(crate) const STORY: Story = Story { name: "group settlements and checkpoints", run, check };

fn open(root: &Path) -> towpath::Result<Store> {
    // Small enough for the state of the group to be written again and again at the head of a segment.
    Options::new().segment_bytes(128 << 10).open(root.join("store"))
}

fn sources() -> Query {
    Query::new().category("p")
}

fn member(store: &Store) -> towpath::Result<Member> {
    let retry = Retry::fixed(Duration::ZERO).attempts(u32::MAX);
    store.group(WORK).order(Order::Stream).retry(retry).filter(sources()).open()?.member()
}

fn reader(store: &Store) -> towpath::Result<Cursor> {
    store.cursor(READER).filter(sources()).open()
}

fn run(root: &Path, marks: &Marks) {
    let store = open(root).unwrap();
    let (mut member, mut reader) = (member(&store).unwrap(), reader(&store).unwrap());
    for round in 0..ROUNDS {
        for number in round * A_ROUND + 1..=(round + 1) * A_ROUND {
            append(&store, number, marks).unwrap();
        }
        work(&mut member, 3 + round as usize % 4, marks).unwrap();
        let batch = reader.pull_batch(5, Duration::ZERO).unwrap();
        if let Some(token) = batch.last() {
            reader.settle(token, Settlement::Done).unwrap();
        }
        // A settlement waits for no sync of its own: this is the one.
        if round % 3 == 0 {
            member.flush().unwrap();
            reader.flush().unwrap();
            store.sync().unwrap();
            marks.mark(format_args!("C {}", reader.checkpoint()));
        }
    }
}

fn append(store: &Store, number: u64, marks: &Marks) -> towpath::Result<()> {
    let mut content = number.to_le_bytes().to_vec();
    content.extend(payload(number));
    store.append(&format!("p-{}", number % 5), NewEvent::new("n", &content))?;
    marks.mark(format_args!("E {number}"));
    Ok(())
}

/// What is done with a delivery hangs on its position and attempt. Says how many there were.
fn work(member: &mut Member, most: usize, marks: &Marks) -> towpath::Result<usize> {
    let batch = member.pull_batch(most, Duration::ZERO)?;
    let mut held_up = BTreeSet::new();
    for delivery in &batch {
        let position = delivery.position().get();
        if held_up.contains(&delivery.order_key()) {
            continue;
        }
        if position % 7 == 0 {
            let settlement = Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() };
            member.settle(delivery.token(), settlement)?;
            if position % 2 == 0 {
                // A dead letter is an event, and synced as one.
                member.flush()?;
                marks.mark(format_args!("L {position}"));
            }
        } else if position % 5 == 0 && delivery.attempt() < 3 {
            let settlement = Settlement::Retry { after: Some(Duration::ZERO), why: "busy".to_owned() };
            member.settle(delivery.token(), settlement)?;
            held_up.insert(delivery.order_key());
        } else {
            let mut commit = Commit::new();
            commit.event(RESULTS, NewEvent::new("r", &position.to_le_bytes()));
            member.commit_and_settle(&mut commit, &[delivery.token()])?;
            marks.mark(format_args!("R {position}"));
        }
    }
    Ok(batch.len())
}

/// What stands in the store: sources, and what became of them.
#[derive(Default)]
struct Ended {
    sources: BTreeSet<u64>,
    results: BTreeSet<u64>,
    letters: BTreeSet<u64>,
}

impl Ended {
    fn of(store: &Store) -> Result<Self, String> {
        let mut ended = Self::default();
        for event in store.read(sources()) {
            let event = event.map_err(wrong)?;
            ended.sources.insert(event.position().get());
            let number = ended.sources.len() as u64;
            let (stored, rest) = event.payload().split_at(8);
            if stored != number.to_le_bytes() || rest != payload(number) {
                return Err(format!("{} is not the source with number {number}", event.position()));
            }
        }
        for result in store.read(Query::new().stream(RESULTS)) {
            let source = u64::from_le_bytes(result.map_err(wrong)?.payload().try_into().map_err(wrong)?);
            if !ended.sources.contains(&source) || !ended.results.insert(source) {
                return Err(format!("{source} has two results, or there is no such source"));
            }
        }
        for letter in store.dead_letters(WORK).map_err(wrong)?.iter().map_err(wrong)? {
            let source = letter.map_err(wrong)?.source_position().get();
            if !ended.sources.contains(&source) || ended.results.contains(&source) || !ended.letters.insert(source) {
                return Err(format!("{source} is a dead letter and has another end, or there is no such source"));
            }
        }
        Ok(ended)
    }

    fn check(&self, store: &Store, known: &[&str]) -> Result<(), String> {
        if let Some(lost) = marked(known, "E").max().filter(|number| *number > self.sources.len() as u64) {
            return Err(format!("source {lost} was acknowledged, and {} are there", self.sources.len()));
        }
        for (kind, there) in [("R", &self.results), ("L", &self.letters)] {
            if let Some(lost) = marked(known, kind).find(|position| !there.contains(position)) {
                return Err(format!("what became of {lost} was acknowledged and is not there: {kind}"));
            }
        }
        let head = store.head();
        for consumer in store.consumers().map_err(wrong)? {
            if consumer.position > head.next() {
                return Err(format!("{consumer:?} is ahead of the log, which ends with {head}"));
            }
            let told = marked(known, "C").max();
            if consumer.name == READER && told.is_some_and(|told| consumer.position.get() < told) {
                return Err(format!("{consumer:?} was at {told:?}"));
            }
        }
        for one in store.unsettled(WORK).map_err(wrong)? {
            let position = one.position.get();
            if self.results.contains(&position) || self.letters.contains(&position) || one.position > head {
                return Err(format!("{one:?} has ended, or was never there"));
            }
        }
        Ok(())
    }
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = open(root).map_err(wrong)?;
    let knows =
        |name: &str| Ok::<_, String>(store.consumers().map_err(wrong)?.iter().any(|consumer| consumer.name == name));
    // Whoever is to have a checkpoint is known before it is opened again.
    if marked(known, "C").next().is_some() && !knows(READER)? {
        return Err("the cursor's checkpoint is gone".to_owned());
    }
    let was_known = knows(WORK)?;
    if !was_known && marked(known, "E").next().is_some() {
        return Err("the group is gone".to_owned());
    }
    let (mut member, reader) = (member(&store).map_err(wrong)?, reader(&store).map_err(wrong)?);
    let ended = Ended::of(&store)?;
    ended.check(&store, known)?;
    drop(reader);
    // In the end every source has ended, once.
    append(&store, ended.sources.len() as u64 + 1, marks).map_err(wrong)?;
    while work(&mut member, 10, marks).map_err(wrong)? > 0 {}
    member.flush().map_err(wrong)?;
    let ended = Ended::of(&store)?;
    if ended.results.union(&ended.letters).ne(&ended.sources) {
        return Err(format!("not all have ended: {:?} and {:?}", ended.results, ended.letters));
    }
    drop(member);
    store.close().map_err(wrong)
}
