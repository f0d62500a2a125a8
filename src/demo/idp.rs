//! An identity provider on loopback, shaped like Entra ID, for the demo and for the tests.
//!
//! It serves Entra's token endpoint (v2 and v1), B2C's policy door, a plain OAuth 2.0 door and a machine's
//! endpoints for managed identities, with their metadata and keys, and can be told to misbehave. It knows
//! no users, and keeps accounts' secrets in plain sight: it must never be given a real one.

pub mod assertion;
mod door;
pub mod issue;
mod knobs;
pub(in crate::demo) mod loopback;
mod machine;
mod metadata;
pub mod recorded;
mod refusal;

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};

use issue::{Claims, Reason};
use knobs::Inner;
use loopback::{Loopback, lock};
use recorded::Recorded;

/// The tenant that every provider knows, by its domain name.
pub const TENANT: &str = "contoso.onmicrosoft.com";
/// The same tenant's GUID, which stands in `tid` and in issuers.
pub const TENANT_ID: &str = "c0117050-7e4a-4111-8222-333344445555";
/// What a caller of the machine's endpoint shows when it is shaped like App Service's.
pub const IDENTITY_HEADER: &str = "demo-identity-header";

/// A service account as the identity provider knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The application id, or any name.
    pub client_id: String,
    /// Every secret that is accepted at the moment.
    pub secrets: Vec<String>,
    /// The app roles that its tokens carry.
    pub roles: Vec<String>,
    /// Certificates (DER) that are registered for it.
    pub certificates: Vec<Vec<u8>>,
    /// Whose workload tokens prove it as well.
    pub trusts: Vec<assertion::Trust>,
}

impl Account {
    /// An account with one secret.
    pub fn new(client_id: &str, secret: &str, roles: &[&str]) -> Account {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let (client_id, secrets) = (client_id.to_owned(), vec![secret.to_owned()]);
        Account { client_id, secrets, roles, certificates: Vec::new(), trusts: Vec::new() }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets = self.secrets.len();
        write!(f, "Account({}, {secrets} secrets, roles {:?})", self.client_id, self.roles)
    }
}

/// What the token endpoints do with a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// What the door's model does.
    Normal,
    /// Refuse with this status and the error that Entra sends with it.
    Status(u16),
    /// Refuse with an error of Entra's table, as `AADSTS<code>`.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The OAuth error code, for example `invalid_client`.
        error: &'static str,
        /// The number after `AADSTS`.
        code: u32,
    },
    /// Exactly this, whatever was asked.
    Raw {
        /// The HTTP status.
        status: u16,
        /// All headers but the framing.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// 429 with `Retry-After`.
    Throttle {
        /// The value of `Retry-After`.
        retry_after_seconds: u64,
    },
    /// `Normal`, but a success is edited before it is sent.
    Shape(fn(&mut serde_json::Value)),
    /// Do not answer until the standing behaviour is another one. The connection stays open until
    /// then, or until the client or [`Idp::go_down`] closes it.
    Hang,
}

/// A running identity provider and its knobs, which take effect at once. Dropping it stops it.
pub struct Idp {
    inner: Arc<Inner>,
    server: Loopback,
}

impl Idp {
    /// Starts one on a free port of 127.0.0.1, with [`TENANT`] and no account.
    pub async fn start() -> io::Result<Idp> {
        Idp::serve(Loopback::bind().await?)
    }

    /// Starts one on a socket that is already bound. Must be called within a runtime.
    pub fn serve(listener: TcpListener) -> io::Result<Idp> {
        Idp::serve_as(listener, None)
    }

    /// Starts one that speaks TLS, as Microsoft's libraries demand it of an authority.
    pub async fn start_with_tls(tls: ServerConfig) -> io::Result<Idp> {
        Idp::serve_as(Loopback::bind().await?, Some(tls))
    }

