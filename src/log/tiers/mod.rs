//! Tiers: index files of neighbouring segments merged, eight by eight, so that a question asks a few files and not
//! thousands. A tier says which of its segments may bear a term; their own indexes say where.

pub(crate) mod file;
pub(crate) mod merge;
pub(crate) mod search;

use std::collections::HashSet;
use std::ops::Range;

use crate::format::header;
use crate::format::tier::SEGMENTS_MAX;
use crate::id::{Position, StoreId};
use crate::log::tiers::file::Tier;
use crate::segment::disk::Directory;
use crate::sync::guard;
use crate::sync::primitive::{Arc, Mutex, PoisonError, RwLock};

/// So many neighbours of one size become one of the next size. More would make fewer files and more to ask; what is
/// merged is written once for each size that it goes through, so fewer would write more.
pub(crate) const FAN_IN: usize = 8;

/// The tiers of a log: disjoint, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Tiers {
    list: RwLock<Arc<[Covering]>>,
    /// The first positions of what cannot be merged: segments without a sound index file, for one.
    barred: Mutex<HashSet<Position>>,
}

/// A tier and the positions that it covers.
#[derive(Clone, Debug)]
pub(crate) struct Covering {
    pub(crate) tier: Arc<Tier>,
    /// The first position of the segment behind it.
    end: Position,
}

/// Neighbours in the log: what a merge takes in.
#[derive(Clone, Debug)]
pub(crate) enum Cover {
    /// A segment with an index file of its own.
    Segment(Position),
    Tier(Arc<Tier>),
}

impl Covering {
    /// The positions that it covers.
    pub(crate) fn range(&self) -> Range<Position> {
        self.tier.head.first..self.end
    }
}

impl Cover {
    /// The first position of its first segment.
    fn first(&self) -> Position {
        match self {
            Cover::Segment(first) => *first,
            Cover::Tier(tier) => tier.head.first,
        }
    }

    /// How many segments it covers.
    fn segments(&self) -> usize {
        match self {
            Cover::Segment(_) => 1,
            Cover::Tier(tier) => tier.covered.len(),
        }
    }
}

impl Tiers {
    /// Takes in the tier files of a directory that fit the segments, which begin at `firsts`, the newest one last. Gives
    /// the names of those that do not, or that another one makes needless.
    pub(crate) fn find(
        &self,
        directory: &dyn Directory,
        store: StoreId,
        firsts: &[Position],
        names: &[String],
    ) -> Vec<String> {
        let mut named: Vec<_> = names.iter().filter_map(|name| Some((name, header::parse_tier_name(name)?))).collect();
        named.sort_unstable_by_key(|(_, (first, segments))| (usize::MAX - segments, *first));
        let (mut found, mut needless): (Vec<Covering>, Vec<String>) = (Vec::new(), Vec::new());
        for (name, (first, segments)) in named {
            let covering = fitting(directory, store, firsts, first, segments).filter(|one| {
                found.iter().all(|other| one.end <= other.range().start || other.end <= one.range().start)
            });
            match covering {
                Some(covering) => found.push(covering),
                None => needless.push(name.clone()),
            }
        }
        found.sort_unstable_by_key(|covering| covering.range().start);
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = found.into();
        needless
    }

    /// The tier that covers a position.
    pub(crate) fn over(&self, position: Position) -> Option<Covering> {
        let list = self.list();
        let behind = list.partition_point(|covering| covering.range().start <= position);
        list[..behind].last().filter(|covering| position < covering.end).cloned()
    }

    /// All of them, with the first positions of the segments that each covers.
    pub(crate) fn all(&self) -> Vec<(Arc<Tier>, Vec<Position>)> {
        let firsts = |tier: &Tier| tier.covered.iter().map(|(first, _)| *first).collect();
        self.list().iter().map(|covering| (covering.tier.clone(), firsts(&covering.tier))).collect()
    }

