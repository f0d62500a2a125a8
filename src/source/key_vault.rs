//! A secret in Azure Key Vault, read with the token of one of the gateway's own profiles.
//!
//! Who gives that token is not known here: it is asked through [`Bearer`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{StatusCode, header::HeaderValue};
use serde_json::Value;
use url::Url;

use super::remote::{self, Answer, Link, RequestError};
use crate::{outbound, secret::Secret};

/// The oldest version that every cloud has.
const API_VERSION: &str = "7.4";

/// Gives tokens for Key Vault.
pub trait Bearer: Send + Sync {
    /// A token; with `anew` not the one that was given last.
    fn bearer(&self, anew: bool) -> Pin<Box<dyn Future<Output = Result<Secret, Refused>> + Send + '_>>;
}

/// Why there is no token for Key Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words.
    pub reason: String,
    /// Whether it is likely to go away by itself.
    pub is_transient: bool,
    /// The waiting time that the identity provider gave, as far as it is not over.
    pub retry_after: Option<Duration>,
}

/// Where a secret is in Key Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `https://NAME.vault.azure.net`, or another cloud's.
    pub vault: Url,
    /// The secret's name.
    pub secret: String,
    /// One of its versions; the newest without one.
    pub version: Option<String>,
    /// The profile whose token reads it.
    pub profile: String,
    /// Everything that the profile was told, so that another profile of this name is not taken for it.
    pub account: String,
    /// How Key Vault is reached: as the profile's identity provider.
    pub connection: outbound::Settings,
}

/// Why Key Vault gave no secret. Never holds any part of one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// No answer that could be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The profile has no token for it.
    #[error("profile {0:?} got no token for it: {reason}", reason = .1.reason)]
    NoToken(String, Refused),
    /// HTTP 401.
    #[error("it does not accept the token of profile {0:?} (the vault belongs to another tenant?)")]
    Unauthorized(String),
    /// HTTP 403.
    #[error(
        "profile {0:?} may not read it (give it the role \"Key Vault Secrets User\"; see also the vault's firewall, and whether the secret is enabled)"
    )]
    Denied(String),
    /// HTTP 404.
    #[error("there is no such secret or version in it")]
    Absent,
    /// A redirect.
    #[error("it redirects, which is not followed (check the vault's URL)")]
    Redirected,
    /// Any other status.
    #[error("it answered HTTP {0}")]
    Status(u16, Option<Duration>),
    /// The answer holds no value.
    #[error("its answer holds no value")]
    NoValue,
}

impl Flaw {
    /// Whether it is likely to go away by itself.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Flaw::Request(RequestError::Unreachable(_)) => true,
            Flaw::NoToken(_, refused) => refused.is_transient,
            Flaw::Status(status, _) => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// The waiting time that whoever said no has given.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Flaw::NoToken(_, refused) => refused.retry_after,
            Flaw::Status(_, wait) => *wait,
            _ => None,
        }
    }
}

/// A secret in Key Vault.
pub struct KeyVault {
    settings: Settings,
    bearer: Arc<dyn Bearer>,
    link: Link,
    /// When the last one that was read expires.
    expires: Mutex<Option<SystemTime>>,
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyVault").field(&self.settings).finish()
    }
}

impl PartialEq for KeyVault {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for KeyVault {}

impl KeyVault {
    /// Nothing is sent yet. `bearer` gives tokens of [`Settings::profile`] for [`scope`].
    pub fn new(settings: Settings, bearer: Arc<dyn Bearer>) -> Self {
        let link = Link::new(settings.connection.clone());
        Self { settings, bearer, link, expires: Mutex::default() }
    }

    /// Where the secret is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// When the secret that was read last expires, if it says so.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret as it is now. A certificate's PFX form is text in Key Vault; with `decoded` it is given
    /// as the bytes that it stands for.
    ///
    /// # Errors
    /// [`Flaw`].
    pub(super) async fn read(&self, decoded: bool) -> Result<Vec<u8>, Flaw> {
        let mut answer = self.ask(false).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            answer = self.ask(true).await?;
        }
        let profile = || self.settings.profile.clone();
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(Flaw::Unauthorized(profile())),
            StatusCode::FORBIDDEN => return Err(Flaw::Denied(profile())),
            StatusCode::NOT_FOUND => return Err(Flaw::Absent),
            status if status.is_redirection() => return Err(Flaw::Redirected),
            status => return Err(Flaw::Status(status.as_u16(), answer.retry_after)),
        }
        let value = answer.json.get("value").and_then(Value::as_str).ok_or(Flaw::NoValue)?;
        let is_pfx = answer.json.get("contentType").and_then(Value::as_str) == Some("application/x-pkcs12");
        let bytes = if decoded && is_pfx {
            BASE64_STANDARD.decode(value).map_err(|_| Flaw::NoValue)?
        } else {
            value.as_bytes().to_vec()
        };
        let seconds = answer.json.pointer("/attributes/exp").and_then(Value::as_u64);
        let expires = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
        Ok(bytes)
    }

    async fn ask(&self, anew: bool) -> Result<Answer, Flaw> {
        let Settings { vault, secret, version, profile, .. } = &self.settings;
        let token = self.bearer.bearer(anew).await;
        let token = token.map_err(|refused| Flaw::NoToken(profile.clone(), refused))?;
        let mut url = vault.clone();
        url.set_path(&format!("/secrets/{secret}/{}", version.as_deref().unwrap_or_default()));
        url.set_query(Some(&format!("api-version={API_VERSION}")));
        let text = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = HeaderValue::from_str(&text).map_err(|_| Flaw::NoValue)?;
        value.set_sensitive(true);
        let request = self.link.client(&url).await?.get(url).header("authorization", value);
        Ok(remote::send(request).await?)
    }
}

/// The scope of tokens for the vault at `url`: each cloud has its own.
pub fn scope(url: &Url) -> String {
    const CLOUDS: [&str; 3] = ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"];
    let host = url.host_str().unwrap_or_default();
    let own = CLOUDS.iter().find(|cloud| host.strip_suffix(**cloud).is_some_and(|rest| rest.ends_with('.')));
    format!("https://{}/.default", own.unwrap_or(&"vault.azure.net"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cloud_has_a_scope_of_its_own() {
        let of = |url: &str| scope(&url.parse().unwrap());
        assert_eq!(of("https://a.vault.azure.net"), "https://vault.azure.net/.default");
        assert_eq!(of("https://a.vault.azure.cn"), "https://vault.azure.cn/.default");
        assert_eq!(of("https://a.vault.usgovcloudapi.net/"), "https://vault.usgovcloudapi.net/.default");
        assert_eq!(of("http://127.0.0.1:1"), "https://vault.azure.net/.default");
    }
}
