//! One token request (RFC 6749 §3.2), as any OAuth 2.0 server takes it: whatever is traded, and whatever
//! proves the client.
//!
//! It sends one form, reads one bounded answer and follows no redirect. One way of client
//! authentication is used, the configured one: trying another after a failure would double the
//! failed logins that the provider counts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE};
use url::{Url, form_urlencoded};

use crate::{
    clock, outbound,
    profile::{
        Grant, Identity,
        answer::{self, Reply, Scheme, Wanted},
        assertion,
        authentication::ClientAuth,
        certificate::{self, Presented},
        claims,
        credential::Credential,
        discovery::Discovery,
        dpop,
        expiry::Expiry,
        grant_type::{GrantType, Trade},
        http::{self, Http, Showing},
        oddity::{self, Oddity},
        proof::{Authentication, Proof},
        refusal::ExchangeError,
        skew::Skew,
    },
    secret::{Fingerprint, Secret},
    source::budget::Budget,
};

mod identity;

/// AADSTS700024: the assertion is not within its validity.
const ASSERTION_EXPIRED: u64 = 700024;

/// A client of an OAuth 2.0 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where tokens are asked for.
    pub endpoint: Endpoint,
    /// What is traded for the token.
    pub grant: GrantType,
    /// The client identifier; empty with [`ClientAuth::Absent`], which sends none.
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
    /// The member of the answer that holds the token.
    pub token_field: String,
    /// Whether every request declares that claims challenges are understood (Entra's `cp1`).
    pub cae: bool,
}

/// The token endpoint, given or to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint itself.
    TokenUrl(Url),
    /// The issuer identifier, byte for byte, whose metadata names the endpoint (RFC 8414).
    Issuer(String),
}

impl Settings {
    /// What tells the server who asks: the method of client authentication, or what is traded instead.
    pub(super) fn proven_by(&self) -> &'static str {
        match (&self.auth, &self.grant) {
            (ClientAuth::Absent, GrantType::JwtBearer(_)) => "jwt_bearer",
            (ClientAuth::Absent, GrantType::TokenExchange(_)) => "token_exchange",
            (auth, _) => auth.name(),
        }
    }
}

