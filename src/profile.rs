//! Profiles: service accounts, and the one exchange that turns an account into a token.
//!
//! A profile knows how to ask once. It keeps no token, never retries and never waits its turn: when
//! to ask, and what to do with the answer, belongs to `token`.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::http::header::AUTHORIZATION;
use aws_lc_rs::digest;

use crate::{
    clock::Moment,
    outbound,
    profile::{
        credential::{Credential, Slot},
        expiry::Expiry,
    },
};

pub mod answer;
pub mod assertion;
pub mod authentication;
pub mod bearer;
pub mod certificate;
mod claims;
pub mod client_secret;
pub mod content;
pub mod credential;
mod dates;
pub mod diagnosis;
pub mod discovery;
pub mod dpop;
mod echo;
pub mod entra;
pub mod expiry;
pub mod fixed;
mod foreign;
pub mod grant_type;
pub mod http;
pub mod inventory;
pub mod key;
pub mod key_file;
pub mod managed_identity;
pub mod oauth2;
pub mod oddity;
mod proof;
pub mod refusal;
pub(crate) mod seconds;
pub mod skew;

/// What kind of service account a profile is, with that kind's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An app registration in Microsoft Entra ID.
    Entra(entra::Settings),
    /// A client of any OAuth 2.0 server.
    OAuth2(oauth2::Settings),
    /// A credential that lies in its source.
    Static(fixed::Settings),
    /// The account that Azure gives to a machine.
    ManagedIdentity(managed_identity::Settings),
}

impl Kind {
    /// Where on a request its credential goes.
    pub fn slots(&self) -> Vec<Slot> {
        match self {
            Kind::OAuth2(oauth2) if oauth2.dpop => {
                vec![Slot::Header(AUTHORIZATION), Slot::Header(dpop::DPOP)]
            }
            Kind::Entra(_) | Kind::OAuth2(_) | Kind::ManagedIdentity(_) => {
                vec![Slot::Header(AUTHORIZATION)]
            }
            Kind::Static(fixed) => vec![fixed.slot()],
        }
    }
}

impl Kind {
    /// The kind's name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Entra(_) => "entra",
            Kind::OAuth2(_) => "oauth2",
            Kind::Static(_) => "static",
            Kind::ManagedIdentity(_) => "managed_identity",
        }
    }

    /// How the account is proven to the identity provider.
    pub fn proven_by(&self) -> Option<&'static str> {
        match self {
            Kind::Entra(entra) if matches!(entra.auth, authentication::ClientAuth::Assertion(_)) => {
                Some("federated_token")
            }
            Kind::Entra(entra) => Some(entra.as_oauth2().auth.name()),
            Kind::OAuth2(oauth2) => Some(oauth2.proven_by()),
            Kind::Static(_) | Kind::ManagedIdentity(_) => None,
        }
    }

    /// Whether a certificate is shown in TLS handshakes, which tokens may be bound to.
    pub fn shows_certificate(&self) -> bool {
        matches!(self, Kind::OAuth2(oauth2) if oauth2.certificate.is_some())
    }

    /// Whether the words of Entra's portal fit.
    pub fn is_of_entra(&self) -> bool {
        matches!(self, Kind::Entra(_) | Kind::ManagedIdentity(_))
    }
}

/// Everything a profile is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The profile's name in the configuration.
    pub name: String,
    /// The service account.
    pub kind: Kind,
    /// Roles that a token is expected to carry; compared for diagnosis, never enforced.
    pub expected_roles: Vec<String>,
    /// Lifetime of a token whose answer does not say one.
    pub default_ttl: Duration,
    /// Limit of one token request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// How the identity provider is reached.
    pub connection: outbound::Settings,
    /// When the client secret expires, as the configuration says.
    pub secret_expires: Option<SystemTime>,
}

impl Settings {
    /// Lifetime that is assumed when neither the answer nor the profile gives one.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
    /// Default limit of one token request.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

/// What an identity provider gave for one exchange.
pub struct Grant {
    /// What goes on requests.
    pub credential: Credential,
    /// Validity counted from `asked_at`; zero for a token that may be used at once and not kept.
    pub lifetime: Duration,
    /// When the provider would like to be asked again, counted from `asked_at`.
    pub refresh_in: Option<Duration>,
    /// Taken before the request went out, so that a slow answer never prolongs a token.
    pub asked_at: Moment,
}

impl Grant {
    /// The lifetime of what nobody takes away by itself.
    pub const FOR_EVER: Duration = Duration::from_secs(100 * 366 * 86_400);
}

/// A digest of everything that shapes a token: endpoint, client, secret, method, scope, resource,
/// audience, extra parameters and claims. Two tokens of one identity are interchangeable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 32]);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

impl Identity {
    /// Digests `parts`, each with its length in front: plain concatenation would collide.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

/// A profile that can be asked for a token.
pub struct Profile {
    settings: Settings,
    asker: Asker,
}

/// Whoever does a profile's exchange.
enum Asker {
    OAuth2(Box<oauth2::Client>),
    Static(fixed::Settings),
    ManagedIdentity(Box<managed_identity::Client>),
}

impl Profile {
    /// Prepares the exchange; nothing is sent yet.
    pub fn new(settings: Settings, http: Arc<http::Http>) -> Self {
        let http = Arc::new(http.of_profile(&settings.name, settings.connection.clone()));
        let (ttl, timeout) = (settings.default_ttl, settings.timeout);
        let client = |request, is_entra| {
            Asker::OAuth2(Box::new(oauth2::Client::new(
                &settings.name,
                request,
                is_entra,
                ttl,
                timeout,
                http,
            )))
        };
        let asker = match &settings.kind {
            Kind::Entra(entra) => client(entra.as_oauth2(), true),
            Kind::OAuth2(oauth2) => client(oauth2.clone(), false),
            Kind::Static(fixed) => Asker::Static(fixed.clone()),
            Kind::ManagedIdentity(identity) => {
                let client = managed_identity::Client::new(identity.clone(), ttl, timeout);
                Asker::ManagedIdentity(Box::new(client))
            }
        };
        Self { settings, asker }
    }

