//! How an attempt fails, and what that means for a further one.

use std::fmt::Display;

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use crate::{
    body::ReceiveError,
    proxy::{
        attempt::Exchange,
        fault::{BadRequest, Fault, Overdue, Overload},
        record::Record,
    },
    replay::{AttemptError, NotReplayable},
    upstream::{connect::ConnectError, connection::SendError},
};

/// What fits a signed number of 64 bits, as of the lengths of requests.
const LENGTH_MAX: u64 = 1 << 63;

/// Exactly one length, or exactly one `chunked`, or neither (RFC 9112 §6.3).
pub(super) fn is_soundly_framed(headers: &HeaderMap) -> bool {
    // One pass costs less than two lookups.
    let mut framing =
        headers.iter().filter(|(name, _)| **name == CONTENT_LENGTH || **name == TRANSFER_ENCODING);
    match (framing.next(), framing.next()) {
        (None, _) => true,
        (Some((name, length)), None) if *name == CONTENT_LENGTH => is_length(length.as_bytes()),
        (Some((_, coding)), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// RFC 9110 §8.6. The library does not look at what goes with no body, as in the answer to HEAD.
fn is_length(value: &[u8]) -> bool {
    let is_number = value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
    is_number && number.is_some_and(|number| number <= LENGTH_MAX)
}

/// How one attempt failed.
pub(super) enum Failure {
    /// Nothing of the request left.
    Unsent,
    /// The upstream says that it has not looked at the request.
    Unprocessed,
    /// The connection broke before a response; the upstream may have acted.
    Broken,
    /// Sending it again would not help or not be safe.
    Fault(Fault),
}

pub(super) fn failure(error: SendError) -> Failure {
    let error = match error {
        SendError::Unsent => return Failure::Unsent,
        SendError::Unprocessed => return Failure::Unprocessed,
        SendError::Tls => return Failure::Fault(Fault::UpstreamTls),
        // Its connection is sound: to ask once more would be to ask twice.
        SendError::Reset(_) => return Failure::Fault(Fault::UpstreamProtocol),
        SendError::Http2(_) => return Failure::Broken,
        SendError::Http1(error) => error,
    };
    if let Some(fault) = callers(&error) {
        return Failure::Fault(fault);
    }
    if error.is_parse() {
        return Failure::Fault(Fault::UpstreamProtocol);
    }
    Failure::Broken
}

/// The fault when the caller's body was the cause.
fn callers(error: &hyper::Error) -> Option<Fault> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        match inner.downcast_ref::<AttemptError<ReceiveError>>() {
            Some(AttemptError::TooLong) => return Some(Fault::BodyTooLong),
            Some(_) => return Some(Fault::BadRequest(BadRequest::Body)),
            None => cause = inner.source(),
        }
    }
    None
}

impl Exchange {
    /// Whether it is not the caller's body that broke off. Over HTTP/2 that ends the stream without a
    /// word about the cause.
    pub(super) fn is_sound(&self) -> Result<(), Fault> {
        let body = self.body.as_ref().filter(|body| body.is_replayable() == Err(NotReplayable::Broken));
        match body {
            None => Ok(()),
            Some(body) if body.drawn_bytes() > self.route.settings().body_bytes_max => {
                Err(Fault::BodyTooLong)
            }
            Some(_) => Err(Fault::BadRequest(BadRequest::Body)),
        }
    }

    /// The connection, or the fault when there is none.
    pub(super) fn connected<C>(&self, outcome: Result<C, ConnectError>, record: &Record) -> Result<C, Fault> {
        outcome.map_err(|error| self.unconnected(&error, record))
    }

    /// The fault that ends the request, if the upstream has refused TLS behind its handshake with its cause in the log: with
    /// TLS 1.3 that is how it refuses our certificate, or the lack of one.
    pub(super) fn told(&self, fault: Fault, record: &Record) -> Fault {
        if matches!(fault, Fault::UpstreamTls) {
            let error = "the upstream ended TLS after the handshake, perhaps over our certificate";
            self.tell(&fault, &error, record);
        }
        fault
    }

    fn unconnected(&self, error: &ConnectError, record: &Record) -> Fault {
        let fault = match error {
            ConnectError::Unreachable(_) => Fault::UpstreamUnreachable,
            ConnectError::TimedOut => Fault::UpstreamTimeout(Overdue::Connection),
            ConnectError::Tls(_) => Fault::UpstreamTls,
            ConnectError::NoRoom => Fault::Overloaded(Overload::Upstreams),
            ConnectError::NotHttp2 => Fault::UpstreamProtocol,
        };
        // Of a lack of room those tell who know its size.
        if !matches!(error, ConnectError::NoRoom) {
            self.tell(&fault, error, record);
        }
        fault
    }

    /// Logs the cause, which no caller gets.
    fn tell(&self, fault: &Fault, error: &impl Display, record: &Record) {
        let (route, upstream) = (self.route.name(), self.route.upstream().origin().to_string());
        let request_id = record.request_id().to_str().unwrap_or_default();
        tracing::debug!(route, upstream, request_id, "no upstream connection: {error}");
        if self.worker.complaints().is_news(&upstream) {
            let status = fault.status().as_u16();
            tracing::warn!(
                route,
                upstream,
                fault = fault.code(),
                "an upstream cannot be connected to, requests get {status}: {error} (keybearer doctor --route {route} \
                 tries each step)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_length_is_a_number_that_a_body_may_have() {
        for (value, is_sound) in [
            ("0", true),
            ("007", true),
            ("9223372036854775808", true),
            ("9223372036854775809", false),
            ("99999999999999999999999", false),
            ("", false),
            ("+1", false),
            ("1 ", false),
            ("0x1", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(value))]);
            assert_eq!(is_soundly_framed(&headers), is_sound, "{value:?}");
        }
    }
}
