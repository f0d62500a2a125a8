//! Client certificates with their keys: what signs an Entra assertion and what is shown in TLS handshakes.
//!
//! They are read again for every token request, and parsed again only when the bytes have changed. A
//! pair that is half replaced does not take away the one that works.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use p12_keystore::Pkcs12Archive;
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    profile::assertion::unverified_claims,
    profile::key::{Algorithm, KeyError, Pem, PrivateKey, WipedKey, pem_section},
    secret::{Fingerprint, Secret},
    source::{Kept, Source, SourceError, budget::Budget},
};

/// Where a certificate and its key are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// PEM with the certificate, and with its key unless that has a place of its own; or a PFX file.
    pub certificate: Source,
    /// The key, when it is not beside the certificate. PEM.
    pub private_key: Option<Source>,
    /// The password of a PFX file, or of an encrypted key.
    pub password: Option<Source>,
}

impl Place {
    /// Reads it at once, as far as that is possible: `None` for sources that need a network.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn probe(&self) -> Result<Option<Certificate>, CertificateError> {
        if !self.is_cheap() {
            return Ok(None);
        }
        let document = self.certificate.document_now()?;
        let key = self.private_key.as_ref().map(Source::document_now).transpose()?;
        let password = self.password.as_ref().map(Source::secret_now).transpose()?;
        let key = key.as_ref().map(|key| key.as_slice());
        Certificate::read(self, &document, key, password.as_ref()).map(Some)
    }

    fn is_cheap(&self) -> bool {
        let Self { certificate, private_key, password } = self;
        [Some(certificate), private_key.as_ref(), password.as_ref()].iter().flatten().all(|s| s.is_cheap())
    }
}

/// Why there is no certificate that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// A source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Neither PEM nor PFX.
    #[error("{0} holds no certificate (expected PEM, -----BEGIN CERTIFICATE-----, or a PFX file)")]
    Absent(Source),
    /// Neither, although it is a certificate.
    #[error(
        "{0} holds a certificate in binary form (write it anew with `openssl x509 -inform DER -in OLD -out NEW`)"
    )]
    Binary(Source),
    /// Only the certificate is there.
    #[error(
        "{0} holds a certificate but not its private key (add the key, or say where it is with private_key)"
    )]
    NoKey(Source),
    /// Something that is no certificate.
    #[error("the certificate in {0} cannot be read: it is damaged")]
    Damaged(Source),
    /// A PFX file that cannot be opened.
    #[error("{0} cannot be opened as a PFX file: {1}")]
    Pfx(Source, PfxFlaw),
    /// Certificate and key are not a pair, most often for the moment between two files being replaced.
    #[error("the private key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// Where the certificate is.
        certificate: Source,
        /// Where the key is.
        key: Source,
    },
}

/// What is wrong with a PFX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PfxFlaw {
    /// The password does not open it.
    Password,
    /// No password was given, and the empty one does not open it.
    NoPassword,
    /// There is no private key in it.
    NoKey,
    /// It is damaged, or encrypted in a way that is not known here.
    Damaged,
}

impl fmt::Display for PfxFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PfxFlaw::Password => "the password is wrong (see certificate_password)",
            PfxFlaw::NoPassword => "it needs a password (say where that is with certificate_password)",
            PfxFlaw::NoKey => "it holds no private key (export it with its private key)",
            PfxFlaw::Damaged => {
                "it is damaged, or encrypted in a way that is not supported (export it with AES-256)"
            }
        })
    }
}

/// A certificate with its key.
pub struct Certificate {
    /// The certificate itself comes first, then those above it.
    certified: Arc<CertifiedKey>,
    key: Option<PrivateKey>,
    der: WipedKey,
    sha1: [u8; 20],
    sha256: [u8; 32],
    expires: SystemTime,
    expires_text: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, until {})", self.thumbprint_sha256(), self.expires_text)
    }
}

