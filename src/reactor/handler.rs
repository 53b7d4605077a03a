//! The handlers that settle what they handled: one delivery at a time, and whole batches.

use crate::canal::Canal;
use crate::canal::batch::Delivery;
use crate::error::Result;
use crate::reactor::failure::{Failure, call};
use crate::reactor::hand::Hand;

/// A function that handles deliveries, in one of the ways that [`Reactor`](crate::Reactor)'s constructors make of it.
pub trait Handler<C> {
    /// Handles a batch.
    #[doc(hidden)]
    fn handle(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()>;
}

/// Called with one delivery.
#[derive(Debug)]
pub struct Each<H>(pub(super) H);

/// Called with all deliveries of a batch.
#[derive(Debug)]
pub struct Batches<H>(pub(super) H);

impl<C, H, E> Handler<C> for Each<H>
where
    C: Canal,
    H: FnMut(&Delivery<'_>) -> Result<(), E>,
    E: Into<Failure>,
{
    fn handle(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()> {
        for (at, delivery) in hand.deliveries().iter().enumerate() {
            if hand.take(at)? {
                match call(|| (self.0)(delivery)) {
                    Ok(()) => hand.done(at),
                    Err(failure) => hand.failed(at, failure)?,
                }
            }
        }
        Ok(())
    }
}

impl<C, H, E> Handler<C> for Batches<H>
where
    C: Canal,
    H: FnMut(&[Delivery<'_>]) -> Result<(), E>,
    E: Into<Failure>,
{
    fn handle(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()> {
        bisect(hand, 0, hand.len(), &mut |hand, places, deliveries| {
            if let Err(failure) = call(|| (self.0)(deliveries)) {
                return Ok(Tried::Failed(failure));
            }
            places.iter().for_each(|at| hand.done(*at));
            Ok(Tried::Settled)
        })
    }
}

/// What came of handling a part of a batch as one.
pub(super) enum Tried {
    Settled,
    Failed(Failure),
    /// Some of it is not to be handled any more, and nothing of it was.
    Again,
}

/// Handles the deliveries in these places as one.
type AsOne<'f, C> = dyn FnMut(&mut Hand<'_, '_, C>, &[usize], &[Delivery<'_>]) -> Result<Tried> + 'f;

/// Handles a part of a batch as one, and if that fails its two halves, so that what fails in the end is one delivery.
pub(super) fn bisect<C: Canal>(
    hand: &mut Hand<'_, '_, C>,
    from: usize,
    to: usize,
    handle: &mut AsOne<'_, C>,
) -> Result<()> {
    let places = hand.take_all(from, to)?;
    if places.is_empty() {
        return Ok(());
    }
    let all = &hand.deliveries()[from..to];
    let tried = if places.len() == all.len() {
        handle(hand, &places, all)?
    } else {
        let some: Vec<Delivery<'_>> = places.iter().map(|at| all[at - from].clone()).collect();
        handle(hand, &places, &some)?
    };
    match (tried, &places[..]) {
        (Tried::Settled, _) => Ok(()),
        (Tried::Again, _) => bisect(hand, from, to, handle),
        (Tried::Failed(failure), [at]) => hand.failed(*at, failure),
        (Tried::Failed(_), _) => {
            let middle = places[places.len() / 2];
            bisect(hand, from, middle, handle)?;
            bisect(hand, middle, to, handle)
        }
    }
}
