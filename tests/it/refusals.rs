//! Requests that must not be forwarded: the answer says why, and nothing reaches the upstream.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::stage::{PATIENCE, Plan, Stage, fault};

/// Sends `request`; it must be refused with `status` and `code`, and nothing must be forwarded.
async fn check(stage: &Stage, request: &str, status: u16, code: &str) -> String {
    let before = stage.api.requests();
    let answer = stage.raw(request).await;
    let shown = request.get(..request.len().min(200)).unwrap_or_default();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?} gave {answer}");
    assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{shown:?} gave {answer}");
    assert!(answer.to_lowercase().contains("proxy-status: keybearer; error="), "{answer}");
    assert_eq!(stage.api.requests(), before, "{shown:?} reached the upstream");
    answer
}

fn get(fields: &str) -> String {
    format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn every_shape_of_smuggling_is_refused_and_the_connection_closed() {
    let stage = Stage::start().await;
    stage.ready().await;
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X-A: b\r\n folded\r\n",
        "X-A: b\nX-B: c\r\n",
        "X-A: b\rc\r\n",
        "X-A: b\0c\r\n",
        "X A: b\r\n",
        ": b\r\n",
        "no colon\r\n",
    ] {
        check(&stage, &get(fields), 400, "bad_request").await;
    }
    // What comes behind a refused request is never served.
    let smuggled = "GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n" + smuggled;
    let answer = check(&stage, &request, 400, "bad_request").await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn sloppy_chunks_are_refused_before_anything_is_forwarded() {
    let stage = Stage::start().await;
    stage.ready().await;
    for chunks in
        ["5;\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX"]
    {
        let head = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&stage, &format!("{head}{chunks}"), 400, "bad_request").await;
    }
}

#[tokio::test]
async fn a_refusal_is_answered_in_its_place_among_pipelined_requests() {
    let stage = Stage::start().await;
    stage.ready().await;
    let good = "GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = stage.raw(format!("{good}{good}{}", get("X A: b\r\n"))).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    assert_eq!(stage.api.requests(), 2);
}

#[tokio::test]
async fn a_bad_host_is_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host:\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a,b\r\n",
        "Host: a b\r\n",
        "Host: a:port\r\n",
        "Host: [::1\r\n",
    ] {
        let request = format!("GET /v1/orders HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        check(&stage, &request, 400, "bad_request").await;
    }
    let request = "GET http://b/v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    check(&stage, request, 400, "bad_request").await;
    let request = "GET http://a/v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(stage.raw(request).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_path_that_can_be_read_in_two_ways_is_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for path in [
        "/v1/../admin",
        "/v1/./x",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/%252e%252e/admin",
        "/v1/..%2fadmin",
        "/v1/x%2fy",
        "/v1/x%5cy",
        "/v1/..\\admin",
        "/v1/x%00",
        "/v1/..;/admin",
        "/v1//x",
        "//v1/x",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/%zz",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let before = stage.api.requests();
        let answer = stage.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert_eq!(stage.api.requests(), before, "{path}");
    }
    let request = "GET /v1/\u{e9} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    check(&stage, request, 400, "bad_request").await;
}

