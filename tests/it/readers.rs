//! Callers that read slowly: whoever takes something now and then is served, over both versions of HTTP.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    time::interval,
};

use crate::{
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
