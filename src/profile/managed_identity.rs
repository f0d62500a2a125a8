//! Profiles of kind `managed_identity`: the account that Azure gives to a machine or an application.
//!
//! There is no secret. An endpoint on the machine itself, or on its link, gives tokens to whoever can
//! reach it; each of Azure's hosts has its own. Such an endpoint is never asked through a proxy: the
//! proxy's machine would answer with its own identity, or keep the token. Nothing is asked again within
//! one exchange; that is the owner's business, as for every profile.

use std::{fmt, sync::OnceLock, time::Duration};

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};

use crate::{
    clock, outbound,
    profile::{
        Grant, Identity,
        answer::Reply,
        credential::Credential,
        http,
        managed_identity::{
            host::{Host, Site},
            surroundings::Surroundings,
        },
        refusal::ExchangeError,
    },
    secret::Secret,
};

mod arc;
mod echo;
mod fabric;
mod failure;
mod host;
mod surroundings;

pub use failure::Failure;

/// A link-local address answers within milliseconds or never; half a second was too short for busy machines.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The endpoint is asked about once an hour.
const IDLE_CONNECTION: Duration = Duration::from_secs(5);

/// A service account that the platform keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The App ID URI of the API, without `/.default`.
    pub resource: String,
    /// Which of the machine's identities.
    pub account: Account,
    /// Which endpoint is asked.
    pub endpoint: Endpoint,
}

/// Which of a machine's identities is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that was made with the machine, or the only one that it has.
    System,
    /// A user-assigned identity, by its client id.
    ClientId(String),
    /// By the object id of its service principal.
    ObjectId(String),
    /// By its path in Azure Resource Manager.
    ResourceId(String),
}

impl Account {
    /// The key of the configuration that chose it, and its value.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Account::System => ("system", ""),
            Account::ClientId(id) => ("client_id", id),
            Account::ObjectId(id) => ("object_id", id),
            Account::ResourceId(id) => ("resource_id", id),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            ("system", _) => f.write_str("the system-assigned identity"),
            (key, value) => write!(f, "the identity with {key} {value}"),
        }
    }
}

/// Which endpoint gives the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// What the surroundings tell.
    #[default]
    Auto,
    /// A virtual machine, a scale set or a node of Kubernetes: the Instance Metadata Service.
    Imds,
    /// App Service, Functions and Container Apps.
    AppService,
    /// A Service Fabric cluster.
    ServiceFabric,
    /// Azure Machine Learning.
    AzureMl,
    /// A machine outside of Azure with the Azure Arc agent.
    Arc,
}

/// A managed identity that can be asked for a token.
pub(super) struct Client {
    settings: Settings,
    default_ttl: Duration,
    timeout: Duration,
    surroundings: Surroundings,
    http: OnceLock<Result<reqwest::Client, String>>,
}

impl Client {
    pub(super) fn new(settings: Settings, default_ttl: Duration, timeout: Duration) -> Self {
        let surroundings = Surroundings::of_this_process();
        Self { settings, default_ttl, timeout, surroundings, http: OnceLock::new() }
    }

    pub(super) async fn exchange(&self) -> Result<Grant, ExchangeError> {
        match tokio::time::timeout(self.timeout, self.ask()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ExchangeError::TimedOut { after: self.timeout }),
        }
    }

    async fn ask(&self) -> Result<Grant, ExchangeError> {
        let site = self.site()?;
        let asked_at = clock::now();
        let mut reply = self.send(&site, None).await?;
        let mut secrets = site.secrets();
        if site.host == Host::Arc && reply.reply.status.as_u16() == 401 {
            let key = arc::answer_to(reply.challenge.as_ref(), &self.surroundings.arc_tokens).await?;
            reply = self.send(&site, Some(&key)).await?;
            secrets.push(key);
        }
        let accepted = failure::read(site.host, &reply.reply, self.default_ttl, &secrets)?;
        echo::check(site.host, &self.settings.account, &reply.reply.body)?;
        Ok(Grant {
            credential: Credential::Bearer(accepted.access_token),
            lifetime: accepted.lifetime,
            refresh_in: accepted.refresh_in,
            asked_at,
        })
    }

    fn site(&self) -> Result<Site, Failure> {
        host::find(self.settings.endpoint, &self.surroundings)
    }

    /// One request. `key` is Arc's proof that the gateway may read the machine's files.
    async fn send(&self, site: &Site, key: Option<&Secret>) -> Result<Answer, ExchangeError> {
        let mut request = self.client(site)?.get(site.request(&self.settings)?);
        for (name, value) in &site.headers {
            request = request.header(*name, sensitive(value)?);
        }
        if let Some(key) = key {
            let basic = Secret::new(format!("Basic {}", key.expose()));
            request = request.header(reqwest::header::AUTHORIZATION, sensitive(&basic)?);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(site, &error))?;
        let status = response.status();
        let retry_after = outbound::retry_after(response.headers());
        let challenge = response.headers().get(WWW_AUTHENTICATE).cloned();
        let body = http::bounded(&mut response).await.map_err(|cut| cut.at(&site.url))?;
        Ok(Answer { reply: Reply { status, retry_after, body }, challenge })
    }

    /// That nobody is there is the most usual failure, and its reason is seldom the network.
    fn unreachable(&self, site: &Site, error: &reqwest::Error) -> ExchangeError {
        let reason = if error.is_timeout() { "timed out".to_owned() } else { outbound::reason(error) };
        Failure::absent(site.host, &site.url, &reason, self.settings.endpoint).into()
    }

    fn client(&self, site: &Site) -> Result<&reqwest::Client, ExchangeError> {
        let made = self.http.get_or_init(|| {
            let builder = reqwest::Client::builder();
            let builder = match &site.thumbprint {
                Some(thumbprint) => builder.tls_backend_preconfigured(fabric::tls(thumbprint)?),
                // Without TLS there is nothing to trust.
                None if site.url.scheme() == "http" => builder.tls_certs_only([]),
                None => builder,
            };
            builder
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_CONNECTION)
                .user_agent(concat!("keybearer/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| outbound::reason(&error))
        });
        made.as_ref().map_err(|what| ExchangeError::SetUp { what: what.clone() })
    }

    /// Scheme, host and port of the endpoint.
    pub(super) fn provider(&self) -> String {
        self.site()
            .map_or_else(|_| "managed identity".to_owned(), |site| site.url.origin().ascii_serialization())
    }

    /// Everything that shapes the token; there is no secret to change.
    pub(super) fn identity(&self) -> Identity {
        let (key, id) = self.settings.account.parts();
        let provider = self.provider();
        Identity::of(["managed_identity", &provider, &self.settings.resource, key, id].map(str::as_bytes))
    }
}

/// An answer with the challenge that Arc's first one holds.
struct Answer {
    reply: Reply,
    challenge: Option<HeaderValue>,
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| Failure::illegal_key())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
