//! Certificates and keys as PEM files, and what is wrong with them in plain words.
//!
//! Nothing here is guessed at: a file that holds no key is named, one that holds an encrypted key is
//! told apart, and a key of another certificate is refused. An expired certificate is used; that is
//! said, as callers' own checks decide.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    Error as RustlsError, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};
use zeroize::Zeroizing;

use crate::source::{
    Reason,
    file::{self, FileError, PEM_BYTES_MAX},
};

/// A certificate with its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// PEM: the certificate, then the intermediates that lead to its authority.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// What is wrong with a file of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The file could not be opened or read.
    #[error("file {} cannot be read: {reason} (check the path and that the gateway's user may read it)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: Reason,
    },
    /// Reading it may wait for ever.
    #[error("file {} is a pipe or a device, not a file (it is read again when it changes)", .0.display())]
    NoFile(PathBuf),
    /// Larger than any chain.
    #[error("file {} is larger than 4 MiB, so it hardly holds certificates", .0.display())]
    TooLarge(PathBuf),
    /// No certificate, or it cannot be parsed.
    #[error("file {} holds no certificate in PEM form (it begins with -----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    /// PEM, but no certificate inside.
    #[error("file {} holds a damaged certificate (number {number} in the file)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which one of it, from 1.
        number: usize,
    },
    /// No key.
    #[error("file {} holds no private key in PEM form (it begins with -----BEGIN PRIVATE KEY-----)", .0.display())]
    NoKey(PathBuf),
    /// A key that needs a passphrase.
    #[error("file {} holds an encrypted key (decrypt it: openssl pkey -in {} -out FILE)", .0.display(), .0.display())]
    EncryptedKey(PathBuf),
    /// A key of a kind that TLS does not use.
    #[error("file {} holds a key that cannot be used (RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519)", .0.display())]
    UnusableKey(PathBuf),
    /// The key belongs to another certificate.
    #[error("the key in {} does not fit the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// One of `additional` that no server name can choose.
    #[error("the certificate in {} has no DNS name, so no caller could choose it", .0.display())]
    Nameless(PathBuf),
    /// The TLS library refuses what was read.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}

impl From<RustlsError> for CertificateError {
    fn from(error: RustlsError) -> Self {
        Self::Library(error.to_string())
    }
}

fn damaged(path: &Path, number: usize) -> CertificateError {
    CertificateError::Damaged { path: path.to_owned(), number }
}

/// A certificate chain as it was read; the server's own certificate first.
pub struct Chain {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
    /// What the first one says.
    pub facts: Facts,
}

/// What a server certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The file.
    pub path: PathBuf,
    /// DNS names in lower case, wildcards as `*.a.example`.
    pub dns_names: Vec<String>,
    /// Addresses; they cannot be asked for by SNI.
    pub addresses: Vec<IpAddr>,
    /// When it expires, in seconds since 1970.
    pub expires_at: i64,
    /// The same for people.
    pub expires: String,
}

impl Facts {
    /// Its names, for the log.
    pub fn names(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string);
        self.dns_names.iter().cloned().chain(addresses).collect::<Vec<_>>().join(", ")
    }
}

/// Reads a certificate chain.
///
/// # Errors
/// [`CertificateError`].
pub fn chain(path: &Path) -> Result<Chain, CertificateError> {
    let certificates = certificates(path)?;
    let first = certificates.first().ok_or_else(|| CertificateError::NoCertificate(path.to_owned()))?;
    let facts = facts(path, first).ok_or_else(|| damaged(path, 1))?;
    Ok(Chain { path: path.to_owned(), certificates, facts })
}

/// Reads a private key.
///
/// # Errors
/// [`CertificateError`].
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let is_encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
            .iter()
            .any(|mark| memchr::memmem::find(&pem, mark).is_some());
        let path = path.to_owned();
        if is_encrypted { CertificateError::EncryptedKey(path) } else { CertificateError::NoKey(path) }
    })
}

/// Joins a chain and its key.
///
/// # Errors
/// When the key is of another certificate or of an unusable kind.
pub fn join(
    chain: Chain,
    key: PrivateKeyDer<'static>,
    key_path: &Path,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Facts), CertificateError> {
    let joined = CertifiedKey::from_der(chain.certificates, key, provider).map_err(|error| match error {
        RustlsError::InconsistentKeys(_) => {
            CertificateError::Mismatch { certificate: chain.path.clone(), key: key_path.to_owned() }
        }
        RustlsError::InvalidCertificate(_) => damaged(&chain.path, 1),
        _ => CertificateError::UnusableKey(key_path.to_owned()),
    })?;
    Ok((Arc::new(joined), chain.facts))
}

/// Reads the authorities whose certificates callers may show.
///
/// # Errors
/// [`CertificateError`].
pub fn authorities(path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        store.add(certificate).map_err(|_| damaged(path, index + 1))?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read(path)?;
    let mut certificates = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        certificates.push(certificate.map_err(|_| damaged(path, index + 1))?);
    }
    if certificates.is_empty() {
        Err(CertificateError::NoCertificate(path.to_owned()))
    } else {
        Ok(certificates)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    file::read(path, PEM_BYTES_MAX).map_err(|error| match error {
        FileError::Unreadable(reason) => CertificateError::Unreadable { path: path.to_owned(), reason },
        FileError::NoFile => CertificateError::NoFile(path.to_owned()),
        FileError::TooLarge => CertificateError::TooLarge(path.to_owned()),
    })
}

fn facts(path: &Path, certificate: &CertificateDer<'_>) -> Option<Facts> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
    let names =
        parsed.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => dns_names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    let end = parsed.validity().not_after;
    Some(Facts {
        path: path.to_owned(),
        dns_names,
        addresses,
        expires_at: end.timestamp(),
        expires: end.to_string(),
    })
}

/// Who a caller's certificate was issued to: its subject, else the first name in it.
pub(super) fn holder(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject().to_string();
    if !subject.is_empty() {
        return Some(subject);
    }
    let names = parsed.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some((*name).to_owned())
        }
        _ => None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
