//! A field of a secret in HashiCorp Vault, or in what speaks like it: key-value engine, versions 2 and 1.
//!
//! The secret is read anew each time. What is kept is the login: until its lease is nearly over, or Vault
//! does not take it any more.

use std::{path::PathBuf, pin::Pin, time::Duration};

use reqwest::{RequestBuilder, StatusCode, header::HeaderValue};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use url::Url;

use super::{
    Source, SourceError,
    remote::{self, Answer, Link, RequestError},
};
use crate::{
    clock::{self, Moment},
    secret::Secret,
};

/// Where a secret is in Vault, and how the gateway logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Scheme, host and port.
    pub address: Url,
    /// The path below `/v1/`; for version 2 with `data` behind the mount: `secret/data/app`.
    pub path: String,
    /// The field of the secret.
    pub field: String,
    /// A PEM file with the authorities that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// How the gateway logs in.
    pub login: Login,
}

/// How the gateway logs in to Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With a token that somebody else renews, such as Vault's agent.
    Token(Source),
    /// With an AppRole.
    AppRole {
        /// The role's id.
        role_id: String,
        /// Its secret id.
        secret_id: Source,
        /// Where the method is mounted.
        mount: String,
    },
    /// With the token of a Kubernetes service account.
    Kubernetes {
        /// The role.
        role: String,
        /// The service account's token.
        token: Source,
        /// Where the method is mounted.
        mount: String,
    },
}

/// Why Vault gave no secret. Never holds any part of one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// No answer that could be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What the login needs could not be read.
    #[error("what it wants for the login is not there: {0}")]
    LoginSource(Box<SourceError>),
    /// The login was refused.
    #[error("the login was refused with HTTP {0} (check role, secret id or service account, and the mount)")]
    LoginRefused(u16, Option<Duration>),
    /// The login's answer holds no token.
    #[error("the answer to the login holds no token")]
    LoginUnusable,
    /// HTTP 403.
    #[error(
        "permission denied (the policy of the login must allow \"read\" on this path; a wrong path or namespace is answered so as well)"
    )]
    Denied,
    /// HTTP 404.
    #[error("there is nothing at this path{}", forgotten_data(*.0))]
    Absent(bool),
    /// HTTP 503.
    #[error("it is sealed or not yet ready (unseal it)")]
    Sealed,
    /// A redirect: a standby that does not forward.
    #[error(
        "it redirects, which is not followed (write the address of the active node, or of what is in front of it)"
    )]
    Redirected,
    /// Any other status.
    #[error("it answered HTTP {0}")]
    Status(u16, Option<Duration>),
    /// The answer is no secret of a key-value engine.
    #[error("its answer is no secret of a key-value engine")]
    NoSecret,
    /// The secret has no such field, or it is no text.
    #[error("the secret has no text in this field (it has {0})")]
    NoField(String),
}

fn forgotten_data(has_data: bool) -> &'static str {
    if has_data {
        " (or its newest version is deleted)"
    } else {
        " (version 2 of the key-value engine wants \"data\" behind the mount, as in secret/data/app)"
    }
}

impl Flaw {
    /// Whether it is likely to go away by itself.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Flaw::Request(RequestError::Unreachable(_)) | Flaw::Sealed => true,
            Flaw::Status(status, _) | Flaw::LoginRefused(status, _) => *status >= 500 || *status == 429,
            Flaw::LoginSource(error) => error.is_transient(),
            _ => false,
        }
    }

    /// The waiting time that Vault has given.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Flaw::Status(_, wait) | Flaw::LoginRefused(_, wait) => *wait,
            Flaw::LoginSource(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// A field of a secret in Vault, with the login that reads it.
#[derive(Debug)]
pub struct Vault {
    settings: Settings,
    link: Link,
    login: Mutex<Option<Lease>>,
}

/// A login that has been made.
struct Lease {
    token: Secret,
    /// From here on it is made anew; `None` as long as it is taken.
    until: Option<Moment>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease(…)")
    }
}

impl PartialEq for Vault {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Vault {}

impl Vault {
    /// Nothing is sent yet.
    pub fn new(settings: Settings) -> Self {
        let link = Link::new(remote::with_authorities(settings.ca.clone()));
        Self { settings, link, login: Mutex::default() }
    }

    /// Where the secret is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The field's content as it is now.
    ///
    /// # Errors
    /// [`Flaw`].
    pub(super) async fn read(&self) -> Result<Vec<u8>, Flaw> {
        let answer = self.ask(false).await?;
        let is_kept = !matches!(self.settings.login, Login::Token(_));
        let answer = if answer.status == StatusCode::FORBIDDEN && is_kept {
            // The login may have been revoked; a fresh one tells that from a policy that says no.
            self.ask(true).await?
        } else {
            answer
        };
        self.judge(answer)
    }

    async fn ask(&self, anew: bool) -> Result<Answer, Flaw> {
        let token = self.token(anew).await?;
        let url = self.url(&self.settings.path);
        let request = self.link.client(&url).await?.get(url);
        Ok(remote::send(self.dressed(request, Some(&token))).await?)
    }

