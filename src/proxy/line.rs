//! The caller's side of one request, as far as the proxy has to know it.

use http::{HeaderMap, StatusCode};

use crate::proxy::tunnel::Tunnel;

/// What a listener does for one request. Dropped when the request is over, its answer included.
pub trait Line {
    /// Whether the caller came over TLS.
    fn is_tls(&self) -> bool;

    /// Whether `host` is served under another certificate than the one that the caller has seen
    /// (RFC 9110 §15.5.20).
    fn is_misdirected(&self, host: &str) -> bool;

    /// Passes an informational response on, where the caller's protocol has a place for it.
    fn inform(&self, interim: &Interim);

    /// Takes over what is to carry bytes both ways once the answer's head is out.
    fn hand_over(&self, tunnel: Tunnel);
}

/// An informational response (RFC 9110 §15.2).
#[derive(Clone, Debug)]
pub struct Interim {
    /// 102 to 199; 100 and 101 have meanings of their own.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
}
