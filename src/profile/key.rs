//! Private keys that sign assertions: RSA and P-256, from PEM or from inside a PFX file.
//!
//! A key is checked when it is read, so that a wrong one is told in words instead of by a provider that
//! says no more than "invalid signature".

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{PemObject, SectionKind},
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    secret::{Fingerprint, Secret},
    source::Source,
};

/// How assertions are signed (RFC 7518 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// Its name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Ps256 => "PS256",
            Algorithm::Es256 => "ES256",
        }
    }

    fn wants(self) -> Kind {
        match self {
            Algorithm::Rs256 | Algorithm::Ps256 => Kind::Rsa,
            Algorithm::Es256 => Kind::P256,
        }
    }
}

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RSA, 2048 bits or more.
    Rsa,
    /// An elliptic-curve key on P-256.
    P256,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Rsa => "an RSA key",
            Kind::P256 => "a P-256 key",
        })
    }
}

/// Why a source gives no key that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// There is none.
    #[error("{0} holds no private key in PEM form (a file that begins with -----BEGIN PRIVATE KEY-----)")]
    Absent(Source),
    /// It needs a password that was not given.
    #[error(
        "{0} holds a private key that is encrypted (store it without a password, readable for the gateway only; \
         a certificate's key may have one, see certificate_password)"
    )]
    Encrypted(Source),
    /// Encrypted in a way that no password opens here.
    #[error(
        "{0} holds a private key that is encrypted in OpenSSL's old way (write it anew with `openssl pkcs8 -topk8 \
         -in OLD -out NEW`)"
    )]
    OldEncryption(Source),
    /// The password is another one.
    #[error("the private key in {0} cannot be decrypted (is the password right? see certificate_password)")]
    Password(Source),
    /// It is there but broken, or of a kind that signs nothing here.
    #[error("the private key in {0} cannot be used (expected RSA with 2048 bits or more, or P-256, whole)")]
    Broken(Source),
    /// The algorithm wants another kind.
    #[error("the private key in {source_} is {found}, and {} needs {}", wanted.name(), wanted.wants())]
    Mismatch {
        /// Where the key is.
        source_: Source,
        /// What was asked to be signed with.
        wanted: Algorithm,
        /// What the key is.
        found: Kind,
    },
}

enum Pair {
    Rsa(rsa::KeyPair),
    P256(EcdsaKeyPair),
}

/// A private key, ready to sign. Cheap to clone.
#[derive(Clone)]
pub struct PrivateKey(Arc<Pair>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.kind())
    }
}

impl PrivateKey {
    /// Reads the first private key of a PEM document: PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// [`KeyError`], which names `source`.
    pub fn from_pem(pem: &[u8], source: &Source) -> Result<Self, KeyError> {
        let der = Pem::read(pem).key(None, source)?;
        Self::from_der(&der).ok_or_else(|| KeyError::Broken(source.clone()))
    }

    /// Takes a key that was decoded already; `None` for a kind that signs nothing here.
    pub(super) fn from_der(der: &WipedKey) -> Option<Self> {
        let p256 = |der| EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok();
        let pair = match &der.0 {
            PrivateKeyDer::Pkcs1(key) => Pair::Rsa(rsa::KeyPair::from_der(key.secret_pkcs1_der()).ok()?),
            PrivateKeyDer::Sec1(key) => Pair::P256(p256(key.secret_sec1_der())?),
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                rsa::KeyPair::from_pkcs8(der).ok().map(Pair::Rsa).or_else(|| p256(der).map(Pair::P256))?
            }
            _ => return None,
        };
        Some(Self(Arc::new(pair)))
    }

    /// What kind of key it is.
    pub fn kind(&self) -> Kind {
        match *self.0 {
            Pair::Rsa(_) => Kind::Rsa,
            Pair::P256(_) => Kind::P256,
        }
    }

    /// Whether it can sign with `algorithm`.
    ///
    /// # Errors
    /// [`KeyError::Mismatch`], which names `source`.
    pub fn fits(&self, algorithm: Algorithm, source: &Source) -> Result<(), KeyError> {
        let found = self.kind();
        if found == algorithm.wants() {
            return Ok(());
        }
        Err(KeyError::Mismatch { source_: source.clone(), wanted: algorithm, found })
    }

    /// Signs `message`; `None` when the key is not of the algorithm's kind.
    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match (&*self.0, algorithm) {
            (Pair::Rsa(pair), Algorithm::Rs256 | Algorithm::Ps256) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let scheme = if algorithm == Algorithm::Rs256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                pair.sign(scheme, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            (Pair::P256(pair), Algorithm::Es256) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            _ => None,
        }
    }

    /// The public half as it stands in a certificate (the bits of `subjectPublicKey`).
    pub(super) fn public(&self) -> &[u8] {
        match &*self.0 {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::P256(pair) => pair.public_key().as_ref(),
        }
    }

    /// What tells that it is another key.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.public())
    }
}