#[tokio::test]
async fn a_lenient_route_takes_what_some_apis_need_and_no_dot_segments() {
    let stage = Plan::default()
        .routes("lenient: {match: {path: /v1}, upstream: \"{api}\", profile: account, path_check: lenient}")
        .start()
        .await;
    for path in ["/v1/a%2Fb", "/v1//x", "/v1/x;v=1"] {
        assert_eq!(stage.status(path).await, 200, "{path}");
        assert_eq!(stage.api.last().unwrap().target, path);
    }
    for path in ["/v1/..%2fadmin", "/v1/%2e%2e/x"] {
        let answer = stage.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn methods_that_would_leak_or_tunnel_are_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for (line, words) in [
        ("TRACE /v1/orders", "TRACE is never forwarded"),
        ("CONNECT api.internal:443", "CONNECT is never forwarded"),
        ("CONNECT /v1/orders", "CONNECT is never forwarded"),
        ("FOO /v1/orders", "FOO is not usual, so the route must list it in methods"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = check(&stage, &request, 405, "method_refused").await;
        assert!(answer.contains(words), "{line} gave {answer}");
    }
    let request = "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    check(&stage, request, 200, "last_hop").await;
    let request = "GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    check(&stage, request, 400, "bad_request").await;
    let listed = Plan::default()
        .routes("dav: {match: {path: /v1, methods: [PROPFIND]}, upstream: \"{api}\", profile: account}")
        .start()
        .await;
    let answer = listed.raw("PROPFIND /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn nominations_and_expectations_that_we_cannot_keep_are_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for name in ["authorization", "host", "content-length", "cookie", "x-request-id"] {
        let request = format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\n\r\n");
        check(&stage, &request, 400, "bad_request").await;
    }
    check(&stage, &get("Expect: miracles\r\n"), 417, "bad_request").await;
    check(&stage, &get("Upgrade: websocket\r\nContent-Length: 3\r\n"), 400, "bad_request").await;
}

#[tokio::test]
async fn what_is_too_large_is_named() {
    let stage =
        Plan::default().more("limits: {header_bytes: 4KiB, headers: 20, uri_bytes: 1KiB}").start().await;
    stage.ready().await;
    check(&stage, &get(&format!("X-A: {}\r\n", "a".repeat(5000))), 431, "too_large").await;
    let answer = check(&stage, &get(&"X-A: b\r\n".repeat(25)), 431, "too_large").await;
    for key in ["limits.headers ", "limits.header_bytes ", "limits.http2_header_bytes "] {
        assert!(answer.contains(key), "which limit it is cannot be seen from outside: {answer}");
    }
    let uri = "a".repeat(2000);
    check(&stage, &format!("GET /v1/{uri} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "too_large").await;
    // More than any buffer holds, and without an end.
    check(&stage, &format!("GET /{}", "a".repeat(100_000)), 414, "too_large").await;
    check(&stage, &get(&format!("X-A: {}", "a".repeat(100_000))), 431, "too_large").await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

/// The HTTP library has limits of its own and no words for them; ours come first.
#[tokio::test]
async fn what_is_too_large_is_named_also_when_all_is_allowed_that_may_be() {
    let stage = Plan::default().more("limits: {header_bytes: 1MiB, uri_bytes: 65534B}").start().await;
    stage.ready().await;
    let target = |bytes: usize| {
        format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "a".repeat(bytes - 1))
    };
    check(&stage, &target(65_534), 404, "no_route").await;
    check(&stage, &target(65_535), 414, "too_large").await;
    check(&stage, &get(&format!("{}: b\r\n", "a".repeat(65_536))), 431, "too_large").await;
    let name = "a".repeat(65_535);
    let answer = stage.raw(get(&format!("{name}: b\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    assert_eq!(stage.api.last().map(|seen| seen.values(&name).len()), Some(1), "{answer}");
}

#[tokio::test]
async fn the_defaults_take_a_large_header_and_a_long_uri() {
    let stage = Stage::start().await;
    stage.ready().await;
    let (value, query) = ("a".repeat(30_000), "q".repeat(15_000));
    let request =
        format!("GET /v1/orders?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: {value}\r\n\r\n");
    let answer = stage.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..answer.len().min(500)]);
    assert_eq!(stage.api.last().unwrap().values("x-a"), [value]);
}

#[tokio::test]
async fn a_head_that_does_not_get_complete_is_ended() {
    let stage = Plan::default().more("timeouts: {header_read: 300ms}").start().await;
    let before = stage.api.requests();
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.write_all(b"GET /v1/orders HTTP/1.1\r\nHost:").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(stage.api.requests(), before);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_and_not_before() {
    let stage = Plan::default().more("timeouts: {idle: 700ms}").start().await;
    stage.ready().await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let began = tokio::time::Instant::now();
    stream.write_all(b"GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() > Duration::from_millis(600));
}

#[tokio::test]
async fn a_head_in_pieces_is_a_request_like_any_other() {
    let stage = Stage::start().await;
    stage.ready().await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stage.api.last().unwrap().body_length, 4);
}

#[tokio::test]
async fn a_fault_names_route_and_request() {
    let stage = Stage::start().await;
    stage.ready().await;
    let response =
        stage.http.get(stage.url("/v1/a%2fb")).header("x-request-id", "id-1").send().await.unwrap();
    let (status, code, problem) = fault(response).await;
    assert_eq!((status, code.as_str()), (400, "bad_request"));
    assert_eq!(problem["route"], "orders");
    assert_eq!(problem["request_id"], "id-1");
}
