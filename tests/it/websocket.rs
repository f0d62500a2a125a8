//! Upgraded connections: WebSocket over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441), and what must not become one.

use std::time::Duration;

use crate::{
    counters::becomes,
    frames::{
        DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Reader, SETTINGS, WINDOW_UPDATE, Writer,
        connect, field, frame, setting,
    },
    front::{Front, Peer, played},
    programs::Program,
    stage::{PATIENCE, Plan, Stage},
};

/// The cases of `tests/clients/ws_client.mjs`.
const NODE_CASES: [&str; 10] = [
    "text",
    "binary",
    "large",
    "many",
    "ping_by_the_caller",
    "ping_by_the_api",
    "close_by_the_caller",
    "close_by_the_api",
    "subprotocol",
    "refused",
];
/// The cases of `tests/clients/ws_client.py`.
const PYTHON_CASES: [&str; 8] =
    ["text", "binary", "large", "fragments", "ping", "close_by_the_caller", "close_by_the_api", "refused"];
/// The cases of `tests/clients/ws_over_http2.py`.
const HTTP_2_CASES: [&str; 12] = [
    "text",
    "binary",
    "large",
    "ping",
    "close_by_the_caller",
    "close_by_the_api",
    "subprotocol",
    "refused",
    "several_on_one_connection",
    "bytes_before_the_answer",
    "an_unknown_protocol",
    "a_connect_without_protocol",
];

/// A handshake with the key of RFC 6455 §1.3.
pub(crate) const HANDSHAKE: &str = "GET /v1/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Authorization: Bearer the-callers-own\r\n\r\n";
/// Its answer, which has to arrive unchanged: the caller computes the last field from the key.
pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A WebSocket API that demands a token, and the plan of a gateway in front of it.
async fn server() -> (Program, Plan) {
    let mut server = Program::node("ws_server.mjs", &[]);
    let ready = server.hear().await;
    let port: u16 = ready.strip_prefix("ready ").unwrap_or_else(|| panic!("{ready}")).parse().unwrap();
    let route = format!("all: {{upstream: \"http://127.0.0.1:{port}\", profile: account}}");
    (server, Plan::default().routes(&route))
}

