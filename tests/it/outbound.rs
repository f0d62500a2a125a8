//! The way to identity providers: proxies, and certificate authorities of their own.

use std::{
    convert::Infallible,
    fs,
    future::pending,
    net::SocketAddr,
    path::Path,
    process::Output,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use keybearer::app::Running;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    peer::{Authority, Tls},
    process::command,
    stage::{CLIENT, SECRET, Stage, eventually, start_file},
};

/// The name of a provider that only a proxy knows the way to.
const NAME: &str = "id.provider.example";

/// The stage's provider behind TLS. Ends with the test's runtime.
pub(crate) async fn behind_tls(stage: &Stage, authority: &Authority, name: &str) -> SocketAddr {
    let acceptor = Tls { name, alpn: &["http/1.1"], ..Tls::new(authority) }.acceptor();
    let provider = address(stage.idp.url());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(pass(acceptor.clone(), stream, provider));
        }
    });
    own
}

async fn pass(acceptor: TlsAcceptor, stream: TcpStream, to: SocketAddr) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut provider = TcpStream::connect(to).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut provider).await;
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().trim_end_matches('/').parse().unwrap()
}

/// A proxy that knows the way to [`NAME`], and what it was asked for.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(tunnel(stream, to, Arc::clone(&shared)));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn tunnel(mut stream: TcpStream, to: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    asked.lock().unwrap().push(String::from_utf8(head).unwrap());
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let mut server = TcpStream::connect(to).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut server).await;
}

/// A configuration with one account at `token_url`, in the stage's folder.
fn write(stage: &Stage, token_url: &str, more: &str) -> std::path::PathBuf {
    let text = format!(
        "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nworkers: 1\nprofiles:\n  plain:\n    kind: oauth2\n    \
         token_url: {token_url}\n    client_id: {CLIENT}\n    client_secret: {{file: secret}}\n    scope: read\n{more}\
         routes: {{all: {{upstream: \"{}\", profile: plain}}}}\n",
        stage.api.url(),
    );
    let path = stage.folder.path().join("outbound.yaml");
    fs::write(&path, text).unwrap();
    path
}

async fn failure(gateway: &Running) -> String {
    eventually("the profile has failed", || gateway.profiles()[0].view().failed > 0).await;
    gateway.profiles()[0].view().error.unwrap().to_string()
}

/// `keybearer token` with these variables.
async fn token(path: &Path, variables: &[(&str, &str)]) -> Output {
    run(&["token", "plain", "--config", path.to_str().unwrap()], variables).await
}

/// The profile's steps that `keybearer doctor` tells: name, outcome, what was seen and what it means.
async fn examined(path: &Path, variables: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let path = path.to_str().unwrap();
    let output = run(&["doctor", "--json", "--profile", "plain", "--config", path], variables).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = report["profiles"][0]["steps"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told = |step: &Value| format!("{}; {}", text(&step["seen"]), text(&step["meaning"]));
    steps.iter().map(|step| (text(&step["step"]), text(&step["outcome"]), told(step))).collect()
}

async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(arguments);
    for name in
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"]
    {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A provider that offers HTTP/2, and whose first connection goes mute after its first answer, as behind a firewall
/// that has forgotten it. Gives its address, and how many connections there have been.
async fn going_mute(authority: &Authority) -> (SocketAddr, Arc<AtomicUsize>) {
    let (acceptor, connections) = (Tls::new(authority).acceptor(), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (own, count) = (listener.local_addr().unwrap(), Arc::clone(&connections));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
            let (acceptor, asked) = (acceptor.clone(), Arc::new(AtomicUsize::new(0)));
            let answer = service_fn(move |_: Request<Incoming>| {
                let is_mute = asked.fetch_add(1, Ordering::Relaxed) > 0 && is_first;
                async move {
                    if is_mute {
                        pending::<()>().await;
                    }
                    let body = r#"{"access_token":"t","token_type":"Bearer","expires_in":3}"#;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
                }
            });
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    });
    (own, connections)
}

/// Each attempt renewed the idle time of the HTTP/2 connection that it was lost on.
#[tokio::test]
async fn a_connection_to_the_provider_that_has_gone_mute_is_not_used_again() {
    let (stage, authority) = (Stage::start().await, Authority::new());
    let (provider, connections) = going_mute(&authority).await;
    let ways = format!("    token_timeout: 500ms\n    ca: {{file: {}}}\n", authority.file().display());
    let url = format!("https://localhost:{}/oauth2/token", provider.port());
    let gateway = start_file(&write(&stage, &url, &ways), None);
    eventually("the token is renewed", || gateway.profiles()[0].view().refreshed > 1).await;
    assert!(connections.load(Ordering::Relaxed) > 1);
    assert_eq!(gateway.profiles()[0].view().failed, 1, "the next attempt succeeds");
}

#[tokio::test]
async fn a_proxy_sees_the_providers_name_and_nothing_of_the_request() {
    let (stage, authority) = (Stage::start().await, Authority::new());
    let proxy = Proxy::start(behind_tls(&stage, &authority, NAME).await).await;
    let ways = format!("    proxy: {}\n    ca: {{file: {}}}\n", proxy.url, authority.file().display());
    let gateway = start_file(&write(&stage, &format!("https://{NAME}/oauth2/token"), &ways), None);
    eventually("the token is there", || gateway.profiles()[0].is_ready()).await;
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with(&format!("CONNECT {NAME}:443 HTTP/1.1\r\n")), "{asked:?}");
    assert!(!asked[0].contains(CLIENT) && !asked[0].contains("canary"), "{asked:?}");
}

