//! TLS towards upstreams: whom to trust, who we are, and which versions and protocols to offer.
//!
//! Files are read once, when the configuration is taken over. A renewed certificate needs a reload, unless
//! it is a profile's (`bound`).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    profile::certificate::Certificate,
    source::{
        Reason,
        file::{self, FileError, PEM_BYTES_MAX},
    },
    upstream::{Http2, Identity, MinTls, Origin, Want},
};

const HTTP1: &[u8] = b"http/1.1";
/// RFC 9113 §3.1.
const HTTP2: &[u8] = b"h2";

/// Why an upstream cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// Not a host name or address.
    #[error("{0:?} is no host name or address")]
    BadHost(String),
    /// A PEM file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The system's trust store or the TLS library refuses.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file is not there or not readable.
    #[error("file {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: Reason,
    },
    /// Reading it may wait for ever, or never come to an end.
    #[error("file {} is a pipe or a device, not a file (it is read again with each reload)", .0.display())]
    NoFile(PathBuf),
    /// Larger than any chain.
    #[error("file {} is larger than 4 MiB, so it hardly holds certificates or a key", .0.display())]
    TooLarge(PathBuf),
    /// What was looked for is not in it.
    #[error("file {} holds no {wanted} in PEM form{remedy}", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What to do, in brackets.
        remedy: &'static str,
    },
    /// It is there but broken.
    #[error("file {}: the {wanted} cannot be used ({what})", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Certificate and key are not a pair.
    #[error("the key in file {} does not belong to the certificate in file {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

impl PemError {
    /// The file that is to be looked at.
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. } | Self::Absent { path, .. } | Self::Broken { path, .. } => path,
            Self::NoFile(path) | Self::TooLarge(path) => path,
            Self::Mismatch { key, .. } => key,
        }
    }
}

/// Reads a file of certificate authorities to trust.
///
/// # Errors
/// [`PemError`], when there is not at least one that can be used.
pub fn authorities(path: &Path) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| broken(path, "certificate", &error))?;
    }
    Ok(store)
}

/// Reads a certificate chain and its key, and tries whether they belong together.
///
/// # Errors
/// [`PemError`], which names the file that cannot be used.
pub fn identity(files: &Identity) -> Result<CertifiedKey, PemError> {
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            PemError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        rustls::Error::InvalidCertificate(_) => broken(&files.certificate, "certificate", &error),
        error => broken(&files.key, "private key", &error),
    })
}

/// Reads a certificate and those above it.
///
/// # Errors
/// [`PemError`], when there is none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let failed = |error| unusable(path, "certificate", "", error);
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// Reads a private key.
///
/// # Errors
/// [`PemError`], when there is none that can be read without a password.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let remedy = " (an encrypted key cannot be read: store it without a password)";
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| unusable(path, "private key", remedy, error))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    file::read(path, PEM_BYTES_MAX).map_err(|error| match error {
        FileError::Unreadable(reason) => PemError::Unreadable { path: path.to_owned(), reason },
        FileError::NoFile => PemError::NoFile(path.to_owned()),
        FileError::TooLarge => PemError::TooLarge(path.to_owned()),
    })
}

fn unusable(path: &Path, wanted: &'static str, remedy: &'static str, error: pem::Error) -> PemError {
    let path = path.to_owned();
    match error {
        pem::Error::NoItemsFound => PemError::Absent { path, wanted, remedy },
        // The library's words would repeat lines of the file, which may be a key.
        pem::Error::MissingSectionEnd { .. } => broken(&path, wanted, &"its END line is missing"),
        pem::Error::IllegalSectionStart { .. } => broken(&path, wanted, &"its BEGIN line is malformed"),
        _ => broken(&path, wanted, &"it is not base64 text"),
    }
}

fn broken(path: &Path, wanted: &'static str, what: &dyn std::fmt::Display) -> PemError {
    PemError::Broken { path: path.to_owned(), wanted, what: what.to_string() }
}

/// What tells TLS clients apart. Each has its own session cache, so that a session which one identity
/// has proved is never resumed by another.
#[derive(PartialEq, Eq, Hash)]
struct Client {
    ca: Option<PathBuf>,
    identity: Option<Identity>,
    min_tls: MinTls,
}

/// TLS client configurations, one for each distinct way to connect.
#[derive(Default)]
pub struct Trust {
    configs: Mutex<HashMap<Client, Arc<ClientConfig>>>,
}

impl Trust {
    pub(super) fn tls(&self, origin: &Origin) -> Result<Tls, SetUpError> {
        let name = origin.server_name.as_ref().unwrap_or(&origin.host);
        let name = ServerName::try_from(name.clone()).map_err(|_| SetUpError::BadHost(name.clone()))?;
        let client =
            Client { ca: origin.ca.clone(), identity: origin.identity.clone(), min_tls: origin.min_tls };
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match configs.get(&client) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(client_config(&client)?);
                configs.insert(client, Arc::clone(&config));
                config
            }
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        let any = match origin.http2 {
            Http2::Off => offering(&[HTTP1]),
            Http2::Auto | Http2::PriorKnowledge => offering(&[HTTP2, HTTP1]),
        };
        Ok(Tls { any, http1: offering(&[HTTP1]), name })
    }
}

/// Configured roots stand alone: a private CA is a choice against the public ones.
fn client_config(client: &Client) -> Result<ClientConfig, SetUpError> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] = match client.min_tls {
        MinTls::Tls12 => &[&TLS13, &TLS12],
        MinTls::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let builder = match &client.ca {
        None => builder.with_platform_verifier()?,
        Some(path) => builder.with_root_certificates(authorities(path)?),
    };
    Ok(match &client.identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let identity = Arc::new(identity(files)?);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    })
}

/// What a TLS handshake with one origin needs.
pub(super) struct Tls {
    any: TlsConnector,
    http1: TlsConnector,
    /// Asked for and verified.
    pub(super) name: ServerName<'static>,
}

impl Tls {
    /// The same with a certificate to show, and with sessions of its own: one that was begun without the
    /// certificate must not be resumed.
    pub(super) fn showing(&self, certificate: &Certificate) -> Self {
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(certificate.certified())));
        let sessions = Resumption::default();
        let changed = |connector: &TlsConnector| {
            let mut config = ClientConfig::clone(connector.config());
            config.client_auth_cert_resolver = resolver.clone();
            config.resumption = sessions.clone();
            TlsConnector::from(Arc::new(config))
        };
        Self { any: changed(&self.any), http1: changed(&self.http1), name: self.name.clone() }
    }

    /// The connector that offers what is wanted.
    pub(super) fn connector(&self, want: Want) -> &TlsConnector {
        match want {
            Want::Any => &self.any,
            Want::Http1 => &self.http1,
        }
    }
}

/// Whether the handshake has agreed on HTTP/2.
pub(super) fn is_http2<T>(stream: &tokio_rustls::client::TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}
