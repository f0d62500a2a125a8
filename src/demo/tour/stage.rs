//! The scene of the tour: identity provider, Web API, the gateway between, and a daemon's client.
//!
//! The gateway is the one that `keybearer run` starts, from YAML text that a person could have
//! written. The daemon's client has no credential and no way to get one.

use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::{answer::Answer, folder::Folder};
use crate::{
    app::{self, Running},
    config,
    demo::{
        api::{self, Api},
        idp::{Account, Idp, TENANT},
    },
    secret::Secret,
    token,
};

/// The account of the first route.
pub(super) const ORDERS: &str = "orders-daemon";
/// The account of the second route.
pub(super) const REPORTS: &str = "reports-daemon";
/// The role that the API demands of everybody.
pub(super) const ACCESS: &str = "Api.Access";
/// A role that only the first account has.
pub(super) const ORDERS_ROLE: &str = "Orders.Read";
/// A role that only the second account has.
pub(super) const REPORTS_ROLE: &str = "Reports.Read";
/// How long tokens live except while the tour waits for the end of one. Entra's usual hour.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The API's GUID, which stands in the tokens' `aud`.
const AUDIENCE: &str = "6f1d3a52-0b7e-4c1e-9a57-2d8f4e6b9c10";
/// A request that takes longer is a step that failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Both tokens are there in a fraction of it, also on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(15);
/// Whoever has pressed Ctrl-C does not want to wait for an idle connection.
const DRAIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// Everything that runs. Dropping it stops it and removes the secrets.
pub(super) struct Stage {
    /// The identity provider.
    pub(super) idp: Idp,
    /// The Web API.
    pub(super) api: Api,
    /// The gateway's configuration, as text.
    pub(super) yaml: String,
    gateway: Running,
    daemon: reqwest::Client,
    gateway_url: String,
    admin_url: String,
    _folder: Folder,
}

impl Stage {
    /// Starts everything and waits until the gateway is ready. `secrets` go to the accounts
    /// [`ORDERS`] and [`REPORTS`], in this order.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub(super) async fn build(secrets: &[Secret; 2]) -> anyhow::Result<Stage> {
        let idp = Idp::start().await.context("the identity provider cannot be started")?;
        idp.set_lifetime(HOUR);
        idp.add_api(&app_id_uri(), AUDIENCE);
        let folder = Folder::new().context("there is no place for the secrets")?;
        let accounts = [(ORDERS, ORDERS_ROLE), (REPORTS, REPORTS_ROLE)];
        for ((name, role), secret) in accounts.into_iter().zip(secrets) {
            idp.add_account(Account::new(name, secret.expose(), &[ACCESS, role]));
            folder.keep(&format!("{name}.secret"), secret).context("a secret cannot be written")?;
        }
        let demands = api::Settings { audience: AUDIENCE.to_owned(), role: ACCESS.to_owned() };
        let api = Api::start(idp.verifier(), demands).await.context("the Web API cannot be started")?;
        let yaml = configuration(idp.url(), &api.url());
        let gateway = start_gateway(&yaml, &folder).await?;
        let daemon = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build()?;
        let gateway_url = url_of(gateway.listener("local"))?;
        let admin_url = url_of(gateway.admin())?;
        let stage = Stage { idp, api, yaml, gateway, daemon, gateway_url, admin_url, _folder: folder };
        stage.wait_until_ready().await?;
        Ok(stage)
    }

    /// The gateway's base URL.
    pub(super) fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    /// The admin listener's base URL.
    pub(super) fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Sends a request as the daemon does: without any credential.
    ///
    /// # Errors
    /// When nothing comes back.
    pub(super) async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        let response = self.daemon.get(url).send().await.context("the request got no answer")?;
        Answer::read(response).await.context("the answer broke off")
    }

    /// The state of an account's token.
    ///
    /// # Errors
    /// When the gateway has no such account.
    pub(super) fn profile(&self, name: &str) -> anyhow::Result<token::view::View> {
        let profiles = self.gateway.profiles();
        let handle = profiles.iter().find(|handle| handle.name() == name);
        handle.map(token::Handle::view).with_context(|| format!("the gateway has no profile {name:?}"))
    }

    /// Stops everything in order: first who asks, then who carries, then who answers.
    ///
    /// # Errors
    /// When the gateway's end could not be waited for.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Stage { gateway, daemon, .. } = self;
        drop(daemon);
        gateway.stop();
        tokio::task::spawn_blocking(move || gateway.wait()).await?;
        Ok(())
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.gateway.profiles().iter().all(token::Handle::is_ready) {
            anyhow::ensure!(Instant::now() < deadline, "the gateway has no tokens after {START_LIMIT:?}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// A secret that nobody has seen before.
///
/// # Errors
/// When the system has no random bytes.
pub(super) fn new_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).ok().context("the system's random source does not work")?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn app_id_uri() -> String {
    format!("https://{TENANT}/orders-api")
}

/// Starting reads the system's certificates and can fail with a runtime in hand: both are nothing
/// for a thread that runs tasks.
async fn start_gateway(yaml: &str, folder: &Folder) -> anyhow::Result<Running> {
    let loaded = config::parse(yaml, &folder.path().join("keybearer.yaml"), None)
        .map_err(|problems| anyhow::anyhow!("the demo's configuration is wrong\n{problems}"))?;
    let mut settings = loaded.settings;
    settings.timeouts.drain = DRAIN;
    let started = tokio::task::spawn_blocking(move || app::start(settings, None)).await?;
    started.context("the gateway cannot be started")
}

fn url_of(address: Option<std::net::SocketAddr>) -> anyhow::Result<String> {
    let address = address.context("the gateway does not listen")?;
    Ok(format!("http://{address}"))
}

/// The damping of recoveries is off, because the tour revokes a token that is a second old.
fn configuration(authority: &str, api: &str) -> String {
    let uri = app_id_uri();
    let profile = |name: &str, hint: &str| {
        format!(
            "  {name}:
    kind: entra
    authority: {authority}{hint}
    tenant: {TENANT}
    client_id: {name}
    client_secret: {{file: {name}.secret}}
    scope: {uri}/.default
"
        )
    };
    let orders = profile(ORDERS, "     # leave out for login.microsoftonline.com");
    let reports = profile(REPORTS, "");
    format!(
        "listeners:
  local: {{address: 127.0.0.1:0}}          # port 0: any free one
admin: {{address: 127.0.0.1:0}}
profiles:
{orders}    recovery: {{min_token_age: 0s, min_interval: 0s}}   # no damping, so that the tour is short
{reports}routes:
  orders: {{match: {{path: /v1/orders}}, upstream: {api}, profile: {ORDERS}}}
  reports: {{match: {{path: /v1/reports}}, upstream: {api}, profile: {REPORTS}}}
"
    )
}
