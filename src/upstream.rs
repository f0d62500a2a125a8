//! Upstreams: where routes forward to, connecting there and keeping connections.
//!
//! A [`pool::Pool`] belongs to one worker thread. Connections are used last-in first-out, so that few stay
//! warm and the rest can be closed.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc};

use http::HeaderValue;

pub mod connect;
pub mod gather;
pub mod pool;

/// Where a route's requests go. The request never changes any of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// With or without TLS.
    pub scheme: Scheme,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// PEM file of the certificate authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// The scheme of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme's default port (RFC 9110 §4.2).
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Origin {
    /// Whether the origin is this machine, whatever the network does.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// The `Host` field's value: the port only when it is not the scheme's, IPv6 in brackets.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// An origin made ready to be connected to.
pub struct Upstream {
    origin: Origin,
    /// Tells origins apart in every worker's pool.
    id: u64,
    host: HeaderValue,
    tls: Option<connect::Tls>,
}

impl Upstream {
    /// Prepares TLS for an https origin.
    ///
    /// # Errors
    /// When the host is no legal name or the trust store cannot be read.
    pub fn new(origin: Origin, trust: &connect::Trust) -> Result<Arc<Self>, connect::SetUpError> {
        static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let host = HeaderValue::from_str(&origin.authority())
            .map_err(|_| connect::SetUpError::BadHost(origin.host.clone()))?;
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(trust.tls(&origin)?),
        };
        let id = IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Arc::new(Self { origin, id, host, tls }))
    }

    /// The configured origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The value of `Host` for requests to it.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }
}