#[tokio::test]
async fn the_environments_proxy_is_used_unless_the_profile_says_off() {
    let (stage, authority) = (Stage::start().await, Authority::new());
    let proxy = Proxy::start(behind_tls(&stage, &authority, NAME).await).await;
    let (url, ca) = (format!("https://{NAME}/oauth2/token"), authority.file());
    let ca = format!("    ca: {{file: {}}}\n", ca.display());
    let path = write(&stage, &url, &ca);
    let output = token(&path, &[("HTTPS_PROXY", &proxy.url)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(proxy.asked().len(), 1);
    let path = write(&stage, &url, &format!("{ca}    proxy: off\n"));
    let output = token(&path, &[("HTTPS_PROXY", &proxy.url)]).await;
    assert!(!output.status.success());
    assert_eq!(proxy.asked().len(), 1, "the profile said off");
}

#[tokio::test]
async fn loopback_is_never_reached_through_a_proxy() {
    let stage = Stage::start().await;
    let proxy = Proxy::start(address(stage.idp.url())).await;
    let way = format!("    proxy: {}\n", proxy.url);
    let path = write(&stage, &stage.idp.plain_token_url(), &way);
    let output = token(&path, &[("ALL_PROXY", &proxy.url), ("HTTP_PROXY", &proxy.url)]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_what_the_error_names() {
    let stage = Stage::start().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let way = format!("    proxy: http://{unused}\n");
    let gateway = start_file(&write(&stage, &format!("https://{NAME}/oauth2/token"), &way), None);
    let error = failure(&gateway).await;
    assert!(error.contains("the proxy cannot be used"), "{error}");
}

#[tokio::test]
async fn only_the_profiles_own_authorities_count_whatever_the_environment_says() {
    let (stage, right, foreign) = (Stage::start().await, Authority::new(), Authority::new());
    let server = behind_tls(&stage, &right, "localhost").await;
    let url = format!("https://localhost:{}/oauth2/token", server.port());
    let ca = |authority: &Authority| format!("    ca: {{file: {}}}\n", authority.file().display());
    let output = token(&write(&stage, &url, &ca(&right)), &[]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A variable that names the right ones does not make the wrong ones right.
    let right_file = right.file();
    let path = write(&stage, &url, &ca(&foreign));
    let output = token(&path, &[("SSL_CERT_FILE", right_file.to_str().unwrap())]).await;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "a foreign authority was trusted");
    assert!(
        words.contains("the TLS handshake failed") && words.contains("invalid peer certificate"),
        "{words}"
    );
    assert!(!words.contains(SECRET), "{words}");
}

#[tokio::test]
async fn authorities_are_followed_when_their_file_changes_and_kept_when_it_breaks() {
    let (stage, right, foreign) = (Stage::start().await, Authority::new(), Authority::new());
    let server = behind_tls(&stage, &right, "localhost").await;
    let ca = stage.folder.path().join("ca.pem");
    fs::copy(foreign.file(), &ca).unwrap();
    let url = format!("https://localhost:{}/oauth2/token", server.port());
    let ways = "    ca: {file: ca.pem}\n    recovery: {min_token_age: 0s, min_interval: 0s}\n";
    let gateway = start_file(&write(&stage, &url, ways), None);
    let error = failure(&gateway).await;
    assert!(error.contains("the TLS handshake failed"), "{error}");
    fs::copy(right.file(), &ca).unwrap();
    eventually("the right authorities are used", || gateway.profiles()[0].is_ready()).await;
    fs::write(&ca, "-----BEGIN CERT").unwrap();
    let (issued, generation) = (stage.idp.issued(), gateway.profiles()[0].view().generation);
    assert_eq!(gateway.profiles()[0].reject(generation, None), None);
    stage.idp.wait_for_issued(issued + 1).await;
}

#[tokio::test]
async fn the_doctor_judges_a_provider_by_the_profiles_authorities_and_names_the_proxy() {
    let (stage, right, foreign) = (Stage::start().await, Authority::new(), Authority::new());
    let server = behind_tls(&stage, &right, "localhost").await;
    let url = format!("https://localhost:{}/oauth2/token", server.port());
    let ca = |authority: &Authority| format!("    ca: {{file: {}}}\n", authority.file().display());
    let tls = |steps: &[(String, String, String)]| steps.iter().find(|step| step.0 == "tls").unwrap().clone();
    let steps = examined(&write(&stage, &url, &ca(&right)), &[]).await;
    assert!(steps.iter().all(|step| step.1 == "ok"), "{steps:?}");
    assert!(tls(&steps).2.contains("issued by"), "{steps:?}");
    let steps = examined(&write(&stage, &url, &ca(&foreign)), &[]).await;
    assert_eq!(tls(&steps).1, "failed");
    assert!(tls(&steps).2.contains("not trusted here"), "{steps:?}");

    let proxy = Proxy::start(behind_tls(&stage, &right, NAME).await).await;
    let url = format!("https://{NAME}/oauth2/token");
    let steps = examined(&write(&stage, &url, &ca(&right)), &[("HTTPS_PROXY", &proxy.url)]).await;
    assert!(steps.iter().all(|step| step.1 == "ok"), "{steps:?}");
    assert!(steps.iter().any(|step| step.0 == "proxy" && step.2.contains(&proxy.url)), "{steps:?}");
}
