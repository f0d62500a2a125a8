//! Finding an issuer's token endpoint (RFC 8414, OpenID Connect Discovery).
//!
//! The metadata is kept for a day and outlives failures to read it again; errors are not kept. Reading it
//! again must not cost an exchange that could do without: it has a short time, and not each time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    clock::{self, Moment},
    outbound,
    profile::{
        authentication::ClientAuth,
        http::{self, Http},
        refusal::ExchangeError,
    },
};

/// How long an endpoint is believed without asking again.
const KEPT: Duration = Duration::from_secs(86_400);
/// And for so long after asking again has failed.
const KEPT_ON: Duration = Duration::from_secs(300);
/// Asking again takes no longer, and no more than this part of the exchange that waits for it.
const AGAIN_MAX: Duration = Duration::from_secs(2);
const AGAIN_SHARE: u32 = 3;

/// More ways of client authentication than are registered.
const AUTH_METHODS_MAX: usize = 12;

/// What one profile knows of its issuer.
#[derive(Default)]
pub(super) struct Discovery {
    /// With the moment from which on the issuer is asked again.
    found: Mutex<Option<(Endpoints, Moment)>>,
}

/// What an issuer's metadata say about asking for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// The token endpoint.
    pub(super) token: Url,
    /// The same for clients that show a certificate (RFC 8705 §5), where it is another one.
    pub(super) token_with_certificate: Option<Url>,
    /// Whether tokens for them are bound to the certificate.
    pub(super) binds: bool,
    /// The ways of client authentication that it says it takes; `None` when it says nothing.
    pub(super) auth_methods: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: String,
    #[serde(default)]
    mtls_endpoint_aliases: Aliases,
    #[serde(default)]
    tls_client_certificate_bound_access_tokens: bool,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Value,
}

#[derive(Default, Deserialize)]
struct Aliases {
    token_endpoint: Option<String>,
}

impl Discovery {
    /// The endpoints of `issuer`; one network round when it is not known yet. The whole exchange has
    /// `timeout`; while there is an older answer, the network has a small part of that.
    ///
    /// # Errors
    /// [`ExchangeError::Discovery`], unless an older answer can stand in.
    pub(super) async fn endpoints(
        &self,
        issuer: &str,
        http: &Http,
        timeout: Duration,
    ) -> Result<Endpoints, ExchangeError> {
        let known = self.found().clone();
        let Some((known, ask_from)) = known else {
            let endpoints = fetch(issuer, http).await?;
            return Ok(self.keep(endpoints, KEPT));
        };
        if clock::now() < ask_from {
            return Ok(known);
        }
        let limit = AGAIN_MAX.min(timeout / AGAIN_SHARE);
        let why = match tokio::time::timeout(limit, fetch(issuer, http)).await {
            Ok(Ok(endpoints)) => return Ok(self.keep(endpoints, KEPT)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", limit.as_millis()),
        };
        tracing::warn!(issuer, "the endpoints that the issuer has named before stay in use: {why}");
        Ok(self.keep(known, KEPT_ON))
    }

    fn keep(&self, endpoints: Endpoints, ask_after: Duration) -> Endpoints {
        *self.found() = Some((endpoints.clone(), clock::now().after(ask_after)));
        endpoints
    }

    fn found(&self) -> MutexGuard<'_, Option<(Endpoints, Moment)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the issuer's metadata say against `auth`, as far as they were read. Servers forget to list what
    /// they take, so it is no reason not to ask.
    pub(super) fn objection(&self, auth: &ClientAuth) -> Option<String> {
        let known = self.found();
        let (endpoints, _) = known.as_ref()?;
        let listed = endpoints.auth_methods.as_ref()?;
        let method = registered_name(auth)?;
        if listed.is_empty() || listed.iter().any(|name| name == method) {
            return None;
        }
        Some(format!("the issuer's metadata list {} for auth, not {method}", listed.join(", ")))
    }

    /// Whether the issuer says that it binds tokens to certificates.
    pub(super) fn binds(&self) -> bool {
        self.found().as_ref().is_some_and(|(endpoints, _)| endpoints.binds)
    }
}

/// The method's name as metadata list it (RFC 8414 §2); `None` where there is no method.
fn registered_name(auth: &ClientAuth) -> Option<&'static str> {
    match auth {
        ClientAuth::SecretBasic { .. } => Some("client_secret_basic"),
        ClientAuth::CertificateJwt { .. } | ClientAuth::Assertion(_) => Some("private_key_jwt"),
        ClientAuth::Absent => None,
        other => Some(other.name()),
    }
}

