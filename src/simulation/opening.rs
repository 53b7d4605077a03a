//! How a seed's process ends and another one begins: what it finds when it opens the store, and what may be missing there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::id::Position;
use crate::simulation::disk::End;
use crate::simulation::model::{Check, ensure};
use crate::simulation::world::{Open, World};
use crate::store::Store;
use crate::store::options::Options;

const PATH: &str = "store";

/// So often opening may be cut short before it is left alone.
const CUT_SHORT: u32 = 4;

impl World {
    pub(super) fn begin_again(&mut self, power_cut: bool, troubled: bool) -> Check {
        let survives = !power_cut && !self.disk.has_lost_pages();
        let floor = if survives { self.durable.max(self.model.head()) } else { self.durable };
        self.lost(power_cut || self.disk.has_lost_pages());
        self.figures.ends += 1;
        self.begin_process(power_cut)?;
        self.reopen(floor, troubled)
    }

    /// The process ended, and what was not synced may be gone.
    fn lost(&mut self, may_lose: bool) {
        self.consumers.ended(may_lose, self.synced);
        self.removals.ended(may_lose, self.synced);
    }

    fn begin_process(&mut self, power_cut: bool) -> Check {
        let how = if power_cut { End::PowerCut { piece: self.setup.piece } } else { End::Kill };
        if power_cut {
            self.figures.power_cuts += 1;
        }
        self.disk.begin(how).map_err(|error| error.to_string())
    }

    fn options(&self) -> Options {
        Options::new()
            .durability(self.setup.durability)
            .segment_bytes(64 << 10)
            .clock(self.clock.clone())
            .simulated(Arc::new(self.disk.clone()))
    }

    /// Opens the store, however often that takes, and checks what is there. Nothing up to `floor` may be missing.
    pub(super) fn reopen(&mut self, mut floor: u64, troubled: bool) -> Check {
        for attempt in 0.. {
            if attempt >= CUT_SHORT || !troubled {
                self.disk.heal();
            } else if self.chance.percent(35) {
                let until = self.chance.from(1..=30);
                self.disk.end_in(until);
            }
            if self.chance.percent(10) {
                self.look_before()?;
            }
            let opened = self.options().open(Path::new(PATH));
            match opened {
                Ok(store) => {
                    if !self.disk.is_alive() {
                        drop(store);
                    } else {
                        if self.disk.has_lost_pages() {
                            // They were lost while it was opened, before it looked.
                            floor = floor.min(self.durable);
                            self.lost(true);
                        }
                        return self.opened(store, floor);
                    }
                }
                Err(error) if self.disk.is_alive() => {
                    self.expected_at_opening(error, attempt)?;
                    if self.told {
                        return Ok(());
                    }
                    self.disk.heal();
                }
                Err(_) => {}
            }
            let power_cut = self.chance.percent(50);
            if power_cut || self.disk.has_lost_pages() {
                floor = floor.min(self.durable);
                self.lost(true);
            }
            self.figures.ends += 1;
            self.figures.cut_recoveries += 1;
            self.begin_process(power_cut)?;
        }
        Ok(())
    }

    fn expected_at_opening(&mut self, error: Error, attempt: u32) -> Check {
        let told = self.disk.told();
        match &error {
            Error::Damaged(_) | Error::NotAStore { .. } | Error::Unsupported { .. } if told.of_medium => {
                self.told = true;
                self.figures.told += 1;
                self.look_before()
            }
            Error::Io { .. } | Error::DiskFull { .. } if told.faults > 0 && attempt <= CUT_SHORT => Ok(()),
            _ => Err(format!("it does not open: {error} {error:?}")),
        }
    }

    /// Reads without a writer: nothing wrong may be seen.
    fn look_before(&mut self) -> Check {
        let Ok(store) = self.options().open_read_only(Path::new(PATH)) else { return Ok(()) };
        let (head, told) = (store.head().get(), self.disk.told());
        for position in 1..=head.min(self.model.head()) {
            if let Ok(Some(event)) = store.event(Position::new(position)) {
                self.model.check(&event, store.id())?;
                let gone = self.model.is_gone(position) && !self.removals.may_take(position);
                let served = gone || self.removals.surely_takes(position);
                ensure(!served || told.of_medium, || format!("{position} was removed, and a look shows it"))?;
            }
        }
        Ok(())
    }

    /// The store is open again: what is there has to be what the model allows.
    fn opened(&mut self, store: Store, floor: u64) -> Check {
        self.figures.opened += 1;
        let head = store.head().get();
        self.check_oldest(&store)?;
        self.figures.expected += (floor + 1).saturating_sub(self.model.oldest);
        if head < floor {
            return self.ends_early(head, floor);
        }
        let mut missing = BTreeSet::new();
        let mut positions = (self.model.oldest..=head.min(self.model.head())).peekable();
        while let Some(position) = positions.peek().copied().filter(|_| self.disk.is_alive()) {
            match store.event(Position::new(position)) {
                Ok(Some(event)) => self.model.check(&event, store.id())?,
                Ok(None) if self.may_be_removed(position) => drop(missing.insert(position)),
                Ok(None) => {
                    self.figures.lost += 1;
                    return Err(format!("{position} is missing after opening"));
                }
                Err(error) => {
                    self.expected(error)?;
                    if self.open.is_some() || self.told {
                        return Ok(());
                    }
                    // A fault of reading comes once.
                    continue;
                }
            }
            positions.next();
        }
        if self.disk.is_alive() {
            self.settle_removals(&store, head, &missing)?;
            if self.told {
                return Ok(());
            }
        }
        if head < self.model.head() {
            self.figures.taken += self.model.head() - head;
            self.model.cut(head)?;
        }
        self.consumers.cut(head);
        self.open = Some(Open {
            store: store.clone(),
            tickets: Vec::new(),
            audit: None,
            mail: None,
            audit_since: 0,
            mail_since: 0,
        });
        self.take_in()?;
        if self.told || !self.disk.is_alive() {
            return Ok(());
        }
        self.model.settle_unknown();
        ensure(self.model.log.last().is_none_or(|last| !last.more), || "the log ends in a commit".to_owned())?;
        let durable = store.durable().get();
        ensure(durable == head, || format!("opened at {head}, and durable is {durable}"))?;
        self.durable = durable;
        if !self.disk.told().lied {
            self.honest = durable;
        }
        let cut_before = std::mem::replace(&mut self.cut_whole, self.disk.segments_cut_whole());
        if self.disk.told().lied && self.cut_whole > cut_before {
            // A disk that lies breaks every store: what it never wrote of a new segment was its beginning, with all consumers.
            self.figures.lied += 1;
            self.told = true;
            return Ok(());
        }
        self.check_consumers()?;
        if self.told {
            return Ok(());
        }
        self.disk.is_recovered();
        self.all_synced();
        Ok(())
    }

    /// The log ends before what was to last.
    fn ends_early(&mut self, head: u64, floor: u64) -> Check {
        let told = self.disk.told();
        self.told = true;
        if (told.changed || told.lied_of_copy) && self.disk.files_in(Path::new("store/quarantine")) > 0 {
            // Of the last frames nothing says that they were on the disk, and damage may look like a write that was cut.
            self.figures.looks_torn += 1;
            return Ok(());
        }
        if told.lied && head >= self.honest || told.lied_of_copy {
            // A disk that says it has what it has not breaks every store.
            self.figures.lied += 1;
            return Ok(());
        }
        self.figures.lost += floor - head;
        Err(format!("the log ends at {head}, and {floor} was acknowledged as lasting"))
    }
}
