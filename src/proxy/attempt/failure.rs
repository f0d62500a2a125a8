//! How an attempt fails, and what that means for a further one.

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use crate::{
    proxy::fault::{BadRequest, Fault},
    replay::AttemptError,
    upstream::{connect::ConnectError, connection::SendError},
};

/// Exactly one length, or exactly one `chunked`, or neither (RFC 9112 §6.3).
pub(super) fn is_soundly_framed(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => lengths.next().is_none() && is_number(length),
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
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
        SendError::Failed(error) => error,
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
        match inner.downcast_ref::<AttemptError<hyper::Error>>() {
            Some(AttemptError::TooLong) => return Some(Fault::BodyTooLong),
            Some(_) => return Some(Fault::BadRequest(BadRequest::Body)),
            None => cause = inner.source(),
        }
    }
    None
}

pub(super) fn connect_fault(error: ConnectError) -> Fault {
    tracing::debug!(%error, "no upstream connection");
    match error {
        ConnectError::Unreachable(_) => Fault::UpstreamUnreachable,
        ConnectError::TimedOut => Fault::UpstreamTimeout,
        ConnectError::Tls(_) => Fault::UpstreamTls,
        ConnectError::NotHttp2 => Fault::UpstreamProtocol,
    }
}
