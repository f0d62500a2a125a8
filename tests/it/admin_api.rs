//! The API of the admin listener: reading is open on loopback, changing needs the token.

use std::{fs, os::unix::fs::PermissionsExt as _};

use keybearer::config;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    process::Process,
    stage::{Plan, Stage, eventually, start_file},
};

async fn start() -> Stage {
    let stage = Plan::default().more("state_dir: state").start().await;
    stage.ready().await;
    stage
}

fn url(stage: &Stage, path: &str) -> String {
    format!("http://{}/api/v1{path}", stage.gateway.admin().unwrap())
}

async fn read(stage: &Stage, path: &str) -> Value {
    let answer = stage.http.get(url(stage, path)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

fn token(stage: &Stage) -> String {
    fs::read_to_string(stage.folder.path().join("state/admin-token")).unwrap().trim().to_owned()
}

async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// A change by somebody who has the token.
async fn change(stage: &Stage, path: &str, body: Value) -> (StatusCode, Value) {
    send(stage.http.post(url(stage, path)).bearer_auth(token(stage)).json(&body)).await
}

#[tokio::test]
async fn everybody_on_loopback_reads_and_no_token_is_ever_shown() {
    let stage = start().await;
    assert_eq!(stage.status("/v1/a").await, 200);
    let status = read(&stage, "/status").await;
    assert_eq!((&status["ready"], &status["stopping"]), (&json!(true), &json!(false)));
    let routes = read(&stage, "/routes").await;
    assert_eq!((&routes[0]["name"], &routes[0]["profile"]), (&json!("orders"), &json!("account")));
    assert_eq!(routes[0]["requests"]["2xx"], 1);
    let profiles = read(&stage, "/profiles").await;
    assert_eq!((&profiles[0]["generation"], &profiles[0]["routes"]), (&json!(1), &json!(["orders"])));
    assert!(profiles[0]["expires_at"].as_u64() > profiles[0]["next_request_at"].as_u64());
    assert_eq!(read(&stage, "/listeners").await[0]["name"], "local");
    let configuration = read(&stage, "/configuration").await;
    assert_eq!(configuration["reading"]["refused"], Value::Null);
    for shown in [&status, &routes, &profiles, &configuration] {
        let text = shown.to_string();
        assert!(!text.contains("eyJ") && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn the_latest_faults_and_401s_are_told_without_what_was_asked_for() {
    let stage = start().await;
    assert_eq!(stage.status("/v1/a").await, 200);
    assert_eq!(read(&stage, "/recent").await, json!([]), "an ordinary request is none of them");
    let lost = stage.http.get(stage.url("/nowhere?secret=1")).header("x-request-id", "find-me");
    assert_eq!(lost.send().await.unwrap().status(), 404);
    let recent = read(&stage, "/recent").await;
    let fault = &recent[0];
    assert_eq!((&fault["what"], &fault["code"]), (&json!("fault"), &json!("no_route")));
    assert_eq!((&fault["status"], &fault["request_id"]), (&json!(404), &json!("find-me")));
    assert_eq!((&fault["route"], &fault["number"]), (&Value::Null, &json!(1)));
    assert!(!recent.to_string().contains("secret"), "{recent}");
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/a").await, 200);
    let recovery = &read(&stage, "/recent").await[0];
    assert_eq!((&recovery["what"], &recovery["code"]), (&json!("unauthorized"), &json!("recovered")));
    assert_eq!((&recovery["route"], &recovery["profile"]), (&json!("orders"), &json!("account")));
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens_until_the_gateway_stops() {
    let stage = start().await;
    let mut events = stage.http.get(url(&stage, "/events")).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut text = next(&mut events).await.unwrap();
    assert_eq!(text, ": alive\n\n", "the past is not told");
    assert_eq!(stage.status("/nowhere").await, 404);
    let (status, _) = change(&stage, "/profiles/account/refresh", json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(change(&stage, "/reload", json!({})).await.0, 200);
    stage.idp.set_secrets(crate::stage::CLIENT, &["another"]);
    assert_eq!(change(&stage, "/profiles/account/refresh", json!({})).await.0, 502);
    for part in [
        "\"kind\":\"token_failed\"",
        "\"kind\":\"fault\"",
        "\"code\":\"no_route\"",
        "\"kind\":\"token\"",
        "\"kind\":\"reload\"",
    ] {
        while !text.contains(part) {
            text += &next(&mut events).await.unwrap_or_else(|| panic!("{part} is not in {text}"));
        }
    }
    assert!(!text.contains("canary") && !text.contains("eyJ"), "{text}");
    stage.gateway.stop();
    while next(&mut events).await.is_some() {}
}

/// The next piece of a stream; `None` at its end.
async fn next(stream: &mut reqwest::Response) -> Option<String> {
    let piece = tokio::time::timeout(crate::stage::PATIENCE, stream.chunk()).await.expect("in time").unwrap();
    piece.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn no_more_than_sixteen_read_events() {
    let stage = start().await;
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(stage.http.get(url(&stage, "/events")).send().await.unwrap());
    }
    let (status, problem) = send(stage.http.get(url(&stage, "/events"))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("too_many_readers")));
    drop(readers.pop());
    let again =
        async { while stage.http.get(url(&stage, "/events")).send().await.unwrap().status() != 200 {} };
    tokio::time::timeout(crate::stage::PATIENCE, again).await.expect("a place becomes free");
}

#[tokio::test]
async fn a_running_gateway_explains_what_would_become_of_a_request() {
    let stage = start().await;
    let taken = read(&stage, "/explain?url=http://orders.internal/v1/a%3Fpage=2").await;
    assert_eq!((&taken["route"], &taken["profile"]), (&json!("orders"), &json!("account")));
    assert!(taken["upstream"].as_str().unwrap().ends_with("/v1/a?page=2"), "{taken}");
    let lost = read(&stage, "/explain?method=POST&url=/other").await;
    assert_eq!(lost["fault"]["code"], "no_route");
    assert!(lost["near_misses"][0]["reasons"][0].as_str().unwrap().contains("not under"), "{lost}");
    for question in ["", "?url=http://[", "?method=G%20T&url=/", "?url=/&header=a"] {
        let (status, problem) = send(stage.http.get(url(&stage, &format!("/explain{question}")))).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_question")), "{question}");
    }
    assert_eq!(stage.api.requests(), 0, "nothing is sent");
}

#[tokio::test]
async fn the_token_is_made_at_the_first_start_for_the_gateways_user_only() {
    let stage = start().await;
    let path = stage.folder.path().join("state/admin-token");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let first = token(&stage);
    assert!(first.len() >= 43, "256 bits");
    drop(start_file(&stage.folder.path().join("keybearer.yaml"), None));
    assert_eq!(token(&stage), first, "it stays");
}

#[tokio::test]
async fn changes_without_the_token_or_from_another_page_are_refused() {
    let stage = start().await;
    let post = || stage.http.post(url(&stage, "/reload"));
    let (status, problem) = send(post().json(&json!({}))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (401, &json!("token_needed")));
    let guessed = post().bearer_auth("guess").json(&json!({})).send().await.unwrap();
    assert_eq!(guessed.status(), 401);
    // RFC 9110 §15.5.2
    assert_eq!(guessed.headers()["www-authenticate"], "Bearer");
    let (status, problem) = send(post().bearer_auth(token(&stage)).body("{}")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (415, &json!("not_json")));
    let foreign = post().bearer_auth(token(&stage)).header("origin", "http://evil.example");
    assert_eq!(send(foreign.json(&json!({}))).await.0, 403);
    let rebound = stage.http.get(url(&stage, "/routes")).header("host", "evil.example");
    assert_eq!(send(rebound).await.0, 421);
    // Names and errors are in these as well.
    for (path, status) in [("/metrics", 421), ("/readyz", 421), ("/", 421), ("/livez", 200)] {
        let root = format!("http://{}{path}", stage.gateway.admin().unwrap());
        let answer = stage.http.get(&root).header("host", "evil.example").send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(stage.http.get(&root).send().await.unwrap().status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_route_is_switched_and_undone_over_the_api() {
    let stage = start().await;
    let second = stage.yaml.split_once("profiles:\n").unwrap().1.split_once("routes:\n").unwrap().0;
    let second = second.replace("  account:", "  other:");
    let text = stage.yaml.replace("routes:\n", &format!("{second}routes:\n"));
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    let (status, body) = change(&stage, "/reload", json!({})).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) =
        change(&stage, "/routes/orders/switch", json!({"profile": "other", "for": "1h"})).await;
    assert_eq!(
        (status.as_u16(), &body["from"], &body["is_kept"]),
        (200, &json!("account"), &json!(true)),
        "{body}"
    );
    let route = &read(&stage, "/routes").await[0];
    assert_eq!((&route["profile"], &route["switched"]["from"]), (&json!("other"), &json!("account")));
    let (status, _) = change(&stage, "/routes/orders/undo", json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(read(&stage, "/routes").await[0]["profile"], "account");
    let history = read(&stage, "/configuration").await["history"].clone();
    assert_eq!((&history[0]["action"], &history[1]["action"]), (&json!("undo"), &json!("switch")));
    assert_eq!(history[1]["by"], "admin token, 127.0.0.1");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_a_code() {
    let stage = start().await;
    let cases = [
        ("/routes/orders/switch", json!({"profile": "nobody"}), 404, "not_defined"),
        ("/routes/nowhere/switch", json!({"profile": "account"}), 404, "not_defined"),
        ("/routes/orders/switch", json!({"profile": "account"}), 409, "already_so"),
        ("/routes/orders/switch", json!({"profile": "account", "for": "soon"}), 400, "bad_span"),
        ("/routes/orders/switch", json!({"profil": "account"}), 400, "bad_body"),
        ("/routes/orders/undo", json!({}), 409, "already_so"),
        ("/routes/nowhere/undo", json!({}), 404, "not_defined"),
        ("/environment/switch", json!({"environment": "staging"}), 404, "not_defined"),
        ("/profiles/nobody/refresh", json!({}), 404, "not_defined"),
    ];
    for (path, body, status, code) in cases {
        let (got, problem) = change(&stage, path, body.clone()).await;
        assert_eq!(
            (got.as_u16(), problem["code"].as_str()),
            (status, Some(code)),
            "{path} {body}: {problem}"
        );
    }
    fs::write(stage.folder.path().join("keybearer.yaml"), "listeners: 1\n").unwrap();
    let (status, problem) = change(&stage, "/reload", json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (422, Some("configuration_invalid")));
    assert!(read(&stage, "/configuration").await["reading"]["refused"].as_str().unwrap().contains(":1:12:"));
}

#[tokio::test]
async fn an_operator_has_a_token_fetched_after_a_change_at_the_provider() {
    let stage = start().await;
    assert_eq!(stage.idp.issued(), 1);
    let (status, body) = change(&stage, "/profiles/account/refresh", json!({})).await;
    assert_eq!((status.as_u16(), &body["done"]), (200, &json!(true)), "{body}");
    assert_eq!(stage.idp.issued(), 2);
    stage.idp.set_secrets(crate::stage::CLIENT, &["another"]);
    let (status, problem) = change(&stage, "/profiles/account/refresh", json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (502, Some("no_token")));
    assert!(problem["detail"].as_str().unwrap().contains("AADSTS7000215"), "{problem}");
    assert_eq!(stage.status("/v1/a").await, 200, "the token there is goes on to be used");
}

#[tokio::test]
async fn who_may_write_to_the_unix_socket_may_change() {
    let plan = Plan::default().more("admin: {address: \"unix:admin.sock\", socket: {mode: \"0600\"}}");
    let stage = plan.start().await;
    let path = stage.folder.path().join("admin.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = "POST /api/v1/reload HTTP/1.1\r\nHost: keybearer\r\nConnection: close\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn the_document_describes_every_path_there_is() {
    let stage = start().await;
    let document = read(&stage, "/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 17);
    for (path, methods) in paths {
        let path = path.replace("{route}", "orders").replace("{profile}", "account");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let url = url(&stage, path.strip_prefix("/api/v1").unwrap());
            let request = stage.http.request(method, url).bearer_auth(token(&stage)).json(&json!({}));
            let status = request.send().await.unwrap().status();
            assert!(status != 404 && status != 405, "{path}: {status}");
        }
    }
    let (status, problem) = send(stage.http.get(url(&stage, "/nothing"))).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (404, Some("nothing_here")));
    let (status, _) =
        send(stage.http.post(url(&stage, "/routes")).bearer_auth(token(&stage)).json(&json!({}))).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_method_that_does_nothing_is_told_so_before_a_token_is_asked_for() {
    let stage = start().await;
    for (method, path, allowed) in [
        ("DELETE", "/status", "GET,HEAD"),
        ("PUT", "/reload", "POST"),
        ("GET", "/reload", "POST"),
        ("PATCH", "/log-level", "PUT"),
        ("POST", "/log-level", "PUT"),
    ] {
        let request = stage.http.request(method.parse().unwrap(), url(&stage, path));
        let answer = request.send().await.unwrap();
        let found = answer.headers().get("allow").map(|value| value.to_str().unwrap()).unwrap_or_default();
        assert_eq!((answer.status().as_u16(), found), (405, allowed), "{method} {path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "method_not_allowed");
    }
    assert_eq!(read(&stage, "/configuration").await["reading"]["done"], 0);
}

#[tokio::test]
async fn an_admin_token_that_everybody_can_read_is_warned_of() {
    let stage = start().await;
    let path = stage.folder.path().join("state/admin-token");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let well = Process::start(&stage, &[]).await;
    eventually("it runs", || well.has_logged("keybearer runs")).await;
    assert!(!well.has_logged("can be read by everybody"));
    drop(well);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let open = Process::start(&stage, &[]).await;
    eventually("it is told", || open.has_logged("the admin token can be read by everybody")).await;
}

#[tokio::test]
async fn browsers_get_a_page_that_may_load_nothing_and_run_nothing_else() {
    let stage = start().await;
    let root = format!("http://{}/", stage.gateway.admin().unwrap());
    let page = stage.http.get(root).header("accept", "text/html,*/*").send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    assert_eq!(page.headers()["referrer-policy"], "no-referrer");
    let html = page.text().await.unwrap();
    assert!(html.contains("<title>Keybearer</title>") && !html.contains("{script}"));
    for outside in ["innerHTML", "sessionStorage", "localStorage", "https://", " style=\""] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn an_admin_listener_for_everybody_needs_tls_and_a_token() {
    let text = "listeners: {local: {address: \"127.0.0.1:0\"}}\nadmin: {address: \"0.0.0.0:9901\"}\n\
                routes: {a: {upstream: \"http://127.0.0.1:9\", profile: none}}\n";
    let problems = config::parse(text, "keybearer.yaml".as_ref(), None).unwrap_err().to_string();
    assert!(
        problems
            .contains("keybearer.yaml:2:18: admin: address 0.0.0.0:9901 is not loopback, so it needs tls")
    );
    assert!(problems.contains("needs a token (set token, or state_dir)"), "{problems}");
}

#[tokio::test]
async fn every_answer_to_a_change_is_in_the_document() {
    let stage = start().await;
    let document = read(&stage, "/openapi.json").await;
    for (path, expected) in [
        ("/reload", &["200", "400", "401", "409", "415", "422", "507"][..]),
        ("/routes/{route}/switch", &["200", "400", "401", "404", "409", "415", "422", "502", "507"]),
        ("/routes/{route}/undo", &["200", "400", "401", "404", "409", "415", "422", "502", "507"]),
        ("/environment/switch", &["200", "400", "401", "404", "409", "415", "422", "502", "507"]),
        ("/environment/undo", &["200", "400", "401", "409", "415", "422", "502", "507"]),
    ] {
        let answers = document["paths"][format!("/api/v1{path}")]["post"]["responses"].as_object().unwrap();
        let has = |code: &&&str| answers.contains_key(**code);
        let missing: Vec<_> = expected.iter().filter(|code| !has(code)).collect();
        assert!(missing.is_empty(), "{path}: {missing:?}");
    }
}
