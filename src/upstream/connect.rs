//! Connecting to an upstream: addresses, TCP, TLS.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::upstream::{Origin, Upstream, gather};

/// Why an upstream cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// Not a host name or address.
    #[error("{0:?} is no host name or address")]
    BadHost(String),
    /// The CA file cannot be used.
    #[error("ca file {}: {what}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system's trust store or the TLS library refuses.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address, or none of them answers.
    #[error("{0}")]
    Unreachable(io::Error),
    /// Neither success nor failure within the limit.
    #[error("no connection within the limit")]
    TimedOut,
    /// The TLS handshake failed, most often over the certificate.
    #[error("{0}")]
    Tls(io::Error),
}

/// TLS client configurations, one for each set of trusted roots.
#[derive(Default)]
pub struct Trust {
    configs: Mutex<HashMap<Option<PathBuf>, Arc<ClientConfig>>>,
}

impl Trust {
    pub(super) fn tls(&self, origin: &Origin) -> Result<Tls, SetUpError> {
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| SetUpError::BadHost(origin.host.clone()))?;
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match configs.get(&origin.ca) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(client_config(origin.ca.as_deref())?);
                configs.insert(origin.ca.clone(), Arc::clone(&config));
                config
            }
        };
        Ok(Tls { connector: TlsConnector::from(config), name })
    }
}

/// Configured roots stand alone: a private CA is a choice against the public ones.
fn client_config(ca: Option<&Path>) -> Result<ClientConfig, SetUpError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match ca {
        None => builder.with_platform_verifier()?.with_no_client_auth(),
        Some(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, SetUpError> {
    let refuse = |what: String| SetUpError::Ca { path: path.to_owned(), what };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))? {
        let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
        store.add(certificate).map_err(|e| refuse(e.to_string()))?;
    }
    if store.is_empty() { Err(refuse("holds no certificate in PEM form".into())) } else { Ok(store) }
}

/// What a TLS handshake with one origin needs.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Connects to `upstream` within `limit`, which covers name, TCP and TLS together.
///
/// # Errors
/// [`ConnectError`], which tells the network's failures from TLS's.
pub async fn connect(upstream: &Upstream, limit: Duration) -> Result<Stream, ConnectError> {
    let connecting = async {
        let origin = &upstream.origin;
        let tcp = TcpStream::connect((origin.host.as_str(), origin.port))
            .await
            .map_err(ConnectError::Unreachable)?;
        tcp.set_nodelay(true).map_err(ConnectError::Unreachable)?;
        match &upstream.tls {
            None => Ok(Transport::Plain(tcp)),
            Some(tls) => {
                let stream = tls.connector.connect(tls.name.clone(), tcp).await.map_err(ConnectError::Tls)?;
                Ok(Transport::Tls(Box::new(stream)))
            }
        }
    };
    let transport = tokio::time::timeout(limit, connecting).await.unwrap_or(Err(ConnectError::TimedOut))?;
    Ok(Stream { transport, wire: Rc::default() })
}

/// A connection to an upstream.
///
/// An upstream that answers early, for instance with 401 to an upload, may close its end while we are
/// still sending. Its answer is there to be read, so a failed write is not the end: from then on what
/// is written goes nowhere, and reading tells what the upstream had to say.
pub struct Stream {
    transport: Transport,
    wire: Rc<Wire>,
}

/// What is known of a connection's sending side.
#[derive(Default)]
pub struct Wire {
    is_deaf: Cell<bool>,
    sent_bytes: Cell<u64>,
}

impl Wire {
    /// Whether the upstream has stopped listening; such a connection is never used again.
    pub fn is_deaf(&self) -> bool {
        self.is_deaf.get()
    }

    /// Bytes that the system has taken so far. Unchanged means that nothing of a request has left.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// What is known of its sending side, also later.
    pub fn wire(&self) -> Rc<Wire> {
        Rc::clone(&self.wire)
    }

    /// Turns the failure of a write of `length` bytes into deafness, and counts a success.
    fn survive(&self, written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                self.wire.is_deaf.set(true);
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Ok(sent)) => {
                self.wire.sent_bytes.set(self.wire.sent_bytes.get() + sent as u64);
                Poll::Ready(Ok(sent))
            }
            written => written,
        }
    }
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.wire.is_deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        };
        this.survive(written, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if this.wire.is_deaf() {
            return Poll::Ready(Ok(length));
        }
        let written = match &mut this.transport {
            Transport::Plain(stream) => gather::poll_write(stream, cx, bufs),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        };
        this.survive(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        };
        this.survive(flushed.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
