//! What may take how long until an upstream's response head.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    body::Received,
    proxy::{
        attempt::{Exchange, Failure, trip::Trip},
        fault::{Fault, Overdue},
    },
    replay::Recorder,
};

/// The time until the response's head. The upstream's runs from when it was last given a part of the request, or its
/// end. While the request's body has to come, it is the caller's time that runs.
pub(super) struct Clock<'a> {
    exchange: &'a Exchange,
    /// When the upstream's time began, if there is a body; without one it is never looked at before it is over.
    since: Option<Instant>,
    /// When the caller's time began: what it had sent by then, and how long it had been waited for.
    begun: (u64, Duration),
}

impl<'a> Clock<'a> {
    pub(super) fn new(exchange: &'a Exchange) -> Self {
        let body = exchange.body.as_ref();
        let begun = body.map(|body| (body.drawn_bytes(), body.awaited())).unwrap_or_default();
        Self { exchange, since: body.map(|_| Instant::now()), begun }
    }

    fn response_limit(&self) -> Duration {
        let own = self.exchange.route.settings().response_timeout;
        own.unwrap_or(self.exchange.worker.timeouts().response)
    }

    fn body_limit(&self) -> Duration {
        self.exchange.worker.timeouts().body
    }

    /// What is left of the upstream's time.
    fn left(&self, body: &Recorder<Received>) -> Duration {
        let moved_at = Some(body.moved_at()).max(self.since);
        self.response_limit().saturating_sub(moved_at.map_or(Duration::ZERO, |at| at.elapsed()))
    }

    /// Whether the caller has a time for what is to come. A stream of messages may be silent for long by its nature.
    fn has_time(&self, body: &Recorder<Received>) -> bool {
        !self.exchange.is_grpc && !body.is_sent()
    }

    /// How long to wait until the next look.
    pub(super) fn next(&self, trip: &Trip) -> Duration {
        if let Some(limit) = trip.waits_for_continue() {
            return limit;
        }
        let Some(body) = &self.exchange.body else { return self.response_limit() };
        if !self.has_time(body) {
            return self.left(body);
        }
        // Behind a look it may be the other one's turn.
        let left = if body.awaits_caller() { self.response_limit() } else { self.left(body) };
        left.min(self.body_limit().saturating_sub(body.awaited() - self.begun.1))
    }

    /// The time was over without an answer.
    pub(super) fn strike(&mut self, trip: &Trip) -> Result<(), Failure> {
        if let Some((keeper, _)) = trip.asking.as_ref().filter(|(keeper, _)| keeper.gate().is_closed()) {
            // RFC 9110 §10.1.1: an upstream may not know the expectation, so the wait has an end.
            keeper.gate().open();
            self.since = Some(Instant::now());
            return Ok(());
        }
        let overdue = Err(Failure::Fault(Fault::UpstreamTimeout(Overdue::Response)));
        let Some(body) = &self.exchange.body else { return overdue };
        if self.has_time(body) {
            let (sent_bytes, awaited) = (body.drawn_bytes(), body.awaited());
            if awaited - self.begun.1 >= self.body_limit() {
                if sent_bytes - self.begun.0 < self.body_limit().as_secs().max(1) {
                    return Err(Failure::Fault(Fault::CallerTimeout));
                }
                self.begun = (sent_bytes, awaited);
            }
            if body.awaits_caller() {
                return Ok(());
            }
        }
        if self.left(body) == Duration::ZERO { overdue } else { Ok(()) }
    }
}