async fn all_pass(mut caller: Program, cases: &[&str]) {
    caller.say("all");
    for case in cases {
        assert_eq!(caller.hear().await, format!("ok {case}"));
    }
    assert_eq!(caller.finish().await, ["done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_ws_gets_through() {
    let (_server, plan) = server().await;
    let front = Front::start(plan).await;
    all_pass(Program::node("ws_client.mjs", &[&format!("ws://{}", front.plain())]), &NODE_CASES).await;
    let secure = [&format!("wss://{}", front.secure()), front.certificate().as_str()].map(str::to_owned);
    all_pass(Program::node("ws_client.mjs", &secure.each_ref().map(String::as_str)), &NODE_CASES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_websockets_gets_through() {
    let (_server, plan) = server().await;
    let front = Front::start(plan).await;
    all_pass(Program::python("ws_client.py", &[&format!("ws://{}", front.plain())]), &PYTHON_CASES).await;
    let (url, certificate) = (format!("wss://{}", front.secure()), front.certificate());
    all_pass(Program::python("ws_client.py", &[&url, &certificate]), &PYTHON_CASES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_over_http_2_gets_through() {
    let (_server, plan) = server().await;
    let front = Front::start(plan).await;
    all_pass(Program::python("ws_over_http2.py", &[&front.plain()]), &HTTP_2_CASES).await;
    let (address, certificate) = (front.secure(), front.certificate());
    all_pass(Program::python("ws_over_http2.py", &[&address, &certificate]), &HTTP_2_CASES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_revoked_before_the_handshake_is_replaced() {
    let (mut server, plan) = server().await;
    let stage = plan.start().await;
    stage.ready().await;
    let address = stage.address();
    let url = format!("ws://{address}");
    let callers = [
        Program::node("ws_client.mjs", &[&url]),
        Program::python("ws_client.py", &[&url]),
        Program::python("ws_over_http2.py", &[&address.to_string()]),
    ];
    for mut caller in callers {
        assert_eq!(caller.ask("text").await, "ok text");
        let issued = stage.idp.issued();
        server.say("revoke");
        while server.hear().await != "revoked" {}
        assert_eq!(caller.ask("text").await, "ok text");
        assert_eq!(handshake(&mut server).await, "upgrade /echo refused");
        assert_eq!(handshake(&mut server).await, "upgrade /echo ok");
        assert_eq!(stage.idp.issued(), issued + 1);
        caller.finish().await;
    }
}

/// What the server says of the next handshake; it also tells when connections close.
async fn handshake(server: &mut Program) -> String {
    loop {
        let line = server.hear().await;
        if line.starts_with("upgrade ") {
            return line;
        }
    }
}

/// A tunnel through a stage's gateway: the caller's end and the upstream's.
async fn tunnel(more: &str) -> (Peer, Peer, Stage) {
    let (listener, stage) = played(more).await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(HANDSHAKE).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send(SWITCH).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 101 "));
    (caller, upstream, stage)
}

#[tokio::test]
async fn the_handshake_goes_on_with_the_token_and_nothing_of_the_callers_credential() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(HANDSHAKE).await;
    let mut upstream = Peer::accept(&listener).await;
    let asked = upstream.head().await.to_lowercase();
    assert_eq!(asked.matches("authorization: ").count(), 1, "{asked}");
    assert!(asked.contains("authorization: bearer ey"), "{asked}");
    assert!(!asked.contains("the-callers-own"), "{asked}");
    for field in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-version: 13\r\n"] {
        assert_eq!(asked.matches(field).count(), 1, "{field:?} in {asked}");
    }
    assert!(asked.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n"), "{asked}");
    upstream.send(SWITCH).await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let lower = answer.to_lowercase();
    for field in ["connection: upgrade\r\n", "upgrade: websocket\r\n"] {
        assert_eq!(lower.matches(field).count(), 1, "{field:?} in {answer}");
    }
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
}

#[tokio::test]
async fn bytes_flow_both_ways_as_they_are() {
    let (mut caller, mut upstream, _stage) = tunnel("").await;
    // Neither HTTP nor WebSocket: what is in a tunnel is none of the gateway's business.
    let noise: Vec<u8> = (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for part in noise.chunks(70_000) {
        caller.send(part).await;
        assert_eq!(upstream.take(part.len()).await, part);
        upstream.send(part).await;
        assert_eq!(caller.take(part.len()).await, part);
    }
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_not_lost() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(format!("{HANDSHAKE}first words")).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    // Nothing of the tunnel may come before the upstream has agreed to it.
    assert!(upstream.is_silent_for(Duration::from_millis(200)).await);
    upstream.send(format!("{SWITCH}and an answer")).await;
    assert_eq!(upstream.take(11).await, b"first words");
    caller.head().await;
    assert_eq!(caller.take(13).await, b"and an answer");
}

/// RFC 9110 §7.8: no tunnel before the upstream has agreed to it.
#[tokio::test]
async fn bytes_behind_a_refused_handshake_are_never_the_upstreams() {
    for smuggled in ["SMUGGLED words", "GET /v1/smuggled HTTP/1.1\r\nX: SMUGGLED\r\n\r\n"] {
        for answer in [
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: other\r\nContent-Length: 2\r\n\r\nno",
        ] {
            let (listener, stage) = played("").await;
            let mut caller = Peer::connect(stage.address()).await;
            caller.send(format!("{HANDSHAKE}{smuggled}")).await;
            let mut upstream = Peer::accept(&listener).await;
            upstream.head().await;
            upstream.send(answer).await;
            let status = answer.split(' ').nth(1).unwrap();
            assert!(caller.head().await.contains(status));
            caller.until("no").await;
            // Words that are no request, or one without a Host: either ends the connection.
            caller.rest().await;
            drop(stage);
            assert_eq!(upstream.rest().await, "", "behind {answer:?}");
        }
    }
}

/// RFC 9110 §15.5.22: the answer is worth nothing without the protocol's name.
#[tokio::test]
async fn a_426_says_what_to_speak_instead() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream
        .send("HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade, x-hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno")
        .await;
    let head = caller.head().await.to_lowercase();
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    assert!(!head.contains("x-hop"), "{head}");
    assert_eq!(caller.take(2).await, b"no");
    // The connection goes on.
    caller.send("GET /v1/again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(upstream.head().await.contains("/v1/again"));
}

/// A valid request behind a refused handshake is the next request of that connection, judged as any other.
#[tokio::test]
async fn a_request_behind_a_refused_handshake_is_a_request() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller
        .send(format!("{HANDSHAKE}GET /v1/../admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
        .await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    caller.until("\r\n\r\nno").await;
    let rest = caller.rest().await;
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{rest}");
    drop(stage);
    assert_eq!(upstream.rest().await, "");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_upstream_error() {
    let (listener, stage) = played("").await;
    for request in [
        "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        // Asked for, but for something else.
        HANDSHAKE.replace("websocket\r\n", "something-else\r\n"),
    ] {
        let mut caller = Peer::connect(stage.address()).await;
        caller.send(&request).await;
        let mut upstream = Peer::accept(&listener).await;
        upstream.head().await;
        upstream.send(format!("{SWITCH}whatever")).await;
        let answer = caller.head().await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.contains("upstream_protocol"), "{answer}");
        assert_eq!(upstream.rest().await, "", "nothing more is sent there");
    }
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for framing in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let head = HANDSHAKE.trim_end_matches("\r\n");
        let answer = stage.raw(format!("{head}\r\n{framing}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(stage.api.requests(), 0);
}

/// The whole connection would be the upstream's to read, the next request with it.
#[tokio::test]
async fn an_upgrade_to_h2c_never_leaves_the_gateway() {
    let routes = "refusing: {match: {path: /v1}, upstream: \"{api}\", profile: account}\n\
                  ignoring: {match: {path: /v2}, upstream: \"{api}\", profile: account, h2c: ignore}";
    let stage = Plan::default().routes(routes).start().await;
    stage.ready().await;
    let offers = ["h2c", "H2C", "h2c, websocket", "websocket, h2c", "h2", "HTTP/2.0"];
    for (upgrade, path) in offers.iter().flat_map(|offer| [(offer, "/v1"), (offer, "/v2")]) {
        let answer = stage
            .raw(format!(
                "GET {path}/things HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                 Upgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
            ))
            .await;
        let expected = if path == "/v1" { "HTTP/1.1 400 " } else { "HTTP/1.1 200 " };
        assert!(answer.starts_with(expected), "{upgrade}: {answer}");
        for seen in stage.api.history() {
            for name in ["http2-settings", "connection"] {
                assert!(seen.values(name).is_empty(), "{name} for {upgrade}");
            }
            let asked = seen.values("upgrade").concat().to_lowercase();
            assert!(!asked.contains("h2"), "{asked} for {upgrade}");
        }
    }
}

#[tokio::test]
async fn either_side_may_stop_sending_and_go_on_listening() {
    let (mut caller, mut upstream, stage) = tunnel("").await;
    caller.send("the last of mine").await;
    caller.half_close().await;
    assert_eq!(upstream.rest().await, "the last of mine");
    upstream.send("and mine").await;
    upstream.half_close().await;
    assert_eq!(caller.rest().await, "and mine");
    drop(stage);

    let (mut caller, mut upstream, _stage) = tunnel("").await;
    upstream.half_close().await;
    assert_eq!(caller.rest().await, "");
    caller.send("still here").await;
    caller.half_close().await;
    assert_eq!(upstream.rest().await, "still here");
}

#[tokio::test]
async fn a_tunnel_ends_for_one_when_the_other_is_gone() {
    let (caller, mut upstream, _stage) = tunnel("").await;
    drop(caller);
    assert_eq!(upstream.rest().await, "");
    let (mut caller, upstream, _stage) = tunnel("").await;
    drop(upstream);
    assert_eq!(caller.rest().await, "");
}

#[tokio::test]
async fn a_silent_tunnel_ends_after_its_time_and_a_busy_one_does_not() {
    let (mut caller, mut upstream, stage) = tunnel("timeouts: {stream: 500ms}").await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..15 {
        ticks.tick().await;
        upstream.send("x").await;
        assert_eq!(caller.take(1).await, b"x");
    }
    // Three times its limit, and it is still open. Now nobody says anything.
    let ended = async { (caller.rest().await, upstream.rest().await) };
    assert_eq!(tokio::time::timeout(PATIENCE, ended).await.unwrap(), (String::new(), String::new()));
    let series = "keybearer_connections_ended_total{listener=\"local\",reason=\"silent_tunnel\"}";
    becomes(&stage, series, 1).await;
}

/// The header block of a handshake by RFC 8441.
fn extended_connect() -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/v1/socket"),
        ("sec-websocket-version", "13"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The upstream's answer, with the proof for the key that the gateway has made up.
const SWITCH_2: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";

fn proof(asked: &str) -> String {
    let key = asked.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-key: "));
    let key = key.unwrap().split_once(": ").unwrap().1;
    let sum = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, sum.as_bytes());
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, sum)
}

/// A tunnel over HTTP/2, after the caller has read the answer.
async fn tunnel_over_http_2(more: &str) -> (Reader, Writer, Peer, Stage) {
    let (listener, stage) = played(more).await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    let settings = reader.find(|f| f.kind == SETTINGS && f.flags == 0).await.unwrap().payload;
    assert!(settings.chunks(6).any(|s| s == setting(8, 1)), "extended CONNECT is offered: {settings:?}");
    assert!(writer.send(&frame(HEADERS, END_HEADERS, 1, &extended_connect())).await);
    let mut upstream = Peer::accept(&listener).await;
    let asked = upstream.head().await;
    upstream.send(format!("{SWITCH_2}Sec-WebSocket-Accept: {}\r\n\r\n", proof(&asked))).await;
    assert!(reader.find(|f| f.kind == HEADERS).await.unwrap().has_status(200));
    (reader, writer, upstream, stage)
}

#[tokio::test]
async fn bytes_behind_a_handshake_over_http_2_that_is_refused_are_never_the_upstreams() {
    let (listener, stage) = played("").await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    let smuggled = frame(DATA, 0, 1, b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(writer.send(&[frame(HEADERS, END_HEADERS, 1, &extended_connect()), smuggled].concat()).await);
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = reader.find(|f| f.kind == DATA && !f.payload.is_empty()).await.unwrap();
    assert_eq!(answer.payload, b"no");
    drop((writer, reader, stage));
    assert_eq!(upstream.rest().await, "");
}

#[tokio::test]
async fn where_a_route_says_so_there_is_no_websocket() {
    let routes = "all: {upstream: \"{api}\", profile: account, websocket: false}";
    let stage = Plan::default().routes(routes).start().await;
    stage.ready().await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(HANDSHAKE).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    let seen = stage.api.last().unwrap();
    assert!(seen.values("upgrade").is_empty() && seen.values("connection").is_empty(), "{seen:?}");
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    assert!(writer.send(&frame(HEADERS, END_HEADERS, 1, &extended_connect())).await);
    let answer = reader.find(|f| f.kind == DATA && !f.payload.is_empty()).await.unwrap().payload;
    let problem: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&405.into(), &"method_refused".into()));
    assert!(problem["detail"].as_str().unwrap().contains("websocket: false"), "{problem}");
    assert_eq!(stage.api.requests(), 1);
}

#[tokio::test]
async fn either_side_may_stop_sending_over_http_2() {
    let (mut reader, mut writer, mut upstream, _stage) = tunnel_over_http_2("").await;
    assert!(writer.send(&frame(DATA, END_STREAM, 1, b"the last of mine")).await);
    assert_eq!(upstream.rest().await, "the last of mine");
    upstream.send("and mine").await;
    assert_eq!(reader.find(|f| f.kind == DATA).await.unwrap().payload, b"and mine");
    upstream.half_close().await;
    let end = reader.find(|f| f.stream == 1 && f.kind != WINDOW_UPDATE).await.unwrap();
    assert_eq!((end.kind, end.flags & END_STREAM), (DATA, END_STREAM), "{end:?}");
}

#[tokio::test]
async fn a_silent_tunnel_over_http_2_ends_and_the_connection_goes_on() {
    let (mut reader, mut writer, mut upstream, stage) = tunnel_over_http_2("timeouts: {stream: 500ms}").await;
    assert_eq!(upstream.rest().await, "");
    let end = reader.find(|f| f.stream == 1).await.unwrap();
    assert!(end.kind == RST_STREAM || end.flags & END_STREAM != 0, "{end:?}");
    assert!(writer.send(&frame(PING, 0, 0, &[7; 8])).await);
    assert!(reader.find(|f| f.kind == PING).await.is_some());
    let series = "keybearer_streams_ended_total{listener=\"local\",reason=\"stood_still\"}";
    becomes(&stage, series, 1).await;
}