    /// What the profile was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Scheme, host and port that the profile talks to first; where it talks to nobody, something that no
    /// other profile has.
    pub fn provider(&self) -> String {
        match &self.asker {
            Asker::OAuth2(client) => client.provider(),
            Asker::Static(_) => format!("profile {}", self.settings.name),
            Asker::ManagedIdentity(client) => client.provider(),
        }
    }

    /// The token endpoint that the provider's metadata names; `None` when there is nothing to discover.
    pub async fn discovered(&self) -> Option<Result<url::Url, refusal::ExchangeError>> {
        match &self.asker {
            Asker::OAuth2(client) => client.discovered().await,
            Asker::Static(_) | Asker::ManagedIdentity(_) => None,
        }
    }

    /// What the issuer's metadata, once they were read, say against the way of client authentication.
    pub fn objection(&self) -> Option<String> {
        match &self.asker {
            Asker::OAuth2(client) => client.objection(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => None,
        }
    }

    /// What is odd about the last token that the provider gave, although it can be used.
    pub fn oddities(&self) -> Vec<oddity::Oddity> {
        match &self.asker {
            Asker::OAuth2(client) => client.oddities(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => Vec::new(),
        }
    }

    /// What proved the account in the last token request that was granted.
    pub fn proven_by(&self) -> Option<String> {
        let method = self.settings.kind.proven_by()?;
        let is_second = match &self.asker {
            Asker::OAuth2(client) => client.second_secret_works(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => false,
        };
        let words = if is_second { ", with the second client_secret; the first does not work" } else { "" };
        Some(format!("{method}{words}"))
    }

    /// Seconds that the provider's clock was ahead of this machine's at its last answer, failures
    /// included; `None` while it has not told its time.
    pub fn clock_skew(&self) -> Option<i64> {
        match &self.asker {
            Asker::OAuth2(client) => client.clock_skew(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => None,
        }
    }

    /// Asks the identity provider for a token, once. The secret is read from its source now.
    ///
    /// # Errors
    /// [`refusal::ExchangeError`], which says what happened and how soon asking again makes sense.
    pub async fn exchange(&self, claims: Option<&str>) -> Result<Grant, refusal::ExchangeError> {
        match &self.asker {
            Asker::OAuth2(client) => client.exchange(claims).await,
            Asker::Static(fixed) => fixed.exchange(self.settings.timeout).await,
            // Managed identities know no claims: a new token is all that can be asked for.
            Asker::ManagedIdentity(client) => client.exchange().await,
        }
    }

    /// The identity that a token asked for now would have. Reads the secret's source, if that is cheap.
    ///
    /// # Errors
    /// When the source cannot be read, or holds nothing that could be asked with.
    pub async fn identity(&self) -> Result<Identity, refusal::ExchangeError> {
        match &self.asker {
            Asker::OAuth2(client) => client.identity().await,
            Asker::Static(fixed) => Ok(fixed.identity().await),
            Asker::ManagedIdentity(client) => Ok(client.identity()),
        }
    }

    /// When what the account proves itself with expires, as far as that is known by now.
    pub fn expiries(&self) -> Vec<Expiry> {
        let told = self.settings.secret_expires.map(|at| Expiry { what: "client_secret", at });
        let known = match &self.asker {
            Asker::OAuth2(client) => client.expiries(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => Vec::new(),
        };
        let mut all: Vec<_> = told.into_iter().chain(known).collect();
        // The end that comes first is the one to know.
        all.sort_by_key(|expiry| (expiry.what, expiry.at));
        all.dedup_by_key(|expiry| expiry.what);
        all
    }

    /// The certificate that upstreams are to be shown, if tokens are bound to one.
    pub fn presented(&self) -> Option<Arc<certificate::Presented>> {
        match &self.asker {
            Asker::OAuth2(client) => client.presented().cloned(),
            Asker::Static(_) | Asker::ManagedIdentity(_) => None,
        }
    }
}
