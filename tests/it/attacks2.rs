//! Attacks on the order and the bounds of connections: HTTP/2 frame by frame, and bytes between answers.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    attacks::{gauge, nothing_is_left},
    frames::{
        ACK, CANCEL, DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, WINDOW_UPDATE, connect,
        connect_raw, frame, get, nth, post,
    },
    front::{Peer, played},
    hostile::{self, Hostile, OK, Step, keep, statuses},
    peer::{Act, Scripted},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

/// gRPC for Go measures the way with a ping, and updates its window, at each message that it gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_acknowledges_each_small_message_is_no_flood() {
    let (listener, stage) = played("").await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    assert!(writer.send(&get(1, "/v1/events")).await);
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for number in 0..4000 {
        upstream.send("14\r\na message of 20 byte\r\n").await;
        let got = reader.find(|f| f.kind == DATA || f.kind == GOAWAY).await;
        assert!(got.as_ref().is_some_and(|f| f.kind == DATA), "after {number} messages: {got:?}");
        let by = 20u32.to_be_bytes();
        let both =
            [frame(WINDOW_UPDATE, 0, 0, &by), frame(WINDOW_UPDATE, 0, 1, &by), frame(PING, 0, 0, &[1; 8])];
        assert!(writer.send(&both.concat()).await, "after {number} messages");
    }
}

/// RFC 9110 §8.6: an answer that has no content by its status says no length.
#[tokio::test]
async fn answers_without_content_say_no_length() {
    for answer in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let up = Hostile::saying(answer).await;
        let stage = up.stage("").await;
        let got = stage.raw(hostile::get("")).await.to_lowercase();
        assert!(got.starts_with("http/1.1 204 ") && !got.contains("content-length"), "{got}");
        let caller = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let got = caller.get(stage.url("/v1")).send().await.unwrap();
        assert_eq!((got.status().as_u16(), got.headers().get("content-length")), (204, None));
    }
}

/// Neither does an informational one: its length would be taken for that of the answer.
#[tokio::test]
async fn informational_answers_say_no_length() {
    let up = Hostile::saying(
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let stage = up.stage("").await;
    let got = stage.raw(hostile::get("")).await.to_lowercase();
    assert_eq!(
        got.split("http/1.1 ").skip(1).map(|part| &part[..3]).collect::<Vec<_>>(),
        ["103", "200"],
        "{got}"
    );
    assert_eq!(got.matches("content-length").count(), 1, "{got}");
    assert!(!got.contains("transfer-encoding"), "{got}");
}

/// A preface that dribbles is a head that comes too slowly.
#[tokio::test]
async fn a_preface_that_dribbles_ends() {
    let stage = Plan::default().more("timeouts: {header_read: 500ms, idle: 30s}").start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect_raw(stage.address()).await;
    let begun = tokio::time::Instant::now();
    let dribbling = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        for byte in PREFACE {
            ticks.tick().await;
            if !writer.send(&[*byte]).await {
                return;
            }
        }
    });
    reader.end().await;
    let elapsed = begun.elapsed();
    dribbling.abort();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_fault_over_http_1_is_never_a_200() {
    let stage = Stage::start().await;
    stage.ready().await;
    for method in ["POST", "HEAD", "GET"] {
        let got = stage.raw(format!("{method} /nowhere HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    }
}
