//! Dead letters as events: the whole event that failed, and in front of its own headers what became of it.

use crate::canal::Reason;
use crate::event::draft::NewEvent;
use crate::format::control::{History, WHY};
use crate::format::{extras, limits, names};
use crate::id::{EventId, Position, Revision, Timestamp};
use crate::log::event::Event;
use crate::writer::commit::Commit;

/// What the streams of dead letters begin with; the group's name follows.
pub(crate) const STREAMS: &str = names::DEAD_LETTERS;

/// The type of a dead letter that stands for damaged bytes, whose events nobody can read.
pub(crate) const DAMAGED: &str = "$damaged";

/// The first header: how many of the headers, this one included, were put there by the group.
const OWN: &str = "$letter";
const REASON: &str = "$reason";
const ERROR: &str = "$error";
const ATTEMPTS: &str = "$attempts";
const GROUP: &str = "$group";
const POSITION: &str = names::DEAD_POSITION;
const STREAM: &str = "$stream";
const REVISION: &str = "$revision";
const HANDED_OUT: &str = "$first-handed-out";
const FIRST_FAILED: &str = "$first-failed";
const LAST_FAILED: &str = "$last-failed";
const ORDER_KEY: &str = "$order-key";
const REPLACES: &str = "$replaces";
const LOST: &str = "$lost";
const CUT: &str = "$cut";

/// What became of a delivery.
#[derive(Clone, Debug)]
pub(super) struct Fate<'a> {
    pub(super) group: &'a str,
    pub(super) reason: Reason,
    pub(super) why: &'a str,
    pub(super) attempts: u32,
    pub(super) handed_out: Timestamp,
    pub(super) history: Option<&'a History>,
    pub(super) now: Timestamp,
    /// The order key, where what follows is parked.
    pub(super) key: Option<u64>,
}

/// What stands in front of a dead letter's own headers.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) own: usize,
    pub(crate) reason: Reason,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) group: String,
    pub(crate) position: Position,
    pub(crate) stream: Option<String>,
    pub(crate) revision: Option<Revision>,
    pub(crate) handed_out: Option<Timestamp>,
    pub(crate) first_failed: Timestamp,
    pub(crate) last_failed: Timestamp,
    pub(crate) key: Option<u64>,
    pub(crate) replaces: Option<Revision>,
    /// How many positions are lost, of a damaged stretch.
    pub(crate) lost: Option<u64>,
}

/// Adds a dead letter to a commit.
pub(super) fn write(commit: &mut Commit, source: &Event<'_>, fate: &Fate<'_>) {
    let mut headers = fate.headers(source.position());
    headers.push((STREAM, source.stream().to_owned()));
    headers.push((REVISION, source.revision().to_string()));
    let mut letter = NewEvent::encoded(source.type_name(), source.codec(), source.payload())
        .causation(EventId::Place { store: source.store(), position: source.position() })
        .tags(source.tags());
    letter.occurred = source.occurred();
    letter.schema_version = Some(source.schema_version()).filter(|version| *version > 0);
    letter.correlation = source.correlation().map(Into::into);
    set_headers(&mut letter, headers.clone(), source.headers());
    // Names and reasons come on top of what the event has, and there is a limit for all of it. The event itself stands
    // in the log, with everything.
    if extras::size(&letter) > limits::EXTRAS {
        headers.push((CUT, "headers".to_owned()));
        set_headers(&mut letter, headers.clone(), std::iter::empty());
    }
    if extras::size(&letter) > limits::EXTRAS {
        letter.tags.clear();
        headers.pop();
        headers.push((CUT, "headers, tags".to_owned()));
        set_headers(&mut letter, headers, std::iter::empty());
    }
    commit.own_event(&format!("{STREAMS}{}", fate.group), letter);
}

/// Adds the dead letter of a damaged stretch: nothing of its events is left to be shown.
pub(super) fn write_damage(commit: &mut Commit, position: Position, lost: u64, fate: &Fate<'_>) {
    let mut letter = NewEvent::new(DAMAGED, "");
    let mut headers = fate.headers(position);
    headers.push((LOST, lost.to_string()));
    set_headers(&mut letter, headers, std::iter::empty());
    commit.own_event(&format!("{STREAMS}{}", fate.group), letter);
}

impl Fate<'_> {
    fn headers(&self, position: Position) -> Vec<(&'static str, String)> {
        let time = |time: Timestamp| time.as_nanos().to_string();
        let failed = self.history.map_or(self.now, |history| history.first_failed);
        let failed = if failed == Timestamp::default() { self.now } else { failed };
        let mut headers = vec![
            (REASON, self.reason.as_str().to_owned()),
            (ERROR, cut(self.why).to_owned()),
            (ATTEMPTS, self.attempts.to_string()),
            (GROUP, self.group.to_owned()),
            (POSITION, position.to_string()),
            (FIRST_FAILED, time(failed)),
            (LAST_FAILED, time(self.now)),
        ];
        if self.handed_out > Timestamp::default() {
            headers.push((HANDED_OUT, time(self.handed_out)));
        }
        if let Some(key) = self.key {
            headers.push((ORDER_KEY, format!("{key:016x}")));
        }
        if let Some(history) = self.history.filter(|history| history.letter > 0) {
            headers.push((REPLACES, history.letter.to_string()));
        }
        headers
    }
}

impl Head {
    /// What stands in front of a dead letter's headers. `None` for an event that no group wrote.
    pub(crate) fn of(letter: &Event<'_>) -> Option<Self> {
        let mut headers = letter.headers();
        let own: usize = headers.next().filter(|(name, _)| *name == OWN)?.1.parse().ok()?;
        let own_headers: Vec<(&str, &str)> = headers.take(own.checked_sub(1)?).collect();
        let text = |name: &str| own_headers.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
        let time = |name: &str| number(name).map(Timestamp::from_nanos);
        Some(Self {
            own,
            reason: Reason::parse(text(REASON)?)?,
            error: text(ERROR)?.to_owned(),
            attempts: text(ATTEMPTS)?.parse().ok()?,
            group: text(GROUP)?.to_owned(),
            position: Position::new(number(POSITION)?),
            stream: text(STREAM).map(str::to_owned),
            revision: number(REVISION).map(Revision::new),
            handed_out: time(HANDED_OUT),
            first_failed: time(FIRST_FAILED)?,
            last_failed: time(LAST_FAILED)?,
            key: text(ORDER_KEY).and_then(|text| u64::from_str_radix(text, 16).ok()),
            replaces: number(REPLACES).map(Revision::new),
            lost: number(LOST),
        })
    }
}

fn set_headers<'a>(
    letter: &mut NewEvent<'a>,
    own: Vec<(&'static str, String)>,
    rest: impl Iterator<Item = (&'a str, &'a str)>,
) {
    letter.headers = vec![(OWN.into(), (own.len() + 1).to_string().into())];
    letter.headers.extend(own.into_iter().map(|(name, value)| (name.into(), value.into())));
    letter.headers.extend(rest.map(|(name, value)| (name.into(), value.into())));
}

/// The beginning of a text, as much as is kept.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=WHY.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
