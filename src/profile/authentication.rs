//! How a client proves who it is at the token endpoint (RFC 6749 §2.3).
//!
//! One method is used, the configured one: trying another after a failure would double the failed
//! logins that the provider counts.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::HeaderValue;
use url::{Url, form_urlencoded};

use crate::{
    profile::refusal::ExchangeError,
    secret::{Fingerprint, Secret},
    source::{Source, SourceError},
};

/// Client authentication at the token endpoint (RFC 6749 §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic`: HTTP Basic authentication.
    SecretBasic {
        /// The client secret.
        secret: Source,
        /// How the two halves are encoded before they are joined.
        encoding: BasicEncoding,
    },
    /// `client_secret_post`: secret in the form.
    SecretPost(Source),
    /// `none`: a public client.
    None,
}

impl ClientAuth {
    /// The source of the secret, if there is one.
    pub fn source(&self) -> Option<&Source> {
        match self {
            ClientAuth::SecretBasic { secret, .. } | ClientAuth::SecretPost(secret) => Some(secret),
            ClientAuth::None => None,
        }
    }

    /// The name of the method (IANA "OAuth Token Endpoint Authentication Methods").
    pub(super) fn name(&self) -> &'static str {
        match self {
            ClientAuth::SecretBasic { encoding: BasicEncoding::Form, .. } => "client_secret_basic",
            ClientAuth::SecretBasic { encoding: BasicEncoding::Raw, .. } => "client_secret_basic_raw",
            ClientAuth::SecretPost(_) => "client_secret_post",
            ClientAuth::None => "none",
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

/// What proves the client in one token request.
pub(super) struct Proof {
    /// Parameters of the form.
    pub(super) parameters: Vec<(&'static str, Secret)>,
    /// The `Authorization` field.
    pub(super) authorization: Option<HeaderValue>,
    /// What is sent and must not come back in an error.
    pub(super) secrets: Vec<Secret>,
}

/// A client that can prove itself again and again.
pub(super) struct Authentication {
    client_id: String,
    method: ClientAuth,
}

impl Authentication {
    pub(super) fn new(client_id: String, method: ClientAuth) -> Self {
        Self { client_id, method }
    }

    /// The proof for a request to `token_url`, made now: secrets are read from their sources.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn prove(&self, _token_url: &Url) -> Result<Proof, ExchangeError> {
        let id = || ("client_id", Secret::new(self.client_id.clone()));
        let mut proof = Proof { parameters: Vec::new(), authorization: None, secrets: Vec::new() };
        match &self.method {
            // Some servers refuse a client_id beside Basic: RFC 6749 §2.3 wants one method only.
            ClientAuth::SecretBasic { secret, encoding } => {
                let secret = secret.read().await?;
                proof.authorization = Some(basic(&self.client_id, &secret, *encoding));
                proof.secrets.push(secret);
            }
            ClientAuth::SecretPost(secret) => {
                let secret = secret.read().await?;
                proof.parameters = vec![id(), ("client_secret", secret.clone())];
                proof.secrets.push(secret);
            }
            ClientAuth::None => proof.parameters.push(id()),
        }
        Ok(proof)
    }

    /// What tells that the next proof would be made with another secret.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn fingerprint(&self) -> Result<Option<Fingerprint>, SourceError> {
        match self.method.source().filter(|source| source.is_cheap()) {
            Some(source) => Ok(Some(source.read().await?.fingerprint())),
            None => Ok(None),
        }
    }
}

/// The value of `Authorization` for `client_secret_basic` (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &Secret, encoding: BasicEncoding) -> HeaderValue {
    let half = |text: &str| match encoding {
        BasicEncoding::Form => form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>(),
        BasicEncoding::Raw => text.to_owned(),
    };
    let joined = zeroize::Zeroizing::new(format!("{}:{}", half(client_id), half(secret.expose())));
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(joined.as_bytes())))
        .expect("base64 is legal in a header");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new("p+s/s=w:o%r&d \"~ 1".into())
    }

    #[test]
    fn basic_encodes_each_half_as_a_form_before_joining() {
        let value = basic("svc post:1", &secret(), BasicEncoding::Form);
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        let plain = String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap();
        assert_eq!(plain, "svc+post%3A1:p%2Bs%2Fs%3Dw%3Ao%25r%26d+%22%7E+1");
        assert!(value.is_sensitive());
    }

    #[test]
    fn basic_raw_joins_the_halves_as_they_are() {
        let value = basic("id", &secret(), BasicEncoding::Raw);
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        assert_eq!(BASE64_STANDARD.decode(encoded).unwrap(), b"id:p+s/s=w:o%r&d \"~ 1");
    }
}