    /// Puts a tier in the place of those that it was made of.
    pub(crate) fn put(&self, tier: Tier, end: Position) {
        let new = Covering { tier: Arc::new(tier), end };
        self.change(|list| {
            let range = new.range();
            list.retain(|covering| covering.end <= range.start || range.end <= covering.range().start);
            list.push(new);
            list.sort_unstable_by_key(|covering| covering.range().start);
        });
    }

    /// Goes without a tier: it is not what was written. Says whether it was there.
    pub(crate) fn remove(&self, tier: &Arc<Tier>) -> bool {
        self.change(|list| {
            let before = list.len();
            list.retain(|covering| !Arc::ptr_eq(&covering.tier, tier));
            list.len() < before
        })
    }

    /// Goes without the tiers over nothing but segments before `oldest`, and gives the names of their files.
    pub(crate) fn let_go_before(&self, oldest: Position) -> Vec<String> {
        let mut gone = Vec::new();
        self.change(|list| {
            list.retain(|covering| {
                let stays = covering.end > oldest;
                if !stays {
                    gone.push(covering.tier.name());
                }
                stays
            });
        });
        gone
    }

    /// Says that what begins at `first` cannot be merged.
    pub(crate) fn bar(&self, first: Position) {
        guard(&self.barred).insert(first);
    }

    /// What is to be merged next, of the segments that begin at `sealed`: the smallest that there are enough of.
    pub(crate) fn next_merge(&self, sealed: &[Position]) -> Option<Vec<Cover>> {
        let covers = self.covers(sealed);
        let barred = guard(&self.barred);
        let can = |cover: &Cover| !barred.contains(&cover.first());
        let runs = covers.chunk_by(|one, next| one.segments() == next.segments() && can(one) && can(next));
        let enough = runs.filter(|run| run.len() >= FAN_IN && run[0].segments() * FAN_IN <= SEGMENTS_MAX);
        enough.min_by_key(|run| run[0].segments()).map(|run| run[..FAN_IN].to_vec())
    }

    fn covers(&self, sealed: &[Position]) -> Vec<Cover> {
        let (list, mut covers, mut at) = (self.list(), Vec::new(), 0);
        for covering in list.iter() {
            let begins = sealed.partition_point(|first| *first < covering.range().start);
            covers.extend(sealed[at.min(begins)..begins].iter().map(|first| Cover::Segment(*first)));
            covers.push(Cover::Tier(covering.tier.clone()));
            at = sealed.partition_point(|first| *first < covering.end);
        }
        covers.extend(sealed[at.min(sealed.len())..].iter().map(|first| Cover::Segment(*first)));
        covers
    }

    /// How many files a question for what is nowhere asks, of the segments that begin at `sealed`.
    pub(crate) fn asked(&self, sealed: &[Position]) -> usize {
        self.covers(sealed).len()
    }

    fn list(&self) -> Arc<[Covering]> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Covering>) -> T) -> T {
        let mut kept = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = kept.to_vec();
        let answer = change(&mut list);
        *kept = list.into();
        answer
    }
}

/// Opens a tier file, if it covers what stands in the log.
fn fitting(
    directory: &dyn Directory,
    store: StoreId,
    firsts: &[Position],
    first: Position,
    segments: usize,
) -> Option<Covering> {
    let oldest = *firsts.first()?;
    let tier = Tier::open(directory, store, first, segments)?;
    // Some of what it covers may have been let go of since, never all.
    let gone = tier.covered.partition_point(|(first, _)| *first < oldest);
    let begins = tier.covered.get(gone)?.0;
    let at = firsts.binary_search(&begins).ok()?;
    let left = segments - gone;
    let covered = firsts.get(at..at.checked_add(left)?)?;
    // The newest segment is not sealed, so another one follows whatever is covered.
    let end = *firsts.get(at + left)?;
    let fits = tier.covered[gone..].iter().map(|(first, _)| first).eq(covered);
    fits.then(|| Covering { tier: Arc::new(tier), end })
}
