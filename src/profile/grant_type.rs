//! What a client trades for a token: nothing but its name (RFC 6749 §4.4), an assertion that it signs
//! itself (RFC 7523 §2.1), or a token of somebody else's (RFC 8693).
//!
//! Who the client is stays a question of `authentication`; with the other two grants it may be left open,
//! because what is traded says it.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use url::Url;

use crate::{
    clock,
    profile::{
        assertion::{Audience, Signer, Statement},
        authentication::{ProofError, expiry},
        key::{Algorithm, PrivateKey},
        key_file::{KeyFile, Maker},
        refusal::ExchangeError,
    },
    secret::{Fingerprint, Secret},
    source::{Kept, Source, budget::Budget, flaws::Flaws},
};

/// The grant type of RFC 7523 §2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// The grant type of RFC 8693 §2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// From `iat` to `exp`. Maskinporten takes no more than two minutes, Salesforce three; Google and Zitadel take
/// an hour.
const LIFETIME: Duration = Duration::from_secs(120);

/// What is traded for a token, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// `client_credentials`: the client's own proof is enough.
    ClientCredentials,
    /// `jwt-bearer`: an assertion, signed here for each request.
    JwtBearer(Box<JwtBearer>),
    /// `token-exchange`: a token of somebody else's, read for each request.
    TokenExchange(Box<TokenExchange>),
}

/// An assertion that is traded for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtBearer {
    /// What signs it, and in whose name.
    pub key: AssertionKey,
    /// `sub`, when it is not the account itself.
    pub subject: Option<String>,
    /// `aud`; with `None`, the key file's word or the token endpoint.
    pub audience: Option<Audience>,
    /// For whom the ID token is to be made, instead of an access token (Google).
    pub target_audience: Option<String>,
}

/// What signs assertions that are traded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssertionKey {
    /// The key file of a service account, which says everything.
    File(Source),
    /// A key by itself.
    Own {
        /// The private key, in PEM form.
        key: Source,
        /// How it signs.
        algorithm: Algorithm,
        /// The name by which the server knows the key.
        key_id: Option<String>,
        /// `iss`: the account.
        issuer: String,
        /// Whose habits the assertion follows; `None` for RFC 7523 alone.
        maker: Option<Maker>,
    },
}

/// A token of somebody else's that is traded for another (RFC 8693 §2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenExchange {
    /// The token.
    pub subject: ForeignToken,
    /// The token of who acts for the subject.
    pub actor: Option<ForeignToken>,
    /// Which type of token is asked for; `None` leaves it to the server.
    pub requested: Option<String>,
}

/// A token of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignToken {
    /// Where it is kept and renewed.
    pub source: Source,
    /// Its type, a URI (RFC 8693 §3).
    pub kind: String,
}

impl GrantType {
    /// The value of `grant_type`.
    pub fn name(&self) -> &'static str {
        match self {
            GrantType::ClientCredentials => "client_credentials",
            GrantType::JwtBearer(_) => JWT_BEARER,
            GrantType::TokenExchange(_) => TOKEN_EXCHANGE,
        }
    }

    /// What shapes the token besides secrets, for its identity. Optional parts are marked.
    pub(super) fn parts(&self) -> Vec<&str> {
        let mut parts = vec![self.name()];
        match self {
            GrantType::ClientCredentials => {}
            GrantType::JwtBearer(settings) => {
                if let AssertionKey::Own { algorithm, key_id, issuer, .. } = &settings.key {
                    parts.extend([algorithm.name(), issuer, key_id.as_deref().unwrap_or_default()]);
                }
                let audience = match &settings.audience {
                    Some(Audience::Literal(text)) => text,
                    Some(Audience::TokenEndpoint) => "token_endpoint",
                    None => "",
                };
                parts.extend([
                    settings.subject.as_deref().unwrap_or_default(),
                    audience,
                    settings.target_audience.as_deref().unwrap_or_default(),
                ]);
            }
            GrantType::TokenExchange(settings) => {
                parts.push(&settings.subject.kind);
                parts.push(settings.actor.as_ref().map_or("", |actor| &actor.kind));
                parts.push(settings.requested.as_deref().unwrap_or_default());
            }
        }
        parts
    }
}

