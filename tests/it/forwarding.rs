//! What reaches the upstream, and what comes back to the caller.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    hostile::Hostile,
    stage::{CLIENT, Plan, ROLE, Stage, fault},
};

#[tokio::test]
async fn a_request_without_credentials_reaches_the_api_with_the_accounts_token() {
    let stage = Stage::start().await;
    let response = stage.get("/v1/orders?page=2").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-served-by"], "demo-api");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["seen"]["account"], CLIENT);
    assert_eq!(body["seen"]["roles"], serde_json::json!([ROLE]));
    assert_eq!(stage.api.last().unwrap().target, "/v1/orders?page=2");
    assert_eq!(stage.idp.requests(), 1);
}

#[tokio::test]
async fn exactly_one_authorization_arrives_and_it_is_never_the_callers() {
    let stage = Stage::start().await;
    let request = stage
        .http
        .get(stage.url("/v1/orders"))
        .header("authorization", "Bearer canary-theirs")
        .header("authorization", "Basic canary-theirs")
        .header("proxy-authorization", "Basic canary-theirs")
        .header("x-kept", "yes");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let seen = stage.api.last().unwrap();
    assert_eq!(seen.values("authorization").len(), 1);
    assert!(seen.values("authorization")[0].starts_with("Bearer ey"));
    assert!(seen.values("proxy-authorization").is_empty());
    assert_eq!(seen.values("x-kept"), ["yes"]);
    assert!(!seen.headers.iter().any(|(_, value)| value.contains("canary")));
}

#[tokio::test]
async fn host_is_the_upstreams_unless_it_shall_be_preserved() {
    let stage = Plan::default()
        .routes(
            "usual: {match: {path: /v1}, upstream: \"{api}\", profile: account}\n\
             kept: {match: {path: /kept}, upstream: \"{api}\", profile: account, preserve_host: true}",
        )
        .start()
        .await;
    let authority = stage.api.url().replace("http://", "");
    let with_host = |path| stage.http.get(stage.url(path)).header("host", "daemon.internal:81").send();
    with_host("/v1/x").await.unwrap();
    assert_eq!(stage.api.last().unwrap().values("host"), [authority]);
    with_host("/kept/x").await.unwrap();
    assert_eq!(stage.api.last().unwrap().values("host"), ["daemon.internal:81"]);
}

#[tokio::test]
async fn the_upstream_gets_base_path_and_path_with_or_without_the_prefix() {
    let stage = Plan::default()
        .routes(
            "kept: {match: {path: /a}, upstream: \"{api}/base\", profile: account}\n\
             stripped: {match: {path: /b/c}, upstream: \"{api}/base\", profile: account, strip_path: true}",
        )
        .start()
        .await;
    for (asked, expected) in [
        ("/a/x?q=%2F&q=1", "/base/a/x?q=%2F&q=1"),
        ("/b/c/x?y", "/base/x?y"),
        ("/b/c", "/base"),
        ("/b/c/", "/base/"),
        ("/a/%6f%7Eb", "/base/a/o~b"),
    ] {
        stage.get(asked).await;
        assert_eq!(stage.api.last().unwrap().target, expected, "{asked}");
    }
}

#[tokio::test]
async fn the_most_specific_route_wins_and_what_matches_nothing_goes_nowhere() {
    let stage = Plan::default()
        .routes(
            "any: {match: {path: /v1}, upstream: \"{api}/any\", profile: account}\n\
             host: {match: {host: gold.internal, path: /v1}, upstream: \"{api}/host\", profile: account}\n\
             deep: {match: {path: /v1/deep}, upstream: \"{api}/deep\", profile: account}\n\
             post: {match: {path: /v1, methods: [POST]}, upstream: \"{api}/post\", profile: account}\n\
             tier: {match: {path: /v1, headers: {x-tier: gold}}, upstream: \"{api}/tier\", profile: account}",
        )
        .start()
        .await;
    let target = async |request: reqwest::RequestBuilder| {
        let status = request.send().await.unwrap().status();
        assert_eq!(status, 200);
        stage.api.last().unwrap().target
    };
    let get = |path: &str| stage.http.get(stage.url(path));
    assert_eq!(target(get("/v1/x")).await, "/any/v1/x");
    assert_eq!(target(get("/v1/deep/x")).await, "/deep/v1/deep/x");
    assert_eq!(target(get("/v1/x").header("host", "GOLD.internal.:80")).await, "/host/v1/x");
    assert_eq!(target(get("/v1/x").header("x-tier", "gold")).await, "/tier/v1/x");
    assert_eq!(target(stage.http.post(stage.url("/v1/x"))).await, "/post/v1/x");
    let before = stage.api.requests();
    let (status, code, problem) = fault(stage.get("/v1x").await).await;
    assert_eq!((status, code.as_str()), (404, "no_route"));
    assert_eq!(problem["route"], Value::Null);
    assert_eq!(stage.api.requests(), before);
}