    /// The token of the login, which is made when there is none that holds.
    async fn token(&self, anew: bool) -> Result<Secret, Flaw> {
        if let Login::Token(source) = &self.settings.login {
            return read(source).await;
        }
        let mut login = self.login.lock().await;
        let holds = |lease: &&Lease| lease.until.is_none_or(|until| clock::now() < until);
        if let Some(lease) = login.as_ref().filter(|_| !anew).filter(holds) {
            return Ok(lease.token.clone());
        }
        let lease = self.log_in().await?;
        let token = lease.token.clone();
        *login = Some(lease);
        Ok(token)
    }

    async fn log_in(&self) -> Result<Lease, Flaw> {
        let (mount, body) = match &self.settings.login {
            Login::AppRole { role_id, secret_id, mount } => {
                let secret = read(secret_id).await?;
                (mount, json!({ "role_id": role_id, "secret_id": secret.expose() }))
            }
            Login::Kubernetes { role, token, mount } => {
                let token = read(token).await?;
                (mount, json!({ "role": role, "jwt": token.expose() }))
            }
            Login::Token(_) => return Err(Flaw::LoginUnusable),
        };
        let url = self.url(&format!("auth/{mount}/login"));
        let asked_at = clock::now();
        let request = self.link.client(&url).await?.post(url).body(body.to_string());
        let answer = remote::send(self.dressed(request, None)).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => return Err(Flaw::Sealed),
            status if status.is_redirection() => return Err(Flaw::Redirected),
            status => return Err(Flaw::LoginRefused(status.as_u16(), answer.retry_after)),
        }
        let auth = answer.json.get("auth").ok_or(Flaw::LoginUnusable)?;
        let token = auth.get("client_token").and_then(Value::as_str).ok_or(Flaw::LoginUnusable)?;
        if token.is_empty() || HeaderValue::from_str(token).is_err() {
            return Err(Flaw::LoginUnusable);
        }
        let seconds = auth.get("lease_duration").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        // A tenth of it is enough for the request that it is for.
        let until = seconds.map(|s| asked_at.after(Duration::from_secs(s.min(366 * 86_400)).mul_f64(0.9)));
        Ok(Lease { token: Secret::new(token.to_owned()), until })
    }

    /// Every path of Vault's interface begins with its version.
    fn url(&self, path: &str) -> Url {
        let mut url = self.settings.address.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/v1/{}", path.trim_matches('/')));
        url
    }

    fn dressed(&self, request: RequestBuilder, token: Option<&Secret>) -> RequestBuilder {
        // Vault's agent may be told to demand it, as no browser can be made to send it.
        let mut request = request.header("x-vault-request", "true");
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(mut value) = token.and_then(|token| HeaderValue::from_str(token.expose()).ok()) {
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        request
    }

    fn judge(&self, answer: Answer) -> Result<Vec<u8>, Flaw> {
        match answer.status {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN => return Err(Flaw::Denied),
            StatusCode::NOT_FOUND => {
                return Err(Flaw::Absent(self.settings.path.split('/').any(|segment| segment == "data")));
            }
            StatusCode::SERVICE_UNAVAILABLE => return Err(Flaw::Sealed),
            status if status.is_redirection() => return Err(Flaw::Redirected),
            status => return Err(Flaw::Status(status.as_u16(), answer.retry_after)),
        }
        let fields = fields(&answer.json).ok_or(Flaw::NoSecret)?;
        match fields.get(&self.settings.field) {
            Some(Value::String(text)) => Ok(text.clone().into_bytes()),
            _ => Err(Flaw::NoField(names(fields))),
        }
    }
}

/// What a login is made with. Boxed, as it may be kept in another vault.
fn read(source: &Source) -> Pin<Box<dyn Future<Output = Result<Secret, Flaw>> + Send + '_>> {
    Box::pin(async { source.read().await.map_err(|error| Flaw::LoginSource(Box::new(error))) })
}

/// Version 2 puts the fields beside its own metadata, one level down.
fn fields(json: &Value) -> Option<&Map<String, Value>> {
    let data = json.get("data")?.as_object()?;
    match (data.get("data"), data.get("metadata")) {
        (Some(Value::Object(fields)), Some(Value::Object(_))) => Some(fields),
        _ => Some(data),
    }
}

/// The names of the fields, for somebody who has mistyped one.
fn names(fields: &Map<String, Value>) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = fields.keys().take(SHOWN).map(|name| format!("{name:?}")).collect();
    if fields.len() > SHOWN {
        names.push("…".to_owned());
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_the_engine_are_told_apart_by_their_answers() {
        let v2 = json!({"data": {"data": {"password": "x"}, "metadata": {"version": 3}}});
        let v1 = json!({"data": {"password": "x", "data": "y"}});
        for answer in [v2, v1] {
            assert_eq!(fields(&answer).unwrap().get("password"), Some(&json!("x")));
        }
        assert_eq!(fields(&json!({"data": null})), None);
    }

    #[test]
    fn a_missing_field_names_those_that_there_are() {
        let fields = json!({"user": "canary", "pass": "canary"});
        let error = Flaw::NoField(names(fields.as_object().unwrap())).to_string();
        assert_eq!(error, "the secret has no text in this field (it has \"pass\", \"user\")");
    }
}
