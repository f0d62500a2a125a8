//! Upstreams: where routes forward to, connecting there and keeping connections.
//!
//! A [`pool::Pool`] belongs to one worker thread. Connections are used last-in first-out, so that few stay
//! warm and the rest can be closed. What is known of an [`Upstream`] is shared by all workers.

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, uri};
use http_body::Body;

use crate::profile::certificate::Presented;

mod addresses;
mod bell;
mod bound;
pub mod connect;
pub mod connection;
mod departures;
mod driven;
pub mod gather;
mod http1;
mod http2;
pub mod interims;
mod names;
mod opening;
pub mod pool;
mod race;
pub mod room;
mod shelf;
pub mod stream;
pub mod tally;
pub mod tls;
mod traffic;

pub use traffic::Closing;
use traffic::Traffic;

/// Where a route's requests go, and how. The request never changes any of it.
///
/// Routes share connections only when all of it is equal.
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
    /// What the gateway shows when the upstream asks for a certificate.
    pub identity: Option<Identity>,
    /// The name to ask for and to verify instead of the host.
    pub server_name: Option<String>,
    /// The least version of TLS.
    pub min_tls: MinTls,
    /// When HTTP/2 is spoken.
    pub http2: Http2,
    /// How long a connection takes new requests, a tenth more or less.
    pub max_age: Duration,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate, perhaps with those above it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The scheme of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The least version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MinTls {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// When HTTP/2 is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// When the TLS handshake agrees on it (ALPN); never without TLS.
    Auto,
    /// Never.
    Off,
    /// Always, without TLS and without asking.
    PriorKnowledge,
}

/// What a request asks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Whatever the upstream speaks.
    Any,
    /// HTTP/1.1 and the way to the bytes after it, for an upgrade. An upstream of
    /// [`Http2::PriorKnowledge`] cannot do that: it gets HTTP/2 all the same.
    Http1,
}

impl Scheme {
    /// The scheme's default port (RFC 9110 §4.2).
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// The word in a URL.
    pub fn word(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn name(self) -> uri::Scheme {
        match self {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        }
    }
}

impl Origin {
    /// Long enough that connecting costs nothing, short enough that a changed DNS entry and a new
    /// server behind a balancer are noticed.
    pub const MAX_AGE: Duration = Duration::from_secs(600);

    /// An origin with nothing special about it.
    pub fn new(scheme: Scheme, host: String, port: u16) -> Self {
        Self {
            scheme,
            host,
            port,
            ca: None,
            identity: None,
            server_name: None,
            min_tls: MinTls::Tls12,
            http2: Http2::Auto,
            max_age: Self::MAX_AGE,
        }
    }

    /// Whether connecting to it needs files, whose contents may change.
    pub fn has_files(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// Whether a profile's certificate may be shown.
    fn shows_nothing_else(&self) -> bool {
        self.scheme == Scheme::Https && self.identity.is_none()
    }

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
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

/// The body of a request to an upstream.
pub trait Sendable: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Unpin + 'static {}

impl<B> Sendable for B where B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Unpin + 'static {}

/// An origin made ready to be connected to.
pub struct Upstream {
    origin: Origin,
    /// Tells upstreams apart in every worker's pool.
    id: u64,
    host: HeaderValue,
    authority: uri::Authority,
    tls: Option<Arc<tls::Tls>>,
    /// The profile's certificate is shown, unless the origin names one of its own.
    bound: Option<bound::Bound>,
    /// What the last handshake agreed on: one of the constants below.
    spoken: AtomicU8,
    /// Counts connections, so that addresses are used in turn.
    turn: AtomicUsize,
    traffic: Arc<Traffic>,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

impl Upstream {
    /// Prepares TLS for an https origin. `presented` is the certificate that the tokens on its requests
    /// are bound to; one that the origin names itself goes before it.
    ///
    /// # Errors
    /// When the host is no legal name or the PEM files cannot be used.
    pub fn new(
        origin: Origin,
        trust: &tls::Trust,
        presented: Option<Arc<Presented>>,
    ) -> Result<Arc<Self>, tls::SetUpError> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let bad_host = || tls::SetUpError::BadHost(origin.host.clone());
        let authority = uri::Authority::try_from(origin.authority()).map_err(|_| bad_host())?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad_host())?;
        let (tls, spoken) = match (origin.scheme, origin.http2) {
            (Scheme::Http, Http2::PriorKnowledge) => (None, HTTP2),
            (Scheme::Http, _) => (None, HTTP1),
            (Scheme::Https, Http2::Off) => (Some(Arc::new(trust.tls(&origin)?)), HTTP1),
            (Scheme::Https, _) => (Some(Arc::new(trust.tls(&origin)?)), UNKNOWN),
        };
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let (spoken, turn) = (AtomicU8::new(spoken), AtomicUsize::new(fastrand::usize(..)));
        let bound = presented.filter(|_| origin.shows_nothing_else()).map(bound::Bound::new);
        let traffic = Arc::default();
        Ok(Arc::new(Self { origin, id, host, authority, tls, bound, spoken, turn, traffic }))
    }

    /// Whether it shows this profile's certificate, or rightly none.
    pub fn shows(&self, presented: Option<&Arc<Presented>>) -> bool {
        match (&self.bound, presented.filter(|_| self.origin.shows_nothing_else())) {
            (None, None) => true,
            (Some(bound), Some(presented)) => bound.is_of(presented),
            _ => false,
        }
    }

    /// How to do TLS now, and with which certificate, if it is a profile's.
    fn tls_now(&self) -> Option<(Arc<tls::Tls>, Option<bound::Era>)> {
        let plain = self.tls.as_ref()?;
        Some(match &self.bound {
            None => (Arc::clone(plain), None),
            Some(bound) => {
                let (tls, era) = bound.tls(plain);
                (tls, Some(era))
            }
        })
    }

    /// Tells it apart from every other one, and from what it was before a reload.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Open connections of all workers, idle or not, and those that were upgraded.
    pub fn open(&self) -> usize {
        self.traffic.open()
    }

    /// Connections that were made.
    pub fn opened(&self) -> u64 {
        self.traffic.opened()
    }

    /// Connections that the gateway has closed for this reason.
    pub fn closed(&self, why: Closing) -> u64 {
        self.traffic.closed(why)
    }

    /// The configured origin.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The value of `Host` for requests to it.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Whether a connection for `want` may turn out to be one that requests share.
    fn may_share(&self, want: Want) -> bool {
        let is_certain = self.origin.http2 == Http2::PriorKnowledge;
        (want == Want::Any || is_certain) && self.spoken.load(Ordering::Relaxed) != HTTP1
    }

    /// A handshake that offered everything has agreed on this.
    fn learn(&self, is_http2: bool) {
        self.spoken.store(if is_http2 { HTTP2 } else { HTTP1 }, Ordering::Relaxed);
    }

    /// How long a connection made now takes requests. Not the same for all, so that they are not all
    /// renewed at once.
    fn life(&self) -> Duration {
        self.origin.max_age.mul_f64(0.9 + 0.2 * fastrand::f64())
    }

    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