#[tokio::test]
async fn a_route_without_profile_drops_the_callers_credential_unless_told_to_pass_it() {
    let stage = Plan::default()
        .routes(
            "status: {match: {path: /status}, upstream: \"{api}\", profile: none}\n\
             passed: {match: {path: /status/own}, upstream: \"{api}\", profile: none, pass_authorization: true}\n\
             used: {match: {path: /v1}, upstream: \"{api}\", profile: account}",
        )
        .start()
        .await;
    let send = |path| stage.http.get(stage.url(path)).header("authorization", "Basic own").send();
    send("/status").await.unwrap();
    assert!(stage.api.last().unwrap().values("authorization").is_empty());
    send("/status/own").await.unwrap();
    assert_eq!(stage.api.last().unwrap().values("authorization"), ["Basic own"]);
}

#[tokio::test]
async fn a_redirect_is_the_callers_to_follow() {
    let stage = Stage::start().await;
    stage.api.answer_next_with(302, &[("location", "https://elsewhere.example/x")], "", 1);
    let response = stage.get("/v1/orders").await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "https://elsewhere.example/x");
    assert_eq!(stage.api.requests(), 1);
}

#[tokio::test]
async fn a_request_id_is_taken_over_or_made_and_is_the_same_on_both_sides() {
    let stage = Stage::start().await;
    let given = stage.http.get(stage.url("/v1/a")).header("x-request-id", "abc-1").send().await.unwrap();
    assert_eq!(given.headers()["x-request-id"], "abc-1");
    assert_eq!(stage.api.last().unwrap().values("x-request-id"), ["abc-1"]);
    let made = stage.get("/v1/a").await;
    let id = made.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(id.len(), 32);
    assert_eq!(stage.api.last().unwrap().values("x-request-id"), [id]);
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let stage = Stage::start().await;
    let raw = stage
        .raw(
            "GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nTE: gzip\r\n\
             Keep-Alive: timeout=9\r\nUpgrade: tls/1.3\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
    let seen = stage.api.last().unwrap();
    for name in ["connection", "x-hop", "te", "keep-alive", "upgrade", "proxy-connection"] {
        assert!(seen.values(name).is_empty(), "{name}");
    }
    assert_eq!(seen.values("x-kept"), ["1"]);
    assert!(seen.values("via")[0].starts_with("1.1 kb-"));
}

#[tokio::test]
async fn what_came_over_http_1_0_is_told_so_and_its_answers_end_with_the_connection_or_have_a_length() {
    let stage = Stage::start().await;
    let kept = "GET /v1/orders HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    let raw = stage.raw(&format!("{kept}GET /v1/last HTTP/1.0\r\nHost: a\r\n\r\n")).await;
    assert_eq!(raw.matches("HTTP/1.0 200 OK\r\n").count(), 2, "{raw}");
    assert!(stage.api.last().unwrap().values("via")[0].starts_with("1.0 kb-"));
    // Without a length its end is that of the connection.
    let up =
        Hostile::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let stage = up.stage("").await;
    let raw = stage.raw(kept).await.to_lowercase();
    assert!(raw.contains("\r\nconnection: close\r\n") && !raw.contains("keep-alive"), "{raw}");
    assert!(raw.ends_with("\r\n\r\nok"), "{raw}");
}

#[tokio::test]
async fn a_request_that_comes_back_to_the_gateway_is_a_loop() {
    let stage = Stage::start().await;
    stage.get("/v1/orders").await;
    let via = stage.api.last().unwrap().values("via")[0].to_owned();
    let again = stage.http.get(stage.url("/v1/orders")).header("via", via).send().await.unwrap();
    let (status, code, _) = fault(again).await;
    assert_eq!((status, code.as_str()), (508, "loop"));
    assert_eq!(stage.api.requests(), 1);
}

#[tokio::test]
async fn head_keeps_its_length_and_has_no_body() {
    let stage = Stage::start().await;
    let response = stage.http.head(stage.url("/v1/orders")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.unwrap().is_empty());
    // The connection is in order: the next request over it is answered.
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn http_1_0_callers_are_served() {
    let stage = Stage::start().await;
    let raw = stage.raw("GET /v1/orders HTTP/1.0\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.0 200") || raw.starts_with("HTTP/1.1 200"), "{raw}");
    assert!(raw.contains("\"orders\""), "{raw}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::start().await;
    let one = "GET /v1/one HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = "POST /v1/two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let three = "GET /v1/three HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let raw = stage.raw(format!("{one}{two}{three}")).await;
    let places = ["/v1/one", "/v1/two", "/v1/three"].map(|path| raw.find(path));
    assert_eq!(raw.matches("HTTP/1.1 200").count(), 3, "{raw}");
    assert!(places.is_sorted() && places[0].is_some(), "{raw}");
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_with_words() {
    let stage = Stage::start().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    stage.api.go_down().await.unwrap();
    let (status, code, problem) = fault(stage.get("/v1/orders").await).await;
    assert_eq!((status, code.as_str()), (502, "upstream_unreachable"));
    assert_eq!(problem["route"], "orders");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with("`keybearer doctor --route orders` says why"), "{detail}");
    stage.api.come_back().await.unwrap();
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let stage = Plan::default().more("timeouts: {response: 300ms}").start().await;
    stage.ready().await;
    stage.api.set_delay(Duration::from_secs(20));
    let response = stage.get("/v1/orders").await;
    let proxy_status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
    let (status, code, problem) = fault(response).await;
    assert_eq!((status, code.as_str()), (504, "upstream_timeout"));
    assert!(proxy_status.contains("error=http_response_timeout"), "{proxy_status}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("response head") && detail.contains("response_timeout"), "{detail}");
}

/// The limit is for TCP and TLS together: the first upstream takes no connection, the second says nothing on it.
#[tokio::test]
async fn an_upstream_that_cannot_be_connected_to_in_time_is_a_504() {
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let mut waiting = Vec::new();
    let connect = || TcpStream::connect(full.local_addr().unwrap());
    while let Ok(stream) = timeout(Duration::from_millis(300), connect()).await {
        waiting.push(stream.unwrap());
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let routes = format!(
        "full: {{match: {{path: /full}}, upstream: \"http://{}\", profile: account}}\n\
         silent: {{match: {{path: /silent}}, upstream: \"https://{}\", profile: account}}",
        full.local_addr().unwrap(),
        silent.local_addr().unwrap()
    );
    let stage = Plan::default().routes(&routes).more("timeouts: {connect: 500ms}").start().await;
    stage.ready().await;
    for path in ["/full", "/silent"] {
        let begun = Instant::now();
        let response = stage.get(path).await;
        let proxy_status = response.headers()["proxy-status"].to_str().unwrap().to_owned();
        let (status, code, problem) = fault(response).await;
        assert_eq!((status, code.as_str()), (504, "upstream_timeout"), "{path}");
        // Nothing was sent, so it is not the answer that was late.
        assert!(proxy_status.contains("error=connection_timeout"), "{path}: {proxy_status}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("timeouts.connect")
                && detail.contains("keybearer doctor")
                && !detail.contains("response"),
            "{path}: {detail}"
        );
        // Neither before its time, nor when the system's own patience ends.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(4), "{path}: {took:?}");
    }
}
