//! Consumer groups: each event goes to one of the members, is settled by itself, and comes again until it is.

mod choose;
mod core;
mod lanes;
pub(crate) mod letter;
pub(crate) mod member;
mod parked;
mod run;
mod unwritten;

pub use member::Member;

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::canal::group::core::Core;
use crate::canal::retry::Retry;
use crate::canal::{Start, cursor};
use crate::error::{Error, Result};
use crate::event::query::Query;
use crate::format::control::{Control, Standing};
use crate::format::definition::Definition;
use crate::format::term::{Kind, Term};
use crate::format::{limits, names};
use crate::id::Position;
use crate::log::event::Event;
use crate::store::Store;
use crate::sync::guard;
use crate::writer::commit::Commit;

/// Which deliveries must be handled one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// None: members take what comes.
    #[default]
    None,
    /// Those of one stream.
    Stream,
    /// Those whose first tag that begins with this text is the same, such as `customer:`. Events without such a tag stand in no
    /// order.
    Tag(String),
}

impl Order {
    fn key(&self, event: &Event<'_>) -> Option<u64> {
        match self {
            Order::None => None,
            Order::Stream => Some(Term::of(Kind::Stream, event.stream().as_bytes()).0),
            Order::Tag(prefix) => {
                let tag = event.tags().find(|tag| tag.starts_with(prefix.as_str()));
                tag.map(|tag| Term::of(Kind::Tag, tag.as_bytes()).0)
            }
        }
    }
}

/// What a delivery that fails for good means for what follows under its order key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// What follows waits while the delivery is tried again, and goes on once it is a dead letter.
    #[default]
    Hold,
    /// What follows becomes dead letters, too, until all of the key were redriven or dropped: nothing ever overtakes.
    Park,
}

/// What a group does; the same for all its members in a process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    start: Start,
    filter: Query,
    order: Order,
    on_failure: OnFailure,
    lease: Duration,
    retry: Retry,
    max_in_flight: u32,
    expire_after: Option<Duration>,
    dedicated: bool,
}

impl Settings {
    /// What is not the same in the other ones.
    fn differing(&self, other: &Settings) -> &'static str {
        let same = [
            ("start", self.start == other.start),
            ("filter", self.filter == other.filter),
            ("order", self.order == other.order),
            ("way with failures", self.on_failure == other.on_failure),
            ("lease", self.lease == other.lease),
            ("retry policy", self.retry == other.retry),
            ("limit on deliveries in flight", self.max_in_flight == other.max_in_flight),
            ("age at which events expire", self.expire_after == other.expire_after),
        ];
        same.iter().find(|(_, same)| !same).map_or("number of members", |(what, _)| what)
    }
}

/// How a group is opened: [`Store::group`] begins it.
#[derive(Clone, Debug)]
#[must_use = "a group is opened by `open`"]
pub struct GroupBuilder {
    store: Store,
    name: String,
    settings: Settings,
}

/// A consumer group of this process: it makes the members that pull from it.
///
/// Which deliveries are unsettled, how often they were tried and when they may come again lies in the log: after a crash
/// every one that was not settled comes again, its attempts counted. Clones are the same group, and so is every other one
/// that was opened under the name.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-group-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # let store = towpath::Store::open(&dir)?;
/// use std::time::Duration;
/// use towpath::{Canal, NewEvent, Order, Settlement};
///
/// store.append("order-1", NewEvent::new("placed", ""))?;
/// let group = store.group("billing").order(Order::Stream).open()?;
/// let mut member = group.member()?;
/// for delivery in &member.pull_batch(100, Duration::ZERO)? {
///     assert_eq!((delivery.type_name(), delivery.attempt()), ("placed", 1));
///     member.settle(delivery.token(), Settlement::Done)?;
/// }
/// # drop(member);
/// # drop(group);
/// # drop(store);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    store: Store,
    core: Arc<Core>,
}

/// How many deliveries of a group may be in the hands of its members at once, unless set.
const IN_FLIGHT: u32 = 10_000;

/// How long a delivery belongs to whom it was handed to, unless set.
const LEASE: Duration = Duration::from_secs(30);

/// Bytes that a group's filter may take in the log: it is written again in each segment.
const DEFINITION: usize = 32 << 10;

impl Store {
    /// Begins a consumer group. It is made when it is opened for the first time.
    pub fn group(&self, name: impl Into<String>) -> GroupBuilder {
        let settings = Settings {
            start: Start::Beginning,
            filter: Query::new(),
            order: Order::None,
            on_failure: OnFailure::Hold,
            lease: LEASE,
            retry: Retry::default(),
            max_in_flight: IN_FLIGHT,
            expire_after: None,
            dedicated: false,
        };
        GroupBuilder { store: self.clone(), name: name.into(), settings }
    }

