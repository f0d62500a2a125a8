//! The latest faults and 401s, for people who look at a running gateway.
//!
//! An ordinary request never comes here, so the one lock costs it nothing. What is kept has no header, no
//! path and no query.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::clock;

/// How many are kept: enough for a screen or two. A flood of faults pushes out what was before.
pub const RECENT_MAX: usize = 200;

/// What a request has met with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The gateway itself answered.
    Fault,
    /// The upstream refused the credential.
    Unauthorized,
}

/// One request that was not an ordinary one.
#[derive(Clone, Debug)]
pub struct Happening {
    /// Counts them from 1, as long as the process lives.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Fault or 401.
    pub what: What,
    /// The fault's code, or what became of the 401.
    pub code: &'static str,
    /// The fault's status; `None` for a 401, which may still be recovered.
    pub status: Option<u16>,
    /// What happened, for people.
    pub words: String,
    /// The route, if one took the request.
    pub route: Option<String>,
    /// Its profile.
    pub profile: Option<String>,
    /// The request's id, as in the access log.
    pub request_id: String,
    /// From the request's head to here.
    pub took: Duration,
}

/// The latest of them.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    all: VecDeque<Happening>,
    last: u64,
}

impl Recent {
    /// Adds one. Its number and time are given here.
    pub fn add(&self, happening: Happening) {
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        kept.all.push_front(Happening { number, at: clock::wall(), ..happening });
        kept.all.truncate(RECENT_MAX);
    }

    /// Those after number `after`, the latest first.
    pub fn since(&self, after: u64) -> Vec<Happening> {
        self.kept().all.iter().take_while(|happening| happening.number > after).cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening() -> Happening {
        Happening {
            number: 0,
            at: clock::wall(),
            what: What::Fault,
            code: "no_route",
            status: Some(404),
            words: String::new(),
            route: None,
            profile: None,
            request_id: String::new(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn the_latest_are_kept_and_asked_for_by_number() {
        let recent = Recent::default();
        for _ in 0..RECENT_MAX + 5 {
            recent.add(happening());
        }
        let all = recent.since(0);
        assert_eq!((all.len(), all[0].number), (RECENT_MAX, RECENT_MAX as u64 + 5));
        let numbers: Vec<_> = recent.since(all[2].number).iter().map(|h| h.number).collect();
        assert_eq!(numbers, [all[0].number, all[1].number]);
        assert!(recent.since(all[0].number).is_empty());
    }
}
