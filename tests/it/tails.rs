//! The end of an answer: what the gateway has taken and the caller has not. It is in flight like the rest.

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;

use crate::{
    attacks::gauge,
    authority::Authority,
    frames::{
        ACK, DATA, END_STREAM, GOAWAY, PING, RST_STREAM, Reader, WINDOW_UPDATE, Writer, connect, frame, get,
        setting,
    },
    front::{Peer, played},
    hostile::{Hostile, OK, keep},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

/// How long a request needs that nothing holds up.
const MOMENT: Duration = Duration::from_millis(150);
/// What the HTTP library holds is looked for in steps of this.
const STEP: usize = 4_000;

trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// A gateway whose upstream gives answers of any length.
struct Held {
    stage: Stage,
    up: Hostile,
    address: SocketAddr,
    admin: SocketAddr,
    tls: Option<(Authority, TempDir)>,
}

/// A caller that has asked for an answer of so many bytes, and has read nothing.
struct Waiting {
    length: usize,
    stream: Box<dyn Bytes>,
}

impl Held {
    async fn start(is_tls: bool, more: &str) -> Self {
        let up = Hostile::start(|_, request| {
            match request.split(['/', ' ']).nth(3).and_then(|length| length.parse().ok()) {
                Some(length) => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                    keep([head.as_bytes(), &vec![b'a'; length]].concat())
                }
                None => keep(OK),
            }
        })
        .await;
        let tls = is_tls.then(|| {
            let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
            authority.issue(&["gateway.example"]).write(folder.path(), "server");
            (authority, folder)
        });
        let secured = tls.as_ref().map(|(_, folder)| {
            let place = folder.path().display();
            format!(", tls: {{certificate: {{file: {place}/server.pem}}, key: {{file: {place}/server.key}}}}")
        });
        let stage = Plan::default()
            .listeners(&format!("local: {{address: \"127.0.0.1:0\"{}}}", secured.unwrap_or_default()))
            .routes(&format!("all: {{upstream: \"http://{}\", profile: account}}", up.address))
            .more(&format!("workers: 1\n{more}"))
            .start()
            .await;
        stage.ready().await;
        Self { address: stage.address(), admin: stage.gateway.admin().unwrap(), stage, up, tls }
    }

    async fn connect(&self) -> Box<dyn Bytes> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let Some((authority, _)) = &self.tls else { return Box::new(stream) };
        let connector = TlsConnector::from(authority.caller().config());
        let name = "gateway.example".try_into().unwrap();
        Box::new(connector.connect(name, stream).await.unwrap())
    }

    /// Asks for so much. Whether the gateway has taken all of it from the upstream.
    async fn ask(&self, length: usize, behind: &str) -> (Waiting, bool) {
        let mut stream = self.connect().await;
        let (count, in_flight) = (self.up.count(), self.in_flight().await);
        let request = format!("GET /big/{length} HTTP/1.1\r\nHost: a\r\n\r\n{behind}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        eventually("the request is sent", || self.up.count() > count).await;
        let taken = async {
            while self.in_flight().await > in_flight {
                pause().await;
            }
        };
        let is_taken = tokio::time::timeout(MOMENT, taken).await.is_ok();
        (Waiting { length, stream }, is_taken)
    }

    async fn in_flight(&self) -> u64 {
        let metrics = self.stage.http.get(format!("http://{}/metrics", self.admin)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        // There is none before the first request.
        let line = metrics.lines().find(|line| line.starts_with("keybearer_in_flight{"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Callers of which some wait for the end of an answer that only the HTTP library still has. Each has sent
    /// `behind` with its request.
    async fn callers(&self, behind: &str) -> Vec<Waiting> {
        // What the system takes without the caller is not known: looked for by halves.
        let (mut taken, mut too_long) = (50_000, 32_000_000);
        while too_long - taken > STEP {
            let length = usize::midpoint(taken, too_long);
            let (waiting, is_taken) = self.ask(length, "").await;
            *if is_taken { &mut taken } else { &mut too_long } = length;
            drop(waiting);
            while self.in_flight().await > 0 {
                pause().await;
            }
        }
        let mut callers = Vec::new();
        let mut are_taken = 0;
        for step in 0..20 {
            let (waiting, is_taken) = self.ask((taken + 2 * STEP).saturating_sub(step * STEP), behind).await;
            callers.push(waiting);
            are_taken += usize::from(is_taken);
        }
        assert!(are_taken > 5 || !behind.is_empty(), "{are_taken} answers have been taken");
        callers
    }

    /// Waits until a connection without a request would have been closed.
    async fn idle_ones_are_closed(mut idle: Box<dyn Bytes>) {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("it is closed");
    }

    /// A connection that is kept after its request.
    async fn idle(&self) -> Box<dyn Bytes> {
        let mut stream = self.connect().await;
        stream.write_all(b"GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        stream
    }
}

impl Waiting {
    /// How much of the first answer's body comes.
    async fn got(mut self) -> usize {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection ends");
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        answer[head..].iter().take_while(|byte| **byte == b'a').count()
    }
}

async fn all_get_all(callers: Vec<Waiting>) {
    let reading = callers.into_iter().map(|waiting| {
        let length = waiting.length;
        tokio::spawn(async move { (length, waiting.got().await) })
    });
    for reading in reading.collect::<Vec<_>>() {
        let (length, got) = reading.await.unwrap();
        assert_eq!(got, length, "{} bytes are missing", length - got);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_end_of_an_answer_that_the_caller_takes_late() {
    for is_tls in [false, true] {
        let held = Held::start(is_tls, "").await;
        let (callers, idle) = (held.callers("").await, held.idle().await);
        held.stage.gateway.stop();
        Held::idle_ones_are_closed(idle).await;
        all_get_all(callers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_listener_waits_for_the_end_of_an_answer_that_the_caller_takes_late() {
    let held = Held::start(false, "").await;
    let (callers, idle) = (held.callers("").await, held.idle().await);
    let path = held.stage.folder.path().join("keybearer.yaml");
    let changed = held.stage.yaml.replace("local: {", "local: {trusted_proxies: [10.0.0.0/8], ");
    std::fs::write(path, changed).unwrap();
    tokio::task::block_in_place(|| held.stage.gateway.control().unwrap().reload("a test")).unwrap();
    Held::idle_ones_are_closed(idle).await;
    all_get_all(callers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_answer_that_nobody_takes_is_cut_after_the_drain_time() {
    let mut held = Held::start(false, "timeouts: {drain: 3s}").await;
    let mut process = Process::start(&held.stage, &[]).await;
    (held.address, held.admin) = (process.address(), process.admin());
    let callers = held.callers("").await;
    process.signal("-TERM");
    assert_eq!(process.end().await.code(), Some(0));
    assert!(process.has_logged("connections were cut"), "{:?}", process.lines());
    drop(callers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_answer_that_nobody_takes_ends_with_its_connection() {
    for is_tls in [false, true] {
        let held = Held::start(is_tls, "timeouts: {idle: 1s}").await;
        let mut callers = held.callers("").await;
        // Another request waits for room in front of its answer.
        callers.extend(held.callers("GET /small HTTP/1.1\r\nHost: a\r\n\r\n").await);
        let ended = async {
            while gauge(&held.stage, "keybearer_connections{").await > 0 {
                pause().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "one is still open");
        drop(callers);
    }
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// What a caller over HTTP/2 gets of an answer whose last bytes wait for its window, taken in after `meanwhile`.
async fn end_over_http_2(
    stage: &Stage,
    listener: &tokio::net::TcpListener,
    is_polite: bool,
    meanwhile: impl AsyncFnOnce(&mut Reader, &mut Writer),
) -> usize {
    const LENGTH: usize = 30_000;
    let (mut reader, mut writer) = connect(stage.address(), &setting(4, 25_000)).await;
    assert!(writer.send(&get(1, "/v1")).await);
    let mut upstream = Peer::accept(listener).await;
    upstream.head().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    upstream.send(vec![b'a'; 20_000]).await;
    let mut got = 0;
    while got < 20_000 {
        let data = reader.find(|f| f.kind == DATA).await.unwrap();
        got += data.payload.len();
    }
    // Of the second half the window takes a part; all of it is taken from the upstream.
    upstream.send(vec![b'a'; 10_000]).await;
    while got < 25_000 {
        got += reader.find(|f| f.kind == DATA).await.unwrap().payload.len();
    }
    while gauge(stage, "keybearer_in_flight{").await > 0 {
        pause().await;
    }
    meanwhile(&mut reader, &mut writer).await;
    let mut granted = false;
    loop {
        if !std::mem::replace(&mut granted, true) {
            writer.send(&window(1, 100_000)).await;
        }
        let Some(f) = reader.next().await else { return got };
        match f.kind {
            PING if f.flags & ACK == 0 && is_polite => {
                writer.send(&frame(PING, ACK, 0, &f.payload)).await;
            }
            RST_STREAM => return got,
            DATA => {
                got += f.payload.len();
                if f.flags & END_STREAM != 0 {
                    return got;
                }
            }
            _ => {}
        }
    }
}

/// The time of a connection that was told to go is none for the end of an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_end_of_an_answer_over_http_2() {
    for is_polite in [false, true] {
        let (listener, stage) = played("timeouts: {header_read: 300ms}").await;
        // Without a stream, and without an answer to the ping: it ends when a connection has no more time.
        let (mut idle, _writer) = connect(stage.address(), &[]).await;
        let got = end_over_http_2(&stage, &listener, is_polite, async |reader, writer| {
            stage.gateway.stop();
            let ping = reader.find(|f| f.kind == PING && f.flags & ACK == 0).await.unwrap();
            if is_polite {
                writer.send(&frame(PING, ACK, 0, &ping.payload)).await;
            }
            idle.end().await;
        })
        .await;
        assert_eq!(got, 30_000, "an answer to the ping: {is_polite}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_answer_that_nobody_takes_ends_with_its_connection_over_http_2() {
    let (listener, stage) = played("timeouts: {header_read: 300ms, idle: 1s}").await;
    let got = end_over_http_2(&stage, &listener, true, async |reader, _| {
        while reader.next().await.is_some_and(|f| f.kind != GOAWAY) {}
    })
    .await;
    assert_eq!(got, 25_000);
    while gauge(&stage, "keybearer_connections{").await > 0 {
        pause().await;
    }
}
