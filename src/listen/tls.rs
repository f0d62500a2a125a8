//! TLS of a listener: the handshake, and certificates that follow their files.
//!
//! A listener's certificates are one snapshot, made anew when a file changes and swapped as a whole,
//! so an open connection keeps what it began with. Files that cannot be used change nothing.
//!
//! Every listener has ticket keys of its own, and new ones with every snapshot: a session that began
//! under other certificates or other rules for callers' certificates is not resumed here. There is no
//! early data (0-RTT): it could be replayed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    clock,
    listen::{
        certificate::{self, CertificateError, Facts, Pair},
        sni::Choice,
        transport::TlsFacts,
    },
    telemetry::listeners::Certificates,
};

/// Offered by ALPN (RFC 7301), in this order.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How often the files are looked at. As often as secrets' files are.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// What a TLS listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least one. The first is for callers that ask for no name, or for one that none has.
    pub certificates: Vec<Pair>,
    /// Whether callers show a certificate.
    pub clients: Clients,
    /// The least version.
    pub min_version: Version,
    /// From the accepted connection to the end of the handshake.
    pub handshake_max: Duration,
}

/// Whether callers show a certificate of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// They are not asked for one.
    NotAsked,
    /// They may, and then it must be of an authority in this PEM file.
    Optional(PathBuf),
    /// They must, and it must be of an authority in this PEM file.
    Required(PathBuf),
}

impl Clients {
    fn authorities(&self) -> Option<&Path> {
        match self {
            Self::NotAsked => None,
            Self::Optional(path) | Self::Required(path) => Some(path),
        }
    }
}

/// A version of TLS. Older ones are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// Certificates and rules as they are in force.
struct Snapshot {
    config: Arc<ServerConfig>,
    choice: Arc<Choice>,
    facts: Vec<Facts>,
}

/// One listener's TLS, shared by its workers and by whoever follows the files.
pub(super) struct Live {
    listener: Arc<str>,
    settings: Settings,
    snapshot: ArcSwap<Snapshot>,
    shown: Arc<Certificates>,
}

impl Live {
    fn new(
        listener: &Arc<str>,
        settings: &Settings,
        shown: &Arc<Certificates>,
    ) -> Result<Self, CertificateError> {
        Ok(Self {
            listener: Arc::clone(listener),
            settings: settings.clone(),
            snapshot: ArcSwap::from_pointee(load(settings)?),
            shown: Arc::clone(shown),
        })
    }

    /// Makes a TLS connection of `stream`, within the limit of time.
    ///
    /// # Errors
    /// When the caller does not speak TLS, shows no certificate that will do, or takes too long.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, TlsFacts), HandshakeError> {
        let handshake = async {
            if is_plain(&stream).await {
                return Err(HandshakeError::Plain(stream));
            }
            // As it is when the caller begins: it may have been silent while the files changed.
            let snapshot = self.snapshot.load_full();
            let accepting = TlsAcceptor::from(Arc::clone(&snapshot.config)).accept(stream);
            Ok((accepting.await.map_err(HandshakeError::Failed)?, snapshot))
        };
        let (stream, snapshot) = tokio::time::timeout(self.settings.handshake_max, handshake)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
            .map_err(HandshakeError::Failed)??;
        let connection = stream.get_ref().1;
        let facts = TlsFacts {
            is_http2: connection.alpn_protocol() == Some(HTTP2),
            server_name: connection.server_name().map(Into::into),
            choice: Arc::clone(&snapshot.choice),
        };
        Ok((stream, facts))
    }

    /// Shows the snapshot in `/metrics`. To be told once it is in force.
    pub(super) fn show(&self) {
        let snapshot = self.snapshot.load();
        let expiries =
            snapshot.facts.iter().map(|facts| (facts.path.display().to_string(), facts.expires_at));
        self.shown.show(expiries.collect());
    }
}

/// Why there is no TLS connection.
pub(super) enum HandshakeError {
    /// The caller has begun a request without TLS.
    Plain(TcpStream),
    /// It does not get to an end.
    Failed(io::Error),
}

/// Whether what begins here is a request of HTTP/1.1: a method is in capital letters, which no TLS record
/// begins with.
async fn is_plain(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first.iter().all(u8::is_ascii_uppercase)
}

