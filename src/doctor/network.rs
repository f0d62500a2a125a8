//! The way to a server: its name, its addresses, its TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::{
    doctor::{
        handshake::{self, Shown},
        step::Steps,
    },
    profile::{
        certificate::Certificate,
        diagnosis::{Diagnosis, network::of_network},
    },
    upstream::{Http2, Identity, MinTls, Origin, Scheme},
};

/// Resolvers try each of their servers for five seconds.
const DNS_LIMIT: Duration = Duration::from_secs(11);
/// More than any way around the world, and more than one lost packet.
const TCP_LIMIT: Duration = Duration::from_secs(4);
const TLS_LIMIT: Duration = Duration::from_secs(5);
/// Addresses that are tried; big services have dozens.
const ADDRESSES_MAX: usize = 8;
/// Shorter ones are about to be a failure that nobody needs.
const CERTIFICATE_DAYS_MIN: i64 = 30;

/// A server.
pub(super) struct Target {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

/// How to speak TLS with it.
pub(super) struct Tls {
    /// Asked for and verified.
    pub(super) name: String,
    /// Whom to trust instead of the system's authorities.
    pub(super) ca: Option<PathBuf>,
    pub(super) shows: Shows,
    pub(super) min_tls: MinTls,
    /// Offered by ALPN.
    pub(super) protocols: &'static [&'static str],
}

/// What a server is shown that asks for a certificate.
pub(super) enum Shows {
    Nothing,
    Files(Identity),
    /// What a profile's tokens are bound to.
    Bound(Arc<Certificate>),
}

impl Target {
    /// A route's upstream, reached as the data plane does it. `bound` is the certificate to which the tokens of the
    /// route's profile are bound, if they are.
    pub(super) fn of_upstream(origin: &Origin, bound: Option<&Arc<Certificate>>) -> Self {
        let shows = match (bound, &origin.identity) {
            (Some(certificate), _) => Shows::Bound(Arc::clone(certificate)),
            (None, Some(files)) => Shows::Files(files.clone()),
            (None, None) => Shows::Nothing,
        };
        let tls = (origin.scheme == Scheme::Https).then(|| Tls {
            name: origin.server_name.clone().unwrap_or_else(|| origin.host.clone()),
            ca: origin.ca.clone(),
            shows,
            min_tls: origin.min_tls,
            protocols: match origin.http2 {
                Http2::Off => &["http/1.1"],
                Http2::Auto | Http2::PriorKnowledge => &["h2", "http/1.1"],
            },
        });
        Self { host: origin.host.clone(), port: origin.port, tls }
    }

    /// An identity provider, or the proxy on the way there, whose certificate is judged by `ca` or else by
    /// the system's authorities; `None` for what is no server.
    pub(super) fn of_url(url: &Url, ca: Option<&Path>) -> Option<Self> {
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = (url.scheme() == "https").then(|| Tls {
            name: host.clone(),
            ca: ca.map(Path::to_owned),
            shows: Shows::Nothing,
            min_tls: MinTls::Tls12,
            protocols: &["http/1.1"],
        });
        Some(Self { host, port: url.port_or_known_default()?, tls })
    }

    /// The way there and no handshake.
    pub(super) fn without_tls(self) -> Self {
        Self { tls: None, ..self }
    }
}

/// A connection that was made.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether the handshake has agreed on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// Resolves, connects and shakes hands, step by step; what follows a failure is skipped.
pub(super) async fn examine(target: &Target, steps: &mut Steps) -> Option<Stream> {
    let connected = match resolve(target, steps).await {
        Some(addresses) => connect(&addresses, steps).await,
        None => {
            steps.skip("tcp", "there is no address");
            None
        }
    };
    match (&target.tls, connected) {
        (None, tcp) => tcp.map(Stream::Plain),
        (Some(_), None) => {
            steps.skip("tls", "there is no connection");
            None
        }
        (Some(tls), Some(tcp)) => encrypt(tcp, tls, steps).await,
    }
}

