//! Answers that arrive bit by bit: server-sent events, early hints, long downloads.

use crate::{
    front::{Peer, played},
    stage::PATIENCE,
};

const GET: &str = "GET /v1/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A server-sent event as a chunk of HTTP/1.1.
fn event(number: usize) -> String {
    let event = format!("id: {number}\ndata: something happened\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http_1() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send(EVENTS).await;
    assert!(caller.head().await.contains("text/event-stream"));
    for number in 0..20 {
        // The next one is not sent before this one has arrived.
        upstream.send(event(number)).await;
        assert!(caller.until("happened\n\n").await.contains(&format!("id: {number}\n")));
    }
    upstream.send("0\r\n\r\n").await;
    caller.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http_2() {
    let (listener, stage) = played("").await;
    let http =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().unwrap();
    let asking = tokio::spawn(http.get(stage.url("/v1/events")).send());
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send(EVENTS).await;
    let mut answer = asking.await.unwrap().unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    for number in 0..20 {
        upstream.send(event(number)).await;
        let part = answer.chunk().await.unwrap().unwrap();
        assert_eq!(part, format!("id: {number}\ndata: something happened\n\n"));
    }
    upstream.send("0\r\n\r\n").await;
    assert_eq!(answer.bytes().await.unwrap(), "");
}

/// RFC 9110 §15.2: a proxy passes informational answers on, and at once.
#[tokio::test]
async fn early_hints_arrive_before_the_answer() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    for number in 0..2 {
        upstream
            .send(format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}.css>; rel=preload\r\n\r\n"))
            .await;
        let hints = caller.head().await.to_lowercase();
        assert!(hints.starts_with("http/1.1 103 "), "{hints}");
        assert!(hints.contains(&format!("link: </{number}.css>; rel=preload\r\n")), "{hints}");
    }
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(caller.take(4).await, b"done");
}

/// RFC 9110 §15.2: a server must not send an informational answer to an HTTP/1.0 client.
#[tokio::test]
async fn early_hints_are_kept_from_http_1_0() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("GET /v1/events HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    let head = caller.head().await;
    assert!(head.contains(" 200 "), "{head}");
    assert_eq!(caller.take(4).await, b"done");
}

/// Hints do not push back the time in which an upstream has to answer.
#[tokio::test]
async fn endless_hints_are_an_upstream_error() {
    let (listener, stage) = played("timeouts: {response: 1s}").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    let hinting = tokio::spawn(async move {
        while upstream.try_send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await {}
    });
    caller.until("proxy-status: keybearer; error=").await;
    assert!(caller.until("\r\n\r\n").await.contains("details=\"upstream_"));
    hinting.await.unwrap();
}
