//! Connecting to an upstream: addresses, TCP, TLS.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    pin::Pin,
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
            None => Ok(Stream::Plain(tcp)),
            Some(tls) => {
                let stream = tls.connector.connect(tls.name.clone(), tcp).await.map_err(ConnectError::Tls)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
}

/// A connection to an upstream.
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => gather::poll_write(stream, cx, bufs),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