impl Certificate {
    /// Reads a PEM document or a PFX file. `key` is the PEM document of the key when it is not beside it.
    ///
    /// # Errors
    /// [`CertificateError`], which names the source that is to be looked at.
    pub fn read(
        place: &Place,
        document: &[u8],
        key: Option<&[u8]>,
        password: Option<&Secret>,
    ) -> Result<Self, CertificateError> {
        let source = &place.certificate;
        let is_pem = memchr::memmem::find(document, b"-----BEGIN").is_some();
        // A PFX file is one DER sequence.
        let is_pfx = !is_pem && document.first() == Some(&0x30);
        let key_source = place.private_key.as_ref().unwrap_or(source);
        if is_pfx && X509Certificate::from_der(document).is_ok() {
            return Err(CertificateError::Binary(source.clone()));
        }
        let (mut chain, der) = if is_pfx {
            let (chain, own) =
                open(document, password).map_err(|e| CertificateError::Pfx(source.clone(), e))?;
            let other = key.map(|key| Pem::read(key).key(None, key_source)).transpose()?;
            (chain, other.unwrap_or(own))
        } else {
            let mut pem = Pem::read(document);
            let chain = std::mem::take(&mut pem.certificates);
            if chain.is_empty() {
                return Err(CertificateError::Absent(source.clone()));
            }
            let der = match key {
                Some(key) => Pem::read(key).key(password, key_source)?,
                None => pem.key(password, source).map_err(|error| match error {
                    KeyError::Absent(source) => CertificateError::NoKey(source),
                    other => other.into(),
                })?,
            };
            (chain, der)
        };
        leaf_first(&mut chain, &der);
        Self::pair(source, key_source, chain, der)
    }

    fn pair(
        source: &Source,
        key_source: &Source,
        chain: Vec<CertificateDer<'static>>,
        der: WipedKey,
    ) -> Result<Self, CertificateError> {
        let damaged = || CertificateError::Damaged(source.clone());
        let leaf = chain.first().ok_or_else(damaged)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| damaged())?;
        let end = parsed.validity().not_after;
        let expires = UNIX_EPOCH + Duration::from_secs(u64::try_from(end.timestamp()).unwrap_or(0));
        let expires_text = end.to_string();
        let (mut sha1, mut sha256) = ([0; 20], [0; 32]);
        sha1.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, leaf).as_ref());
        sha256.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        let key = PrivateKey::from_der(&der);
        let certified = CertifiedKey::from_der(chain, der.der().clone_key(), &default_provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                CertificateError::Mismatch { certificate: source.clone(), key: key_source.clone() }
            }
            rustls::Error::InvalidCertificate(_) => damaged(),
            _ => KeyError::Broken(key_source.clone()).into(),
        })?;
        Ok(Self { certified: Arc::new(certified), key, der, sha1, sha256, expires, expires_text })
    }

    /// The key, to sign assertions with. `source` is where it is, for the error.
    ///
    /// # Errors
    /// When it is of another kind than `algorithm` wants.
    pub fn signing_key(&self, algorithm: Algorithm, source: &Source) -> Result<&PrivateKey, KeyError> {
        let key = self.key.as_ref().ok_or_else(|| KeyError::Broken(source.clone()))?;
        key.fits(algorithm, source).map(|()| key)
    }

    /// What TLS shows.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// `x5t#S256`: base64url of the SHA-256 of the DER form, unpadded (RFC 7515 §4.1.8).
    pub fn thumbprint_sha256(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.sha256)
    }

    /// `x5t`: the same with SHA-1, for servers that know nothing newer.
    pub fn thumbprint_sha1(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.sha1)
    }

    /// When it expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// When it expires, for people.
    pub fn expires_text(&self) -> &str {
        &self.expires_text
    }

    /// Whether `token` may be bound to it (RFC 8705 §3.1): one that can be read says so.
    pub(super) fn may_bind(&self, token: &Secret) -> bool {
        unverified_claims(token.expose()).is_none_or(|claims| {
            let bound_to = claims.get("cnf").and_then(|cnf| cnf.get("x5t#S256")?.as_str());
            bound_to == Some(self.thumbprint_sha256().as_str())
        })
    }

    /// Whether it is another certificate.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.sha256)
    }

    /// Chain and key as one PEM document, for a library that takes nothing else.
    pub(super) fn pem(&self) -> Secret {
        let label = match self.der.der() {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let mut out = pem_section(label, self.der.der().secret_der()).expose().to_owned();
        for certificate in &self.certified.cert {
            out.push_str(pem_section("CERTIFICATE", certificate).expose());
        }
        Secret::new(out)
    }
}

