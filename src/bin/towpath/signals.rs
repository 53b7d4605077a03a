//! Signals that ask to stop, for the verbs that go on until then.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Result};

/// Set by the first signal that asks to stop; a second one ends the process at once.
pub(crate) fn stop() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: what is registered first is asked first, and finds the flag set only the second time.
        flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .map_err(|error| Failure::because("could not listen for signals", &error))?;
    }
    Ok(stop)
}
