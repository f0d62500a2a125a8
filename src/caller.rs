//! Callers: who sent a request, as far as the gateway could establish it.
//!
//! So far that is the peer's address. Certificates, keys and issuers are further ways to come.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the connection.
    pub address: SocketAddr,
}

impl Caller {
    /// Its address.
    pub fn ip(&self) -> Option<IpAddr> {
        Some(self.address.ip())
    }

    /// Whether what it says of those before it is believed.
    pub fn is_trusted(&self) -> bool {
        false
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address.ip())
    }
}
