//! Informational responses of an upstream (RFC 9110 §15.2), until the request takes them.
//!
//! They arrive while the request waits for its answer, and so are there when that wait goes on.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Extensions, HeaderMap, Request, StatusCode};

/// An upstream that informs more often than this has no answer in mind.
const INTERIMS_MAX: usize = 64;
/// Bytes of header fields of one informational response.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// An informational response.
#[derive(Clone, Debug)]
pub struct Interim {
    /// 100 to 199.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
}

/// Informational responses to one request at a time.
#[derive(Clone, Default)]
pub struct Interims(Arc<Mutex<Arrived>>);

#[derive(Default)]
struct Arrived {
    waiting: Vec<Interim>,
    count: usize,
}

/// The upstream sends informational responses without end.
#[derive(Debug)]
pub struct TooMany;

impl Interims {
    /// What has arrived since the last time.
    ///
    /// # Errors
    /// [`TooMany`], from then on.
    pub fn take(&self) -> Result<Vec<Interim>, TooMany> {
        let mut arrived = self.arrived();
        if arrived.count > INTERIMS_MAX {
            return Err(TooMany);
        }
        Ok(mem::take(&mut arrived.waiting))
    }

    /// One has come.
    pub(super) fn heard(&self, status: StatusCode, headers: &HeaderMap) {
        let mut arrived = self.arrived();
        arrived.count = arrived.count.saturating_add(1);
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > INTERIM_BYTES_MAX {
            arrived.count = usize::MAX;
        } else if arrived.count <= INTERIMS_MAX {
            arrived.waiting.push(Interim { status, headers: headers.clone() });
        }
    }

    /// The next request begins.
    pub(super) fn begin(&self) {
        *self.arrived() = Arrived::default();
    }

    /// What makes the HTTP/1.1 library tell of them, for a request to carry. To copy it costs half as much as to
    /// make it.
    pub(super) fn hearing(&self) -> Extensions {
        let mut carrier = Request::new(());
        let this = self.clone();
        hyper::ext::on_informational(&mut carrier, move |interim| {
            this.heard(interim.status(), interim.headers());
        });
        carrier.into_parts().0.extensions
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_that_is_too_long_is_too_much_also_with_others_behind_it() {
        let interims = Interims::default();
        let long = HeaderValue::from_str(&"x".repeat(INTERIM_BYTES_MAX + 1)).unwrap();
        interims.heard(StatusCode::EARLY_HINTS, &HeaderMap::from_iter([(http::header::LINK, long)]));
        interims.heard(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert!(interims.take().is_err());
    }
}
