//! Who is connected now, as the API, the command and the page tell it.

use std::fs;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::{
    authority::{self, Authority},
    frames::{PREFACE, SETTINGS, frame, get},
    stage::{PATIENCE, Plan, Stage, pause},
};

const REQUEST: &[u8] = b"GET /v1/a HTTP/1.1\r\nHost: gateway\r\n\r\n";

async fn callers(stage: &Stage) -> Value {
    let (status, text) = stage.admin("/api/v1/callers").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Waits until the API tells this of all callers: listener, caller, certificate, connections and requests.
async fn told(stage: &Stage, expected: Value) {
    let holds = async {
        loop {
            let said = callers(stage).await;
            let rows: Vec<Value> = said["callers"].as_array().unwrap().iter().map(row).collect();
            if Value::from(rows) == expected {
                return;
            }
            pause().await;
        }
    };
    if tokio::time::timeout(PATIENCE, holds).await.is_err() {
        panic!("expected {expected}, but it says {}", callers(stage).await);
    }
}

fn row(caller: &Value) -> Value {
    ["listener", "caller", "certificate", "connections", "requests"].map(|name| caller[name].clone()).into()
}

/// A request on a connection that stays open.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_is_told_with_its_open_connections_and_requests() {
    let stage = Plan::default().listeners("local: {address: \"127.0.0.1:0\"}").start().await;
    stage.ready().await;
    assert_eq!(callers(&stage).await, json!({"callers": [], "more": 0}));
    let mut first = TcpStream::connect(stage.address()).await.unwrap();
    let second = TcpStream::connect(stage.address()).await.unwrap();
    told(&stage, json!([["local", "127.0.0.1", null, 2, 0]])).await;
    ask(&mut first).await;
    told(&stage, json!([["local", "127.0.0.1", null, 2, 1]])).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let since = callers(&stage).await["callers"][0]["since"].as_u64().unwrap();
    assert!(since <= now && since + PATIENCE.as_secs() > now, "{since} {now}");
    drop(first);
    told(&stage, json!([["local", "127.0.0.1", null, 1, 0]])).await;
    drop(second);
    told(&stage, json!([])).await;
    // Many requests of one HTTP/2 connection.
    let mut http2 = TcpStream::connect(stage.address()).await.unwrap();
    let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1, "/v1/a"), &get(3, "/v1/b"), &get(5, "/v1/c")];
    http2.write_all(&all.concat()).await.unwrap();
    told(&stage, json!([["local", "127.0.0.1", null, 1, 3]])).await;
    // What a reload replaces is counted on.
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
    told(&stage, json!([["local", "127.0.0.1", null, 1, 3]])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_certificate_is_told_by_its_name_and_one_on_a_socket_by_its_user() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["gateway.example"]).write(folder.path(), "server");
    fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let place = folder.path().display();
    let listeners = format!(
        "local:\n  address: 127.0.0.1:0\n  tls:\n    certificate: {{file: {place}/server.pem}}\n    \
         key: {{file: {place}/server.key}}\n    client_ca: {{file: {place}/ca.pem}}\n    client_auth: optional\n\
         socket: {{address: \"unix:daemons.sock\"}}"
    );
    let stage = Plan::default().listeners(&listeners).start().await;
    stage.ready().await;
    let daemon = authority.issue_to("billing-job");
    let caller = authority.caller().with(&daemon);
    let mut known = caller.connect(stage.address(), "gateway.example").await.unwrap();
    authority::get(&mut known, "gateway.example").await.unwrap();
    let http2 = caller.alpn(&["h2"]).connect(stage.address(), "gateway.example").await.unwrap();
    let nameless = authority.caller().connect(stage.address(), "gateway.example").await.unwrap();
    let mut unix = UnixStream::connect(stage.folder.path().join("daemons.sock")).await.unwrap();
    ask(&mut unix).await;
    let here = format!("unix:uid={},pid={}", rustix::process::getuid().as_raw(), std::process::id());
    told(
        &stage,
        json!([
            ["local", "127.0.0.1", "CN=billing-job", 2, 1],
            ["local", "127.0.0.1", null, 1, 0],
            ["socket", here, null, 1, 1]
        ]),
    )
    .await;
    drop((known, http2, nameless, unix));
    told(&stage, json!([])).await;
}