/// Exports do not agree on the order: the certificate that the key belongs to comes first in TLS.
fn leaf_first(chain: &mut [CertificateDer<'static>], der: &WipedKey) {
    let Some(key) = PrivateKey::from_der(der) else { return };
    let is_leaf = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, parsed)| *parsed.public_key().subject_public_key.data == *key.public())
    };
    if let Some(at) = chain.iter().position(is_leaf)
        && let Some(front) = chain.get_mut(..=at)
    {
        front.rotate_right(1);
    }
}

/// Key and certificates of a PFX file.
fn open(pfx: &[u8], password: Option<&Secret>) -> Result<(Vec<CertificateDer<'static>>, WipedKey), PfxFlaw> {
    let archive = Pkcs12Archive::from_pkcs12(pfx, password.map_or("", Secret::expose)).map_err(|error| {
        use p12_keystore::error::Error;
        match error {
            Error::MacError(_) if password.is_none() => PfxFlaw::NoPassword,
            Error::MacError(_) => PfxFlaw::Password,
            _ => PfxFlaw::Damaged,
        }
    })?;
    let key = archive.keys.first().ok_or(PfxFlaw::NoKey)?;
    let der = WipedKey::new(PrivateKeyDer::Pkcs8(key.key.as_der().to_vec().into()));
    let certificates: Vec<_> =
        archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    if certificates.is_empty() { Err(PfxFlaw::Damaged) } else { Ok((certificates, der)) }
}

/// A certificate in its place: read when it is needed, kept while its successor is broken.
#[derive(Debug)]
pub(super) struct Holder {
    place: Place,
    kept: Kept<Arc<Held>>,
}

#[derive(Debug)]
struct Held {
    /// Of the bytes that it was made of.
    bytes: Fingerprint,
    certificate: Arc<Certificate>,
}

impl Holder {
    pub(super) fn new(place: Place) -> Self {
        Self { place, kept: Kept::default() }
    }

    /// The certificate as it is now, or the last good one with what is wrong with the newer.
    ///
    /// # Errors
    /// [`CertificateError`] when there has been no good one yet.
    pub(super) async fn read(
        &self,
        budget: &Budget,
    ) -> Result<(Arc<Certificate>, Option<CertificateError>), CertificateError> {
        let (held, flaw) = self.kept.or_last(self.read_now(budget).await)?;
        Ok((Arc::clone(&held.certificate), flaw))
    }

    /// When the last one that could be used expires.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.kept.last().map(|held| held.certificate.expires())
    }

    /// SHA-1 of the last one that could be used, in hexadecimal, as Microsoft's portal shows it.
    pub(super) fn thumbprint(&self) -> Option<String> {
        let held = self.kept.last()?;
        Some(held.certificate.sha1.iter().map(|byte| format!("{byte:02X}")).collect())
    }

    async fn read_now(&self, budget: &Budget) -> Result<Arc<Held>, CertificateError> {
        let Place { certificate, private_key, password } = &self.place;
        let has_last = self.kept.last().is_some();
        let document = budget.read(certificate, has_last, certificate.read_document()).await?;
        let key = match private_key {
            Some(source) => Some(budget.read(source, has_last, source.read_document()).await?),
            None => None,
        };
        let password = match password {
            Some(source) => Some(budget.read(source, has_last, source.read()).await?),
            None => None,
        };
        let key = key.as_ref().map(|key| key.as_slice());
        let secret = password.as_ref().map_or(&[][..], |password| password.expose().as_bytes());
        let bytes = Fingerprint::of_all([document.as_slice(), key.unwrap_or_default(), secret]);
        if let Some(held) = self.kept.last().filter(|held| held.bytes == bytes) {
            return Ok(held);
        }
        let certificate = Certificate::read(&self.place, &document, key, password.as_ref())?;
        Ok(Arc::new(Held { bytes, certificate: Arc::new(certificate) }))
    }

    /// Whether looking for a change costs no more than reading files.
    pub(super) fn is_cheap(&self) -> bool {
        self.place.is_cheap()
    }
}

/// The certificate that a profile's tokens are bound to (RFC 8705 §3). Upstreams are called with it: a
/// token that comes over a connection with another certificate, or none, is refused.
#[derive(Debug, Default)]
pub struct Presented(ArcSwapOption<Certificate>);

impl Presented {
    /// The one that the newest token is bound to.
    pub fn current(&self) -> Option<Arc<Certificate>> {
        self.0.load_full()
    }

    pub(super) fn set(&self, certificate: Option<Arc<Certificate>>) {
        self.0.store(certificate);
    }
}

#[cfg(test)]
mod tests;
