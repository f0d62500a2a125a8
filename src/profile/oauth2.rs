//! The client-credentials grant (RFC 6749 §4.4), as any OAuth 2.0 server takes it.
//!
//! It sends one form, reads one bounded answer and follows no redirect. One way of client
//! authentication is used, the configured one: trying another after a failure would double the
//! failed logins that the provider counts.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use url::{Url, form_urlencoded};

use crate::{
    clock,
    profile::{
        Grant, Identity,
        answer::{self, Reply},
        discovery::Discovery,
        refusal::{ExchangeError, innermost},
    },
    secret::Secret,
    source::{Source, SourceError},
};

/// The largest answer that is read from an identity provider.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// DNS, TCP and TLS towards an identity provider.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than any usual refresh interval, so that a provider's new address is found.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// A client of an OAuth 2.0 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where tokens are asked for.
    pub endpoint: Endpoint,
    /// The client identifier.
    pub client_id: String,
    /// How the client proves itself.
    pub auth: ClientAuth,
    /// Space-separated scope (RFC 6749 §3.3).
    pub scope: Option<String>,
    /// `audience` parameter (Auth0, Ory Hydra).
    pub audience: Option<String>,
    /// `resource` parameters (RFC 8707), each sent by itself.
    pub resource: Vec<String>,
    /// Further parameters, sent as they are.
    pub extra: Vec<(String, String)>,
}

/// The token endpoint, given or to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint itself.
    TokenUrl(Url),
    /// The issuer identifier, byte for byte, whose metadata names the endpoint (RFC 8414).
    Issuer(String),
}

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

    fn name(&self) -> &'static str {
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

/// The HTTP clients that all profiles share, each made when it is first needed: a machine without
/// any root certificate can still talk to a provider on loopback.
#[derive(Default)]
pub struct Http {
    /// Honours `HTTPS_PROXY` and `NO_PROXY` of the gateway's environment.
    outbound: OnceLock<Result<reqwest::Client, String>>,
    /// TLS to loopback: a proxy has no business there.
    near: OnceLock<Result<reqwest::Client, String>>,
    /// Plain HTTP, which only loopback gets.
    plain: OnceLock<Result<reqwest::Client, String>>,
}