/// What is traded in one token request.
pub(super) struct Traded {
    /// Parameters of the form: `grant_type`, what is traded, and the scope unless that stands inside.
    pub(super) parameters: Vec<(&'static str, Secret)>,
    /// What is sent and must not come back in an error.
    pub(super) secrets: Vec<Secret>,
}

/// A client's way of getting what it trades, again and again.
pub(super) struct Trade {
    profile: String,
    grant: GrantType,
    /// The last good key, with the bytes that it was made of.
    key: Kept<(Fingerprint, SigningKey)>,
    subject: Kept<Secret>,
    actor: Kept<Secret>,
    flaws: Flaws,
}

/// A key with everything that an assertion says about its owner.
#[derive(Clone)]
struct SigningKey {
    key: PrivateKey,
    algorithm: Algorithm,
    key_id: Option<String>,
    issuer: String,
    maker: Option<Maker>,
    token_uri: Option<String>,
}

impl Trade {
    pub(super) fn new(profile: &str, grant: GrantType) -> Self {
        let profile = profile.to_owned();
        let (key, subject, actor) = (Kept::default(), Kept::default(), Kept::default());
        Self { profile, grant, key, subject, actor, flaws: Flaws::default() }
    }

    /// What is traded in a request to `token_url`, read and signed now.
    ///
    /// # Errors
    /// When a source cannot be read, or holds nothing that could be traded.
    pub(super) async fn offer(
        &self,
        token_url: &Url,
        scope: Option<&str>,
        budget: &Budget,
    ) -> Result<Traded, ExchangeError> {
        let name = Secret::new(self.grant.name().to_owned());
        let mut traded = Traded { parameters: vec![("grant_type", name)], secrets: Vec::new() };
        let mut scope = scope;
        match &self.grant {
            GrantType::ClientCredentials => {}
            GrantType::JwtBearer(settings) => {
                let key = self.signing_key(&settings.key, budget).await?;
                let inside = if key.maker == Some(Maker::Google) { scope.take() } else { None };
                let assertion = statement(&key, settings, token_url, inside, clock::wall());
                traded.parameters.push(("assertion", assertion.clone()));
                traded.secrets.push(assertion);
            }
            GrantType::TokenExchange(settings) => {
                self.exchange_parameters(settings, &mut traded, budget).await?;
            }
        }
        traded.parameters.extend(scope.map(|scope| ("scope", Secret::new(scope.to_owned()))));
        Ok(traded)
    }

    async fn exchange_parameters(
        &self,
        settings: &TokenExchange,
        traded: &mut Traded,
        budget: &Budget,
    ) -> Result<(), ExchangeError> {
        let text = |text: &String| Secret::new(text.clone());
        let subject = self.foreign(&settings.subject, &self.subject, budget).await?;
        traded.parameters.push(("subject_token", subject.clone()));
        traded.parameters.push(("subject_token_type", text(&settings.subject.kind)));
        traded.secrets.push(subject);
        if let Some(actor) = &settings.actor {
            let token = self.foreign(actor, &self.actor, budget).await?;
            traded.parameters.push(("actor_token", token.clone()));
            traded.parameters.push(("actor_token_type", text(&actor.kind)));
            traded.secrets.push(token);
        }
        traded
            .parameters
            .extend(settings.requested.as_ref().map(|kind| ("requested_token_type", text(kind))));
        Ok(())
    }

    /// What tells that something else would be traded next time, as far as that costs little.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub(super) async fn fingerprint(&self) -> Result<Option<Fingerprint>, ExchangeError> {
        let budget = Budget::endless();
        match &self.grant {
            GrantType::ClientCredentials => Ok(None),
            GrantType::JwtBearer(settings) => {
                let (AssertionKey::File(source) | AssertionKey::Own { key: source, .. }) = &settings.key;
                if !source.is_cheap() {
                    return Ok(None);
                }
                let key = self.signing_key(&settings.key, &budget).await?;
                let parts = [key.key.fingerprint(), Fingerprint::of(key.issuer.as_bytes())];
                Ok(Some(Fingerprint::of_all(parts.iter().map(Fingerprint::as_bytes))))
            }
            GrantType::TokenExchange(settings) => {
                let mut prints = Vec::new();
                let actor = settings.actor.as_ref().map(|actor| (actor, &self.actor));
                for (token, kept) in [(&settings.subject, &self.subject)].into_iter().chain(actor) {
                    if token.source.is_cheap() {
                        prints.push(self.foreign(token, kept, &budget).await?.fingerprint());
                    }
                }
                let parts = prints.iter().map(Fingerprint::as_bytes);
                Ok((!prints.is_empty()).then(|| Fingerprint::of_all(parts)))
            }
        }
    }

