//! Old segments are let go of, and dead letters are handed out again or forgotten.

use crate::canal::dead::DeadLetter;
use crate::error::Result;
use crate::id::Position;
use crate::log::retain::Retention;
use crate::simulation::consumers::{AUDIT, COPIER, SHIPPER};
use crate::simulation::model::{BILLER, Check, MAIL, ensure};
use crate::simulation::world::World;
use crate::store::Store;

/// So many turns consumers take to catch up, as far as they come.
const CATCHES_UP: u32 = 5;

impl World {
    /// Consumers catch up, mostly, and then old segments go as far as nobody needs them.
    pub(super) fn let_go(&mut self) -> Check {
        if self.chance.percent(70) {
            self.catch_up()?;
        }
        let Some(store) = self.store().filter(|_| self.goes_on()) else { return Ok(()) };
        let consumers = match store.consumers() {
            Ok(consumers) => consumers,
            Err(error) => return self.expected(error),
        };
        // One that was never opened needs nothing yet, and the model has it read from the first event on.
        let known = |name: &str| consumers.iter().any(|consumer| consumer.name == name);
        let shipped = known(SHIPPER) || self.model.letters.is_empty();
        if ![AUDIT, COPIER, MAIL, BILLER].into_iter().all(known) || !shipped {
            return Ok(());
        }
        let kept = self.chance.below(self.model.head() / 2 + 1);
        let retention = Retention::new().max_events(kept);
        let planned = match store.plan_retention(&retention) {
            Ok(plan) => plan.keeps_from.get(),
            Err(error) => return self.expected(error),
        };
        for consumer in consumers.iter().filter(|consumer| consumer.name != SHIPPER) {
            let position = consumer.position.get();
            ensure(planned <= position, || format!("{planned} is kept, and {} is at {position}", consumer.name))?;
        }
        self.model.may_keep_from = planned;
        match store.retain(&retention) {
            Ok(plan) => {
                let kept = (plan.keeps_from.get(), store.oldest().get());
                ensure(kept == (planned, planned), || format!("{planned} was to be kept, and {kept:?} is"))?;
                self.model.oldest = planned;
                self.figures.let_go += plan.segments;
                Ok(())
            }
            Err(error) => {
                // It went, or not; files that could not be removed are gone for readers all the same.
                self.expected(error)?;
                self.store().filter(|_| self.goes_on()).map_or(Ok(()), |store| self.check_oldest(&store))
            }
        }
    }

    /// The oldest position that is kept is one that was to be kept.
    pub(super) fn check_oldest(&mut self, store: &Store) -> Check {
        let oldest = store.oldest().get();
        let model = &mut self.model;
        let known = [model.oldest, model.may_keep_from].contains(&oldest);
        ensure(known || self.disk.told().lied, || {
            format!("{oldest} is the oldest, of {} and {}", model.oldest, model.may_keep_from)
        })?;
        (model.oldest, model.may_keep_from) = (oldest, oldest);
        if oldest > 1 && self.disk.is_alive() {
            let gone = store.event(Position::new(oldest - 1));
            let told = matches!(gone, Err(crate::error::Error::Expired { .. }));
            ensure(told || !self.disk.is_alive(), || format!("{oldest} is the oldest, and before it is {gone:?}"))?;
        }
        Ok(())
    }

    /// Whether there is a store, and a process.
    pub(super) fn goes_on(&self) -> bool {
        self.open.is_some() && !self.told && self.disk.is_alive()
    }

    fn catch_up(&mut self) -> Check {
        for _ in 0..CATCHES_UP {
            let turns: [fn(&mut World) -> Check; 8] = [
                Self::pull_audit,
                Self::pull_audit,
                Self::acknowledge,
                Self::mail_done,
                Self::bill_all,
                Self::copy,
                Self::copy,
                Self::forward,
            ];
            for turn in turns {
                if !self.goes_on() {
                    return Ok(());
                }
                turn(self)?;
            }
        }
        for group in [MAIL, BILLER] {
            if self.goes_on() && self.chance.percent(80) {
                self.forget_letters(group)?;
            }
        }
        self.pass()
    }

    fn forget_letters(&mut self, group: &'static str) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let dropped = letters(&store, group).and_then(|letters| {
            if letters.is_empty() { Ok(()) } else { store.dead_letters(group)?.drop_letters(&letters).map(drop) }
        });
        dropped.or_else(|error| self.unless_unknown(error))
    }

    /// Some of the mail group's dead letters are handed out again.
    pub(super) fn redrive(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let mut chosen = match letters(&store, MAIL) {
            Ok(letters) => letters,
            Err(error) => return self.unless_unknown(error),
        };
        chosen.retain(|_| self.chance.percent(50));
        chosen.truncate(4);
        for letter in &chosen {
            self.model.redriven.insert((MAIL, letter.source_position().get()));
        }
        match store.dead_letters(MAIL).and_then(|letters| letters.redrive(&chosen)) {
            Ok(moved) => {
                self.figures.redriven += moved.moved;
                Ok(())
            }
            Err(error) => self.expected(error),
        }
    }

    /// A group that was never opened has no dead letters.
    fn unless_unknown(&mut self, error: crate::error::Error) -> Check {
        match error {
            crate::error::Error::UnknownConsumer { .. } => Ok(()),
            error => self.expected(error),
        }
    }
}

fn letters(store: &Store, group: &str) -> Result<Vec<DeadLetter>> {
    store.dead_letters(group)?.iter()?.collect()
}
