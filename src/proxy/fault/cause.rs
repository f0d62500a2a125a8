//! What some faults have in common with others of their code, and what tells them apart: the cause, in words.

use std::fmt;

use http::Method;

/// What there is too much of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Requests that wait for a token of this profile.
    Waiters(String),
    /// Connections of the caller's address.
    Address,
    /// Connections to upstreams, of all that the process may have.
    Upstreams,
}

/// Why a method is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedMethod {
    /// TRACE and CONNECT, on every route.
    Never(Method),
    /// An unusual one that the route does not list.
    Unlisted(Method),
    /// CONNECT for a WebSocket over HTTP/2, on a route that has none.
    WebSocket,
}

impl fmt::Display for RefusedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(method) => write!(f, "{method} is never forwarded"),
            Self::Unlisted(method) => {
                write!(f, "{method} is not usual, so the route must list it in methods")
            }
            Self::WebSocket => f.write_str("the route takes no WebSocket: it says `websocket: false`"),
        }
    }
}

/// What did not come in time from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// A connection: its name, TCP or TLS. No request was sent over it.
    Connection,
    /// The response's head.
    Response,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => {
                "gave no connection within timeouts.connect, which is for name, TCP and TLS together"
            }
            Self::Response => {
                "sent no response head within timeouts.response, or the route's response_timeout"
            }
        })
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiters(profile) => write!(
                f,
                "as many requests as limits.waiters allows wait for a token of profile \"{profile}\": its identity \
                 provider does not answer in time"
            ),
            Self::Address => f.write_str(
                "the caller's address has as many connections as limits.connections_per_address allows: keep them open \
                 and use them again",
            ),
            Self::Upstreams => f.write_str(
                "there is no room for a further connection to an upstream: upstreams do not answer, or the process may \
                 open too few files (its log names the limit)",
            ),
        }
    }
}