/// Whether its time is over, by the wall clock as callers will judge it.
pub fn has_expired(facts: &Facts) -> bool {
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    facts.expires_at < i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// The TLS library's cryptography.
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn load(settings: &Settings) -> Result<Snapshot, CertificateError> {
    let provider = provider();
    let (mut choices, mut all) = (Vec::new(), Vec::new());
    for (index, pair) in settings.certificates.iter().enumerate() {
        let chain = certificate::chain(&pair.certificate)?;
        let (key, facts) = certificate::join(chain, certificate::key(&pair.key)?, &pair.key, &provider)?;
        if index > 0 && facts.dns_names.is_empty() {
            return Err(CertificateError::Nameless(pair.certificate.clone()));
        }
        choices.push((key, facts.dns_names.clone()));
        all.push(facts);
    }
    let choice = Arc::new(Choice::new(choices));
    let config = Arc::new(server_config(settings, provider, Arc::clone(&choice))?);
    Ok(Snapshot { config, choice, facts: all })
}

fn server_config(
    settings: &Settings,
    provider: CryptoProvider,
    choice: Arc<Choice>,
) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(provider);
    let versions: &[_] = match settings.min_version {
        Version::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Version::Tls13 => &[&rustls::version::TLS13],
    };
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match settings.clients.authorities() {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(certificate::authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match settings.clients {
                Clients::Optional(_) => verifier.allow_unauthenticated(),
                Clients::Required(_) | Clients::NotAsked => verifier,
            };
            let verifier = verifier.build().map_err(|error| CertificateError::Library(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(choice);
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.alpn_protocols = vec![HTTP2.into(), HTTP1.into()];
    Ok(config)
}

/// What tells one state of a file from another: also a link that leads elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

/// One state of all files; `None` for one that is not there.
fn prints(settings: &Settings) -> Vec<Option<Print>> {
    let pairs = settings.certificates.iter().flat_map(|pair| [pair.certificate.as_path(), &pair.key]);
    let print = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Print {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    };
    pairs.chain(settings.clients.authorities()).map(print).collect()
}

/// Gives the settings in force.
pub type Served = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// TLS for others than callers, with what follows its files. What is in use is `shown`.
///
/// # Errors
/// When the certificates cannot be used.
pub fn served(
    name: &str,
    settings: &Settings,
    shown: &Arc<Certificates>,
) -> Result<(Served, Follower), CertificateError> {
    let (live, follower) = Follower::start(&name.into(), settings, shown)?;
    live.show();
    Ok((Arc::new(move || Arc::clone(&live.snapshot.load().config)), follower))
}

/// Follows the files of one listener's certificates.
pub struct Follower {
    live: Arc<Live>,
    seen: Vec<Option<Print>>,
    /// What was wrong at the last look, and whether it has been said. Tried again at every look.
    complaint: Option<(CertificateError, bool)>,
}

impl Follower {
    /// Reads the certificates for the first time.
    pub(super) fn start(
        listener: &Arc<str>,
        settings: &Settings,
        shown: &Arc<Certificates>,
    ) -> Result<(Arc<Live>, Self), CertificateError> {
        // Before the files are read: a change in between is seen at the next look.
        let seen = prints(settings);
        let live = Arc::new(Live::new(listener, settings, shown)?);
        Ok((Arc::clone(&live), Self { live, seen, complaint: None }))
    }

    /// Looks at the files once and takes them into use if they have changed.
    fn look(&mut self) {
        let prints = prints(&self.live.settings);
        if prints == self.seen && self.complaint.is_none() {
            return;
        }
        self.seen = prints;
        let listener = &*self.live.listener;
        match load(&self.live.settings) {
            Ok(snapshot) => {
                snapshot.facts.iter().for_each(|facts| tell(listener, facts));
                self.live.snapshot.store(Arc::new(snapshot));
                self.live.shown.renewed();
                self.live.show();
                self.complaint = None;
            }
            Err(error) => {
                // Said when it stays: whoever writes two files writes one of them first.
                let is_old = self.complaint.take().filter(|(old, _)| *old == error);
                let is_said = is_old.as_ref().is_some_and(|(_, is_said)| *is_said);
                if is_old.is_some() && !is_said {
                    let words = "the certificate files have changed but cannot be used, the old ones stay";
                    tracing::warn!(listener, "{words}: {error}");
                    self.live.shown.failed();
                }
                self.complaint = Some((error, is_old.is_some()));
            }
        }
    }
}

/// Says what is in use from now on.
fn tell(listener: &str, facts: &Facts) {
    let (file, names, expires) = (facts.path.display(), facts.names(), facts.expires.as_str());
    tracing::info!(listener, %file, names, expires, "the certificate files have changed and are in use");
    if has_expired(facts) {
        let words = "the certificate has expired: callers that check it will not connect";
        tracing::warn!(listener, %file, expires, "{words}");
    }
}

/// Follows the files of all `followers`; never ends by itself.
pub async fn follow(mut followers: Vec<Follower>) {
    while !followers.is_empty() {
        tokio::time::sleep(LOOK_PERIOD).await;
        // On a thread for it: a file on a network may be slow.
        let looking = tokio::task::spawn_blocking(move || {
            followers.iter_mut().for_each(Follower::look);
            followers
        });
        match looking.await {
            Ok(back) => followers = back,
            Err(error) => {
                tracing::error!(%error, "the certificate files are not followed any more");
                return;
            }
        }
    }
}
