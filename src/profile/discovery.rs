//! Finding an issuer's token endpoint (RFC 8414, OpenID Connect Discovery).
//!
//! The metadata is kept for a day and outlives failures to read it again; errors are not kept. Reading it
//! again must not cost an exchange that could do without: it has a short time, and not each time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{StatusCode, header::ACCEPT};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    clock::{self, Moment},
    outbound,
    profile::{
        authentication::ClientAuth,
        http::{self, Http},
        refusal::{Class, ExchangeError},
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

/// Why an issuer's metadata cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They say something else than what is configured.
    Unfit,
    /// There are none.
    Absent,
    /// They cannot be had now.
    Failing {
        /// What was answered, if anything was.
        status: Option<u16>,
        /// The waiting time that came with it.
        retry_after: Option<Duration>,
    },
}

impl Flaw {
    /// How it is likely to go away.
    pub fn class(self) -> Class {
        match self {
            Flaw::Unfit | Flaw::Absent => Class::Permanent,
            Flaw::Failing { status: Some(429), .. } => Class::Throttled,
            Flaw::Failing { .. } => Class::Transient,
        }
    }

    /// The waiting time that the provider gave.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Flaw::Failing { retry_after, .. } => retry_after,
            Flaw::Unfit | Flaw::Absent => None,
        }
    }
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
    let mut failures = Vec::new();
    for url in well_known(issuer)? {
        match metadata(&url, &http.client(&url)?).await {
            Ok(metadata) => return endpoints(issuer, &metadata),
            Err(failure) => failures.push(failure),
        }
    }
    Err(without_metadata(issuer, failures))
}

/// Most issuers have metadata at one of the two places only. So what has failed for a moment at either may be what is
/// missing, and is told; else there are none at both.
fn without_metadata(issuer: &str, failures: Vec<(String, Flaw)>) -> ExchangeError {
    let retry_after = failures.iter().filter_map(|(_, flaw)| flaw.retry_after()).max();
    let failing = failures.iter().find_map(|(what, flaw)| match flaw {
        Flaw::Failing { status, .. } => Some((what.clone(), Flaw::Failing { status: *status, retry_after })),
        Flaw::Unfit | Flaw::Absent => None,
    });
    let (what, flaw) = failing.unwrap_or_else(|| {
        let all: Vec<_> = failures.into_iter().map(|(what, _)| what).collect();
        (all.join(", and "), Flaw::Absent)
    });
    ExchangeError::Discovery { issuer: issuer.to_owned(), what, flaw }
}

/// Both places: OpenID Connect appends to the issuer, RFC 8414 §3 inserts after the host.
fn well_known(issuer: &str) -> Result<[Url; 2], ExchangeError> {
    let bad = || ExchangeError::Discovery {
        issuer: issuer.to_owned(),
        what: "the issuer is no URL".into(),
        flaw: Flaw::Unfit,
    };
    let trimmed = issuer.trim_end_matches('/');
    let appended = Url::parse(&format!("{trimmed}/.well-known/openid-configuration")).map_err(|_| bad())?;
    let mut inserted = Url::parse(trimmed).map_err(|_| bad())?;
    let path = inserted.path().trim_end_matches('/').to_owned();
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    Ok([appended, inserted])
}

async fn metadata(url: &Url, client: &reqwest::Client) -> Result<Metadata, (String, Flaw)> {
    let failing = |status, retry_after| Flaw::Failing { status, retry_after };
    let request = client.get(url.clone()).header(ACCEPT, "application/json");
    let mut response = request
        .send()
        .await
        .map_err(|e| (ExchangeError::unreachable(url, &e).to_string(), failing(None, None)))?;
    let status = response.status();
    if !status.is_success() {
        let goes_away = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        let flaw = if status.is_client_error() && !goes_away {
            Flaw::Absent
        } else {
            failing(Some(status.as_u16()), outbound::retry_after(response.headers()))
        };
        return Err((format!("{url} answered HTTP {}", status.as_u16()), flaw));
    }
    let body =
        http::bounded(&mut response).await.map_err(|e| (e.at(url).to_string(), failing(None, None)))?;
    let no_metadata = |_| (format!("{url} gave no issuer and token_endpoint"), failing(Some(200), None));
    serde_json::from_slice(&body).map_err(no_metadata)
}

/// RFC 8414 §3.3: the metadata must name the very issuer that was asked for.
fn endpoints(issuer: &str, metadata: &Metadata) -> Result<Endpoints, ExchangeError> {
    if metadata.issuer != issuer {
        let other = outbound::printable(&metadata.issuer);
        let what = format!("its metadata names another issuer, {other:?} (a trailing slash counts)");
        return Err(ExchangeError::Discovery { issuer: issuer.to_owned(), what, flaw: Flaw::Unfit });
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
        flaw: Flaw::Unfit,
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

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

    /// What an issuer's token request fails with that answers so at the first of the two places, and at the second.
    async fn failure(answers: [&str; 2]) -> ExchangeError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let answering = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                let head = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        };
        let http = Http::default();
        tokio::join!(fetch(&issuer, &http), answering).0.unwrap_err()
    }

    /// The place where there is nothing used to be told, and taken for a mistake in the configuration.
    #[tokio::test]
    async fn an_issuer_that_is_out_of_order_is_not_said_to_be_another_one() {
        for answers in [["404 x", "503 x"], ["503 x", "404 x"], ["404 x", "408 x"]] {
            let error = failure(answers).await;
            assert_eq!(error.class(), Class::Transient, "{error}");
            let status = if answers.concat().contains("503") { "HTTP 503" } else { "HTTP 408" };
            assert!(error.to_string().contains(status), "{error}");
            assert!(error.diagnosis().meaning.contains("out of order"), "{}", error.explained());
        }
    }

    #[tokio::test]
    async fn an_issuer_that_throttles_is_left_alone_as_long_as_it_says() {
        let throttled = "429 x\r\nretry-after: 60";
        for answers in [[throttled, throttled], [throttled, "404 x"], ["404 x", throttled]] {
            let error = failure(answers).await;
            assert_eq!(error.class(), Class::Throttled, "{error}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        }
        let error = failure(["503 x\r\nretry-after: 7", "404 x"]).await;
        assert_eq!((error.class(), error.retry_after()), (Class::Transient, Some(Duration::from_secs(7))));
    }

    #[tokio::test]
    async fn an_issuer_without_metadata_is_told_with_both_places() {
        let error = failure(["404 x", "403 x"]).await;
        assert_eq!((error.class(), error.retry_after()), (Class::Permanent, None));
        let words = error.explained().to_string();
        for part in
            ["openid-configuration answered HTTP 404, and ", "oauth-authorization-server answered HTTP 403"]
        {
            assert!(words.contains(part), "{words}");
        }
        assert!(words.contains("at neither of the two places"), "{words}");
    }

    /// The exchange used to be cancelled while it waited for the metadata, before the older answer could
    /// stand in: no token was asked for ever again.
    #[tokio::test]
    async fn known_endpoints_outlive_a_discovery_that_hangs() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