    /// Does something to a group that nobody may open meanwhile. `None`: it is not open in this process.
    pub(crate) fn with_group<T>(&self, name: &str, act: impl FnOnce(Option<&Group>) -> Result<T>) -> Result<T> {
        // Within a rule the lock may never come.
        self.writer()?.check_may_wait()?;
        let shared = guard(&self.inner.shared);
        let core = shared.get(name).and_then(Weak::upgrade).and_then(|core| core.downcast::<Core>().ok());
        let group = core.map(|core| Group { store: self.clone(), core });
        let done = act(group.as_ref());
        drop(shared);
        done
    }

    /// The group of this name, if it is open in this process.
    pub(crate) fn open_group(&self, name: &str) -> Option<Group> {
        let shared = guard(&self.inner.shared).get(name).and_then(Weak::upgrade)?;
        let core = shared.downcast::<Core>().ok()?;
        Some(Group { store: self.clone(), core })
    }
}

impl GroupBuilder {
    /// Where the group begins when it is made. May not change afterwards.
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// Only events that the query means. May not change while the group has this name.
    pub fn filter(mut self, query: Query) -> Self {
        self.settings.filter = if query.is_all() { Query::new() } else { query };
        self
    }

    /// Which deliveries must be handled one after the other. May not change while the group has this name.
    pub fn order(mut self, order: Order) -> Self {
        self.settings.order = order;
        self
    }

    /// What a dead letter means for what follows under its order key. May not change while the group has this name.
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.settings.on_failure = on_failure;
        self
    }

    /// How long a delivery belongs to whom it was handed to; afterwards it goes to somebody else. 30 s unless set, at
    /// least 1 ms.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(1));
        self
    }

    /// How often a delivery is tried, and how long to wait in between.
    ///
    /// All of a batch counts as tried when it is handed out. What was in a batch that nobody answered for (a process that
    /// ended, a lease that ran out) comes again alone, so that no other can be blamed for it; with one attempt only
    /// there is no such second time, and all of the batch become dead letters.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How many deliveries may be in the hands of all members at once, those handed out again included; 10,000 unless
    /// set, at least 1.
    pub fn max_in_flight(mut self, deliveries: u32) -> Self {
        self.settings.max_in_flight = deliveries.max(1);
        self
    }

    /// Events that have waited for longer become dead letters instead of being handed out.
    pub fn expire_after(mut self, age: Duration) -> Self {
        self.settings.expire_after = Some(age);
        self
    }

    /// One member at a time; a second one is refused.
    pub fn dedicated(mut self) -> Self {
        self.settings.dedicated = true;
        self
    }

    /// Opens the group, and makes it if it is new.
    ///
    /// # Errors
    /// [`Error::ConsumerDiffers`] when it exists and was made with another start, filter, order, or way with failures, or is open
    /// in this process with other settings. [`Error::ConsumerBusy`] when a cursor of this name is open, and
    /// [`Error::ConsumerDiffers`] when one has a checkpoint. [`Error::Expired`] when it was to begin before the oldest event that is
    /// kept. [`Error::Invalid`] and [`Error::TooLarge`] for names that cannot be used, in the filter, too.
    /// [`Error::ReadOnly`], and what an append can fail with.
    pub fn open(self) -> Result<Group> {
        let Self { store, name, settings } = self;
        names::check_users("consumer name", &name)?;
        store.writer()?.check_may_wait()?;
        let definition = definition(&settings)?;
        let own = format!("{}{name}", letter::STREAMS);
        if settings.filter.items.iter().any(|item| item.streams.contains(&own)) {
            let why = "a group that handled its own dead letters would never come to an end";
            return Err(Error::invalid("stream of a group's filter", &own, why));
        }
        // One at a time, so that two who open it get the same one.
        let mut shared = guard(&store.inner.shared);
        if let Some(core) = shared.get(&name).and_then(Weak::upgrade).and_then(|core| core.downcast::<Core>().ok()) {
            if core.settings != settings {
                let what = format!("another {} in this process", core.settings.differing(&settings));
                return Err(Error::ConsumerDiffers { name, what });
            }
            return Ok(Group { store: store.clone(), core });
        }
        let owned = store.inner.owners.take(&name).ok_or_else(|| Error::ConsumerBusy { name: name.clone() })?;
        let (known, is_cursor, consumers) = {
            let state = guard(&store.inner.log.state);
            (state.groups.get(&name).cloned(), state.checkpoints.contains_key(&name), state.consumers())
        };
        if is_cursor {
            return Err(Error::ConsumerDiffers { name, what: "a cursor's checkpoint".to_owned() });
        }
        if let Some(ledger) = &known {
            let differs = differs(&guard(ledger).definition, &definition);
            if let Some(what) = differs {
                return Err(Error::ConsumerDiffers { name, what });
            }
        } else {
            if consumers >= limits::CONSUMERS {
                let (what, limit) = ("store's consumers", limits::CONSUMERS as u64);
                return Err(Error::TooLarge { what, size: limit + 1, limit });
            }
            let next = cursor::resolve(&store, settings.start)?;
            let oldest = store.oldest();
            if next < oldest {
                return Err(Error::Expired { asked: next, oldest });
            }
            let standing = Standing { definition, scanned: next.previous(), ..Standing::default() };
            let mut commit = Commit::new();
            commit.control(&Control::Group { name: name.clone(), standing });
            store.writer()?.commit(&commit)?;
        }
        let ledger = guard(&store.inner.log.state).groups.get(&name).cloned();
        let ledger = ledger.ok_or(Error::Closed)?;
        let core = Arc::new(Core::new(&store, owned, settings, ledger)?);
        shared.retain(|_, core| core.strong_count() > 0);
        let any: Arc<dyn Any + Send + Sync> = core.clone();
        shared.insert(name, Arc::downgrade(&any));
        drop(shared);
        Ok(Group { store, core })
    }
}