/// One OAuth 2.0 client, ready to ask.
pub(super) struct Client {
    profile: String,
    settings: Settings,
    is_entra: bool,
    default_ttl: Duration,
    timeout: Duration,
    http: Arc<Http>,
    trade: Trade,
    authentication: Authentication,
    discovery: Discovery,
    showing: Showing,
    /// What tokens are bound to.
    key: Option<Arc<dpop::Key>>,
    skew: Skew,
    /// What is odd about the last token.
    oddities: Mutex<Vec<Oddity>>,
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
        let key = settings.dpop.then(|| Arc::new(dpop::Key::generate()));
        let trade = Trade::new(profile, settings.grant.clone());
        Self {
            profile: profile.to_owned(),
            settings,
            is_entra,
            default_ttl,
            timeout,
            http,
            trade,
            authentication,
            discovery: Discovery::default(),
            showing: Showing::default(),
            key,
            skew: Skew::default(),
            oddities: Mutex::default(),
        }
    }

    pub(super) async fn exchange(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        match tokio::time::timeout(self.timeout, self.ask(claims)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ExchangeError::TimedOut { after: self.timeout }),
        }
    }

    async fn ask(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        let budget = Budget::of(self.timeout);
        self.http.refresh(&budget).await?;
        let url = self.token_url().await?;
        let proof = self.authentication.prove(&url, &budget).await?;
        let outcome = self.ask_with(&url, &proof, claims, &budget).await;
        if !is_about_proof(&outcome) {
            return outcome;
        }
        self.authentication.refused(&proof);
        // Never more than two logins: a provider counts the failed ones, and may lock the account.
        match self.authentication.another(&url, &proof, &budget).await {
            Ok(Some(other)) => {
                let outcome = self.ask_with(&url, &other, claims, &budget).await;
                if is_about_proof(&outcome) {
                    self.authentication.refused(&other);
                }
                outcome
            }
            // The provider's words say more than those about a source.
            Ok(None) | Err(_) => outcome,
        }
    }

    /// The token endpoint that the issuer names; `None` when it was given.
    pub(super) async fn discovered(&self) -> Option<Result<Url, ExchangeError>> {
        if matches!(self.settings.endpoint, Endpoint::TokenUrl(_)) {
            return None;
        }
        let found = tokio::time::timeout(self.timeout, self.token_url()).await;
        Some(found.unwrap_or(Err(ExchangeError::TimedOut { after: self.timeout })))
    }

    /// What is odd about the last token that was given.
    pub(super) fn oddities(&self) -> Vec<Oddity> {
        self.oddities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the issuer's metadata, once they were read, say against the way of client authentication.
    pub(super) fn objection(&self) -> Option<String> {
        self.discovery.objection(&self.settings.auth)
    }

    async fn token_url(&self) -> Result<Url, ExchangeError> {
        match &self.settings.endpoint {
            Endpoint::TokenUrl(url) => Ok(url.clone()),
            Endpoint::Issuer(issuer) => {
                let found = self.discovery.endpoints(issuer, &self.http, self.timeout).await?;
                let alias = found.token_with_certificate.filter(|_| self.authentication.shows_certificate());
                Ok(alias.unwrap_or(found.token))
            }
        }
    }

    /// `proof` together with what is traded.
    async fn trading(&self, url: &Url, mut proof: Proof, budget: &Budget) -> Result<Proof, ExchangeError> {
        let traded = self.trade.offer(url, self.settings.scope.as_deref(), budget).await?;
        drop(proof.parameters.splice(0..0, traded.parameters));
        proof.secrets.extend(traded.secrets);
        Ok(proof)
    }

    async fn ask_with(
        &self,
        url: &Url,
        proof: &Proof,
        claims: Option<&str>,
        budget: &Budget,
    ) -> Result<Grant, ExchangeError> {
        let (mut sent, mut asked_at) = (self.trading(url, proof.clone(), budget).await?, clock::now());
        let mut reply = self.send(url, &sent, claims).await?;
        if self.key.is_some() && dpop::wants_nonce(&reply) {
            // What proves the client may be good for one request only.
            let again = self.authentication.prove_like(url, proof, budget).await?;
            sent = self.trading(url, again, budget).await?;
            asked_at = clock::now();
            reply = self.send(url, &sent, claims).await?;
        }
        let accepted =
            answer::read_as(&self.wanted(), &reply, &sent.secrets).map_err(|e| self.advised(e, &sent))?;
        self.look_at(accepted.scope.as_deref(), &sent, &accepted.access_token);
        self.authentication.accepted(&sent);
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

    /// Warns of what is odd about a token, and keeps it for those who ask.
    fn look_at(&self, scope: Option<&str>, sent: &Proof, token: &Secret) {
        let dropped = oddity::dropped(self.settings.scope.as_deref(), scope);
        // Bound to no certificate, where the issuer says that it binds.
        let shown = sent.certificate.as_ref().filter(|_| self.discovery.binds());
        let unbound =
            shown.is_some_and(|certificate| !certificate.may_bind(token)).then_some(Oddity::Unbound);
        let found: Vec<_> = dropped.into_iter().chain(unbound).collect();
        for oddity in &found {
            tracing::warn!(profile = self.profile, "{oddity} ({})", oddity.diagnosis().remedy);
        }
        *self.oddities.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    async fn send(&self, url: &Url, proof: &Proof, claims: Option<&str>) -> Result<Reply, ExchangeError> {
        let client = match &proof.certificate {
            Some(certificate) => self.showing.client(url, certificate, &self.http)?,
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
        let sent = clock::wall();
        let mut response = request.send().await.map_err(|e| ExchangeError::unreachable(url, &e))?;
        self.skew.observe(response.headers().get(DATE), sent, clock::wall());
        if let Some(key) = &self.key {
            key.learn(&origin, response.headers());
        }
        let status = response.status();
        let retry_after = outbound::retry_after(response.headers());
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let body = http::bounded(&mut response).await.map_err(|e| e.at(url))?;
        Ok(Reply { status, retry_after, body: answer::as_json(content_type.as_ref(), body) })
    }

    fn wanted(&self) -> Wanted<'_> {
        let settings = &self.settings;
        let exchange = match &settings.grant {
            GrantType::TokenExchange(exchange) => Some(exchange.requested.as_deref()),
            GrantType::ClientCredentials | GrantType::JwtBearer(_) => None,
        };
        let is_access_token = settings.token_field == answer::ACCESS_TOKEN;
        let believes_token = !is_access_token || matches!(settings.grant, GrantType::JwtBearer(_));
        Wanted {
            field: &settings.token_field,
            scheme: if self.key.is_some() { Scheme::Dpop } else { Scheme::Bearer },
            default_ttl: self.default_ttl,
            believes_token,
            exchange,
        }
    }

    /// A refusal, with what the account was proven by, and what the issuer's metadata say about that.
    fn advised(&self, error: ExchangeError, sent: &Proof) -> ExchangeError {
        let ExchangeError::Rejected(mut rejection) = error else { return error };
        if rejection.may_be_about_the_client() {
            [self.authentication.particulars(sent), self.objection()]
                .into_iter()
                .flatten()
                .for_each(|words| rejection.advise(words));
        }
        ExchangeError::Rejected(rejection)
    }

    fn form(&self, proof: &Proof, claims: Option<&str>) -> String {
        let settings = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &proof.parameters {
            form.append_pair(name, value.expose());
        }
        if let Some(audience) = &settings.audience {
            form.append_pair("audience", audience);
        }
        for resource in &settings.resource {
            form.append_pair("resource", resource);
        }
        for (name, value) in &settings.extra {
            form.append_pair(name, value);
        }
        if let Some(claims) = claims::requested(settings.cae, claims) {
            form.append_pair("claims", &claims);
        }
        form.finish()
    }

    /// Whether the second of two client secrets was the last that worked.
    pub(super) fn second_secret_works(&self) -> bool {
        self.authentication.second_secret_works()
    }

    pub(super) fn clock_skew(&self) -> Option<i64> {
        self.skew.seconds()
    }

    pub(super) fn provider(&self) -> String {
        match &self.settings.endpoint {
            Endpoint::TokenUrl(url) => url.origin().ascii_serialization(),
            Endpoint::Issuer(issuer) => {
                Url::parse(issuer).map_or_else(|_| issuer.clone(), |url| url.origin().ascii_serialization())
            }
        }
    }

    /// When what the client proves itself with expires, as far as that is known.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        self.authentication.expiries()
    }

    /// What upstreams are to be shown, if tokens are bound to a certificate.
    pub(super) fn presented(&self) -> Option<&Arc<Presented>> {
        self.authentication.presented()
    }

    /// The identity of a token asked for now, as far as it can be told without asking anyone.
    pub(super) async fn identity(&self) -> Result<Identity, ExchangeError> {
        let (proof, trade) = (self.authentication.fingerprint().await?, self.trade.fingerprint().await?);
        let both = proof.iter().chain(&trade).map(Fingerprint::as_bytes);
        let fingerprint = (proof.is_some() || trade.is_some()).then(|| Fingerprint::of_all(both));
        Ok(self.settings.identity(fingerprint.as_ref(), None))
    }
}

/// Whether the provider does not take what the client proves itself with.
fn is_about_proof(outcome: &Result<Grant, ExchangeError>) -> bool {
    matches!(outcome, Err(ExchangeError::Rejected(rejection))
        if rejection.is_about_credential() || rejection.code() == Some(ASSERTION_EXPIRED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile::authentication::BasicEncoding, secret::Secret, source::Source};

    fn client(auth: ClientAuth) -> Client {
        let settings = Settings {
            endpoint: Endpoint::TokenUrl("https://id.example.com/token".parse().unwrap()),
            grant: GrantType::ClientCredentials,
            client_id: "svc post:1".into(),
            auth,
            certificate: None,
            scope: Some("b a".into()),
            audience: None,
            resource: vec!["urn:x".into(), "urn:y".into()],
            extra: vec![("organization".into(), "o&1".into())],
            dpop: false,
            token_field: "access_token".into(),
            cae: false,
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
        let post = client(ClientAuth::SecretPost(kept(&folder).into()));
        let form = post.form(&post.authentication.prove(&url, &Budget::endless()).await.unwrap(), None);
        assert!(form.contains("client_id=svc+post%3A1&client_secret=p%2Bs%2Fs%3Dw"), "{form}");
        let basic =
            client(ClientAuth::SecretBasic { secret: kept(&folder).into(), encoding: BasicEncoding::Form });
        let proof = basic.authentication.prove(&url, &Budget::endless()).await.unwrap();
        assert!(proof.authorization.is_some());
        let form = basic.form(&proof, Some("{\"access_token\":{}}"));
        assert!(!form.contains("client_id") && !form.contains("client_secret"), "{form}");
        assert!(form.contains("resource=urn%3Ax&resource=urn%3Ay&organization=o%261"), "{form}");
        assert!(form.contains("&claims=%7B%22access_token%22%3A%7B"), "{form}");
    }

    #[test]
    fn everything_that_shapes_a_token_changes_its_identity() {
        let print = |text: &str| Secret::new(text.into()).fingerprint();
        let base = client(ClientAuth::None);
        let identity = base.settings.identity(Some(&print("s")), None);
        assert!(identity == base.settings.identity(Some(&print("s")), None));
        assert!(identity != base.settings.identity(Some(&print("rotated")), None));
        assert!(identity != base.settings.identity(Some(&print("s")), Some("{}")));
        let changes: [fn(&mut Settings); 9] = [
            |s| s.dpop = true,
            |s| s.cae = true,
            |s| s.endpoint = Endpoint::Issuer("https://id.example.com".into()),
            |s| s.client_id = "other".into(),
            |s| s.auth = ClientAuth::SecretPost(Source::Env("X".into()).into()),
            |s| s.scope = None,
            |s| s.audience = Some("a".into()),
            |s| s.resource = vec!["urn:xurn:y".into()],
            |s| s.extra = vec![("organization".into(), "o".into())],
        ];
        for change in changes {
            let mut other = client(ClientAuth::None);
            change(&mut other.settings);
            assert!(identity != other.settings.identity(Some(&print("s")), None));
        }
    }
}
