//! Requests over HTTP/2 that no HTTP/1.1 request could say safely: none of them is forwarded.

use tokio::net::TcpListener;

use crate::{
    frames::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, connect, field, frame, head},
    stage::{Plan, Stage},
};

/// A header block of these fields, in this order.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A sound head, and one field more.
fn with(name: &str, value: &str) -> Vec<u8> {
    [head("GET", "/v1/orders"), field(name, value)].concat()
}

/// Sends `bytes` on a connection of its own. Whether the request on stream 1 is answered with 200.
async fn is_served(stage: &Stage, bytes: &[u8]) -> bool {
    is_answered(stage, bytes, 200).await
}

/// The same with any status.
async fn is_answered(stage: &Stage, bytes: &[u8], status: u16) -> bool {
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    writer.send(bytes).await;
    let end =
        reader.find(|f| f.kind == GOAWAY || (f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM))).await;
    end.is_some_and(|end| end.has_status(status))
}

/// A request of this header block, without a body, must not be served, and nothing of it be forwarded.
async fn refuses(stage: &Stage, fields: &[u8]) {
    let before = stage.api.requests();
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, fields);
    let shown = String::from_utf8_lossy(fields);
    assert!(!is_served(stage, &request).await, "{shown:?} is served");
    assert_eq!(stage.api.requests(), before, "{shown:?} reached the upstream");
}

/// The route of [`refuses_by_itself`]: nothing listens there, so what is sent on is a 502.
const GONE: &str = "gone: {match: {host: gone}, upstream: \"http://127.0.0.1:1\", profile: account}";

/// A request of these fields and this path for the host `gone` is answered with 400, before anything is sent:
/// an upstream that is as strict would hide that it was.
async fn refuses_by_itself(stage: &Stage, path: &str, more: (&str, &str)) {
    let (method, scheme) = ((":method", "GET"), (":scheme", "http"));
    // Without an authority the library does not know of a URL.
    for fields in [
        [method, scheme, (":authority", "gone"), (":path", path), more],
        [method, scheme, (":path", path), ("host", "gone"), more],
    ] {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
        assert!(is_answered(stage, &request, 400).await, "{fields:?}");
    }
}

#[tokio::test]
async fn what_could_become_another_request_in_http_1_is_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    let sound = frame(HEADERS, END_HEADERS | END_STREAM, 1, &with("x-a", "b"));
    assert!(is_served(&stage, &sound).await, "a sound request is served");
    for (name, value) in [
        ("x-a", "b\r\nauthorization: evil"),
        ("x-a", "b\nc"),
        ("x-a", "b\rc"),
        ("x-a", "b\0c"),
        ("x-a", " padded"),
        ("x-a", "padded\t"),
        ("X-Upper", "b"),
        ("x a", "b"),
        ("x:a", "b"),
        ("x\r\ny", "b"),
        ("", "b"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("host", "b"),
        ("host", "a, b"),
        ("x_admin", "1"),
    ] {
        refuses(&stage, &with(name, value)).await;
    }
}

#[tokio::test]
async fn tricks_with_pseudo_header_fields_are_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    let (method, scheme) = ((":method", "GET"), (":scheme", "http"));
    let (authority, path) = ((":authority", "a"), (":path", "/v1/orders"));
    let sound = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[method, scheme, authority, path]));
    assert!(is_served(&stage, &sound).await, "a sound request is served");
    for fields in [
        // Twice, too late, unknown, or one of a response.
        &[method, scheme, authority, path, path][..],
        &[method, method, scheme, authority, path],
        &[method, scheme, authority, authority, path],
        &[method, scheme, authority, path, ("x-a", "b"), (":path", "/v1/other")],
        &[method, scheme, authority, path, (":evil", "1")],
        &[method, scheme, authority, path, (":status", "200")],
        // Absent or empty.
        &[scheme, authority, path],
        &[method, authority, path],
        &[method, scheme, authority],
        &[method, scheme, path],
        &[method, scheme, authority, (":path", "")],
        // Another place than it seems.
        &[method, scheme, authority, (":path", "//b/v1/orders")],
        &[method, scheme, authority, (":path", "http://b/v1/orders")],
        &[method, scheme, authority, (":path", "v1/orders")],
        &[method, scheme, authority, (":path", "*")],
        &[method, scheme, authority, (":path", "/v1/../admin")],
        &[method, scheme, authority, (":path", "/v1/orders HTTP/1.1\r\nx: y")],
        &[method, scheme, (":authority", "user@a"), path],
        &[method, scheme, (":authority", "a/b"), path],
        &[method, scheme, (":authority", ""), path],
        &[method, (":scheme", "https"), authority, path],
        &[method, (":scheme", "file"), authority, path],
        // Methods that leak or tunnel.
        &[(":method", "TRACE"), scheme, authority, path],
        &[(":method", "CONNECT"), authority],
        &[(":method", "CONNECT"), (":protocol", "connect-udp"), scheme, authority, path],
        &[(":method", "GET / HTTP/1.1\r\nx:"), scheme, authority, path],
    ] {
        refuses(&stage, &block(fields)).await;
    }
}

/// The only octet that the library takes in a name and that is none of a token (RFC 9110 §5.6.2).
#[tokio::test]
async fn a_name_with_a_quotation_mark_is_refused() {
    let stage = Plan::default().routes(GONE).start().await;
    stage.ready().await;
    for name in ["x\"a", "\"", "\"a", "transfer-encoding\""] {
        refuses_by_itself(&stage, "/v1/orders", (name, "chunked")).await;
    }
}

