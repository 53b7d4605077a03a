//! Why a handler did not handle a delivery, and what it wants done about it.

use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::canal::Reason;
use crate::error::{Error, panic_text};

/// What a handler gives back instead of having handled a delivery.
///
/// Any [`std::error::Error`] becomes one by `?`: a failed attempt, to be tried again. An event that does not decode
/// ([`Error::Decode`], also among the causes) is rejected instead, because it never will.
///
/// ```
/// use std::time::Duration;
/// use towpath::{Delivery, Failure, Reason};
///
/// fn print(delivery: &Delivery<'_>) -> Result<(), Failure> {
///     let page: String = delivery.decode()?;
///     if page.len() > 10_000 {
///         return Err(Failure::reject(Reason::TooLarge, "it does not fit on a sheet"));
///     }
///     if is_out_of_paper() {
///         return Err(Failure::retry("out of paper").after(Duration::from_secs(60)));
///     }
///     std::fs::write("/dev/null", page)?;
///     Ok(())
/// }
/// # fn is_out_of_paper() -> bool { true }
/// # let _ = print;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(super) wish: Wish,
    pub(super) why: String,
    pub(super) panicked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Retry { after: Option<Duration> },
    Reject { reason: Reason },
}

impl Failure {
    /// A failed attempt: try again, after the wait that the policy has.
    pub fn retry(why: impl Into<String>) -> Self {
        Self { wish: Wish::Retry { after: None }, why: why.into(), panicked: false }
    }

    /// It will never succeed.
    pub fn reject(reason: Reason, why: impl Into<String>) -> Self {
        Self { wish: Wish::Reject { reason }, why: why.into(), panicked: false }
    }

    /// Not before so long from now, whatever the policy says. A rejection stays one.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        if let Wish::Retry { after } = &mut self.wish {
            *after = Some(wait);
        }
        self
    }

    /// What failed.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// `Failure` is no error itself, so that every error can become one.
impl<E: StdError + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut why = error.to_string();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut undecodable = false;
        while let Some(one) = cause {
            undecodable |= matches!(one.downcast_ref(), Some(Error::Decode { .. }));
            let text = one.to_string();
            // Many errors say what their cause said.
            if !why.ends_with(&text) {
                why = format!("{why}: {text}");
            }
            cause = one.source();
        }
        let wish = match undecodable {
            true => Wish::Reject { reason: Reason::Undecodable },
            false => Wish::Retry { after: None },
        };
        Self { wish, why, panicked: false }
    }
}

/// Calls a handler. Its panic is a failed attempt.
pub(super) fn call<E: Into<Failure>>(handler: impl FnOnce() -> Result<(), E>) -> Result<(), Failure> {
    match catch_unwind(AssertUnwindSafe(handler)) {
        Ok(handled) => handled.map_err(Into::into),
        Err(panic) => {
            let why = format!("the handler panicked: {}", panic_text(&*panic));
            // What was thrown may panic when it is dropped.
            std::mem::forget(panic);
            Err(Failure { panicked: true, ..Failure::retry(why) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Position;

    #[derive(Debug, thiserror::Error)]
    #[error("page 3")]
    struct Outer(#[source] Error);

    #[test]
    fn an_event_that_does_not_decode_is_rejected_also_as_a_cause() {
        let (type_name, why) = ("page".to_owned(), "no number".to_owned());
        let decode = Error::Decode { position: Position::new(7), type_name, field: None, why };
        let rejected = Wish::Reject { reason: Reason::Undecodable };
        assert_eq!(Failure::from(decode.clone()).wish, rejected);
        let failure = Failure::from(Outer(decode));
        assert_eq!(failure.wish, rejected);
        assert_eq!(failure.why, "page 3: event at position 7 of type \"page\" does not decode: no number");
        // The control.
        assert_eq!(Failure::from(Outer(Error::Closed)).wish, Wish::Retry { after: None });
    }

    #[test]
    fn a_panic_is_a_failed_attempt_with_its_text() {
        let number = 3;
        let failed = call(|| -> Result<(), Failure> { panic!("page {number}") });
        let failed = failed.unwrap_err();
        assert_eq!((failed.why(), failed.panicked), ("the handler panicked: page 3", true));
        let odd = call(|| -> Result<(), Failure> { std::panic::panic_any(3) });
        assert_eq!(odd.unwrap_err().why(), "the handler panicked: something that is no text");
        assert_eq!(call(|| Ok::<(), Failure>(())), Ok(()));
    }
}
