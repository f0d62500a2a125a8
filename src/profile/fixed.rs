//! Profiles of kind `static`: a token, a password or a key that lies in its source and is put on requests
//! as it is.
//!
//! There is nobody to ask for another one. Its exchange is reading the source.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderName, header::AUTHORIZATION};

use crate::{
    clock,
    profile::{
        Grant, Identity,
        credential::{Credential, Slot, sensitive},
        refusal::ExchangeError,
    },
    secret::{Fingerprint, Secret},
    source::{Source, SourceError},
};

/// A source that is not looked at every few seconds, such as a vault, is read again after this long.
const REREAD: Duration = Duration::from_secs(300);
/// No server takes a longer header field, nor a longer parameter.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// What goes on requests, and where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// A token for `Authorization: Bearer`.
    Bearer(Source),
    /// HTTP Basic authentication (RFC 7617).
    Basic {
        /// The user's name, without a colon.
        username: String,
        /// The password.
        password: Source,
    },
    /// A header field.
    Header {
        /// The field.
        name: HeaderName,
        /// Its value, or what follows `prefix` in it.
        value: Source,
        /// What stands in front of the value, such as `ApiKey `.
        prefix: String,
    },
    /// A parameter of the query.
    Query {
        /// The parameter's plain name.
        name: String,
        /// Its value.
        value: Source,
    },
}

impl Settings {
    /// Where the secret is kept.
    pub fn source(&self) -> &Source {
        match self {
            Settings::Bearer(source)
            | Settings::Basic { password: source, .. }
            | Settings::Header { value: source, .. }
            | Settings::Query { value: source, .. } => source,
        }
    }

    /// Where it goes on a request.
    pub fn slot(&self) -> Slot {
        match self {
            Settings::Bearer(_) | Settings::Basic { .. } => Slot::Header(AUTHORIZATION),
            Settings::Header { name, .. } => Slot::Header(name.clone()),
            Settings::Query { name, .. } => Slot::Query(name.clone()),
        }
    }

    /// Reads the source as it is now.
    ///
    /// # Errors
    /// When it cannot be read or holds what cannot go on a request.
    pub(super) async fn exchange(&self, timeout: Duration) -> Result<Grant, ExchangeError> {
        let source = self.source();
        let reading = tokio::time::timeout(timeout, source.read());
        let secret = reading.await.unwrap_or_else(|_| Err(SourceError::Slow(source.clone(), timeout)))?;
        let credential = self.credential(secret).map_err(|what| ExchangeError::Unfit { what })?;
        Ok(Grant {
            credential,
            lifetime: Grant::FOR_EVER,
            refresh_in: (!self.source().is_cheap()).then_some(REREAD),
            asked_at: clock::now(),
        })
    }

    fn credential(&self, secret: Secret) -> Result<Credential, &'static str> {
        const UNFIT: &str = "it holds characters that no header holds (visible ASCII only)";
        let text = secret.expose();
        if text.len() > VALUE_BYTES_MAX {
            return Err("it is longer than 16 KiB");
        }
        Ok(match self {
            Settings::Bearer(_) if !text.bytes().all(|b| b.is_ascii_graphic()) => return Err(UNFIT),
            Settings::Bearer(_) => Credential::Bearer(secret),
            Settings::Basic { username, .. } => {
                let pair = zeroize::Zeroizing::new(format!("{username}:{text}"));
                let encoded = Secret::new(BASE64_STANDARD.encode(pair.as_bytes()));
                let value = sensitive("Basic ", &encoded).ok_or(UNFIT)?;
                Credential::Header { name: AUTHORIZATION, value, secret }
            }
            Settings::Header { name, prefix, .. } => {
                // A server takes white space at either end off, and the key would be another one.
                if text.trim() != text {
                    return Err("it begins or ends with a space");
                }
                let value = sensitive(prefix, &secret).ok_or(UNFIT)?;
                Credential::Header { name: name.clone(), value, secret }
            }
            Settings::Query { name, .. } => Credential::Query { name: name.clone(), value: secret },
        })
    }

    /// Changes with the secret, as far as that can be told cheaply, and when it can no longer be read: that
    /// is worth a word, though what was read before serves on.
    pub(super) async fn identity(&self) -> Identity {
        let print = match self.source() {
            source if source.is_cheap() => source.read().await.ok().map(|secret| secret.fingerprint()),
            _ => None,
        };
        Identity::of([&b"static"[..], print.as_ref().map_or(&[], Fingerprint::as_bytes)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::credential::Ready;

    fn made(settings: &Settings, secret: &str) -> Result<String, &'static str> {
        Ok(match settings.credential(Secret::new(secret.into()))?.ready() {
            Ready::Header(name, value) => {
                assert!(value.is_sensitive());
                format!("{name}: {}", value.to_str().unwrap())
            }
            Ready::Query(pair) => format!("?{}", pair.expose()),
            Ready::Dpop(_) => panic!("nothing here is bound"),
        })
    }

    #[test]
    fn each_form_makes_what_its_scheme_says() {
        let source = || Source::Env("X".into());
        assert_eq!(made(&Settings::Bearer(source()), "t").unwrap(), "authorization: Bearer t");
        // RFC 7617 §2.
        let basic = Settings::Basic { username: "Aladdin".into(), password: source() };
        let expected = "authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(made(&basic, "open sesame").unwrap(), expected);
        let name = HeaderName::from_static("x-api-key");
        let header = Settings::Header { name, value: source(), prefix: "ApiKey ".into() };
        assert_eq!(made(&header, "k 1").unwrap(), "x-api-key: ApiKey k 1");
        let query = Settings::Query { name: "key".into(), value: source() };
        assert_eq!(made(&query, "a&b").unwrap(), "?key=a%26b");
    }

    #[test]
    fn what_no_header_holds_is_refused() {
        let source = || Source::Env("X".into());
        let name = HeaderName::from_static("x-api-key");
        let header = Settings::Header { name, value: source(), prefix: String::new() };
        for (settings, bad) in [(Settings::Bearer(source()), "a b"), (header.clone(), "tök"), (header, " k")]
        {
            assert!(made(&settings, bad).is_err(), "{settings:?} took {bad:?}");
        }
        let long = "a".repeat(VALUE_BYTES_MAX + 1);
        assert!(made(&Settings::Bearer(source()), &long).is_err());
    }
}
