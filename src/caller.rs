//! Callers: who sent a request, as far as the gateway could establish it.
//!
//! So far that is the peer's address. Certificates, keys and issuers are further ways to come.

use std::{fmt, net::SocketAddr};

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the connection.
    pub address: SocketAddr,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address.ip())
    }
}