/// A decoded key that is wiped when dropped.
pub(super) struct WipedKey(PrivateKeyDer<'static>);

impl WipedKey {
    pub(super) fn new(der: PrivateKeyDer<'static>) -> Self {
        Self(der)
    }

    pub(super) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a PEM document holds that is of interest here.
pub(super) struct Pem {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    key: Option<WipedKey>,
    encrypted: Encrypted,
    is_broken: bool,
}

/// A key that needs a password.
enum Encrypted {
    No,
    /// DER of PKCS #8's own form.
    Pkcs8(Vec<u8>),
    /// OpenSSL's old way, headers inside of a section.
    Old,
}

impl Pem {
    pub(super) fn read(pem: &[u8]) -> Self {
        let encrypted = encrypted_section(pem);
        let mut read = Self { certificates: Vec::new(), key: None, encrypted, is_broken: false };
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let Ok((kind, der)) = section else {
                read.is_broken = true;
                break;
            };
            let mut der = Zeroizing::new(der);
            let mut take = || std::mem::take(&mut *der);
            let key = match kind {
                SectionKind::Certificate => {
                    read.certificates.push(CertificateDer::from(take()));
                    continue;
                }
                SectionKind::PrivateKey => PrivateKeyDer::Pkcs8(take().into()),
                SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(take().into()),
                SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(take().into()),
                _ => continue,
            };
            read.key.get_or_insert(WipedKey(key));
        }
        read
    }

    /// The private key, decrypted if need be.
    pub(super) fn key(self, password: Option<&Secret>, source: &Source) -> Result<WipedKey, KeyError> {
        match (self.key, &self.encrypted, password) {
            (Some(key), ..) => Ok(key),
            (None, Encrypted::Pkcs8(der), Some(password)) => {
                let wrong = || KeyError::Password(source.clone());
                let info =
                    pkcs8::EncryptedPrivateKeyInfoRef::try_from(der.as_slice()).map_err(|_| wrong())?;
                let plain = info.decrypt(password.expose()).map_err(|_| wrong())?;
                Ok(WipedKey(PrivateKeyDer::Pkcs8(plain.as_bytes().to_vec().into())))
            }
            (None, Encrypted::Old, Some(_)) => Err(KeyError::OldEncryption(source.clone())),
            (None, Encrypted::Pkcs8(_) | Encrypted::Old, _) => Err(KeyError::Encrypted(source.clone())),
            (None, Encrypted::No, _) if self.is_broken => Err(KeyError::Broken(source.clone())),
            (None, Encrypted::No, _) => Err(KeyError::Absent(source.clone())),
        }
    }
}

/// Encrypted keys are no sections that the PEM reader knows.
fn encrypted_section(pem: &[u8]) -> Encrypted {
    let text = String::from_utf8_lossy(pem);
    let inside = text
        .split_once("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END ENCRYPTED PRIVATE KEY-----"));
    if let Some((inside, _)) = inside {
        let base64: String = inside.split_ascii_whitespace().collect();
        // What does not decode is told as what it claims to be.
        return BASE64_STANDARD.decode(base64).map_or(Encrypted::Old, Encrypted::Pkcs8);
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") { Encrypted::Old } else { Encrypted::No }
}

/// DER as a PEM section, for libraries that take nothing else.
pub(super) fn pem_section(label: &str, der: &[u8]) -> Secret {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut out = format!("-----BEGIN {label}-----\n");
    out.reserve_exact(text.len() + text.len() / 64 + label.len() + 32);
    for (index, c) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str("\n-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    Secret::new(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::File("/k.pem".into())
    }

    #[test]
    fn keys_are_read_from_every_pem_form_and_know_their_kind() {
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let p256 = rcgen::KeyPair::generate().unwrap();
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let read = |pem: &str| PrivateKey::from_pem(pem.as_bytes(), &source());
        let (rsa, p256) = (read(&rsa.serialize_pem()).unwrap(), read(&p256.serialize_pem()).unwrap());
        assert_eq!((rsa.kind(), p256.kind()), (Kind::Rsa, Kind::P256));
        assert!(
            rsa.fits(Algorithm::Ps256, &source()).is_ok() && p256.fits(Algorithm::Es256, &source()).is_ok()
        );
        let words = rsa.fits(Algorithm::Es256, &source()).unwrap_err().to_string();
        assert_eq!(words, "the private key in file /k.pem is an RSA key, and ES256 needs a P-256 key");
        assert_eq!(p256.sign(Algorithm::Es256, b"m").unwrap().len(), 64);
        assert_eq!(rsa.sign(Algorithm::Es256, b"m"), None);
        assert!(matches!(read(&p384.serialize_pem()), Err(KeyError::Broken(_))));
    }

    #[test]
    fn what_is_no_usable_key_is_told_from_what_is_encrypted_or_cut() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let cut: String = pem.lines().take(2).collect::<Vec<_>>().join("\n");
        let encrypted = pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let old = pem.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n");
        for (text, expected) in [
            ("", KeyError::Absent(source())),
            (&cut, KeyError::Broken(source())),
            (&encrypted, KeyError::Encrypted(source())),
            (&old, KeyError::Encrypted(source())),
        ] {
            assert_eq!(PrivateKey::from_pem(text.as_bytes(), &source()).unwrap_err(), expected, "{text}");
        }
    }
}