async fn resolve(target: &Target, steps: &mut Steps) -> Option<Vec<SocketAddr>> {
    let begun = Instant::now();
    let looked_up = timeout(DNS_LIMIT, lookup_host((target.host.as_str(), target.port))).await;
    let failure = match looked_up {
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            if !addresses.is_empty() {
                steps.ok("dns", format!("{}: {}", target.host, shown.join(", ")));
                steps.took(begun.elapsed());
                return Some(addresses);
            }
            "the name has no address".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "timed out".to_owned(),
    };
    let words = if failure == "timed out" {
        of_network("Temporary failure in name resolution")
    } else {
        of_network("dns error")
    };
    steps.fail("dns", format!("{}: {failure}", target.host), words);
    None
}

/// Tries all addresses at once, as one that is dead shows only sometimes.
async fn connect(addresses: &[SocketAddr], steps: &mut Steps) -> Option<TcpStream> {
    let tried = addresses.iter().take(ADDRESSES_MAX);
    let tried: Vec<_> = tried.map(|address| (*address, tokio::spawn(knock(*address)))).collect();
    let (mut reached, mut failures) = (None, Vec::new());
    for (address, knocking) in tried {
        match knocking.await.unwrap_or_else(|_| Err("the attempt has panicked".into())) {
            Ok((tcp, took)) => reached = reached.or(Some((address, tcp, took))),
            Err(error) => failures.push((address.to_string(), error)),
        }
    }
    let Some((address, tcp, took)) = reached else {
        let words = failures.first().map(|(_, error)| of_network(error))?;
        let shown: Vec<_> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
        steps.fail("tcp", shown.join("; "), words);
        return None;
    };
    if failures.is_empty() {
        steps.ok("tcp", format!("connected to {address}"));
    } else {
        let shown: Vec<_> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
        let words = Diagnosis {
            meaning: "one of the name's addresses does not answer, so some connections are slow to begin",
            remedy: "see whether this machine has a working way for IPv6, and whether all servers are up",
        };
        steps.warn("tcp", format!("connected to {address}, but {}", shown.join("; ")), words);
    }
    steps.took(took);
    Some(tcp)
}

async fn knock(address: SocketAddr) -> Result<(TcpStream, Duration), String> {
    let begun = Instant::now();
    match timeout(TCP_LIMIT, TcpStream::connect(address)).await {
        Ok(outcome) => outcome.map(|tcp| (tcp, begun.elapsed())).map_err(|error| error.to_string()),
        Err(_) => Err("timed out".to_owned()),
    }
}

async fn encrypt(tcp: TcpStream, tls: &Tls, steps: &mut Steps) -> Option<Stream> {
    let begun = Instant::now();
    let Ok((outcome, shown)) = timeout(TLS_LIMIT, handshake::shake(tcp, tls)).await else {
        steps.fail("tls", "no handshake within 5 s", of_network("timed out"));
        return None;
    };
    let chain = chain(&shown);
    match outcome {
        Err(error) => {
            let shown = if chain.is_empty() { String::new() } else { format!("; it showed {chain}") };
            steps.fail("tls", format!("{error}{shown}"), of_network(&error));
            None
        }
        Ok(stream) => {
            let version = match stream.get_ref().1.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            };
            let seen = format!("{version}; {chain}");
            match shown.days_left {
                Some(days) if days < CERTIFICATE_DAYS_MIN => {
                    let words = Diagnosis {
                        meaning: "the server's certificate expires soon, and connections fail from then on",
                        remedy: "ask the server's operator whether it is renewed by itself",
                    };
                    steps.warn("tls", seen, words);
                }
                _ => steps.ok("tls", seen),
            }
            steps.took(begun.elapsed());
            Some(Stream::Tls(Box::new(stream)))
        }
    }
}

/// `CN=a, issued by CN=b, issued by CN=c; valid until 2027-01-31 (68 days)`.
fn chain(shown: &Shown) -> String {
    let mut text = shown.chain.join(", issued by ");
    if let (Some(until), Some(days)) = (&shown.until, shown.days_left) {
        text.push_str(&format!("; valid until {until} ({days} days)"));
    }
    text
}
