//! The gateway against servers that nobody here wrote: oidc-provider behind, curl in front, TLS.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, http::StatusCode};
use keybearer::{
    app::{self, Running},
    config,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};

use crate::{
    authorization_server::{AuthorizationServer, BASIC_CLIENT, POST_CLIENT, RESOURCE, SECRET},
    stage::eventually,
};

/// An API that asks the authorization server about every token it sees.
struct Introspecting {
    address: SocketAddr,
    refused: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<String>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Judge {
    server: Arc<AuthorizationServer>,
    refused: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<String>>,
}

async fn judge(State(judge): State<Judge>, headers: HeaderMap) -> StatusCode {
    let header = headers.get("authorization").and_then(|h| h.to_str().ok()).unwrap_or_default();
    let token = header.strip_prefix("Bearer ").unwrap_or_default();
    *judge.last.lock().unwrap() = token.to_owned();
    // JWTs cannot be introspected there; that the server made one is enough.
    if token.matches('.').count() == 2 || judge.server.introspect(token).await {
        return StatusCode::OK;
    }
    judge.refused.fetch_add(1, Ordering::Relaxed);
    StatusCode::UNAUTHORIZED
}

impl Introspecting {
    async fn start(server: &Arc<AuthorizationServer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (refused, last) = (Arc::<AtomicUsize>::default(), Arc::default());
        let state =
            Judge { server: Arc::clone(server), refused: Arc::clone(&refused), last: Arc::clone(&last) };
        let router = Router::new().fallback(judge).with_state(state);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, refused, last, task }
    }
}

impl Drop for Introspecting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn gateway(folder: &TempDir, profile: &str, upstream: &str) -> Running {
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    let text = format!(
        "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nprofiles:\n  account:\n    kind: oauth2\n    \
         client_secret: {{file: secret}}\n    recovery: {{min_token_age: 0s, min_interval: 0s}}\n{profile}\
         routes:\n  all: {{upstream: {upstream}, profile: account}}\n"
    );
    let loaded = config::parse(&text, &folder.path().join("keybearer.yaml"), None);
    let settings = loaded.unwrap_or_else(|problems| panic!("{problems}\n{text}")).settings;
    app::start(settings, None).unwrap()
}

async fn curl(gateway: &Running, arguments: &[&str]) -> String {
    let url = format!("http://{}/v1/orders", gateway.listener("local").unwrap());
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
    command.args(arguments).arg(url);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("curl is installed")).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_curl_gets_through_with_every_way_of_client_authentication() {
    let server = Arc::new(AuthorizationServer::start(60).await);
    let api = Introspecting::start(&server).await;
    let upstream = format!("http://{}", api.address);
    let folder = tempfile::tempdir().unwrap();
    for profile in [
        format!(
            "    token_url: {}\n    client_id: {BASIC_CLIENT}\n    scope: orders.read\n",
            server.token_url()
        ),
        format!(
            "    token_url: {}\n    auth: client_secret_post\n    client_id: \"{POST_CLIENT}\"\n",
            server.token_url()
        ),
        format!(
            "    issuer: {}\n    client_id: {BASIC_CLIENT}\n    scope: orders.read\n    resource: {RESOURCE}\n",
            server.issuer()
        ),
    ] {
        let gateway = gateway(&folder, &profile, &upstream);
        assert_eq!(curl(&gateway, &[]).await, "200", "{profile}");
        assert_eq!(curl(&gateway, &["--data-binary", "a body"]).await, "200", "{profile}");
        assert_eq!(api.last.lock().unwrap().contains('.'), profile.contains("resource"), "{profile}");
    }
    assert_eq!(api.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_basic_encoding_is_what_this_server_refuses() {
    let server = AuthorizationServer::start(60).await;
    let folder = tempfile::tempdir().unwrap();
    let profile = format!(
        "    token_url: {}\n    client_id: {BASIC_CLIENT}\n    basic_encoding: raw\n",
        server.token_url()
    );
    let gateway = gateway(&folder, &profile, "http://127.0.0.1:1");
    eventually("the server has answered", || gateway.profiles()[0].view().failed > 0).await;
    assert_eq!(curl(&gateway, &[]).await, "503");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_five_seconds_roll_over_under_load_without_a_failed_request() {
    let server = Arc::new(AuthorizationServer::start(5).await);
    let api = Introspecting::start(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let profile = format!("    token_url: {}\n    client_id: {BASIC_CLIENT}\n", server.token_url());
    let gateway = gateway(&folder, &profile, &format!("http://{}", api.address));
    let url = format!("http://{}/v1", gateway.listener("local").unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut served = 0;
    while gateway.profiles()[0].view().refreshed < 4 {
        let requests = (0..8).map(|_| http.get(&url).send());
        for response in futures_util::future::join_all(requests).await {
            assert_eq!(response.unwrap().status(), 200);
            served += 1;
        }
    }
    assert!(served > 500, "{served}");
    assert_eq!(api.refused.load(Ordering::Relaxed), 0, "no expired token was ever sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_revoked_at_the_server_is_replaced() {
    let server = Arc::new(AuthorizationServer::start(60).await);
    let api = Introspecting::start(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let profile = format!("    token_url: {}\n    client_id: {BASIC_CLIENT}\n", server.token_url());
    let gateway = gateway(&folder, &profile, &format!("http://{}", api.address));
    assert_eq!(curl(&gateway, &[]).await, "200");
    let first = api.last.lock().unwrap().clone();
    server.revoke(&first).await;
    assert_eq!(curl(&gateway, &[]).await, "200");
    assert_ne!(*api.last.lock().unwrap(), first);
    assert_eq!((api.refused.load(Ordering::Relaxed), gateway.profiles()[0].view().refreshed), (1, 2));
}

/// An https upstream that answers everything with 200.
async fn https_upstream(folder: &TempDir, names: &[&str]) -> SocketAddr {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn status_over_tls(names: &[&str], trusts: bool) -> (u16, String) {
    let stage = crate::stage::Stage::start().await;
    let folder = tempfile::tempdir().unwrap();
    let address = https_upstream(&folder, names).await;
    let url = format!("https://localhost:{}", address.port());
    let ca = if trusts { ", ca: {file: ca.pem}" } else { "" };
    let route = format!("  all: {{upstream: {{url: \"{url}\"{ca}}}, profile: account}}\n");
    let yaml = stage.yaml.split("routes:\n").next().unwrap().to_owned() + "routes:\n" + &route;
    fs::copy(stage.secret_file(), folder.path().join("secret")).unwrap();
    let loaded = config::parse(&yaml, &folder.path().join("keybearer.yaml"), None);
    let settings = loaded.unwrap_or_else(|problems| panic!("{problems}\n{yaml}")).settings;
    let gateway = app::start(settings, None).unwrap();
    let url = format!("http://{}/", gateway.listener("local").unwrap());
    let request = stage.http.get(url).timeout(Duration::from_secs(20));
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_is_served_when_its_certificate_is_trusted_and_right() {
    assert_eq!(status_over_tls(&["localhost"], true).await, (200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_with_an_untrusted_or_wrong_certificate_gets_nothing() {
    for (names, trusts) in [(&["localhost"], false), (&["elsewhere.example"], true)] {
        let (status, body) = status_over_tls(names, trusts).await;
        assert_eq!(status, 502, "{body}");
        assert!(body.contains("upstream_tls"), "{body}");
    }
}
