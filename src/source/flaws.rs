//! What is wrong with the newest readings of sources, told once and not with every reading.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// What is wrong with the newest of the things that somebody reads, so that each change of it is told
/// once and not with every reading.
#[derive(Debug, Default)]
pub struct Flaws(Mutex<BTreeMap<String, String>>);

impl Flaws {
    /// The value that counts. Logs for `who` when `what` has begun to be broken, is broken in another way,
    /// or is well again.
    pub fn settle<T, E: fmt::Display>(&self, who: &str, what: &str, (value, flaw): (T, Option<E>)) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flaw.map(|flaw| flaw.to_string()) {
            Some(flaw) if known.get(what) != Some(&flaw) => {
                tracing::warn!(profile = who, "the last good {what} stays in use: {flaw}");
                known.insert(what.to_owned(), flaw);
            }
            Some(_) => {}
            None => {
                if known.remove(what).is_some() {
                    tracing::info!(profile = who, "the {what} can be read again, its newest value is in use");
                }
            }
        }
        value
    }
}
