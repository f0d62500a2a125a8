//! The gateway for as long as one likes, while everything around it fails: `make soak`.
//!
//! Between the gateway and the demo's Web API there is a layer that closes, half-closes, cuts and stalls
//! connections. The identity provider comes and goes, tokens are revoked, the configuration is reloaded and
//! the listener's certificate renewed every second, callers hang up. What must not happen is defined exactly:
//!
//! - **No request is lost that was safe to answer.** Safe is a GET or PUT over a layer that only closes
//!   connections on which nothing is outstanding, whatever the tokens and the provider do: an upstream
//!   connection that was closed while it was idle, a token that was revoked while the provider answers, and
//!   a provider that is away while the token is valid must not be noticed by any caller.
//! - **No request is answered wrongly.** An answer is the API's whole and to this very request, or a fault of
//!   the gateway that says what has happened, or it is cut where the upstream was cut. It comes in time.
//! - **Memory is flat**, no request stays in flight, and the gateway stops when it is told to.
//!
//! `SOAK_SECONDS` says for how long; `make soak` asks for 600, and without it the test is a short one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop at once, and this one tells how it goes"
)]

mod callers;
mod faults;
mod layer;
mod tally;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keybearer::{
    app::{self, Drained, Running},
    config,
    demo::{
        api::{Api, Settings},
        idp::{Account, Idp, TENANT},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};

use layer::{Layer, Temper};
use tally::{Memory, Tally};

const ROLE: &str = "Orders.Read";
const API_URI: &str = "https://contoso.onmicrosoft.com/orders-api";
const AUDIENCE: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const CLIENT: &str = "10d635e5-7615-472f-8200-a81d5c87c0ca";
const SECRET: &str = "the soak's secret";

/// How long it takes when nobody says.
const SHORT: Duration = Duration::from_secs(12);
/// Between two lines about how it goes.
const TELLING: Duration = Duration::from_secs(10);
/// Tokens live so long; refreshing them is a part of the soak.
const LIFETIME: Duration = Duration::from_secs(60);

/// Everything that runs.
struct Soak {
    idp: Idp,
    api: Api,
    /// Closes connections only when nothing is outstanding.
    gentle: Layer,
    /// Cuts and stalls connections anywhere.
    rough: Layer,
    gateway: Running,
    issuer: CertifiedIssuer<'static, KeyPair>,
    tally: Tally,
    folder: TempDir,
    yaml: String,
    reloads: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let seconds = std::env::var("SOAK_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let span = seconds.map_or(SHORT, Duration::from_secs);
    let soak = Arc::new(Soak::start().await);
    let (stop, stopped) = watch::channel(false);
    let callers = callers::start(&soak, &stopped);
    let faults = tokio::spawn(faults::make(Arc::clone(&soak), stopped.clone()));
    let renewals = tokio::spawn(faults::renew(Arc::clone(&soak), stopped));
    let mut memory = Memory::default();
    let begun = Instant::now();
    let mut told_at = begun;
    while begun.elapsed() < span {
        tokio::time::sleep(Duration::from_millis(500)).await;
        memory.look();
        if told_at.elapsed() >= TELLING {
            told_at = Instant::now();
            println!("{}", soak.progress(begun.elapsed(), &memory));
        }
    }
    // The last requests are made with everything in order, so that what comes back can be judged.
    stop.send_replace(true);
    faults.await.unwrap();
    renewals.await.unwrap();
    callers.join_all().await;
    println!("{}", soak.progress(begun.elapsed(), &memory));
    soak.judge(span, &memory).await;
}

impl Soak {
    async fn start() -> Self {
        let idp = Idp::start().await.unwrap();
        idp.add_api(API_URI, AUDIENCE);
        idp.add_account(Account::new(CLIENT, SECRET, &[ROLE]));
        idp.set_lifetime(LIFETIME);
        let settings = Settings { audience: AUDIENCE.into(), role: ROLE.into() };
        let api = Api::start(idp.verifier(), settings).await.unwrap();
        let gentle = Layer::start(&api.url(), Temper::Gentle).await;
        let rough = Layer::start(&api.url(), Temper::Rough).await;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), SECRET).unwrap();
        let issuer = issuer();
        issue(&issuer, folder.path());
        let yaml = configuration(&idp, &gentle, &rough);
        let path = folder.path().join("keybearer.yaml");
        fs::write(&path, &yaml).unwrap();
        let loaded = config::parse(&yaml, &path, None).unwrap_or_else(|p| panic!("{p}\n{yaml}"));
        let gateway = app::start(loaded.settings, None).unwrap();
        while !gateway.profiles().iter().all(|profile| profile.is_ready()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self {
            idp,
            api,
            gentle,
            rough,
            gateway,
            issuer,
            tally: Tally::default(),
            folder,
            yaml,
            reloads: AtomicU64::new(0),
        }
    }