    async fn signing_key(&self, key: &AssertionKey, budget: &Budget) -> Result<SigningKey, ExchangeError> {
        let (AssertionKey::File(source) | AssertionKey::Own { key: source, .. }) = key;
        let read = async {
            let has_last = self.key.last().is_some();
            let bytes = budget.read(source, has_last, source.read_document()).await?;
            let print = Fingerprint::of(&bytes);
            if let Some(known) = self.key.last().filter(|(of, _)| *of == print) {
                return Ok(known);
            }
            let read = match key {
                AssertionKey::File(_) => {
                    let file = KeyFile::read(&bytes, source).map_err(ProofError::from)?;
                    SigningKey {
                        key: file.key,
                        algorithm: Algorithm::Rs256,
                        key_id: Some(file.key_id),
                        issuer: file.account,
                        maker: Some(file.maker),
                        token_uri: file.token_uri,
                    }
                }
                AssertionKey::Own { algorithm, key_id, issuer, maker, .. } => {
                    let key = PrivateKey::from_pem(&bytes, source).map_err(ProofError::from)?;
                    key.fits(*algorithm, source).map_err(ProofError::from)?;
                    SigningKey {
                        key,
                        algorithm: *algorithm,
                        key_id: key_id.clone(),
                        issuer: issuer.clone(),
                        maker: *maker,
                        token_uri: None,
                    }
                }
            };
            Ok::<_, ExchangeError>((print, read))
        };
        let ((_, key), flaw) = self.key.or_last(read.await)?;
        Ok(self.flaws.settle(&self.profile, "key of assertions", (key, flaw)))
    }

    async fn foreign(
        &self,
        token: &ForeignToken,
        kept: &Kept<Secret>,
        budget: &Budget,
    ) -> Result<Secret, ExchangeError> {
        let source = &token.source;
        let has_last = kept.last().is_some();
        let read = budget.read(source, has_last, source.read()).await.map_err(ExchangeError::from);
        let what = if std::ptr::eq(kept, &self.actor) { "actor_token" } else { "subject_token" };
        let secret = self.flaws.settle(&self.profile, what, kept.or_last(read)?);
        match expiry(secret.expose()).filter(|at| *at <= clock::wall()) {
            Some(at) => {
                let at = httpdate::fmt_http_date(at);
                Err(ProofError::TokenExpired { place: source.clone(), at }.into())
            }
            None => Ok(secret),
        }
    }
}

/// The signed assertion.
fn statement(
    key: &SigningKey,
    settings: &JwtBearer,
    token_url: &Url,
    scope: Option<&str>,
    now: SystemTime,
) -> Secret {
    let mut claims = Map::new();
    claims.extend(scope.map(|scope| ("scope".to_owned(), Value::from(scope))));
    claims.extend(settings.target_audience.as_ref().map(|a| ("target_audience".to_owned(), json!(a))));
    let subject = match (&settings.subject, key.maker) {
        (Some(subject), _) => Some(subject),
        // Google takes a subject for a person in whose name the account acts.
        (None, Some(Maker::Google)) => None,
        (None, _) => Some(&key.issuer),
    };
    let audience = match &settings.audience {
        Some(Audience::Literal(text)) => text,
        Some(Audience::TokenEndpoint) => token_url.as_str(),
        None => key.token_uri.as_deref().unwrap_or(token_url.as_str()),
    };
    let statement = Statement {
        issuer: &key.issuer,
        subject: subject.map(String::as_str),
        audience,
        key_id: key.key_id.as_deref(),
        thumbprint: None,
        claims,
    };
    statement
        .sign_for(LIFETIME, &Signer::Key(&key.key, key.algorithm), now)
        .expect("the key was found to fit the algorithm")
}

#[cfg(test)]
mod tests;
