//! Callers that nobody here wrote: curl, requests, httpx, Node and Java, over HTTP/1.1 and HTTP/2.
//!
//! Each sends the same requests, with an `Authorization` of its own that must not get through, and a
//! token that is revoked on the way, of which it must not notice anything.

use std::{fs, process::Command};

use keybearer::demo::api::Seen;
use serde_json::Value;

use crate::{front::Front, programs::Program, stage::Plan};

fn plain(front: &Front) -> String {
    format!("http://{}", front.plain())
}

fn secure(front: &Front) -> String {
    format!("https://{}", front.secure())
}

/// What every caller does, `ask` being how it is told to: a command, a URL and perhaps a length.
async fn converse(front: &Front, caller: &mut Program, base: &str, version: &str) {
    let stage = &front.stage;
    let url = format!("{base}/v1/things");
    let answer = caller.ask(&format!("get {url}")).await;
    check(&answer, version, "GET", 0);
    // The next ones go on the same connection where the caller keeps it.
    for length in [0, 1, 100 * 1024] {
        let answer = caller.ask(&format!("post {url} {length}")).await;
        check(&answer, version, "POST", length);
        unchanged(&stage.api.last().unwrap(), length);
    }
    let answer = caller.ask(&format!("chunked {url} 50000")).await;
    check(&answer, version, "POST", 50_000);
    unchanged(&stage.api.last().unwrap(), 50_000);
    for command in ["get", "post", "chunked"] {
        let issued = stage.idp.issued();
        stage.idp.revoke_all();
        let (order, length) = if command == "get" {
            (format!("get {url}"), 0)
        } else {
            (format!("{command} {url} 100000"), 100_000)
        };
        let answer = caller.ask(&order).await;
        check(&answer, version, if command == "get" { "GET" } else { "POST" }, length);
        unchanged(&stage.api.last().unwrap(), length);
        assert_eq!(stage.idp.issued(), issued + 1, "a token for {command}");
    }
    for _ in 0..5 {
        check(&caller.ask(&format!("get {url}")).await, version, "GET", 0);
    }
}

/// What the caller printed: status, version and the API's echo.
fn check(answer: &str, version: &str, method: &str, length: usize) {
    let (status, rest) = answer.split_once(' ').unwrap();
    let (spoken, body) = rest.split_once(' ').unwrap();
    assert_eq!((status, spoken), ("200", version), "{answer}");
    let echo: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    assert_eq!(echo["method"], method, "{answer}");
    assert_eq!(echo["body"]["length"], length, "{answer}");
    assert_eq!(echo["headers"]["authorization"], 1, "{answer}");
}

/// What the API saw: the caller's bytes, a token, and nothing of the caller's own credential.
fn unchanged(seen: &Seen, length: usize) {
    assert_eq!((seen.status, seen.body_length), (200, length as u64));
    assert_eq!(seen.body_sha256, sha256(&pattern(length)));
    let token = seen.token().expect("one bearer token");
    assert_eq!(token.matches('.').count(), 2, "the token is the profile's own");
    assert!(seen.values("authorization").iter().all(|value| !value.contains("the-callers-own")));
    for name in ["upgrade", "http2-settings", "connection", "keep-alive", "te"] {
        assert!(seen.values(name).is_empty(), "{name} belongs to the caller's connection");
    }
}

