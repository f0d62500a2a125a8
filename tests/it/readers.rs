//! Callers that read slowly: whoever takes something now and then is served, over both versions of HTTP.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    time::interval,
};

use crate::{
    frames::{
        DATA, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, connect, ends, frame, get, nth, setting,
    },
    front::{Peer, played},
    hostile::{Hostile, keep},
    stage::Stage,
};

/// The upstream answers everything with so many bytes.
async fn answering(length: usize) -> Hostile {
    Hostile::start(move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        keep([head.as_bytes(), &vec![b'a'; length]].concat())
    })
    .await
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A caller whose own system holds little, and tells soon that there is room.
async fn narrow(stage: &Stage) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(stage.address()).await.unwrap()
}

/// The system takes megabytes of an answer. It must not be asked to make room in steps of that size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_over_http_1_gets_all() {
    const LENGTH: usize = 8_000_000;
    let up = answering(LENGTH).await;
    let stage = up.stage("timeouts: {idle: 400ms}").await;
    let mut caller = narrow(&stage).await;
    let (mut reading, mut writing) = caller.split();
    tokio::io::AsyncWriteExt::write_all(
        &mut writing,
        b"GET /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    // A megabyte a second.
    let (mut ticks, mut piece, mut got) = (interval(Duration::from_millis(20)), vec![0; 20_000], 0);
    loop {
        ticks.tick().await;
        match reading.read(&mut piece).await.unwrap() {
            0 => break,
            count => got += count,
        }
    }
    assert!(got > LENGTH, "{got} bytes, head and all");
}

/// A stream's room may grow by less than what the upstream sends at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_of_a_stream_is_served() {
    let (listener, stage) = played("timeouts: {idle: 600ms}").await;
    let (mut reader, mut writer) = connect(stage.address(), &setting(4, 1_000)).await;
    assert!(writer.send(&get(1, "/v1")).await);
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n").await;
    // What is one piece for the gateway lasts for many times the limit, and another one waits behind it.
    upstream.send(vec![b'a'; 5_000]).await;
    let mut got = reader.find(|f| f.kind == DATA).await.unwrap().payload.len();
    upstream.send(vec![b'a'; 4_000]).await;
    let mut ticks = interval(Duration::from_millis(200));
    while got < 9_000 {
        ticks.tick().await;
        writer.send(&window(1, 400)).await;
        let next = reader.find(|f| matches!(f.kind, DATA | RST_STREAM)).await.unwrap();
        assert_eq!(next.kind, DATA, "after {got} bytes: {next:?}");
        got += next.payload.len();
    }
}

/// A connection that is read slowly gives its streams their turns slowly; none of them stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_of_many_streams_keeps_them_all() {
    const STREAMS: u32 = 60;
    let up = answering(3_000_000).await;
    let stage = up.stage("timeouts: {idle: 500ms}").await;
    let (mut reader, mut writer) = ends(narrow(&stage).await);
    let settings = frame(SETTINGS, 0, 0, &setting(4, 10_000_000));
    assert!(writer.send(&[PREFACE, &settings, &window(0, 1 << 30)].concat()).await);
    for n in 0..STREAMS {
        assert!(writer.send(&get(nth(n), "/v1")).await);
    }
    // About 600 KB a second: a round takes more than a second.
    let (mut ticks, mut frames, mut seen) = (interval(Duration::from_millis(25)), 0, 0);
    while frames < 300 {
        let next = reader.find(|f| matches!(f.kind, DATA | RST_STREAM | HEADERS)).await.unwrap();
        match next.kind {
            DATA => {
                frames += 1;
                ticks.tick().await;
            }
            HEADERS => seen += 1,
            _ => panic!("after {frames} frames: {next:?}"),
        }
    }
    assert_eq!(seen, STREAMS);
}
