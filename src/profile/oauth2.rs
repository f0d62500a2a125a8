//! The client-credentials grant (RFC 6749 §4.4), as any OAuth 2.0 server takes it.
//!
//! It sends one form, reads one bounded answer and follows no redirect. One way of client
//! authentication is used, the configured one: trying another after a failure would double the
//! failed logins that the provider counts.

use std::{sync::Arc, time::Duration};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use url::{Url, form_urlencoded};

use crate::{
    clock,
    profile::{
        Grant, Identity,
        answer::{self, Reply, Scheme},
        assertion,
        authentication::{Authentication, ClientAuth, Proof},
        certificate::{self, Presented},
        credential::Credential,
        discovery::Discovery,
        dpop,
        http::{self, Http, Showing},
        refusal::ExchangeError,
    },
    secret::Fingerprint,
};

/// AADSTS700024: the assertion is not within its validity.
const ASSERTION_EXPIRED: u64 = 700024;

/// A client of an OAuth 2.0 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where tokens are asked for.
    pub endpoint: Endpoint,
    /// The client identifier.
    pub client_id: String,
    /// How the client proves itself.
    pub auth: ClientAuth,
    /// What is shown in TLS handshakes: the proof itself, or what tokens are bound to beside another.
    pub certificate: Option<certificate::Place>,
    /// Space-separated scope (RFC 6749 §3.3).
    pub scope: Option<String>,
    /// `audience` parameter (Auth0, Ory Hydra).
    pub audience: Option<String>,
    /// `resource` parameters (RFC 8707), each sent by itself.
    pub resource: Vec<String>,
    /// Further parameters, sent as they are.
    pub extra: Vec<(String, String)>,
    /// Whether tokens are bound to a key of the gateway (RFC 9449).
    pub dpop: bool,
}

/// The token endpoint, given or to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint itself.
    TokenUrl(Url),
    /// The issuer identifier, byte for byte, whose metadata names the endpoint (RFC 8414).
    Issuer(String),
}

/// One OAuth 2.0 client, ready to ask.
pub(super) struct Client {
    settings: Settings,
    is_entra: bool,
    default_ttl: Duration,
    timeout: Duration,
    http: Arc<Http>,
    authentication: Authentication,
    discovery: Discovery,
    showing: Showing,
    /// What tokens are bound to.
    key: Option<Arc<dpop::Key>>,
}

impl Client {
    pub(super) fn new(
        profile: &str,
        settings: Settings,
        is_entra: bool,
        default_ttl: Duration,
        timeout: Duration,
        http: Arc<Http>,
    ) -> Self {
        let (id, auth, shown) =
            (settings.client_id.clone(), settings.auth.clone(), settings.certificate.clone());
        let authentication = Authentication::new(profile, id, auth, shown);
        let (discovery, showing) = (Discovery::default(), Showing::default());
        let key = settings.dpop.then(|| Arc::new(dpop::Key::generate()));
        Self { settings, is_entra, default_ttl, timeout, http, authentication, discovery, showing, key }
    }

