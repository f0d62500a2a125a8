//! The ways in which a client can prove who it is at the token endpoint (RFC 6749 §2.3): settings, and
//! what can be wrong with what they name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::HeaderValue;
use url::form_urlencoded;

use crate::{
    profile::{
        assertion::{Audience, unverified_claims},
        certificate::{self, CertificateError},
        client_secret::Secrets,
        key::{Algorithm, KeyError},
        key_file::KeyFileError,
    },
    secret::Secret,
    source::{Source, SourceError},
};

/// Client authentication at the token endpoint (RFC 6749 §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`: HTTP Basic authentication.
    SecretBasic {
        /// The client secret, or two.
        secret: Secrets,
        /// How the two halves are encoded before they are joined.
        encoding: BasicEncoding,
    },
    /// `client_secret_post`: secret in the form.
    SecretPost(Secrets),
    /// `client_secret_jwt`: an assertion under HS256, made with the secret.
    SecretJwt {
        /// The client secret, or two.
        secret: Secrets,
        /// For whom the assertion is made.
        audience: Audience,
    },
    /// `private_key_jwt`: an assertion signed with a key whose public half the server knows.
    KeyJwt {
        /// The private key, in PEM form.
        key: Source,
        /// How it signs.
        algorithm: Algorithm,
        /// The name by which the server knows the key.
        key_id: Option<String>,
        /// For whom the assertion is made.
        audience: Audience,
    },
    /// Entra's certificate credentials: an assertion that names the certificate by its thumbprint.
    CertificateJwt {
        /// The certificate and its key.
        place: certificate::Place,
        /// PS256 with `x5t#S256`, or RS256 with `x5t` for ADFS.
        algorithm: Algorithm,
    },
    /// An assertion that somebody else has made: a workload's identity token, read for every request.
    Assertion(Source),
    /// `tls_client_auth`: the certificate of the TLS handshake, issued by an authority (RFC 8705 §2.1).
    TlsClientAuth,
    /// `self_signed_tls_client_auth`: the same with a certificate that the server knows itself.
    SelfSignedTls,
    /// `none`: a public client.
    None,
    /// Nothing, not even an id: what is traded for the token says who asks.
    Absent,
}

impl ClientAuth {
    /// The client secret, where the method has one.
    pub(super) fn secrets(&self) -> Option<&Secrets> {
        match self {
            ClientAuth::SecretBasic { secret, .. }
            | ClientAuth::SecretPost(secret)
            | ClientAuth::SecretJwt { secret, .. } => Some(secret),
            _ => None,
        }
    }

    /// The name of the method (IANA "OAuth Token Endpoint Authentication Methods").
    pub fn name(&self) -> &'static str {
        match self {
            ClientAuth::SecretBasic { encoding: BasicEncoding::Form, .. } => "client_secret_basic",
            ClientAuth::SecretBasic { encoding: BasicEncoding::Raw, .. } => "client_secret_basic_raw",
            ClientAuth::SecretPost(_) => "client_secret_post",
            ClientAuth::SecretJwt { .. } => "client_secret_jwt",
            ClientAuth::KeyJwt { .. } => "private_key_jwt",
            ClientAuth::CertificateJwt { .. } => "certificate",
            ClientAuth::Assertion(_) => "client_assertion",
            ClientAuth::TlsClientAuth => "tls_client_auth",
            ClientAuth::SelfSignedTls => "self_signed_tls_client_auth",
            ClientAuth::None => "none",
            ClientAuth::Absent => "absent",
        }
    }
}

/// Encoding of client id and secret in `client_secret_basic`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BasicEncoding {
    /// Each half form-urlencoded, as RFC 6749 §2.3.1 says.
    #[default]
    Form,
    /// As they are, for servers that do not decode.
    Raw,
}

impl BasicEncoding {
    /// The value of `Authorization` for `client_secret_basic` (RFC 6749 §2.3.1).
    pub(super) fn header(self, client_id: &str, secret: &Secret) -> HeaderValue {
        let half = |text: &str| match self {
            BasicEncoding::Form => form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>(),
            BasicEncoding::Raw => text.to_owned(),
        };
        let joined = zeroize::Zeroizing::new(format!("{}:{}", half(client_id), half(secret.expose())));
        let value = format!("Basic {}", BASE64_STANDARD.encode(joined.as_bytes()));
        let mut value = HeaderValue::from_str(&value).expect("base64 is legal in a header");
        value.set_sensitive(true);
        value
    }
}

/// Why a client cannot prove itself, before anybody was asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key file of a service account cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate is past its end.
    #[error(
        "the certificate in {place} has expired on {at} (put a new one there and make it known to the provider)"
    )]
    CertificateExpired {
        /// Where it is.
        place: Source,
        /// When it expired.
        at: String,
    },
    /// A file that should hold a token holds something else.
    #[error("{0} holds no token (expected one JWT and nothing else)")]
    NoToken(Source),
    /// A token that others should have renewed.
    #[error("the federated token in {place} has expired at {at}; is the projection running?")]
    TokenExpired {
        /// Where it is.
        place: Source,
        /// When it expired.
        at: String,
    },
}

impl ProofError {
    /// Whether it is likely to go away by itself, soon.
    pub(super) fn is_transient(&self) -> bool {
        self.source().is_some_and(SourceError::is_transient)
    }

    /// The waiting time that whoever keeps it has given.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.source()?.retry_after()
    }

    fn source(&self) -> Option<&SourceError> {
        match self {
            Self::Certificate(CertificateError::Source(error)) => Some(error),
            _ => None,
        }
    }
}

/// Whether a file holds one token, as `keybearer check` tells it.
///
/// # Errors
/// [`ProofError::NoToken`].
pub fn probe_token(bytes: &[u8], source: &Source) -> Result<(), ProofError> {
    token_in(bytes, source).map(drop)
}

/// The one token that a file holds, without the line break at its end.
pub(super) fn token_in(bytes: &[u8], source: &Source) -> Result<Secret, ProofError> {
    let text = std::str::from_utf8(bytes).map_or("", str::trim);
    let is_jwt = text.matches('.').count() == 2 && !text.starts_with('.');
    if !is_jwt || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ProofError::NoToken(source.clone()));
    }
    Ok(Secret::new(text.to_owned()))
}

/// The `exp` of a JWT, unverified.
pub(super) fn expiry(token: &str) -> Option<SystemTime> {
    let seconds = unverified_claims(token)?.get("exp")?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new("p+s/s=w:o%r&d \"~ 1".into())
    }

    #[test]
    fn basic_encodes_each_half_as_a_form_before_joining() {
        let value = BasicEncoding::Form.header("svc post:1", &secret());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        let plain = String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap();
        assert_eq!(plain, "svc+post%3A1:p%2Bs%2Fs%3Dw%3Ao%25r%26d+%22%7E+1");
        assert!(value.is_sensitive());
    }

    #[test]
    fn basic_raw_joins_the_halves_as_they_are() {
        let value = BasicEncoding::Raw.header("id", &secret());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), b"id:p+s/s=w:o%r&d \"~ 1");
    }
}
