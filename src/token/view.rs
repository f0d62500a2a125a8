//! A profile's state for people and monitors, taken at one moment.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use crate::{
    clock,
    profile::{Grant, expiry::Expiry, refusal::ExchangeError},
    telemetry::metrics::LatencySum,
    token::{Handle, Token, notes::Notes},
};

/// A profile's state for people and monitors. Never the token.
#[derive(Clone, Debug)]
pub struct View {
    /// The profile's name.
    pub name: String,
    /// Whether readiness waits for it.
    pub required: bool,
    /// Whether requests can be served.
    pub ready: bool,
    /// Generation of the current token, 0 for none yet.
    pub generation: u64,
    /// Life left in the current token.
    pub expires_in: Option<Duration>,
    /// How long ago the current token was obtained.
    pub age: Option<Duration>,
    /// When the next exchange begins by itself; `None` while one is under way.
    pub next_in: Option<Duration>,
    /// Exchanges that gave a token.
    pub refreshed: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// How long exchanges took.
    pub latency: LatencySum,
    /// Why the last exchange that has ended failed, if it did; also while the next is under way.
    pub error: Option<Arc<ExchangeError>>,
    /// What to look at although it works.
    pub notes: Notes,
    /// Whether tokens are compared with expected roles.
    pub expects_roles: bool,
    /// When what the account proves itself with expires, as far as that is known.
    pub expiries: Vec<Expiry>,
}

impl Handle {
    /// Tells its owner apart from every other one, and from that of the same name before a reload.
    pub fn id(&self) -> u64 {
        self.0.shared.id
    }

    /// What health checks and metrics show.
    pub fn view(&self) -> View {
        let shared = &self.0.shared;
        let error = shared.status.borrow().error.clone();
        let mut latency = LatencySum::default();
        shared.latency.add_to(&mut latency);
        let now = clock::now();
        let due = *shared.due.lock().unwrap_or_else(PoisonError::into_inner);
        View {
            name: shared.settings.profile.name.clone(),
            required: shared.settings.required,
            ready: self.is_ready(),
            generation: shared.current.load().as_ref().map_or(0, |t| t.generation),
            expires_in: self.current().and_then(|t| life(t.token())),
            age: self.current().map(|t| now.since(t.token().obtained)),
            next_in: due.map(|due| due.since(now)),
            refreshed: shared.refreshed.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            latency,
            error,
            notes: shared.notes(),
            expects_roles: !shared.settings.profile.expected_roles.is_empty(),
            expiries: shared.expiries(),
        }
    }
}

/// Life left now, unless it has no end.
fn life(token: &Token) -> Option<Duration> {
    Some(token.left(clock::now())).filter(|left| *left < Grant::FOR_EVER / 2)
}
