//! One attempt over one connection.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::{body::Received, proxy::interim::Keeper, upstream::interims::Interims};

/// What holds a body back, and at most for how long.
pub(super) type Asking = Option<(Keeper, Duration)>;

/// What an attempt has beside its request.
pub(super) struct Trip {
    pub(super) interims: Interims,
    pub(super) asking: Asking,
}

impl Trip {
    pub(super) fn waits_for_continue(&self) -> Option<Duration> {
        self.asking.as_ref().filter(|(keeper, _)| keeper.gate().is_closed()).map(|(_, limit)| *limit)
    }

    /// An upstream that knows no expectations may begin to answer before it has read the body; a success
    /// is no word against the body.
    pub(super) fn welcome(&self, response: &Response<Received>) {
        if let (true, Some((keeper, _))) = (response.status().is_success(), &self.asking) {
            keeper.gate().open();
        }
    }

    pub(super) fn is_unexpected(&self, response: &Response<Received>) -> bool {
        response.status() == StatusCode::EXPECTATION_FAILED && self.waits_for_continue().is_some()
    }
}
