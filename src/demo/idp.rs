//! An identity provider on loopback, shaped like Entra ID, for the demo and for the tests.
//!
//! It serves Entra's token endpoint (v2 and v1), B2C's policy door and a plain OAuth 2.0 door, with
//! their metadata and keys, and can be told to misbehave. It does not speak TLS, knows no users, and
//! keeps accounts' secrets in plain sight: it must never be given a real one.

pub mod assertion;
mod door;
pub mod issue;
pub(in crate::demo) mod loopback;
pub mod recorded;
mod refusal;

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};

use issue::{Claims, Grant, Reason, Register};
use loopback::{Loopback, lock};
use recorded::Recorded;

/// The tenant that every provider knows, by its domain name.
pub const TENANT: &str = "contoso.onmicrosoft.com";
/// The same tenant's GUID, which stands in `tid` and in issuers.
pub const TENANT_ID: &str = "c0117050-7e4a-4111-8222-333344445555";
/// Within Entra's default range of 60 to 90 minutes; the tests set their own.
const LIFETIME: Duration = Duration::from_secs(3600);

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
        let inner = Arc::new(Inner::new(format!("http://{}", listener.local_addr()?)));
        let server = Loopback::serve(listener, door::router(inner.clone()))?;
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

/// What the knobs change and the doors read.
struct Inner {
    base: String,
    register: Register,
    requests: watch::Sender<u64>,
    issued: watch::Sender<u64>,
    knobs: Mutex<Knobs>,
    seen: assertion::Seen,
}

struct Knobs {
    accounts: HashMap<String, Account>,
    apis: Vec<(String, String)>,
    lifetime: Duration,
    refresh_in: Option<Duration>,
    strict: bool,
    delay: Duration,
    standing: Behaviour,
    next: VecDeque<Behaviour>,
    last: Option<Recorded>,
}

/// How one request is to be treated, decided when it arrives.
struct Plan {
    behaviour: Behaviour,
    delay: Duration,
}

impl Inner {
    fn new(base: String) -> Inner {
        let knobs = Knobs {
            accounts: HashMap::new(),
            apis: Vec::new(),
            lifetime: LIFETIME,
            refresh_in: None,
            strict: false,
            delay: Duration::ZERO,
            standing: Behaviour::Normal,
            next: VecDeque::new(),
            last: None,
        };
        Inner {
            base,
            register: Register::default(),
            requests: watch::Sender::new(0),
            issued: watch::Sender::new(0),
            knobs: Mutex::new(knobs),
            seen: assertion::Seen::default(),
        }
    }

    fn record(&self, request: Recorded) -> Plan {
        let plan = {
            let mut knobs = lock(&self.knobs);
            knobs.last = Some(request);
            let behaviour = knobs.next.pop_front().unwrap_or_else(|| knobs.standing.clone());
            Plan { behaviour, delay: knobs.delay }
        };
        self.requests.send_modify(|count| *count += 1);
        plan
    }

    /// Holds a request that hangs until the standing behaviour is another one.
    async fn after_hanging(&self, mut behaviour: Behaviour) -> Behaviour {
        while matches!(behaviour, Behaviour::Hang) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            behaviour = lock(&self.knobs).standing.clone();
        }
        behaviour
    }

    fn issue(&self, grant: &Grant) -> String {
        let token = self.register.issue(grant);
        self.issued.send_modify(|count| *count += 1);
        token
    }

    fn tenant_id(&self, name: &str) -> Option<String> {
        let known = name.eq_ignore_ascii_case(TENANT) || name.eq_ignore_ascii_case(TENANT_ID);
        known.then(|| TENANT_ID.to_owned())
    }

    fn account(&self, client_id: &str) -> Option<Account> {
        lock(&self.knobs).accounts.get(client_id).cloned()
    }

    /// An API answers to its App ID URI and to its GUID.
    fn audience(&self, resource: &str) -> Option<String> {
        let knobs = lock(&self.knobs);
        let api = knobs.apis.iter().find(|(uri, audience)| uri == resource || audience == resource)?;
        Some(api.1.clone())
    }

    fn first_audience(&self) -> String {
        lock(&self.knobs).apis.first().map(|(_, audience)| audience.clone()).unwrap_or_default()
    }

    fn is_strict(&self) -> bool {
        lock(&self.knobs).strict
    }

    fn lifetime(&self) -> (Duration, Option<Duration>) {
        let knobs = lock(&self.knobs);
        (knobs.lifetime, knobs.refresh_in)
    }
}