impl Group {
    /// A member: a canal that pulls from the group. Dropping it gives what it holds to the others.
    ///
    /// # Errors
    /// [`Error::ConsumerBusy`] when the group is dedicated and has one.
    pub fn member(&self) -> Result<Member> {
        self.store.writer()?.check_may_wait()?;
        Member::new(self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// How many members it has.
    pub fn members(&self) -> u32 {
        self.core.members()
    }

    /// How many deliveries are in the hands of its members.
    pub fn in_flight(&self) -> u32 {
        self.core.in_flight()
    }

    /// How many positions are between the group and the head: those that it has not looked at, of which some may not be
    /// meant, and deliveries that are not settled.
    pub fn lag(&self) -> u64 {
        self.core.lag(&self.store)
    }

    /// Hands out nothing until [`resume`](Group::resume), also after the store was closed and opened again. What is in hand
    /// can be settled.
    ///
    /// # Errors
    /// What an append can fail with.
    pub fn pause(&self) -> Result<()> {
        self.store.pause_consumer(self.name())
    }

    /// Hands out deliveries again.
    ///
    /// # Errors
    /// What an append can fail with.
    pub fn resume(&self) -> Result<()> {
        self.store.resume_consumer(self.name())
    }

    /// Wakes members that wait for something to be handed out.
    pub(crate) fn tell(&self) {
        self.core.tell(&self.store);
    }

    /// Goes on behind another position.
    pub(crate) fn seek(&self, scanned: Position) -> Result<()> {
        self.core.seek(&self.store, scanned)
    }

    /// Hands the sources of dead letters out again, and says how many.
    pub(crate) fn redrive(&self, letters: &[(u64, Position)]) -> Result<u64> {
        self.core.redrive(&self.store, letters)
    }

    /// Takes in that dead letters were dropped.
    pub(crate) fn letters_dropped(&self) -> Result<()> {
        self.core.letters_dropped(&self.store)
    }
}

/// What may not change while a group has its name.
fn definition(settings: &Settings) -> Result<Definition> {
    let mut size = 0;
    for item in &settings.filter.items {
        for (what, texts) in item.lists() {
            for text in texts {
                names::check(what, text)?;
                size += text.len() + 2;
            }
        }
    }
    let (order, order_tag) = match &settings.order {
        Order::None => (0, String::new()),
        Order::Stream => (1, String::new()),
        Order::Tag(prefix) => {
            names::check("beginning of an order tag", prefix)?;
            (2, prefix.clone())
        }
    };
    if size > DEFINITION {
        let (size, limit) = (size as u64, DEFINITION as u64);
        return Err(Error::TooLarge { what: "group's filter", size, limit });
    }
    let (start, start_at) = match settings.start {
        Start::Beginning => (0, 0),
        Start::End => (1, 0),
        Start::At(position) => (2, position.get()),
        Start::Time(time) => (3, time.as_nanos()),
    };
    let parks = settings.on_failure == OnFailure::Park;
    Ok(Definition { start, start_at, order, order_tag, parks, filter: settings.filter.clone() })
}

/// What a group was made with and is not opened with.
fn differs(kept: &Definition, asked: &Definition) -> Option<String> {
    if (kept.start, kept.start_at) != (asked.start, asked.start_at) {
        let start = match kept.start {
            0 => "the beginning of the log".to_owned(),
            1 => "the end of the log at that time".to_owned(),
            2 => format!("position {}", kept.start_at),
            _ => format!("events from {} ns since 1970 on", kept.start_at),
        };
        return Some(format!("another start: {start}"));
    }
    if (kept.order, &kept.order_tag) != (asked.order, &asked.order_tag) {
        let order = match kept.order {
            0 => "none".to_owned(),
            1 => "by stream".to_owned(),
            _ => format!("by tags that begin with {:?}", kept.order_tag),
        };
        return Some(format!("another order: {order}"));
    }
    if kept.parks != asked.parks {
        let way = if kept.parks { "parks" } else { "goes on with" };
        return Some(format!("another way with failures: it {way} what follows"));
    }
    (kept.filter != asked.filter).then(|| "another filter".to_owned())
}