    fn serve_as(listener: TcpListener, tls: Option<ServerConfig>) -> io::Result<Idp> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let inner = Arc::new(Inner::new(format!("{scheme}://{}", listener.local_addr()?)));
        let server = Loopback::serve(listener, door::router(inner.clone()), tls)?;
        Ok(Idp { inner, server })
    }

    /// The base URL, without a slash at the end; also the issuer of the plain door.
    pub fn url(&self) -> &str {
        &self.inner.base
    }

    /// Entra's v2 token endpoint of [`TENANT`].
    pub fn token_url(&self) -> String {
        format!("{}/{TENANT}/oauth2/v2.0/token", self.inner.base)
    }

    /// The plain OAuth 2.0 token endpoint.
    pub fn plain_token_url(&self) -> String {
        format!("{}/oauth2/token", self.inner.base)
    }

    /// The token endpoint of a B2C policy in [`TENANT`].
    pub fn policy_token_url(&self, policy: &str) -> String {
        format!("{}/{TENANT}/{policy}/oauth2/v2.0/token", self.inner.base)
    }

    /// Closes the socket and every connection. When this returns, connects are refused.
    pub async fn go_down(&self) -> io::Result<()> {
        self.server.go_down().await
    }

    /// Listens on the same port again, with everything it knew. Fails when somebody took the port.
    pub async fn come_back(&self) -> io::Result<()> {
        self.server.come_back().await
    }

    /// Makes an account known, or replaces the one with the same client id.
    pub fn add_account(&self, account: Account) {
        lock(&self.inner.knobs).accounts.insert(account.client_id.clone(), account);
    }

    /// Replaces an account's secrets. An unknown account is left unknown.
    pub fn set_secrets(&self, client_id: &str, secrets: &[&str]) {
        if let Some(account) = lock(&self.inner.knobs).accounts.get_mut(client_id) {
            account.secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        }
    }

    /// Replaces an account's roles, seen only in tokens issued from now on.
    pub fn set_roles(&self, client_id: &str, roles: &[&str]) {
        if let Some(account) = lock(&self.inner.knobs).accounts.get_mut(client_id) {
            account.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        }
    }

    /// Makes a known account the identity of the machine that the provider runs on: its endpoints for managed
    /// identities give tokens of it to whoever names no other.
    pub fn set_machine(&self, client_id: &str) {
        lock(&self.inner.knobs).machine = Some(client_id.to_owned());
    }

    /// Makes an API known: its App ID URI and the GUID that stands in `aud`. The first one added is
    /// what the plain door issues for when no resource is named.
    pub fn add_api(&self, app_id_uri: &str, audience: &str) {
        lock(&self.inner.knobs).apis.push((app_id_uri.to_owned(), audience.to_owned()));
    }

    /// Whether assertions must be as the RFCs have them: a `jti` once, numbers whole, thumbprints unpadded.
    /// Entra itself is lenient, and so is this until it is told.
    pub fn set_strict(&self, strict: bool) {
        lock(&self.inner.knobs).strict = strict;
    }

    /// The lifetime of tokens issued from now on. `expires_in` is rounded down, the token is exact.
    pub fn set_lifetime(&self, lifetime: Duration) {
        lock(&self.inner.knobs).lifetime = lifetime;
    }

    /// The `refresh_in` of answers from now on.
    pub fn set_refresh_in(&self, refresh_in: Option<Duration>) {
        lock(&self.inner.knobs).refresh_in = refresh_in;
    }

    /// How long each token request waits before it is looked at.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.inner.knobs).delay = delay;
    }

    /// What happens from now on, until it is set again.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        lock(&self.inner.knobs).standing = behaviour;
    }

    /// What happens to the next requests, one each; after them the standing behaviour applies.
    pub fn set_next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.inner.knobs).next = behaviours.into_iter().collect();
    }

    /// How many token requests arrived, refused and unanswered ones included.
    pub fn requests(&self) -> u64 {
        *self.inner.requests.borrow()
    }

    /// How many tokens were issued.
    pub fn issued(&self) -> u64 {
        *self.inner.issued.borrow()
    }

    /// The latest token request.
    pub fn last_request(&self) -> Option<Recorded> {
        lock(&self.inner.knobs).last.clone()
    }

    /// Waits until `count` token requests arrived since the start; they may still be in work.
    pub async fn wait_for_requests(&self, count: u64) {
        reached(&self.inner.requests, count).await;
    }

    /// Waits until `count` tokens were issued since the start.
    pub async fn wait_for_issued(&self, count: u64) {
        reached(&self.inner.issued, count).await;
    }

    /// Takes back every token issued until now.
    pub fn revoke_all(&self) {
        self.inner.register.revoke_all();
    }

    /// Takes one token back.
    pub fn revoke(&self, token: &str) {
        self.inner.register.revoke(token);
    }

    /// Whether the token was taken back.
    pub fn is_revoked(&self, token: &str) -> bool {
        self.inner.register.is_revoked(token)
    }

    /// What an API uses to judge tokens; it goes on working while the provider is down or dropped.
    pub fn verifier(&self) -> Verifier {
        Verifier(self.inner.clone())
    }
}

/// Judges tokens of one identity provider.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

impl Verifier {
    /// The claims of a token that is signed, current, not revoked and issued for `audience`.
    pub fn verify(&self, token: &str, audience: &str) -> Result<Claims, Reason> {
        self.0.register.verify(token, &self.0.base, audience)
    }
}

/// Waits until a counter is at least `count`.
pub(in crate::demo) async fn reached(counter: &watch::Sender<u64>, count: u64) {
    // The sender is borrowed, so the channel cannot close.
    let _ = counter.subscribe().wait_for(|now| *now >= count).await;
}
