//! Credentials that lie in their source, in every place on a request, alone and together.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::Version;
use keybearer::demo::idp::{Account, Idp, TENANT};

use crate::{
    front::Peer,
    judge::{Judge, caller, challenge, gateway, ok, url},
    process::{Process, command},
    stage::{API_URI, AUDIENCE, CLIENT, ROLE, SECRET, eventually, fault, raw},
};

/// A folder with one file for each name and text.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

async fn anything() -> Judge {
    Judge::start(|_| ok()).await
}

#[tokio::test]
async fn each_form_of_a_static_profile_goes_where_it_says() {
    let judge = anything().await;
    let folder = folder(&[("key", "s3cret k&y\n"), ("token", "tok.en\n")]);
    for (form, field, value) in [
        ("bearer: {file: token}", "authorization", "Bearer tok.en"),
        (
            "basic: {username: Aladdin, password: {file: token}}",
            "authorization",
            "Basic QWxhZGRpbjp0b2suZW4=",
        ),
        ("header: {name: X-Api-Key, value: {file: key}}", "x-api-key", "s3cret k&y"),
        (
            "header: {name: Authorization, prefix: \"Token \", value: {file: token}}",
            "authorization",
            "Token tok.en",
        ),
    ] {
        let text = format!(
            "profiles: {{p: {{kind: static, {form}}}}}\nroutes: {{all: {{upstream: \"{}\", profile: p}}}}\n",
            judge.url()
        );
        let gateway = gateway(&folder, &text);
        let request = caller().get(url(&gateway, "/a?b=1")).header("authorization", "Bearer theirs");
        assert_eq!(request.send().await.unwrap().status(), 200, "{form}");
        let seen = judge.last();
        assert_eq!(seen.values(field), [value], "{form}");
        assert_eq!(seen.target, "/a?b=1", "{form}");
        assert!(!format!("{seen:?}").contains("theirs"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_key_in_the_query_takes_the_place_of_every_spelling_of_the_callers() {
    let judge = anything().await;
    let folder = folder(&[("key", "s3cret k&y/é\n")]);
    let text = format!(
        "profiles: {{p: {{kind: static, query: {{name: api_key, value: {{file: key}}}}}}}}\n\
         routes: {{all: {{upstream: \"{}/base\", profile: p}}}}\n",
        judge.url()
    );
    let gateway = gateway(&folder, &text);
    let ours = "api_key=s3cret%20k%26y%2F%C3%A9";
    for (asked, expected) in [
        ("/a", format!("/base/a?{ours}")),
        ("/a?b=%2F&c", format!("/base/a?b=%2F&c&{ours}")),
        ("/a?api_key=theirs", format!("/base/a?{ours}")),
        ("/a?b=1&API%5fKEY=theirs&c=2", format!("/base/a?b=1&c=2&{ours}")),
        ("/a?%61pi_key=theirs&api_key[]=theirs;api.key=theirs", format!("/base/a?{ours}")),
    ] {
        assert_eq!(caller().get(url(&gateway, asked)).send().await.unwrap().status(), 200, "{asked}");
        let seen = judge.last();
        assert_eq!(seen.target, expected, "{asked}");
        assert_eq!(seen.values("authorization"), [""; 0]);
    }
}

/// An identity provider that knows the stage's account, and that account's profile.
async fn account(more: &str) -> (Idp, String) {
    let idp = Idp::start().await.unwrap();
    idp.add_api(API_URI, AUDIENCE);
    idp.add_account(Account::new(CLIENT, SECRET, &[ROLE]));
    let profile = format!(
        "  account: {{kind: entra, authority: \"{}\", tenant: {TENANT}, client_id: {CLIENT}, \
         client_secret: {{file: secret}}, scope: {API_URI}/.default, \
         recovery: {{min_token_age: 0s, min_interval: 0s}}{more}}}\n",
        idp.url()
    );
    (idp, profile)
}

const KEYS: &str = "  key: {kind: static, header: {name: X-Api-Key, value: {file: key}}}\n  \
                    parameter: {kind: static, query: {name: sig, value: {file: other}}}\n";

#[tokio::test]
async fn several_credentials_go_on_one_request_and_each_is_there_once() {
    let folder = folder(&[("key", "k1"), ("other", "k2"), ("secret", SECRET)]);
    let judge = anything().await;
    let (_idp, profile) = account(", also: [key, parameter]").await;
    let routes = format!("routes: {{all: {{upstream: \"{}\", profile: account}}}}\n", judge.url());
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    let request = caller().get(url(&gateway, "/a?sig=theirs&b=1"));
    let request = request.header("x-api-key", "theirs").header("x-api-key", "theirs too");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = judge.last();
    assert!(seen.values("authorization")[0].starts_with("Bearer ey"));
    assert_eq!((seen.values("authorization").len(), seen.values("x-api-key")), (1, vec!["k1"]));
    assert_eq!(seen.target, "/a?b=1&sig=k2");
    let request = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close, x-api-key\r\nX-Api-Key: theirs\r\n\r\n";
    let answer = raw(gateway.listener("local").unwrap(), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "a Connection field names our credential: {answer}");
    assert_eq!(judge.seen().len(), 1);
}

#[tokio::test]
async fn an_upstream_over_http2_gets_the_same_credentials() {
    let folder = folder(&[("key", "k1"), ("other", "k2"), ("secret", SECRET)]);
    let judge = anything().await;
    let (_idp, profile) = account(", also: [key, parameter]").await;
    let upstream = format!("{{url: \"{}\", http2: prior_knowledge}}", judge.url());
    let routes = format!("routes: {{all: {{upstream: {upstream}, profile: account}}}}\n");
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    let request = caller().post(url(&gateway, "/a?sig=theirs")).header("x-api-key", "theirs").body("body");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = judge.last();
    assert_eq!((seen.version, seen.target.as_str()), (Version::HTTP_2, "/a?sig=k2"));
    assert_eq!((seen.values("authorization").len(), seen.values("x-api-key")), (1, vec!["k1"]));
}

#[tokio::test]
async fn without_one_of_several_credentials_nothing_is_forwarded_and_the_fault_names_its_profile() {
    let folder = folder(&[("key", "k\u{f6}1"), ("other", "k2"), ("secret", SECRET)]);
    let judge = anything().await;
    let (_idp, profile) = account(", also: [key, parameter]").await;
    let routes = format!("routes: {{all: {{upstream: \"{}\", profile: account}}}}\n", judge.url());
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    let answer = caller().get(url(&gateway, "/a")).header("x-api-key", "theirs").send().await.unwrap();
    let (status, code, problem) = fault(answer).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("profile \"key\" has no valid token"), "{detail}");
    assert_eq!(judge.seen().len(), 0);
    assert!(judge.seen().is_empty());
}

/// An upstream that takes one key, whichever that is at the moment.
async fn strict(key: &Arc<Mutex<String>>) -> Judge {
    let key = Arc::clone(key);
    Judge::start(move |seen| {
        let is_right = seen.values("x-api-key") == [key.lock().unwrap().as_str()];
        if is_right { ok() } else { challenge("ApiKey realm=\"orders\"") }
    })
    .await
}

fn keyed(judge: &Judge, more: &str) -> String {
    format!(
        "profiles: {{p: {{kind: static, header: {{name: X-Api-Key, value: {{file: key}}}}{more}}}}}\n\
         routes: {{all: {{upstream: \"{}\", profile: p}}}}\n",
        judge.url()
    )
}

#[tokio::test]
async fn a_rotated_key_is_read_at_once_when_the_upstream_refuses_the_old_one() {
    let folder = folder(&[("key", "old")]);
    let taken = Arc::new(Mutex::new("old".to_owned()));
    let judge = strict(&taken).await;
    let gateway = gateway(&folder, &keyed(&judge, ", recovery: {min_interval: 0s}"));
    let ask =
        || async { caller().post(url(&gateway, "/a")).body("body").send().await.unwrap().status().as_u16() };
    assert_eq!(ask().await, 200);
    fs::write(folder.path().join("key"), "new").unwrap();
    *taken.lock().unwrap() = "new".into();
    assert_eq!(ask().await, 200);
    let bodies: Vec<_> =
        judge.seen().iter().map(|seen| (seen.values("x-api-key")[0].to_owned(), seen.body.len())).collect();
    // The file may have been looked at between the two, then there is no refused request.
    assert_eq!(bodies.first().unwrap(), &("old".to_owned(), 4));
    assert_eq!(bodies.last().unwrap(), &("new".to_owned(), 4));
}

#[tokio::test]
async fn a_changed_key_is_noticed_without_a_refusal() {
    let folder = folder(&[("key", "old")]);
    let judge = anything().await;
    let gateway = gateway(&folder, &keyed(&judge, ""));
    eventually("the key is read", || gateway.profiles()[0].is_ready()).await;
    fs::write(folder.path().join("key"), "new").unwrap();
    eventually("the change is noticed", || gateway.profiles()[0].view().generation == 2).await;
    assert_eq!(caller().get(url(&gateway, "/a")).send().await.unwrap().status(), 200);
    assert_eq!(judge.last().values("x-api-key"), ["new"]);
    // What cannot be read takes nothing away.
    fs::write(folder.path().join("key"), "").unwrap();
    eventually("the loss is noticed", || gateway.profiles()[0].view().failed > 0).await;
    assert_eq!(caller().get(url(&gateway, "/a")).send().await.unwrap().status(), 200);
    assert_eq!(judge.last().values("x-api-key"), ["new"]);
}

#[tokio::test]
async fn the_same_key_is_not_sent_to_an_upstream_that_has_refused_it() {
    let stage_folder = folder(&[("key", "wrong")]);
    let judge = strict(&Arc::new(Mutex::new("right".into()))).await;
    let text = keyed(&judge, ", recovery: {min_interval: 0s}") + "admin: {address: \"127.0.0.1:0\"}\n";
    let gateway = gateway(&stage_folder, &text);
    let answer = caller().post(url(&gateway, "/a")).body("body").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["www-authenticate"], "ApiKey realm=\"orders\"");
    assert_eq!(judge.seen().len(), 1);
    let metrics = format!("http://{}/metrics", gateway.admin().unwrap());
    let metrics = caller().get(metrics).send().await.unwrap().text().await.unwrap();
    let line =
        metrics.lines().find(|line| line.contains("outcome=\"same_credential\"") && line.ends_with(" 1"));
    assert!(line.is_some(), "{metrics}");
}

#[tokio::test]
async fn a_provider_that_gives_the_same_token_again_causes_no_second_attempt() {
    // Microsoft's managed identities keep a token for hours, whoever asks.
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let provider = answering(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        r#"{"access_token":"always-the-same","expires_in":3600}"#.into()
    })
    .await;
    let judge = Judge::start(|_| challenge("Bearer error=\"invalid_token\"")).await;
    let text = format!(
        "profiles: {{p: {{kind: oauth2, token_url: \"http://{provider}/token\", auth: none, client_id: c, \
         recovery: {{min_token_age: 0s, min_interval: 0s}}}}}}\n\
         routes: {{all: {{upstream: \"{}\", profile: p}}}}\n",
        judge.url()
    );
    let gateway = gateway(&folder(&[]), &text);
    assert_eq!(caller().get(url(&gateway, "/a")).send().await.unwrap().status(), 401);
    assert_eq!((judge.seen().len(), asked.load(Ordering::SeqCst)), (1, 2));
}

/// A token endpoint that answers 200 with these bodies.
async fn answering(body: impl Fn(usize) -> String + Send + Sync + 'static) -> SocketAddr {
    let body = Arc::new(body);
    let count = Arc::new(AtomicUsize::new(0));
    let router = axum::Router::new().fallback(move || {
        let (body, count) = (Arc::clone(&body), Arc::clone(&count));
        async move { ([("content-type", "application/json")], body(count.fetch_add(1, Ordering::SeqCst))) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

#[tokio::test]
async fn on_a_401_the_token_and_the_keys_beside_it_are_all_had_anew() {
    let folder = folder(&[("key", "old"), ("other", "k2"), ("secret", SECRET)]);
    let judge = Judge::start(|seen| {
        let is_right = seen.values("x-api-key") == ["new"];
        if is_right { ok() } else { challenge("Negotiate") }
    })
    .await;
    let (idp, profile) = account(", also: [key, parameter]").await;
    let routes = format!("routes: {{all: {{upstream: \"{}\", profile: account}}}}\n", judge.url());
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    eventually("all are there", || gateway.profiles().iter().all(|profile| profile.is_ready())).await;
    fs::write(folder.path().join("key"), "new").unwrap();
    assert_eq!(caller().get(url(&gateway, "/a")).send().await.unwrap().status(), 200);
    let seen = judge.seen();
    if seen.len() == 2 {
        assert_ne!(seen[0].values("authorization"), seen[1].values("authorization"));
        assert_eq!(idp.issued(), 2);
    }
    assert_eq!(judge.last().target, "/a?sig=k2");
}

#[tokio::test]
async fn a_websocket_starts_with_every_credential() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = folder(&[("key", "k1"), ("other", "k2"), ("secret", SECRET)]);
    let (_idp, profile) = account(", also: [key, parameter]").await;
    let address = listener.local_addr().unwrap();
    let routes = format!("routes: {{all: {{upstream: \"http://{address}\", profile: account}}}}\n");
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    let mut caller = Peer::connect(gateway.listener("local").unwrap()).await;
    let wish = "GET /a?sig=theirs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                X-Api-Key: theirs\r\nAuthorization: Bearer theirs\r\n\r\n";
    caller.send(wish).await;
    let asked = Peer::accept(&listener).await.head().await.to_lowercase();
    assert!(asked.starts_with("get /a?sig=k2 http/1.1\r\n"), "{asked}");
    assert_eq!(asked.matches("authorization: bearer ey").count(), 1, "{asked}");
    assert_eq!(asked.matches("x-api-key: k1\r\n").count(), 1, "{asked}");
    assert!(!asked.contains("theirs"), "{asked}");
}

/// gRPC says "no" inside a 200, in the header of an answer without a body.
#[tokio::test]
async fn a_grpc_call_is_made_again_with_the_rotated_key_and_everything_beside_it() {
    let folder = folder(&[("key", "old"), ("other", "k2"), ("secret", SECRET)]);
    let judge = Judge::start(|seen| {
        let status = if seen.values("x-api-key") == ["new"] { "0" } else { "16" };
        (200, vec![("content-type", "application/grpc".into()), ("grpc-status", status.into())])
    })
    .await;
    let (_idp, profile) = account(", also: [key, parameter]").await;
    let upstream = format!("{{url: \"{}\", http2: prior_knowledge}}", judge.url());
    let routes = format!("routes: {{all: {{upstream: {upstream}, profile: account}}}}\n");
    let gateway = gateway(&folder, &format!("profiles:\n{profile}{KEYS}{routes}"));
    eventually("all are there", || gateway.profiles().iter().all(|profile| profile.is_ready())).await;
    fs::write(folder.path().join("key"), "new").unwrap();
    let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = http.post(url(&gateway, "/test.Orders/Get")).header("content-type", "application/grpc");
    let answer =
        call.header("te", "trailers").header("x-api-key", "theirs").body("\0\0\0\0\0").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"0".parse().unwrap()));
    let seen = judge.last();
    assert_eq!((seen.version, seen.target.as_str()), (Version::HTTP_2, "/test.Orders/Get?sig=k2"));
    assert_eq!((seen.values("x-api-key"), seen.values("authorization").len()), (vec!["new"], 1));
    assert_eq!(seen.body, b"\0\0\0\0\0");
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_never_followed_with_the_key() {
    let folder = folder(&[("key", "k1")]);
    let judge = Judge::start(|_| (302, vec![("location", "http://elsewhere.example/x?a=1".into())])).await;
    let gateway = gateway(&folder, &keyed(&judge, ""));
    let answer = caller().get(url(&gateway, "/a")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), judge.seen().len()), (302, 1));
    assert_eq!(answer.headers()["location"], "http://elsewhere.example/x?a=1");
}

#[tokio::test]
async fn no_key_gets_into_logs_metrics_faults_or_explanations() {
    let folder = folder(&[("key", "canary-header"), ("other", "canary-query"), ("secret", SECRET)]);
    let judge = Judge::start(|_| challenge("ApiKey")).await;
    let profiles = "profiles:\n  key: {kind: static, also: [parameter], header: {name: X-Api-Key, value: {file: key}}}\n  \
                    parameter: {kind: static, query: {name: sig, value: {file: other}}}\n";
    let text = format!(
        "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nadmin: {{address: \"127.0.0.1:0\"}}\n{profiles}\
         routes:\n  all: {{upstream: \"{}\", profile: key}}\n  \
         gone: {{match: {{path: /gone}}, upstream: \"http://127.0.0.1:1\", profile: key}}\n",
        judge.url()
    );
    let path = folder.path().join("keybearer.yaml");
    fs::write(&path, text).unwrap();
    let process = Process::start_with(&path, &["--log-level", "trace"]).await;
    for path in ["/a?sig=theirs", "/gone?b"] {
        let answer = caller().get(process.url(path)).send().await.unwrap();
        let shown = format!("{:?} {}", answer.headers().clone(), answer.text().await.unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
    let said = judge.last().target;
    assert_eq!(said, "/a?sig=canary-query");
    eventually("two lines are written", || {
        process.lines().iter().filter(|line| line.contains("\"access\"")).count() == 2
    })
    .await;
    let lines = process.lines().join("\n");
    assert!(!lines.contains("canary"), "{lines}");
    let explained =
        command(&["explain", "--config", path.to_str().unwrap(), "GET", "/a?b=1"]).output().unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("parameter") && !explained.contains("canary"), "{explained}");
}
