//! The end of switches whose time is over.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    admin::changes::Action,
    app::{
        control::{ChangeError, Control},
        reading::now,
    },
    clock::{self, Moment},
};

/// How long to wait with the next attempt when a switch cannot be undone: it may cost a token request.
const PAUSE: Duration = Duration::from_secs(10);

impl Control {
    /// Takes back the switches whose time is over. To be called every second or so.
    pub fn expire(&self) {
        let mut state = self.state();
        let ended = state.switches.expired(now());
        state.overdue.forget_others(&ended);
        let due = |route: &Option<String>| state.overdue.is_due(route, clock::now());
        let due: Vec<_> = ended.into_iter().filter(due).collect();
        drop(state);
        for route in due {
            let words = match self.take_back(route.as_deref(), Action::Expire, "its time was over") {
                // Somebody was faster, and did what holds now.
                Ok(_) | Err(ChangeError::Already(_)) => continue,
                Err(error) => error.to_string(),
            };
            if self.state().overdue.fail(route.clone(), &words, clock::now()) {
                tracing::error!(
                    route,
                    "the switch's time is over, but it cannot be undone; it is tried again: {words}"
                );
            }
        }
    }
}

/// Switches that could not be undone when their time was over.
#[derive(Default)]
pub(super) struct Overdue(BTreeMap<Option<String>, Failure>);

struct Failure {
    words: String,
    at: Moment,
}

impl Overdue {
    fn is_due(&self, route: &Option<String>, now: Moment) -> bool {
        self.0.get(route).is_none_or(|failure| now.since(failure.at) >= PAUSE)
    }

    /// Notes that the switch of `route`, or of the environment, cannot be undone. Whether that is news.
    fn fail(&mut self, route: Option<String>, words: &str, now: Moment) -> bool {
        let before = self.0.insert(route, Failure { words: words.to_owned(), at: now });
        before.is_none_or(|before| before.words != words)
    }

    fn forget_others(&mut self, ended: &[Option<String>]) {
        self.0.retain(|route, _| ended.contains(route));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_undone_is_tried_again_after_a_pause_and_told_once() {
        let (mut overdue, route, start) = (Overdue::default(), Some("orders".to_owned()), clock::now());
        let at = |seconds| start.after(Duration::from_secs(seconds));
        assert!(overdue.is_due(&route, at(0)));
        assert!(overdue.fail(route.clone(), "no token", at(0)));
        assert!(!overdue.is_due(&route, at(9)) && overdue.is_due(&None, at(9)));
        assert!(overdue.is_due(&route, at(10)));
        assert!(!overdue.fail(route.clone(), "no token", at(10)), "it was told");
        assert!(overdue.fail(route.clone(), "a full disk", at(20)), "that is news");
        // Undone by hand, and switched again.
        overdue.forget_others(&[None]);
        assert!(overdue.is_due(&route, at(21)));
        assert!(overdue.fail(route, "a full disk", at(21)));
    }
}
