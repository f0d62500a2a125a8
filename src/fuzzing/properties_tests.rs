//! The targets' promises, over requests that are made of what attacks are made of.

use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use crate::fuzzing::{head, headers};

const NAMES: &[&str] = &[
    "Authorization",
    "aUTHORIZATION",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Content-Length",
    "Upgrade",
    "Expect",
    "Host",
    "Via",
    "X-Request-ID",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "Forwarded",
    "X-Real-IP",
    "Cookie",
    "X-Tier",
    "X-Hop",
    "X_Authorization",
    "X-Api-Key",
    "X_API-Key",
    "DPoP",
    "HTTP2-Settings",
    "Sec-WebSocket-Key",
    "Accept",
    "Content-Type",
];
const VALUES: &[&str] = &[
    "Bearer theirs",
    "Basic dGhlaXJz",
    "",
    "authorization",
    "X-Api-Key",
    "X-Hop",
    "x-hop, keep-alive",
    "close",
    "Upgrade",
    "TE",
    "trailers",
    "gzip, trailers",
    "chunked",
    "5",
    "websocket",
    "h2c",
    "100-continue",
    "a",
    "api.example",
    "x.api.example:80",
    "[::1]",
    "gold",
    "1.1 kb-0123456789ab",
    "1.1 other",
    "for=1.2.3.4",
    "é\u{ff}",
    "a\tb",
    ",,",
];
const TARGETS: &[&str] = &[
    "/v1",
    "/v1/",
    "/v1/orders",
    "/v1/orders/7?a=b",
    "/v1/a%2fb",
    "/v1/../x",
    "/v1//a",
    "/v1/%61",
    "/%76%31/x",
    "/v1/orders%2f..",
    "/lenient/a%2Fb",
    "/lenient//a",
    "/strip/x",
    "/strip",
    "/strip//evil.example",
    "/bare//x",
    "/bare/",
    "/bare///a?b",
    "/dav/x",
    "/open/a%2f..",
    "/other",
    "*",
    "http://api.example/v1/x",
    "http://a/v1",
    "https://a/v1",
    "http://a",
    "//a/v1",
    "/v1/a;b=c",
    "/v1/%E2%80%A6",
    "/V1",
    "/java/x",
];
const METHODS: &[&str] = &["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PROPFIND", "TRACE", "CONNECT", "get"];

fn field() -> impl Strategy<Value = (&'static str, &'static str)> {
    (select(NAMES), select(VALUES))
}

/// Runs `leaves` over many inputs: its assertions are the property. At least one in `one_in` must have
/// got through, or nothing was tried.
fn holds<S: Strategy>(inputs: S, one_in: u32, leaves: impl Fn(&S::Value) -> bool) {
    let (all, through) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig { cases: 3000, ..ProptestConfig::default() });
    let outcome = runner.run(&inputs, |input| {
        all.set(all.get() + 1);
        through.set(through.get() + u32::from(leaves(&input)));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(through.get() * one_in >= all.get(), "only {} of {} got through", through.get(), all.get());
}

#[test]
fn whatever_header_comes_in_each_of_our_credentials_leaves_once() {
    let inputs = (any::<u8>(), prop::collection::vec(field(), 0..8));
    holds(inputs, 10, |(choice, fields)| {
        let mut came = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("x"));
            came.append(name.parse::<HeaderName>().unwrap(), value);
        }
        headers::leaves(*choice, &came)
    });
}

#[test]
fn whatever_query_comes_in_our_parameter_leaves_once_and_all_else_is_as_it_was() {
    let piece = select(
        &[
            "api_key",
            "API_KEY",
            "api%5fkey",
            "api%255Fkey",
            "api.key",
            "api+key",
            "%20api_key",
            "api_key[]",
            "api[key",
            "api_key%00",
            "apikey",
            "=",
            "&",
            ";",
            "theirs",
            "%26",
            "%3D",
            "a",
            "?",
            "/",
            "%",
            "%zz",
            "é",
            "+",
        ][..],
    );
    let inputs = prop::collection::vec(piece, 0..12);
    holds(inputs, 2, |pieces| headers::query_leaves(&pieces.concat()));
}

#[test]
fn the_route_of_what_is_sent_is_the_route_that_was_matched() {
    let host = select(&["a", "api.example", "x.api.example", "A.", "[::1]:8080"][..]);
    let inputs = (select(METHODS), select(TARGETS), host, prop::collection::vec(field(), 0..4));
    holds(inputs, 10, |(method, target, host, fields)| {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        head::leaves(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes())
    });
}

#[test]
fn paths_of_traversal_pieces_stay_on_their_route() {
    let piece =
        select(&["/", ".", "..", "%2e", "%2f", "%5c", ";", "a", "v1", "orders", "%25", "//", "~", "%41"][..]);
    let prefix = select(&["/v1/", "/v1/orders", "/lenient/", "/strip/", "/bare/", "/open/", "/"][..]);
    let inputs = (prefix, prop::collection::vec(piece, 0..6));
    holds(inputs, 20, |(prefix, pieces)| {
        head::leaves(format!("GET {prefix}{} HTTP/1.1\r\nHost: a\r\n\r\n", pieces.concat()).as_bytes())
    });
}