    /// The gateway's URL for a path.
    fn url(&self, is_tls: bool, path: &str) -> String {
        let (scheme, listener) = if is_tls { ("https", "secure") } else { ("http", "local") };
        format!("{scheme}://localhost:{}{path}", self.gateway.listener(listener).unwrap().port())
    }

    /// Puts the next configuration in force: other routes beside those that are used, and other limits on
    /// those that are.
    fn reload(&self) {
        let number = self.reloads.fetch_add(1, Ordering::Relaxed);
        let extra = format!(
            "routes:\n  extra{number}: {{match: {{path: /extra{number}}}, upstream: \"http://127.0.0.1:9\", profile: none}}\n"
        );
        let limit = format!("profile: account, response_timeout: {}ms", 3000 + number % 7);
        let text = self.yaml.replace("routes:\n", &extra).replace("profile: account", &limit);
        let path = self.folder.path().join("keybearer.yaml");
        let loaded = config::parse(&text, &path, None).unwrap_or_else(|p| panic!("{p}\n{text}"));
        let reloaded = tokio::task::block_in_place(|| self.gateway.reload(&loaded.settings));
        reloaded.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Writes the listener's next certificate.
    fn issue(&self) {
        issue(&self.issuer, self.folder.path());
    }

    /// Who signs the listener's certificates.
    fn authority(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_pem(self.issuer.pem().as_bytes()).unwrap()
    }

    fn progress(&self, elapsed: Duration, memory: &Memory) -> String {
        let (closed, cut) = (self.gentle.closed(), self.rough.closed());
        format!(
            "{:>5} s  {}, {closed} closed idle, {cut} cut, {} tokens, {} reloads, {memory}",
            elapsed.as_secs(),
            self.tally,
            self.idp.issued(),
            self.reloads.load(Ordering::Relaxed),
        )
    }

    /// Ends the gateway and says whether all is well.
    async fn judge(self: Arc<Self>, span: Duration, memory: &Memory) {
        let mut problems = self.tally.problems();
        problems.extend(memory.problem(span));
        for (what, count) in [
            ("connections that were closed while idle", self.gentle.closed()),
            ("connections that were cut", self.rough.closed()),
            ("answers that were cut or faults", self.tally.cut_or_faults()),
            ("tokens that were revoked", u64::from(self.api.unauthorized() > 0)),
        ] {
            if count == 0 {
                problems.push(format!("there were no {what}: the soak has not tried what it says"));
            }
        }
        let metrics = reqwest::Client::builder().no_proxy().build().unwrap();
        let admin = format!("http://{}/metrics", self.gateway.admin().unwrap());
        let metrics = metrics.get(admin).send().await.unwrap().text().await.unwrap();
        let is_left = |line: &&str| {
            let is_gauge =
                ["keybearer_in_flight{", "keybearer_replay_bytes "].iter().any(|g| line.starts_with(g));
            is_gauge && !line.ends_with(" 0")
        };
        problems.extend(metrics.lines().filter(is_left).map(|line| format!("left over: {line}")));
        let soak = Arc::into_inner(self).expect("the callers have ended");
        soak.gateway.stop();
        let drained = tokio::task::spawn_blocking(move || soak.gateway.wait()).await.unwrap();
        if drained != Drained::Completely {
            problems.push(format!("it did not stop in order: {drained:?}"));
        }
        drop(soak.folder);
        if problems.is_empty() {
            println!("soak: all is well");
        } else {
            panic!("soak: failed\n{}", problems.join("\n"));
        }
    }
}

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(issuer: &CertifiedIssuer<'static, KeyPair>, folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    fs::write(folder.join("server.pem"), made.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

fn configuration(idp: &Idp, gentle: &Layer, rough: &Layer) -> String {
    let (authority, gentle, rough) = (idp.url(), gentle.url(), rough.url());
    format!(
        "listeners:
  local: {{address: \"127.0.0.1:0\"}}
  secure: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: server.pem}}, key: {{file: server.key}}}}}}
admin: {{address: \"127.0.0.1:0\"}}
workers: 2
timeouts: {{response: 3s, stream: 3s, drain: 10s}}
profiles:
  account:
    kind: entra
    authority: {authority}
    tenant: {TENANT}
    client_id: {CLIENT}
    client_secret: {{file: secret}}
    scope: {API_URI}/.default
    recovery: {{min_token_age: 0s, min_interval: 0s}}
routes:
  gentle: {{match: {{path: /gentle}}, upstream: \"{gentle}\", profile: account}}
  rough: {{match: {{path: /rough}}, upstream: \"{rough}\", profile: account}}
"
    )
}