/// The library keeps no `:scheme` where there is no `:authority`, so it cannot be compared.
#[tokio::test]
async fn a_scheme_without_an_authority_decides_nothing() {
    let stage = Plan::default().more("forwarded: x").start().await;
    stage.ready().await;
    for scheme in ["http", "https", "file"] {
        let fields = [(":method", "GET"), (":scheme", scheme), (":path", "/v1/orders"), ("host", "a")];
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
        assert!(is_served(&stage, &request).await, "{scheme}");
        let seen = stage.api.last().unwrap();
        assert_eq!((seen.target.as_str(), seen.values("x-forwarded-proto")), ("/v1/orders", vec!["http"]));
    }
}

/// Crumbs are one field (RFC 9113 §8.2.3), to rules as well.
#[tokio::test]
async fn a_cookie_in_crumbs_matches_what_it_would_match_in_one_piece() {
    let rule = "match: {path: /v1, headers: {cookie: \"a=1; b=2\"}}";
    let routes = format!(
        "all: {{match: {{path: /v1}}, upstream: \"{{api}}\", profile: account}}\n\
         cookie: {{{rule}, upstream: \"{{api}}/cookie\", profile: account}}"
    );
    let stage = Plan::default().routes(&routes).start().await;
    stage.ready().await;
    let cookie = stage.http.get(stage.url("/v1/orders")).header("cookie", "a=1; b=2");
    assert_eq!(cookie.send().await.unwrap().status(), 200);
    assert_eq!(stage.api.last().unwrap().target, "/cookie/v1/orders");
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/v1/crumbs"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    assert!(is_served(&stage, &frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).await);
    let seen = stage.api.last().unwrap();
    assert_eq!((seen.target.as_str(), seen.values("cookie")), ("/cookie/v1/crumbs", vec!["a=1; b=2"]));
}

/// An upstream over HTTP/2 that says them to a caller over HTTP/1.1.
#[tokio::test]
async fn names_of_an_upstream_that_http_1_could_not_say_do_not_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!(
        "r: {{upstream: {{url: \"http://{}\", http2: prior_knowledge}}, profile: account}}",
        listener.local_addr().unwrap()
    );
    let stage = Plan::default().more("workers: 1").routes(&route).start().await;
    stage.ready().await;
    let answers = async {
        let (mut reader, mut writer) = frames::accept(&listener).await;
        let hints = [(":status", "103"), ("link", "</a.css>"), ("x\"a", "b")];
        let trailers = [("x-kept", "yes"), ("x\"z", "b"), ("set-cookie\"", "b")];
        for last in ["x-a", "x\"a", "transfer-encoding\""] {
            let stream = reader.find(|frame| frame.kind == HEADERS).await.unwrap().stream;
            let answer = [
                frame(HEADERS, END_HEADERS, stream, &block(&hints)),
                frame(
                    HEADERS,
                    END_HEADERS,
                    stream,
                    &block(&[(":status", "200"), ("trailer", "x-kept"), (last, "chunked")]),
                ),
                frame(DATA, 0, stream, b"whole"),
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&trailers)),
            ];
            assert!(writer.send(&answer.concat()).await);
        }
    };
    let asks = async {
        let request = "GET /v1/orders HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n";
        for is_sound in [true, false, false] {
            let answer = stage.raw(request).await;
            let status = if is_sound { "HTTP/1.1 200 OK\r\n" } else { "HTTP/1.1 502 Bad Gateway\r\n" };
            assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{answer}");
            assert!(answer.contains("link: </a.css>\r\n") && answer.contains(status), "{answer}");
            assert_eq!(answer.contains("x-kept: yes\r\n"), is_sound, "{answer}");
            for name in ["x\"", "transfer-encoding\"", "set-cookie\""] {
                assert!(!answer.contains(name), "{answer}");
            }
        }
    };
    tokio::join!(answers, asks);
}

/// The library cuts off what stands behind a `#`, and takes a target that is nothing else.
#[tokio::test]
async fn a_target_that_no_request_line_could_hold_is_refused() {
    let routes = format!(
        "{GONE}\nopen: {{match: {{host: gone, path: /open}}, upstream: \"http://127.0.0.1:1\", profile: none}}\n\
         all: {{upstream: \"{{api}}\", profile: account}}"
    );
    let stage = Plan::default().routes(&routes).start().await;
    stage.ready().await;
    for path in ["#", "#x", "#/v1", "?x", "?", "?#", "/v1?a=\u{e9}", "/open/\u{e9}", "/open?\u{e9}"] {
        refuses_by_itself(&stage, path, ("accept", "*/*")).await;
    }
    // Over HTTP/1.1 such a target is sound: it has no path, and gets one (RFC 9112 §3.2.1).
    let answer = stage.raw("GET http://a?x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(stage.api.last().map(|seen| seen.target), Some("/?x".into()), "{answer}");
    // Nothing tells of a fragment behind a path: what is matched is what is sent.
    for (path, sent) in [("/v1/orders#x", "/v1/orders"), ("/v1/orders?a#b", "/v1/orders?a")] {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", path));
        assert!(is_served(&stage, &request).await, "{path}");
        assert_eq!(stage.api.last().map(|seen| seen.target), Some(sent.into()));
    }
}

/// The length that a caller announces is the length that the upstream gets, or nothing is complete.
#[tokio::test]
async fn a_length_that_is_not_the_bodys_is_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    for body in ["four", "sixsix"] {
        let fields = [head("POST", "/v1/orders"), field("content-length", "5")].concat();
        let request = [frame(HEADERS, END_HEADERS, 1, &fields), frame(DATA, END_STREAM, 1, body.as_bytes())];
        assert!(!is_served(&stage, &request.concat()).await, "{body:?} is served");
        assert!(stage.api.history().is_empty(), "{body:?} arrived as if it were whole");
    }
}
