//! The first 401, which is kept for as long as a better answer is looked for.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use crate::{
    proxy::{
        attempt::{Exchange, Sent},
        fault::Fault,
        record::Record,
        recovery::Outcome,
    },
    replay::Parked,
};

/// An answer that nobody may want is read to here, so that its connection can be used again.
const SHORT_BYTES_MAX: usize = 64 * 1024;
/// And for so long when nobody wants it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// The first 401 while a better answer is looked for.
pub(super) struct First {
    sent: Sent,
    /// Its upload, held where it was, so that what the caller still sends is there for the second.
    parked: Option<Parked>,
    is_uploaded: bool,
    /// Whether the request may be sent twice. Only then the second attempt may go over the connection of the first:
    /// an upstream may close that behind its 401 without a word.
    may_repeat: bool,
}

impl First {
    pub(super) fn of(exchange: &Exchange, sent: Sent) -> Self {
        let is_uploaded = sent.upload.as_ref().is_none_or(|body| body.is_sent());
        let parked = exchange.body().as_ref().map(|body| body.park());
        Self { is_uploaded, may_repeat: exchange.is_idempotent(), parked, sent }
    }

    /// The outcome of `what`, while which the answer is read if it is short: once it has come, its connection is free
    /// for the second attempt, or for that of another request.
    pub(super) async fn keep_while<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        if !self.is_uploaded {
            return what.await;
        }
        let (mut is_read, mut is_whole) = (false, false);
        let outcome = {
            let mut keeping = pin!(self.sent.response.body_mut().keep(SHORT_BYTES_MAX));
            poll_fn(|cx| {
                if !is_read && let Poll::Ready(whole) = keeping.as_mut().poll(cx) {
                    (is_read, is_whole) = (true, whole);
                }
                what.as_mut().poll(cx)
            })
            .await
        };
        if let Some(carrier) = self.sent.carrier.take_if(|_| is_whole && self.may_repeat) {
            carrier.connection.give_back();
        }
        outcome
    }

    /// The second attempt could not be made.
    pub(super) fn fails(self, fault: &Fault, record: &mut Record) -> Sent {
        record.attempt_failed(fault);
        tracing::debug!(code = fault.code(), "the second attempt failed, the caller gets the first 401");
        self.stands(Outcome::SecondFailed, record)
    }

    /// There is no better answer: the caller gets this one, and its upload may go on.
    pub(super) fn stands(self, outcome: Outcome, record: &mut Record) -> Sent {
        if let (Some(body), Some(parked)) = (&self.sent.upload, self.parked) {
            body.resume(parked);
        }
        record.recovered(outcome);
        self.sent
    }

    /// Reads an answer that nobody wants to its end, if that is near, so that its connection lives on.
    pub(super) fn discard(self) {
        if !self.is_uploaded {
            return;
        }
        let Sent { mut response, carrier: Some(carrier), .. } = self.sent else { return };
        let drain = async move {
            let kept = response.body_mut().keep(SHORT_BYTES_MAX);
            if tokio::time::timeout(DRAIN_TIME_MAX, kept).await == Ok(true) {
                carrier.connection.give_back();
            }
        };
        // Bounded by its own limits, so nobody has to stop it.
        tokio::task::spawn_local(drain);
    }
}
