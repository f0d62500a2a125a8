//! Bodies over HTTP/2 that come in very short DATA frames, as events and small messages do (RFC 9113 §6.1
//! sets no least length), and such as break off.

use tokio::net::TcpListener;

use crate::{
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, accept,
        connect, field, frame, get, head, nth, setting,
    },
    front::{Peer, played},
    stage::Plan,
};

fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

#[tokio::test]
async fn thousands_of_short_messages_that_wait_for_the_upstream_do_not_end_a_callers_connection() {
    // The upstream is asked first and does not answer, so the body waits in its window.
    let (listener, stage) = played("timeouts: {expect_continue: 1m}\nreplay: {limit: 1KiB}").await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    let fields = [head("POST", "/v1/upload"), field("content-length", "1000000")].concat();
    writer.send(&frame(HEADERS, END_HEADERS, nth(0), &fields)).await;
    let mut up = Peer::accept(&listener).await;
    assert!(up.head().await.contains("100-continue"));
    let messages = frame(DATA, 0, nth(0), b"0123456789").repeat(6_000);
    writer.send(&messages).await;
    writer.send(&frame(PING, 0, 0, b"all read")).await;
    let next = reader.find(|f| matches!(f.kind, PING | GOAWAY | RST_STREAM)).await.unwrap();
    assert_eq!((next.kind, next.flags), (PING, ACK), "{next:?}");
}

#[tokio::test]
async fn a_caller_that_does_not_read_short_events_does_not_end_a_connection_that_others_share() {
    const EVENTS: usize = 6_000;
    let event = [b'e'; 40];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let route = format!("all: {{upstream: {{url: \"{url}\", http2: prior_knowledge}}, profile: account}}");
    let stage = Plan::default().routes(&route).more("workers: 1").start().await;
    stage.ready().await;
    // No stream may send the caller a byte of a body.
    let (mut reader, mut writer) = connect(stage.address(), &setting(4, 0)).await;
    writer.send(&get(nth(0), "/v1/events")).await;
    let (mut asked, mut upstream) = accept(&listener).await;
    let events = asked.find(|f| f.kind == HEADERS).await.unwrap().stream;
    // 0x88 is `:status: 200`, 0x89 is 204.
    upstream.send(&frame(HEADERS, END_HEADERS, events, &[0x88])).await;
    upstream.send(&frame(DATA, 0, events, &event).repeat(EVENTS)).await;
    upstream.send(&frame(DATA, END_STREAM, events, &[])).await;
    upstream.send(&frame(PING, 0, 0, b"all read")).await;
    let next = asked.find(|f| matches!(f.kind, PING | GOAWAY | RST_STREAM)).await.unwrap();
    assert_eq!((next.kind, next.flags), (PING, ACK), "{next:?}");
    // Somebody else's request goes over the same connection.
    writer.send(&get(nth(1), "/v1/other")).await;
    let other = asked.find(|f| f.kind == HEADERS).await.unwrap().stream;
    upstream.send(&frame(HEADERS, END_HEADERS | END_STREAM, other, &[0x89])).await;
    assert!(reader.find(|f| f.kind == HEADERS && f.stream == nth(1)).await.unwrap().has_status(204));
    // And the events are all there for when they are read.
    writer.send(&[window(0, 1 << 20), window(nth(0), 1 << 20)].concat()).await;
    let mut bytes = 0;
    loop {
        let frame = reader.find(|f| f.stream == nth(0) && f.kind != HEADERS).await.unwrap();
        assert_eq!(frame.kind, DATA, "{frame:?}");
        bytes += frame.payload.len();
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(bytes, EVENTS * event.len());
}

/// RFC 9113 §8.1: RST_STREAM with NO_ERROR says nothing bad of an answer that is whole, and does not make
/// one whole.
#[tokio::test]
async fn an_answer_whose_stream_is_reset_before_its_end_never_looks_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let route = format!("all: {{upstream: {{url: \"{url}\", http2: prior_knowledge}}, profile: account}}");
    let stage = Plan::default().routes(&route).more("workers: 1").start().await;
    stage.ready().await;
    let mut upstream = None;
    for (end, is_whole) in [(END_STREAM, true), (0, false), (END_STREAM, true)] {
        let asking = stage.raw("GET /v1/page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answering = async {
            if upstream.is_none() {
                upstream = Some(accept(&listener).await);
            }
            let (asked, say) = upstream.as_mut().unwrap();
            let stream = asked.find(|f| f.kind == HEADERS).await.unwrap().stream;
            let no_error = frame(RST_STREAM, 0, stream, &[0; 4]);
            say.send(&frame(HEADERS, END_HEADERS, stream, &[0x88])).await;
            say.send(&[frame(DATA, end, stream, b"half of it"), no_error].concat()).await;
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(answer.ends_with("0\r\n\r\n"), is_whole, "{answer}");
    }
}
