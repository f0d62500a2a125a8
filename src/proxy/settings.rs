//! What a route may be told: the settings of the data plane.

use std::time::Duration;

use http::uri::PathAndQuery;

use crate::{route::path::Check, upstream::Origin};

/// What happens to the requests of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Where its requests go: scheme, host and port come from here only.
    pub upstream: Origin,
    /// The path in front of every request's path; `None` for none.
    pub base_path: Option<PathAndQuery>,
    /// The profile whose token goes on the request; `None` means `profile: none`.
    pub profile: Option<String>,
    /// Takes the matched prefix off before forwarding.
    pub strip_path: bool,
    /// Sends the caller's `Host` instead of the upstream's authority.
    pub preserve_host: bool,
    /// Lets the caller's own `Authorization` through; only on `profile: none`.
    pub pass_authorization: bool,
    /// How ambiguous a path may be.
    pub path_check: Check,
    /// Bytes of request body that are kept for a second attempt; zero turns replay off.
    pub replay_limit_bytes: usize,
    /// Bytes of a request body; a longer one is refused.
    pub body_bytes_max: u64,
    /// What becomes of header names with an underscore.
    pub underscores: Underscores,
    /// Where a request comes from, told to the upstream.
    pub forwarded: Forwarding,
    /// Whether a connection may become a WebSocket.
    pub websocket: bool,
    /// What becomes of an offer to upgrade to HTTP/2.
    pub http2_offers: Http2Offers,
    /// This route's own limit for the upstream's response head.
    pub response_timeout: Option<Duration>,
    /// How long an upload that could not be replayed waits for "100 Continue"; `None` does not ask.
    pub expect_continue: Option<Duration>,
}

/// Header names with an underscore: upstreams that hand headers on as CGI variables take `X_Admin` for
/// `X-Admin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Refused where a credential goes on the request.
    #[default]
    Refuse,
    /// Forwarded like any other.
    Allow,
}

/// Offers of callers to upgrade a connection to HTTP/2, which is never done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2Offers {
    /// The request is refused.
    #[default]
    Refuse,
    /// The request is served as if there was none.
    Ignore,
}

/// How the upstream is told where a request comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// Not at all.
    #[default]
    Off,
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
}

/// Time limits of the data plane. All end in a fault or a closed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its head.
    pub header_read: Duration,
    /// From the request being sent to the upstream's response head.
    pub response: Duration,
    /// A caller's connection without a request, or with an answer that the caller does not take.
    pub idle: Duration,
    /// In each of these a request body brings at least one byte for every second.
    pub body: Duration,
    /// An answer for which the upstream sends nothing, or a tunnel on which nothing moves.
    pub stream: Duration,
    /// From the stop signal to giving up on requests in flight.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            stream: Duration::from_secs(3600),
            drain: Duration::from_secs(30),
        }
    }
}

/// Memory for bodies that may have to be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Bytes per request; a route may set its own.
    pub limit_bytes: usize,
    /// Bytes for the whole process.
    pub total_bytes: usize,
}

impl Default for Replay {
    fn default() -> Self {
        Self { limit_bytes: 1024 * 1024, total_bytes: 256 * 1024 * 1024 }
    }
}
