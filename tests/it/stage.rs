//! One gateway between one identity provider and one Web API, all real, all on loopback.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keybearer::{
    app::{self, Running, control::Origin},
    demo::{
        api::{Api, Settings},
        idp::{Account, Idp, TENANT},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) const ROLE: &str = "Orders.Read";
pub(crate) const API_URI: &str = "https://contoso.onmicrosoft.com/orders-api";
pub(crate) const AUDIENCE: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub(crate) const CLIENT: &str = "10d635e5-7615-472f-8200-a81d5c87c0ca";
pub(crate) const SECRET: &str = "canary-p+s/s=w:o%r&d \"~ 1";

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) idp: Idp,
    pub(crate) api: Api,
    pub(crate) gateway: Running,
    pub(crate) folder: TempDir,
    pub(crate) http: reqwest::Client,
    /// The gateway's configuration.
    pub(crate) yaml: String,
}

/// What a stage's configuration is made of. The defaults make the most usual one.
pub(crate) struct Plan {
    /// Lines below `listeners:`; one is `local`.
    pub(crate) listeners: String,
    /// Lines below `profiles: account:`, beside kind, tenant, client, credential and scope.
    pub(crate) profile: String,
    /// How the account proves itself.
    pub(crate) credential: String,
    /// Lines below `routes:`; `{api}` stands for the API's URL.
    pub(crate) routes: String,
    /// Further top-level lines.
    pub(crate) more: String,
    pub(crate) lifetime: Duration,
    pub(crate) start_idp: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            listeners: "local: {address: \"127.0.0.1:0\"}".into(),
            // Tests revoke tokens at once; the damping has tests of its own.
            profile: "recovery: {min_token_age: 0s, min_interval: 0s}".into(),
            credential: "client_secret: {file: secret}".into(),
            routes: "orders: {match: {path: /v1}, upstream: \"{api}\", profile: account}".into(),
            more: String::new(),
            lifetime: Duration::from_secs(3600),
            start_idp: true,
        }
    }
}

impl Plan {
    pub(crate) fn listeners(mut self, lines: &str) -> Self {
        self.listeners = lines.into();
        self
    }

    pub(crate) fn profile(mut self, lines: &str) -> Self {
        self.profile = lines.into();
        self
    }

    pub(crate) fn credential(mut self, line: &str) -> Self {
        self.credential = line.into();
        self
    }

    pub(crate) fn routes(mut self, lines: &str) -> Self {
        self.routes = lines.into();
        self
    }

    pub(crate) fn more(mut self, lines: &str) -> Self {
        self.more = lines.into();
        self
    }

    pub(crate) fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The provider is down when the gateway starts.
    pub(crate) fn without_idp(mut self) -> Self {
        self.start_idp = false;
        self
    }

    pub(crate) async fn start(self) -> Stage {
        self.start_with(|_| {}).await
    }

    /// `prepare` may change the provider before the gateway first asks it.
    pub(crate) async fn start_with(self, prepare: impl FnOnce(&Idp)) -> Stage {
        let idp = Idp::start().await.unwrap();
        idp.add_api(API_URI, AUDIENCE);
        idp.add_account(Account::new(CLIENT, SECRET, &[ROLE]));
        idp.set_lifetime(self.lifetime);
        prepare(&idp);
        if !self.start_idp {
            idp.go_down().await.unwrap();
        }
        let settings = Settings { audience: AUDIENCE.into(), role: ROLE.into() };
        let api = Api::start(idp.verifier(), settings).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), SECRET).unwrap();
        let text = self.yaml(&idp, &api);
        let path = folder.path().join("keybearer.yaml");
        fs::write(&path, &text).unwrap();
        let gateway = start_file(&path, None);
        // Redirects and proxies are the gateway's business in these tests.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Stage { idp, api, gateway, folder, http, yaml: text }
    }

    fn yaml(&self, idp: &Idp, api: &Api) -> String {
        let routes = self.routes.replace("{api}", &api.url());
        let (profile, more, idp) = (indented(&self.profile, 4), &self.more, idp.url());
        let credential = indented(&self.credential, 4);
        let (routes, listeners) = (indented(&routes, 2), indented(&self.listeners, 2));
        let admin = if more.contains("admin:") { "" } else { "admin: {address: \"127.0.0.1:0\"}" };
        let workers = if more.contains("workers:") { "" } else { "workers: 2" };
        format!(
            "listeners:\n{listeners}{admin}\n{workers}\n{more}\n\
             profiles:\n  account:\n    kind: entra\n    authority: {idp}\n    tenant: {TENANT}\n    \
             client_id: {CLIENT}\n    scope: {API_URI}/.default\n\
             {credential}{profile}\nroutes:\n{routes}\n"
        )
    }
}

/// Starts the gateway of the file at `path`, as the binary does.
pub(crate) fn start_file(path: &Path, environment: Option<&str>) -> Running {
    let environment = environment.map(str::to_owned);
    let origin =
        Origin { path: path.to_owned(), environment, overrides: Box::new(|_| {}), inherited: Arc::default() };
    let (running, _) = app::start_file(origin, None).unwrap_or_else(|problems| panic!("{problems}"));
    running.unwrap()
}

fn indented(lines: &str, by: usize) -> String {
    lines.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

impl Stage {
    /// The usual stage: `/v1` goes to the API with the account's token.
    pub(crate) async fn start() -> Self {
        Plan::default().start().await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.listener("local").unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> reqwest::Response {
        self.http.post(self.url(path)).body(body).send().await.unwrap()
    }

    pub(crate) async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status().as_u16()
    }

    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let response =
            self.http.get(format!("http://{}{path}", self.gateway.admin().unwrap())).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until the gateway has all its tokens.
    pub(crate) async fn ready(&self) -> &Self {
        eventually("the gateway is ready", || self.gateway.profiles().iter().all(|p| p.is_ready())).await;
        self
    }

    /// Sends bytes as they are and reads until the gateway closes the connection.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        raw(self.address(), request.as_ref()).await
    }
}

pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset after the answer is as good as a close.
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for a condition, not for a time.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Gives other tasks and threads a moment between two looks at a condition.
pub(crate) async fn pause() {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.tick().await;
    tick.tick().await;
}

/// The fault in a problem document.
pub(crate) async fn fault(response: reqwest::Response) -> (u16, String, serde_json::Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let proxy_status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
    let problem: serde_json::Value = response.json().await.unwrap();
    let code = problem["code"].as_str().unwrap().to_owned();
    assert!(proxy_status.starts_with("keybearer; error="), "{proxy_status}");
    assert!(proxy_status.ends_with(&format!("details=\"{code}\"")), "{proxy_status}");
    assert_eq!(problem["status"], status);
    (status, code, problem)
}