/// The bytes that the programs send as a body of this length.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_requests_gets_through() {
    let front = Front::start(Plan::default()).await;
    let mut caller = Program::python("http_requests.py", &[]);
    converse(&front, &mut caller, &plain(&front), "HTTP/1.1").await;
    caller.finish().await;
    let mut caller = Program::python("http_requests.py", &[&front.certificate()]);
    converse(&front, &mut caller, &secure(&front), "HTTP/1.1").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_httpx_gets_through_over_http_1() {
    let front = Front::start(Plan::default()).await;
    let mut caller = Program::python("http_httpx.py", &["1"]);
    converse(&front, &mut caller, &plain(&front), "HTTP/1.1").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_httpx_gets_through_over_http_2() {
    let front = Front::start(Plan::default()).await;
    let mut caller = Program::python("http_httpx.py", &["2"]);
    converse(&front, &mut caller, &plain(&front), "HTTP/2").await;
    caller.finish().await;
    let mut caller = Program::python("http_httpx.py", &["2", &front.certificate()]);
    converse(&front, &mut caller, &secure(&front), "HTTP/2").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_gets_through_over_http_1() {
    let front = Front::start(Plan::default()).await;
    let mut caller = Program::node("http_fetch.mjs", &[]);
    converse(&front, &mut caller, &plain(&front), "-").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_gets_through_over_http_2() {
    let front = Front::start(Plan::default()).await;
    let mut caller = Program::node("http_node2.mjs", &[&plain(&front)]);
    converse(&front, &mut caller, &plain(&front), "HTTP/2").await;
    caller.finish().await;
    let mut caller = Program::node("http_node2.mjs", &[&secure(&front), &front.certificate()]);
    converse(&front, &mut caller, &secure(&front), "HTTP/2").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_gets_through_over_http_1() {
    let front = Front::start(Plan::default()).await;
    let Some(mut caller) = Program::java("HttpCaller.java", &["1"]) else { return };
    converse(&front, &mut caller, &plain(&front), "HTTP/1.1").await;
    caller.finish().await;
}

/// Java's default is to offer an upgrade to h2c with the first request. A route may have it ignored, as
/// RFC 9110 §7.8 allows: the request is served, and the offer stays at the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_that_offers_h2c_gets_through_over_http_1() {
    let route = "orders: {match: {path: /v1}, upstream: \"{api}\", profile: account, h2c: ignore}";
    let front = Front::start(Plan::default().routes(route)).await;
    let Some(mut caller) = Program::java("HttpCaller.java", &["2"]) else { return };
    converse(&front, &mut caller, &plain(&front), "HTTP/1.1").await;
    caller.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_gets_through_over_http_2() {
    let front = Front::start(Plan::default()).await;
    let Some(mut caller) = Program::java("HttpCaller.java", &["2", &front.certificate()]) else { return };
    converse(&front, &mut caller, &secure(&front), "HTTP/2").await;
    caller.finish().await;
}

/// Runs curl once; it prints what the programs print.
async fn curl(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-m", "20", "-H", "authorization: Bearer the-callers-own"]);
    command.args(["-w", "\n%{http_code} HTTP/%{http_version} %{num_connects}\n"]).args(arguments);
    let running = tokio::task::spawn_blocking(move || command.output().expect("curl is installed"));
    let output = running.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {}: {said}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// curl is one process for each conversation: bodies come from a file, several URLs share a connection.
async fn converse_with_curl(front: &Front, base: &str, how: &[&str], version: &str) {
    let (stage, url) = (&front.stage, format!("{base}/v1/things"));
    let upload = stage.folder.path().join("upload");
    fs::write(&upload, pattern(100 * 1024)).unwrap();
    let data = format!("@{}", upload.display());
    let echo = |lines: &[String], method: &str, length: usize| {
        let [body, facts] = lines else { panic!("{lines:?}") };
        let (facts, connects) = facts.rsplit_once(' ').unwrap();
        let (status, spoken) = facts.split_once(' ').unwrap();
        check(&format!("{status} {spoken} {body}"), version, method, length);
        connects.parse::<u32>().unwrap()
    };
    for is_revoked in [false, true] {
        for (arguments, method, length) in [
            (vec![], "GET", 0),
            (vec!["--data-binary", &data], "POST", 100 * 1024),
            (vec!["--data-binary", &data, "-H", "transfer-encoding: chunked"], "POST", 100 * 1024),
            (vec!["-T", upload.to_str().unwrap()], "PUT", 100 * 1024),
        ] {
            if is_revoked {
                stage.idp.revoke_all();
            }
            let lines = curl(&[how, &arguments, &[&url]].concat()).await;
            echo(&lines, method, length);
            unchanged(&stage.api.last().unwrap(), length);
        }
    }
    if how.contains(&"--http2-prior-knowledge") {
        // curl 7.88 breaks off when it uses such a connection again, whoever serves it.
        return;
    }
    let lines = curl(&[how, &[&url, &url, &url]].concat()).await;
    let connects: u32 = lines.chunks(2).map(|answer| echo(answer, "GET", 0)).sum();
    assert_eq!((lines.len(), connects), (6, 1), "three requests, one connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_through_over_http_1() {
    let front = Front::start(Plan::default()).await;
    converse_with_curl(&front, &plain(&front), &["--http1.1"], "HTTP/1.1").await;
    let trusting = ["--http1.1", "--cacert", &front.certificate()];
    converse_with_curl(&front, &secure(&front), &trusting, "HTTP/1.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_through_over_http_2() {
    let front = Front::start(Plan::default()).await;
    converse_with_curl(&front, &plain(&front), &["--http2-prior-knowledge"], "HTTP/2").await;
    let trusting = ["--http2", "--cacert", &front.certificate()];
    converse_with_curl(&front, &secure(&front), &trusting, "HTTP/2").await;
}