    pub(super) async fn exchange(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        match tokio::time::timeout(self.timeout, self.ask(claims)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ExchangeError::TimedOut { after: self.timeout }),
        }
    }

    async fn ask(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        let url = self.token_url().await?;
        let proof = self.authentication.prove(&url).await?;
        let outcome = self.ask_with(&url, proof.clone(), claims).await;
        match outcome {
            // The assertion's time was over: it may have been renewed since it was read.
            Err(ExchangeError::Rejected(rejection)) if rejection.code() == Some(ASSERTION_EXPIRED) => {
                let later = self.authentication.prove(&url).await?;
                if !proof.differs_from(&later) {
                    return Err(ExchangeError::Rejected(rejection));
                }
                self.ask_with(&url, later, claims).await
            }
            outcome => outcome,
        }
    }

    async fn token_url(&self) -> Result<Url, ExchangeError> {
        match &self.settings.endpoint {
            Endpoint::TokenUrl(url) => Ok(url.clone()),
            Endpoint::Issuer(issuer) => {
                let found = self.discovery.endpoints(issuer, &self.http).await?;
                let alias = found.token_with_certificate.filter(|_| self.authentication.shows_certificate());
                Ok(alias.unwrap_or(found.token))
            }
        }
    }

    async fn ask_with(&self, url: &Url, proof: Proof, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        let (mut proof, mut asked_at) = (proof, clock::now());
        let mut reply = self.send(url, &proof, claims).await?;
        if self.key.is_some() && dpop::wants_nonce(&reply) {
            // What proves the client may be good for one request only.
            proof = self.authentication.prove(url).await?;
            asked_at = clock::now();
            reply = self.send(url, &proof, claims).await?;
        }
        let scheme = if self.key.is_some() { Scheme::Dpop } else { Scheme::Bearer };
        let accepted = answer::read(&reply, scheme, self.default_ttl, &proof.secrets)?;
        self.authentication.bound_to(&proof);
        Ok(Grant {
            credential: match &self.key {
                Some(key) => Credential::Dpop(accepted.access_token, Arc::clone(key)),
                None => Credential::Bearer(accepted.access_token),
            },
            lifetime: accepted.lifetime,
            refresh_in: accepted.refresh_in,
            asked_at,
        })
    }

    async fn send(&self, url: &Url, proof: &Proof, claims: Option<&str>) -> Result<Reply, ExchangeError> {
        let client = match &proof.certificate {
            Some(certificate) => &self.showing.client(url, certificate)?,
            None => self.http.client(url)?,
        };
        let mut request = client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(self.form(proof, claims));
        if let Some(authorization) = &proof.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if self.is_entra {
            // Declares that 429 with Retry-After is understood, and gives support staff an id to look for.
            request = request
                .header("client-request-id", assertion::uuid())
                .header("x-ms-lib-capability", "retry-after, h429");
        }
        let origin = url.origin().ascii_serialization();
        if let Some(key) = &self.key {
            let subject = dpop::Subject { method: "POST", origin: &origin, path: url.path(), token: None };
            let no_random = || ExchangeError::SetUp { what: "there are no random numbers".into() };
            request = request.header(dpop::DPOP, key.proof(&subject).ok_or_else(no_random)?);
        }
        let mut response = request.send().await.map_err(|e| ExchangeError::unreachable(url, &e))?;
        if let Some(key) = &self.key {
            key.learn(&origin, response.headers());
        }
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(answer::retry_after);
        let body = http::bounded(&mut response).await.map_err(|e| e.at(url))?;
        Ok(Reply { status, retry_after, body })
    }

    fn form(&self, proof: &Proof, claims: Option<&str>) -> String {
        let settings = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in &proof.parameters {
            form.append_pair(name, value.expose());
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

    /// What upstreams are to be shown, if tokens are bound to a certificate.
    pub(super) fn presented(&self) -> Option<&Arc<Presented>> {
        self.authentication.presented()
    }

    /// The identity of a token asked for now, as far as it can be told without asking anyone.
    pub(super) async fn identity(&self) -> Result<Identity, ExchangeError> {
        let fingerprint = self.authentication.fingerprint().await?;
        Ok(self.identity_with(fingerprint.as_ref(), None))
    }

    /// `claims` are part of it: a token with them and one without are not interchangeable.
    fn identity_with(&self, fingerprint: Option<&Fingerprint>, claims: Option<&str>) -> Identity {
        let settings = &self.settings;
        let endpoint = match &settings.endpoint {
            Endpoint::TokenUrl(url) => url.as_str(),
            Endpoint::Issuer(issuer) => issuer,
        };
        let mut parts: Vec<&[u8]> =
            vec![endpoint.as_bytes(), settings.client_id.as_bytes(), settings.auth.name().as_bytes()];
        parts.push(fingerprint.map_or(&[], |f| f.as_bytes()));
        for value in [&settings.scope, &settings.audience] {
            parts.push(value.as_deref().unwrap_or_default().as_bytes());
        }
        parts.push(claims.unwrap_or_default().as_bytes());
        parts.extend(settings.resource.iter().map(|r| r.as_bytes()));
        parts.push(if settings.dpop { b"dpop" } else { b"" });
        parts.push(b"extra");
        parts.extend(settings.extra.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        Identity::of(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile::authentication::BasicEncoding, secret::Secret, source::Source};

    fn client(auth: ClientAuth) -> Client {
        let settings = Settings {
            endpoint: Endpoint::TokenUrl("https://id.example.com/token".parse().unwrap()),
            client_id: "svc post:1".into(),
            auth,
            certificate: None,
            scope: Some("b a".into()),
            audience: None,
            resource: vec!["urn:x".into(), "urn:y".into()],
            extra: vec![("organization".into(), "o&1".into())],
            dpop: false,
        };
        let http = Arc::new(Http::default());
        Client::new("account", settings, false, Duration::from_secs(300), Duration::from_secs(10), http)
    }

    fn kept(folder: &tempfile::TempDir) -> Source {
        let path = folder.path().join("secret");
        std::fs::write(&path, "p+s/s=w:o%r&d \"~ 1\n").unwrap();
        Source::File(path)
    }

    #[tokio::test]
    async fn one_method_of_authentication_is_in_the_form() {
        let folder = tempfile::tempdir().unwrap();
        let url = "https://id.example.com/token".parse().unwrap();
        let post = client(ClientAuth::SecretPost(kept(&folder)));
        let form = post.form(&post.authentication.prove(&url).await.unwrap(), None);
        assert!(form.contains("client_id=svc+post%3A1&client_secret=p%2Bs%2Fs%3Dw"), "{form}");
        let basic = client(ClientAuth::SecretBasic { secret: kept(&folder), encoding: BasicEncoding::Form });
        let proof = basic.authentication.prove(&url).await.unwrap();
        assert!(proof.authorization.is_some());
        let form = basic.form(&proof, Some("{\"access_token\":{}}"));
        assert!(!form.contains("client_id") && !form.contains("client_secret"), "{form}");
        assert!(form.ends_with(
            "&resource=urn%3Ax&resource=urn%3Ay&organization=o%261&claims=%7B%22access_token%22%3A%7B%7D%7D"
        ));
    }

    #[test]
    fn everything_that_shapes_a_token_changes_its_identity() {
        let print = |text: &str| Secret::new(text.into()).fingerprint();
        let base = client(ClientAuth::None);
        let identity = base.identity_with(Some(&print("s")), None);
        assert!(identity == base.identity_with(Some(&print("s")), None));
        assert!(identity != base.identity_with(Some(&print("rotated")), None));
        assert!(identity != base.identity_with(Some(&print("s")), Some("{}")));
        let changes: [fn(&mut Settings); 8] = [
            |s| s.dpop = true,
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
            assert!(identity != other.identity_with(Some(&print("s")), None));
        }
    }
}