async fn fetch(issuer: &str, http: &Http) -> Result<Endpoints, ExchangeError> {
    let mut failure = None;
    for url in well_known(issuer)? {
        match metadata(&url, http).await {
            Ok(metadata) => return endpoints(issuer, &metadata),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let (what, permanent) = failure.unwrap_or(("no address to ask".into(), true));
    Err(ExchangeError::Discovery { issuer: issuer.to_owned(), what, permanent })
}

/// Both places: OpenID Connect appends to the issuer, RFC 8414 §3 inserts after the host.
fn well_known(issuer: &str) -> Result<[Url; 2], ExchangeError> {
    let bad = || ExchangeError::Discovery {
        issuer: issuer.to_owned(),
        what: "the issuer is no URL".into(),
        permanent: true,
    };
    let trimmed = issuer.trim_end_matches('/');
    let appended = Url::parse(&format!("{trimmed}/.well-known/openid-configuration")).map_err(|_| bad())?;
    let mut inserted = Url::parse(trimmed).map_err(|_| bad())?;
    let path = inserted.path().trim_end_matches('/').to_owned();
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    Ok([appended, inserted])
}

async fn metadata(url: &Url, http: &Http) -> Result<Metadata, (String, bool)> {
    let client = http.client(url).map_err(|error| (error.to_string(), true))?;
    let request = client.get(url.clone()).header(ACCEPT, "application/json");
    let mut response =
        request.send().await.map_err(|e| (ExchangeError::unreachable(url, &e).to_string(), false))?;
    let status = response.status();
    if !status.is_success() {
        return Err((format!("{url} answered HTTP {}", status.as_u16()), status.is_client_error()));
    }
    let body = http::bounded(&mut response).await.map_err(|e| (e.at(url).to_string(), false))?;
    serde_json::from_slice(&body).map_err(|_| (format!("{url} gave no issuer and token_endpoint"), false))
}

/// RFC 8414 §3.3: the metadata must name the very issuer that was asked for.
fn endpoints(issuer: &str, metadata: &Metadata) -> Result<Endpoints, ExchangeError> {
    if metadata.issuer != issuer {
        let other = outbound::printable(&metadata.issuer);
        let what = format!("its metadata names another issuer, {other:?} (a trailing slash counts)");
        return Err(ExchangeError::Discovery { issuer: issuer.to_owned(), what, permanent: true });
    }
    let alias = metadata.mtls_endpoint_aliases.token_endpoint.as_deref();
    Ok(Endpoints {
        token: endpoint(issuer, "token_endpoint", &metadata.token_endpoint)?,
        token_with_certificate: alias
            .map(|url| endpoint(issuer, "mtls_endpoint_aliases.token_endpoint", url))
            .transpose()?,
        binds: metadata.tls_client_certificate_bound_access_tokens,
        auth_methods: auth_methods(&metadata.token_endpoint_auth_methods_supported),
    })
}

/// Only what could be the name of a method, and not more than a line of them: it gets into errors.
fn auth_methods(value: &Value) -> Option<Vec<String>> {
    let is_name = |text: &&str| text.len() <= 40 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let names = value.as_array()?.iter().filter_map(Value::as_str).filter(is_name);
    Some(names.take(AUTH_METHODS_MAX).map(str::to_owned).collect())
}

fn endpoint(issuer: &str, member: &str, text: &str) -> Result<Url, ExchangeError> {
    let refuse = |what: &str| ExchangeError::Discovery {
        issuer: issuer.to_owned(),
        what: format!("its {member} is {what}"),
        permanent: true,
    };
    let url = Url::parse(text).map_err(|_| refuse("no URL"))?;
    let loopback_issuer = Url::parse(issuer).is_ok_and(|issuer| issuer.scheme() == "http");
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback_issuer) {
        return Err(refuse("not https"));
    }
    if url.scheme() == "http" && Url::parse(issuer).is_ok_and(|issuer| issuer.host() != url.host()) {
        return Err(refuse("plain http on another host"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_well_known_places_are_tried() {
        let [appended, inserted] = well_known("https://id.example.com/tenant1").unwrap();
        assert_eq!(appended.as_str(), "https://id.example.com/tenant1/.well-known/openid-configuration");
        assert_eq!(
            inserted.as_str(),
            "https://id.example.com/.well-known/oauth-authorization-server/tenant1"
        );
        let [appended, inserted] = well_known("https://id.example.com/").unwrap();
        assert_eq!(appended.as_str(), "https://id.example.com/.well-known/openid-configuration");
        assert_eq!(inserted.as_str(), "https://id.example.com/.well-known/oauth-authorization-server");
    }

    #[test]
    fn metadata_of_another_issuer_or_of_a_plain_endpoint_is_refused() {
        let check = |issuer: &str, named: &str, url: &str| {
            let metadata = Metadata {
                issuer: named.into(),
                token_endpoint: url.into(),
                mtls_endpoint_aliases: Aliases::default(),
                tls_client_certificate_bound_access_tokens: false,
                token_endpoint_auth_methods_supported: Value::Null,
            };
            endpoints(issuer, &metadata).is_ok()
        };
        let id = "https://id.example.com";
        assert!(check(id, id, "https://tokens.example.com/t"));
        assert!(!check(id, "https://id.example.com/", "https://id.example.com/t"));
        assert!(!check(id, id, "http://id.example.com/t"));
        assert!(!check("http://127.0.0.1:9", "http://127.0.0.1:9", "http://evil.example/t"));
        assert!(check("http://127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1:9/t"));
    }

    #[test]
    fn metadata_that_do_not_list_the_method_object_and_silence_does_not() {
        let objection = |methods: Value, auth: ClientAuth| {
            let discovery = Discovery::default();
            let token: Url = "https://id.example.com/t".parse().unwrap();
            let auth_methods = auth_methods(&methods);
            let endpoints = Endpoints { token, token_with_certificate: None, binds: false, auth_methods };
            *discovery.found.lock().unwrap() = Some((endpoints, clock::now()));
            discovery.objection(&auth)
        };
        let listed = || serde_json::json!(["client_secret_post", "private_key_jwt", 7, "x\u{1b}[31m"]);
        let words = objection(listed(), ClientAuth::None).unwrap();
        assert_eq!(
            words,
            "the issuer's metadata list client_secret_post, private_key_jwt for auth, not none"
        );
        let post = || ClientAuth::SecretPost(crate::source::Source::Env("X".into()).into());
        assert_eq!(objection(listed(), post()), None);
        assert_eq!(objection(listed(), ClientAuth::Absent), None);
        assert_eq!(objection(Value::Null, ClientAuth::None), None);
    }

    /// The exchange used to be cancelled while it waited for the metadata, before the older answer could
    /// stand in: no token was asked for ever again.
    #[tokio::test]
    async fn known_endpoints_outlive_a_discovery_that_hangs() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", silent.local_addr().unwrap());
        let known = Endpoints {
            token: format!("{issuer}/token").parse().unwrap(),
            token_with_certificate: None,
            binds: false,
            auth_methods: None,
        };
        let discovery = Discovery::default();
        discovery.keep(known.clone(), Duration::ZERO);
        let (http, timeout) = (Http::default(), Duration::from_millis(300));
        let endpoints = || discovery.endpoints(&issuer, &http, timeout);
        let asked = tokio::time::timeout(timeout, endpoints()).await;
        assert_eq!(asked.expect("there is time left for the exchange").unwrap(), known);
        drop(silent.accept().await.expect("it has been asked"));
        // The next exchange does not pay for it again.
        let asked = tokio::time::timeout(Duration::ZERO, endpoints()).await;
        assert_eq!(asked.expect("nobody is asked").unwrap(), known);
    }
}
