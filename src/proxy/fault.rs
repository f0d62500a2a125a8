//! Faults: requests that the gateway itself answers, and the one place where they become responses.
//!
//! Every fault has a status, a side, a stable code and words that say what to do. Its response is a
//! problem document (RFC 9457) with `Proxy-Status` (RFC 9209), so that nobody takes it for the
//! upstream's answer. Nothing of an upstream's or identity provider's own text is in it.

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::{
    route::{authority::AuthorityFlaw, path::Flaw},
    token,
};

mod cause;
mod response;

pub use cause::{Overdue, Overload, RefusedMethod};
pub use response::About;

/// Why a request is not served.
#[derive(Debug)]
pub enum Fault {
    /// No route matches; nothing is forwarded.
    NoRoute,
    /// The request cannot be trusted to mean one thing.
    BadRequest(BadRequest),
    /// TRACE, CONNECT on a reverse listener, or a method nobody asked for.
    MethodRefused(RefusedMethod),
    /// The request has been here before.
    Loop,
    /// An OPTIONS request that is to go no further than here.
    LastHop,
    /// The header block is larger than the limit.
    HeadersTooLarge,
    /// The request target is longer than the limit.
    UriTooLong,
    /// The body is longer than the limit.
    BodyTooLong,
    /// The caller took too long to send its request.
    CallerTimeout,
    /// The profile has no token.
    TokenUnavailable(String, token::Unavailable),
    /// More connections or waiters than the limit.
    Overloaded(Overload),
    /// No connection to the upstream.
    UpstreamUnreachable,
    /// No TLS with the upstream.
    UpstreamTls,
    /// The upstream's answer is no HTTP, or broke off before its head was complete.
    UpstreamProtocol,
    /// The upstream did not answer in time.
    UpstreamTimeout(Overdue),
    /// The gateway's own code has failed.
    Internal,
}

/// Why a request is malformed or ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The bytes are no HTTP/1.1 request; what is wrong.
    Framing(&'static str),
    /// There must be exactly one `Host`.
    HostCount,
    /// The `Host` is no `host[:port]`.
    Host(AuthorityFlaw),
    /// Absolute-form with another authority than `Host`.
    HostMismatch,
    /// A request target of a form that this listener does not take.
    Target,
    /// The path could be read in more than one way.
    Path(Flaw),
    /// `Connection` names a field that no connection owns.
    Nomination,
    /// An expectation other than `100-continue`.
    Expectation,
    /// The caller's body was broken.
    Body,
    /// A header name with an underscore.
    Underscore,
    /// `Max-Forwards` is no number.
    MaxForwards,
    /// An offer to go on in HTTP/2.
    Upgrade,
    /// The host is served under another certificate than the one that the caller has seen.
    Misdirected,
    /// It came without TLS to a listener that has TLS.
    Plain,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(what) => f.write_str(what),
            Self::HostCount => f.write_str("a request has exactly one Host field"),
            Self::Host(flaw) => write!(f, "the Host field cannot be used: {flaw}"),
            Self::HostMismatch => f.write_str("the request target and the Host field name different hosts"),
            Self::Target => f.write_str("a request target here begins with / or http://"),
            Self::Path(flaw) => write!(f, "the path could be read in more than one way: it holds {flaw}"),
            Self::Nomination => {
                f.write_str("the Connection field names a field that must reach the upstream")
            }
            Self::Expectation => f.write_str("the only expectation that is understood is 100-continue"),
            Self::Body => f.write_str("the request's body broke off or was malformed"),
            Self::Underscore => f.write_str(
                "a header name holds an underscore, which some upstreams take for a hyphen; \
                 `underscores: allow` on the route lets it pass",
            ),
            Self::MaxForwards => f.write_str("the Max-Forwards field is no number"),
            Self::Upgrade => f.write_str(
                "an upgrade to h2c is never forwarded; speak HTTP/1.1, or HTTP/2 from the first byte on, or set \
                 `h2c: ignore` on the route",
            ),
            Self::Misdirected => f.write_str(
                "this connection's certificate is not the one for that host: open another connection for it",
            ),
            Self::Plain => f.write_str("this listener speaks TLS: use https"),
        }
    }
}

/// Number of codes.
pub const CODES: usize = 13;

/// All codes, for counters.
pub const CODE_NAMES: [&str; CODES] = [
    "no_route",
    "bad_request",
    "method_refused",
    "loop",
    "too_large",
    "token_unavailable",
    "overloaded",
    "upstream_unreachable",
    "upstream_tls",
    "upstream_protocol",
    "upstream_timeout",
    "internal_error",
    "last_hop",
];

/// Everything a fault is, apart from its words.
struct Facts {
    status: StatusCode,
    code: &'static str,
    /// RFC 9209 §2.3 error type.
    proxy_error: &'static str,
    title: &'static str,
    closes: bool,
}

