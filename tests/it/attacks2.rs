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

#[tokio::test]
async fn a_fault_over_http_1_is_never_a_200() {
    let stage = Stage::start().await;
    stage.ready().await;
    for method in ["POST", "HEAD", "GET"] {
        let got = stage.raw(format!("{method} /nowhere HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    }
}