impl Http {
    /// The client for `url`.
    ///
    /// # Errors
    /// [`ExchangeError::SetUp`] when TLS cannot be set up, for instance without any root certificate.
    pub fn client(&self, url: &Url) -> Result<&reqwest::Client, ExchangeError> {
        let (slot, builder) = if url.scheme() == "http" {
            (&self.plain, reqwest::Client::builder().no_proxy().tls_certs_only([]))
        } else if is_loopback(url) {
            (&self.near, reqwest::Client::builder().no_proxy())
        } else {
            (&self.outbound, reqwest::Client::builder())
        };
        let made = slot.get_or_init(|| {
            builder
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_CONNECTION)
                .user_agent(concat!("keybearer/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| innermost(&error))
        });
        made.as_ref().map_err(|what| ExchangeError::SetUp { what: what.clone() })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// One OAuth 2.0 client, ready to ask.
pub(super) struct Client {
    settings: Settings,
    is_entra: bool,
    default_ttl: Duration,
    timeout: Duration,
    http: Arc<Http>,
    discovery: Discovery,
}

impl Client {
    pub(super) fn new(
        settings: Settings,
        is_entra: bool,
        default_ttl: Duration,
        timeout: Duration,
        http: Arc<Http>,
    ) -> Self {
        Self { settings, is_entra, default_ttl, timeout, http, discovery: Discovery::default() }
    }

    pub(super) async fn exchange(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        match tokio::time::timeout(self.timeout, self.ask(claims)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ExchangeError::TimedOut { after: self.timeout }),
        }
    }

    async fn ask(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        let secret = self.settings.auth.source().map(Source::read).transpose()?;
        let url = match &self.settings.endpoint {
            Endpoint::TokenUrl(url) => url.clone(),
            Endpoint::Issuer(issuer) => self.discovery.token_endpoint(issuer, &self.http).await?,
        };
        let asked_at = clock::now();
        let reply = self.send(&url, secret.as_ref(), claims).await?;
        let accepted = answer::read(&reply, self.default_ttl, secret.as_ref())?;
        Ok(Grant {
            access_token: accepted.access_token,
            lifetime: accepted.lifetime,
            refresh_in: accepted.refresh_in,
            asked_at,
        })
    }

    async fn send(
        &self,
        url: &Url,
        secret: Option<&Secret>,
        claims: Option<&str>,
    ) -> Result<Reply, ExchangeError> {
        let mut request = self
            .http
            .client(url)?
            .post(url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(self.form(secret, claims));
        if let (ClientAuth::SecretBasic { encoding, .. }, Some(secret)) = (&self.settings.auth, secret) {
            request = request.header(AUTHORIZATION, basic(&self.settings.client_id, secret, *encoding));
        }
        if self.is_entra {
            // Declares that 429 with Retry-After is understood, and gives support staff an id to look for.
            request = request
                .header("client-request-id", request_id())
                .header("x-ms-lib-capability", "retry-after, h429");
        }
        let mut response = request.send().await.map_err(|e| ExchangeError::unreachable(url, &e))?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(answer::retry_after);
        let body = bounded(&mut response).await.map_err(|e| e.at(url))?;
        Ok(Reply { status, retry_after, body })
    }

    fn form(&self, secret: Option<&Secret>, claims: Option<&str>) -> String {
        let settings = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        // Some servers refuse a client_id beside Basic: RFC 6749 §2.3 wants one method only.
        if !matches!(settings.auth, ClientAuth::SecretBasic { .. }) {
            form.append_pair("client_id", &settings.client_id);
        }
        if let (ClientAuth::SecretPost(_), Some(secret)) = (&settings.auth, secret) {
            form.append_pair("client_secret", secret.expose());
        }
        let named = [("scope", &settings.scope), ("audience", &settings.audience)];
        for (name, value) in named {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        for resource in &settings.resource {
            form.append_pair("resource", resource);
        }
        for (name, value) in &settings.extra {
            form.append_pair(name, value);
        }
        if let Some(claims) = claims {
            form.append_pair("claims", claims);
        }
        form.finish()
    }

    pub(super) fn provider(&self) -> String {
        match &self.settings.endpoint {
            Endpoint::TokenUrl(url) => url.origin().ascii_serialization(),
            Endpoint::Issuer(issuer) => {
                Url::parse(issuer).map_or_else(|_| issuer.clone(), |url| url.origin().ascii_serialization())
            }
        }
    }

    pub(super) fn identity(&self) -> Result<Identity, SourceError> {
        let secret = self.settings.auth.source().map(Source::read).transpose()?;
        Ok(self.identity_with(secret.as_ref(), None))
    }

    /// `claims` are part of it: a token with them and one without are not interchangeable.
    fn identity_with(&self, secret: Option<&Secret>, claims: Option<&str>) -> Identity {
        let settings = &self.settings;
        let endpoint = match &settings.endpoint {
            Endpoint::TokenUrl(url) => url.as_str(),
            Endpoint::Issuer(issuer) => issuer,
        };
        let fingerprint = secret.map(Secret::fingerprint);
        let mut parts: Vec<&[u8]> =
            vec![endpoint.as_bytes(), settings.client_id.as_bytes(), settings.auth.name().as_bytes()];
        parts.push(fingerprint.as_ref().map_or(&[], |f| f.as_bytes()));
        for value in [&settings.scope, &settings.audience] {
            parts.push(value.as_deref().unwrap_or_default().as_bytes());
        }
        parts.push(claims.unwrap_or_default().as_bytes());
        parts.extend(settings.resource.iter().map(|r| r.as_bytes()));
        parts.push(b"extra");
        parts.extend(settings.extra.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        Identity::of(parts)
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

/// A random id in the form of a GUID, as Entra wants it.
fn request_id() -> String {
    let r = fastrand::u128(..);
    let (a, b, c) = ((r >> 96) as u32, (r >> 80) as u16, (r >> 64) as u16 & 0x0fff);
    let (d, e) = ((r >> 48) as u16 & 0x3fff | 0x8000, r as u64 & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

/// What went wrong while an answer was read.
pub(super) enum Cut {
    TooLarge(StatusCode),
    Broken(reqwest::Error),
}

impl Cut {
    pub(super) fn at(self, url: &Url) -> ExchangeError {
        match self {
            Cut::TooLarge(status) => ExchangeError::TooLarge { status: status.as_u16() },
            Cut::Broken(error) => ExchangeError::unreachable(url, &error),
        }
    }
}

/// Reads an answer up to [`ANSWER_BYTES_MAX`].
pub(super) async fn bounded(response: &mut reqwest::Response) -> Result<Vec<u8>, Cut> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Cut::Broken)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Cut::TooLarge(response.status()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(auth: ClientAuth) -> Client {
        let settings = Settings {
            endpoint: Endpoint::TokenUrl("https://id.example.com/token".parse().unwrap()),
            client_id: "svc post:1".into(),
            auth,
            scope: Some("b a".into()),
            audience: None,
            resource: vec!["urn:x".into(), "urn:y".into()],
            extra: vec![("organization".into(), "o&1".into())],
        };
        let http = Arc::new(Http::default());
        Client::new(settings, false, Duration::from_secs(300), Duration::from_secs(10), http)
    }

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

    #[test]
    fn one_method_of_authentication_is_in_the_form() {
        let source = Source::Env("X".into());
        let post = client(ClientAuth::SecretPost(source.clone())).form(Some(&secret()), None);
        assert!(post.contains("client_id=svc+post%3A1&client_secret=p%2Bs%2Fs%3Dw"), "{post}");
        let basic = ClientAuth::SecretBasic { secret: source, encoding: BasicEncoding::Form };
        let form = client(basic).form(Some(&secret()), Some("{\"access_token\":{}}"));
        assert!(!form.contains("client_id") && !form.contains("client_secret"), "{form}");
        assert!(form.ends_with(
            "&resource=urn%3Ax&resource=urn%3Ay&organization=o%261&claims=%7B%22access_token%22%3A%7B%7D%7D"
        ));
    }

    #[test]
    fn everything_that_shapes_a_token_changes_its_identity() {
        let base = client(ClientAuth::None);
        let identity = base.identity_with(Some(&secret()), None);
        assert!(identity == base.identity_with(Some(&secret()), None));
        assert!(identity != base.identity_with(Some(&Secret::new("rotated".into())), None));
        assert!(identity != base.identity_with(Some(&secret()), Some("{}")));
        let changes: [fn(&mut Settings); 7] = [
            |s| s.endpoint = Endpoint::Issuer("https://id.example.com".into()),
            |s| s.client_id = "other".into(),
            |s| s.auth = ClientAuth::SecretPost(Source::Env("X".into())),
            |s| s.scope = None,
            |s| s.audience = Some("a".into()),
            |s| s.resource = vec!["urn:xurn:y".into()],
            |s| s.extra = vec![("organization".into(), "o".into())],
        ];
        for change in changes {
            let mut other = client(ClientAuth::None);
            change(&mut other.settings);
            assert!(identity != other.identity_with(Some(&secret()), None));
        }
    }
}
