//! What may take how long until an upstream's response head.

use std::time::Duration;

use crate::proxy::{
    attempt::{Exchange, Failure, trip::Trip},
    fault::{Fault, Overdue},
};

/// The time until the response's head. It runs for the answer, not for an upload
/// that moves on.
pub(super) struct Clock<'a> {
    exchange: &'a Exchange,
    drawn_bytes: u64,
    /// Spent waiting for the upstream, the caller having done its part.
    waited: Duration,
    /// What the wait that is under way was given. Asked again behind it, the answer may be another: the body
    /// may have ended meanwhile.
    given: Duration,
}

impl<'a> Clock<'a> {
    pub(super) fn new(exchange: &'a Exchange) -> Self {
        Self { exchange, drawn_bytes: exchange.drawn_bytes(), waited: Duration::ZERO, given: Duration::ZERO }
    }

    fn response_limit(&self) -> Duration {
        let own = self.exchange.route.settings().response_timeout;
        own.unwrap_or(self.exchange.worker.timeouts().response)
    }

    /// How long to wait until the next look.
    pub(super) fn next(&mut self, trip: &Trip) -> Duration {
        let left = self.response_limit().saturating_sub(self.waited);
        self.given = match &self.exchange.body {
            Some(body) if !body.has_ended() => {
                trip.waits_for_continue().unwrap_or(left.min(self.exchange.worker.timeouts().body))
            }
            _ => left,
        };
        self.given
    }

    /// The time was over without an answer.
    pub(super) fn strike(&mut self, trip: &Trip) -> Result<(), Failure> {
        if let Some((keeper, _)) = trip.asking.as_ref().filter(|(keeper, _)| keeper.gate().is_closed()) {
            // RFC 9110 §10.1.1: an upstream may not know the expectation, so the wait has an end.
            keeper.gate().open();
            return Ok(());
        }
        let given = self.given;
        let drawn_bytes = self.exchange.drawn_bytes() - self.drawn_bytes;
        self.drawn_bytes += drawn_bytes;
        let body = self.exchange.body.as_ref().filter(|body| !body.has_ended());
        let awaits_caller = body.is_some_and(|body| body.awaits_caller());
        // A stream of messages may be silent for long by its nature.
        let is_steady =
            if self.exchange.is_grpc { drawn_bytes > 0 } else { drawn_bytes >= given.as_secs().max(1) };
        match (awaits_caller, is_steady) {
            (_, true) => self.waited = Duration::ZERO,
            (true, false) if !self.exchange.is_grpc => {
                return Err(Failure::Fault(Fault::CallerTimeout));
            }
            _ => self.waited += given,
        }
        if self.waited < self.response_limit() {
            return Ok(());
        }
        let overdue = Fault::UpstreamTimeout(Overdue::Response);
        Err(Failure::Fault(if awaits_caller { Fault::CallerTimeout } else { overdue }))
    }
}
