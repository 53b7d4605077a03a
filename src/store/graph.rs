//! The causal graph: what brought an event about, and what it brought about.

use std::collections::{BTreeMap, HashSet, VecDeque};

use crate::error::{Error, Result};
use crate::format::extras;
use crate::format::term::Kind;
use crate::id::{EventId, Position};
use crate::log::event::Event;
use crate::log::reader::Reader;
use crate::log::terms::Filter;
use crate::store::Store;

impl Store {
    /// The causes of an event, nearest first: the event that its causation names, that one's cause, and so on, up to
    /// one that names none or one that does not stand in this store. Empty for an unknown event.
    ///
    /// # Errors
    /// [`Error::CausalLoop`] when the causes lead back, which ids of one's own make possible.
    pub fn causes(&self, of: &EventId) -> Result<Vec<Event<'static>>> {
        let mut causes = Vec::new();
        let Some(event) = self.event_by_id(of)? else { return Ok(causes) };
        let mut seen = HashSet::from([event.position()]);
        let mut next = event.causation();
        while let Some(id) = next {
            let Some(cause) = self.event_by_id(&id)? else { break };
            if !seen.insert(cause.position()) {
                return Err(Error::CausalLoop { at: id });
            }
            next = cause.causation();
            causes.push(cause);
        }
        Ok(causes)
    }

    /// Everything that an event brought about, directly and through others, in the order of the log. Empty for an
    /// unknown event. Costs memory for all of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an effect could stand in a damaged stretch.
    pub fn effects(&self, of: &EventId) -> Result<Vec<Event<'static>>> {
        let Some(event) = self.event_by_id(of)? else { return Ok(Vec::new()) };
        let mut effects: BTreeMap<Position, Event<'static>> = BTreeMap::new();
        let mut left = VecDeque::from([event.clone()]);
        while let Some(cause) = left.pop_front() {
            for effect in self.direct_effects(&cause)? {
                if effect.position() != event.position() && !effects.contains_key(&effect.position()) {
                    effects.insert(effect.position(), effect.clone());
                    left.push_back(effect);
                }
            }
        }
        Ok(effects.into_values().collect())
    }

    /// Everything that bears a correlation id, in the order of the log.
    pub fn correlated(&self, correlation: &str) -> Reader {
        self.read_filtered(Filter::Exactly(Kind::Correlation, correlation.as_bytes().to_vec()))
    }

    /// An event can be named by the id it was given and by its place.
    fn direct_effects(&self, of: &Event<'_>) -> Result<Vec<Event<'static>>> {
        let place = EventId::Place { store: self.id(), position: of.position() };
        let mut effects = Vec::new();
        for id in of.own_id().map(EventId::Own).into_iter().chain([place]) {
            let mut text = Vec::new();
            extras::put_cause(&mut text, &id);
            for effect in self.read_filtered(Filter::Exactly(Kind::Causation, text)) {
                effects.push(effect?);
            }
        }
        Ok(effects)
    }
}