impl Fault {
    /// The stable code, one of [`CODE_NAMES`].
    pub fn code(&self) -> &'static str {
        self.facts().code
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.facts().status
    }

    fn facts(&self) -> Facts {
        let facts =
            |status, code, proxy_error, title| Facts { status, code, proxy_error, title, closes: false };
        let closing = |facts: Facts| Facts { closes: true, ..facts };
        use StatusCode as S;
        match self {
            Self::NoRoute => facts(S::NOT_FOUND, "no_route", "destination_not_found", "No route matches"),
            Self::BadRequest(BadRequest::Expectation) => facts(
                S::EXPECTATION_FAILED,
                "bad_request",
                "http_request_error",
                "Expectation not understood",
            ),
            Self::BadRequest(BadRequest::Misdirected) => facts(
                S::MISDIRECTED_REQUEST,
                "bad_request",
                "http_request_error",
                "The request came to the wrong place",
            ),
            Self::BadRequest(bad) => {
                let all =
                    facts(S::BAD_REQUEST, "bad_request", "http_request_error", "The request is refused");
                match bad {
                    BadRequest::Path(_) | BadRequest::Underscore => all,
                    _ => closing(all),
                }
            }
            Self::MethodRefused(_) => closing(facts(
                S::METHOD_NOT_ALLOWED,
                "method_refused",
                "http_request_denied",
                "The method is refused",
            )),
            Self::Loop => {
                facts(S::LOOP_DETECTED, "loop", "proxy_loop_detected", "The request goes in circles")
            }
            Self::LastHop => {
                facts(S::OK, "last_hop", "http_request_denied", "The request was for this gateway")
            }
            Self::HeadersTooLarge => closing(facts(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_large",
                "http_request_error",
                "The header block is too large",
            )),
            Self::UriTooLong => closing(facts(
                S::URI_TOO_LONG,
                "too_large",
                "http_request_error",
                "The request target is too long",
            )),
            Self::BodyTooLong => closing(facts(
                S::PAYLOAD_TOO_LARGE,
                "too_large",
                "http_request_error",
                "The request's body is too long",
            )),
            Self::CallerTimeout => closing(facts(
                S::REQUEST_TIMEOUT,
                "bad_request",
                "http_request_error",
                "The request came too slowly",
            )),
            Self::TokenUnavailable(..) => facts(
                S::SERVICE_UNAVAILABLE,
                "token_unavailable",
                "proxy_internal_error",
                "There is no token for the request",
            ),
            Self::Overloaded(_) => facts(
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "connection_limit_reached",
                "The gateway has too much to do",
            ),
            Self::UpstreamUnreachable => facts(
                S::BAD_GATEWAY,
                "upstream_unreachable",
                "destination_unavailable",
                "The upstream cannot be reached",
            ),
            Self::UpstreamTls => {
                facts(S::BAD_GATEWAY, "upstream_tls", "tls_protocol_error", "TLS with the upstream failed")
            }
            Self::UpstreamProtocol => facts(
                S::BAD_GATEWAY,
                "upstream_protocol",
                "http_protocol_error",
                "The upstream's answer cannot be used",
            ),
            Self::UpstreamTimeout(Overdue::Connection) => facts(
                S::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "connection_timeout",
                "The upstream could not be connected to in time",
            ),
            Self::UpstreamTimeout(Overdue::Response) => facts(
                S::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "http_response_timeout",
                "The upstream did not answer in time",
            ),
            Self::Internal => closing(facts(
                S::INTERNAL_SERVER_ERROR,
                "internal_error",
                "proxy_internal_error",
                "The gateway has failed",
            )),
        }
    }

    /// What happened and what to do now, for the caller.
    pub(super) fn detail(&self, route: Option<&str>) -> String {
        let route = route.unwrap_or("?");
        match self {
            Self::NoRoute => {
                "no route of the gateway matches this host, path, method and headers; `keybearer explain` shows why"
                    .into()
            }
            Self::BadRequest(bad) => bad.to_string(),
            Self::MethodRefused(why) => why.to_string(),
            Self::Loop => "the request has passed this gateway before: an upstream points back to it".into(),
            Self::LastHop => "the request asks for the gateway itself: OPTIONS with the target * or with Max-Forwards: 0; nothing was forwarded".into(),
            Self::HeadersTooLarge => "send fewer or shorter header fields, or raise the limit: limits.headers is for their number, limits.header_bytes for their bytes over HTTP/1.1, limits.http2_header_bytes over HTTP/2".into(),
            Self::UriTooLong => "send a shorter request target, or raise limits.uri_bytes".into(),
            Self::BodyTooLong => "send a shorter body, or raise limits.body_bytes or the route's body_bytes".into(),
            Self::CallerTimeout => "the request was not complete in time".into(),
            Self::TokenUnavailable(profile, unavailable) => {
                let why = match &unavailable.reason {
                    token::Reason::Failed(error) => error.public_words(),
                    token::Reason::TimedOut => "the identity provider has not answered yet",
                    token::Reason::TooManyWaiters => "too many requests wait for it already",
                };
                format!(
                    "profile \"{profile}\" has no valid token: {why}; nothing was forwarded, try again after Retry-After"
                )
            }
            Self::Overloaded(what) => format!("{what}; try again after Retry-After"),
            Self::UpstreamUnreachable => {
                format!("no connection to the upstream of route \"{route}\" could be made; {}", ask_doctor(route))
            }
            Self::UpstreamTls => format!(
                "the upstream of route \"{route}\" did not complete a TLS handshake; its certificate may not be trusted; {}",
                ask_doctor(route)
            ),
            Self::UpstreamProtocol => format!(
                "the upstream of route \"{route}\" broke off or did not answer in HTTP; `keybearer doctor --route {route} --probe PATH` asks it without the gateway"
            ),
            Self::UpstreamTimeout(what @ Overdue::Connection) => {
                format!("the upstream of route \"{route}\" {what}; {}", ask_doctor(route))
            }
            Self::UpstreamTimeout(what) => format!("the upstream of route \"{route}\" {what}"),
            Self::Internal => "a fault of the gateway itself; its log has the place, please report it".into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TokenUnavailable(_, unavailable) => Some(unavailable.retry_after),
            Self::Overloaded(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// The command that tries an upstream step by step, and names the step that fails.
fn ask_doctor(route: &str) -> String {
    format!("`keybearer doctor --route {route}` says why")
}
