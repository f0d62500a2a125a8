//! Too many and too slow connections to the admin listener: it goes on answering, and callers notice nothing.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::{
    authority::Authority,
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause, raw},
};

const GET: &[u8] = b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const HALF: &[u8] = b"GET /livez HTTP/1.1\r\nHost:";
const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// As many as the admin listener takes.
const ROOM: usize = 64;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How the admin listener is reached.
enum Way {
    Tcp,
    Tls(Box<Authority>),
    Unix(PathBuf),
}

/// A gateway's admin listener.
struct Door {
    stage: Stage,
    way: Way,
}

impl Door {
    /// A gateway for each way there is, with these further lines in its configuration.
    async fn each(more: &str) -> [Self; 3] {
        [Self::tcp(more).await, Self::tls(more).await, Self::unix(more).await]
    }

    async fn tcp(more: &str) -> Self {
        Self { stage: Plan::default().more(more).start().await, way: Way::Tcp }
    }

    async fn tls(more: &str) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        authority.issue(&["127.0.0.1"]).write(folder.path(), "admin");
        let place = folder.path().display();
        let files = format!("certificate: {{file: {place}/admin.pem}}, key: {{file: {place}/admin.key}}");
        let more = format!("{more}\nadmin: {{address: \"127.0.0.1:0\", tls: {{{files}}}}}");
        Self { stage: Plan::default().more(&more).start().await, way: Way::Tls(Box::new(authority)) }
    }

    async fn unix(more: &str) -> Self {
        let more = format!("{more}\nadmin: {{address: \"unix:admin.sock\"}}");
        let stage = Plan::default().more(&more).start().await;
        let path = stage.folder.path().join("admin.sock");
        Self { stage, way: Way::Unix(path) }
    }

    fn name(&self) -> &'static str {
        match self.way {
            Way::Tcp => "tcp",
            Way::Tls(_) => "tls",
            Way::Unix(_) => "unix",
        }
    }

    fn address(&self) -> SocketAddr {
        self.stage.gateway.admin().unwrap()
    }

    async fn connect(&self) -> Box<dyn Io> {
        match &self.way {
            Way::Tcp => Box::new(TcpStream::connect(self.address()).await.unwrap()),
            Way::Tls(authority) => {
                Box::new(authority.caller().connect(self.address(), "127.0.0.1").await.unwrap())
            }
            Way::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }

    /// The answer to a request of its own connection.
    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    async fn metric(&self, name: &str) -> f64 {
        number(&self.get("/metrics").await, name)
    }
}

/// What comes until the gateway closes the connection.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset is as good as a close.
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

fn number(scrape: &str, name: &str) -> f64 {
    let line =
        scrape.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{scrape}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let holds = async {
        while !condition().await {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn ended(reason: &str) -> String {
    format!("keybearer_admin_connections_ended_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn half_a_head_is_ended_in_time_while_others_are_answered() {
    for door in Door::each("timeouts: {header_read: 500ms, idle: 60s}").await {
        let name = door.name();
        let (mut half, mut silent) = (door.connect().await, door.connect().await);
        half.write_all(HALF).await.unwrap();
        assert!(door.get("/livez").await.starts_with("HTTP/1.1 200"), "{name}");
        assert_eq!(rest(&mut half).await, "", "{name}");
        assert_eq!(rest(&mut silent).await, "", "{name}");
        assert_eq!(door.metric(&ended("slow_head")).await, 2.0, "{name}");
    }
}

#[tokio::test]
async fn a_connection_between_two_requests_has_its_own_time() {
    for door in Door::each("timeouts: {header_read: 10s, idle: 400ms}").await {
        let name = door.name();
        let mut stream = door.connect().await;
        stream.write_all(LIVEZ).await.unwrap();
        let began = tokio::time::Instant::now();
        let answer = rest(&mut stream).await;
        assert!(answer.ends_with("ok\n"), "{name}: {answer}");
        assert!(began.elapsed() > Duration::from_millis(350), "{name}");
        assert_eq!(door.metric(&ended("idle")).await, 1.0, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    for door in Door::each("timeouts: {body: 300ms, idle: 60s}\nstate_dir: state").await {
        let name = door.name();
        let mut stream = door.connect().await;
        // The unix socket needs none.
        let token = door.stage.folder.path().join("state/admin-token");
        let token = fs::read_to_string(token).unwrap_or_default();
        let head = format!(
            "PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 16\r\n\r\n{{",
            token.trim()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut stream).await, "", "{name}");
        assert_eq!(door.metric(&ended("slow_body")).await, 1.0, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_taken_ends_its_connection() {
    for door in Door::each("timeouts: {idle: 500ms}").await {
        let mut stream = door.connect().await;
        // In the end their answers are more than all buffers on the way hold.
        let request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
        let writing = tokio::spawn(async move {
            // Until the gateway takes no more, or ends it.
            while stream.write_all(&request).await.is_ok() {}
        });
        until(door.name(), || async { door.metric(&ended("slow_reader")).await == 1.0 }).await;
        writing.await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_of_events_outlives_every_limit() {
    for door in Door::each("timeouts: {header_read: 400ms, idle: 300ms, body: 300ms}").await {
        let name = door.name();
        let mut events = door.connect().await;
        let request = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        events.write_all(request).await.unwrap();
        // Each begins when the one before has been ended.
        for _ in 0..3 {
            let mut idle = door.connect().await;
            idle.write_all(LIVEZ).await.unwrap();
            rest(&mut idle).await;
        }
        assert_eq!(door.stage.status("/nowhere").await, 404);
        let mut told = String::new();
        while !told.contains("\"code\":\"no_route\"") {
            let mut space = vec![0; 4096];
            let length = tokio::time::timeout(PATIENCE, events.read(&mut space)).await.unwrap().unwrap();
            assert_ne!(length, 0, "{name}: it was cut off behind {told}");
            told += &String::from_utf8_lossy(&space[..length]);
        }
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_told_so_and_places_become_free() {
    for door in Door::each("timeouts: {header_read: 60s, idle: 60s}").await {
        let name = door.name();
        let mut crowd = Vec::new();
        for _ in 0..ROOM {
            let mut stream = door.connect().await;
            stream.write_all(LIVEZ).await.unwrap();
            let mut begin = [0; 12];
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut begin)).await.unwrap().unwrap();
            crowd.push(stream);
        }
        match &door.way {
            // A handshake would cost more than the refusal saves.
            Way::Tls(authority) => {
                assert!(authority.caller().connect(door.address(), "127.0.0.1").await.is_err(), "{name}");
            }
            Way::Tcp | Way::Unix(_) => {
                let answer = door.get("/livez").await;
                assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{name}: {answer}");
                assert!(answer.contains("\"code\":\"too_many_connections\""), "{name}: {answer}");
            }
        }
        let mut inside = crowd.pop().unwrap();
        inside.write_all(METRICS).await.unwrap();
        let scrape = rest(&mut inside).await;
        let refused = "keybearer_admin_connections_refused_total{reason=\"connection_limit\"}";
        assert_eq!(number(&scrape, refused), 1.0, "{name}");
        drop(crowd);
        until(name, || async { door.metric("keybearer_admin_connections ").await == 1.0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_the_admin_listener_takes_nothing_from_callers() {
    let more = "timeouts: {header_read: 60s}\nadmin: {address: \"127.0.0.1:0\"}";
    let stage = Plan::default().more(more).start().await;
    let process = Process::start_with_files(&stage, 128).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(process.admin()).await.unwrap();
        // Those that are refused may be gone by now.
        let _ = stream.write_all(HALF).await;
        crowd.push(stream);
    }
    eventually("it says that they are too many", || {
        process.has_logged("the admin listener refuses connections: as many as it takes (64) are open")
    })
    .await;
    for _ in 0..3 {
        let answer = raw(process.address(), GET).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(!process.has_logged("connections wait to be accepted"), "there are files left");
    drop(crowd);
    let answers = || async { raw(process.admin(), METRICS).await.starts_with("HTTP/1.1 200") };
    until("the admin listener answers again", answers).await;
    let scrape = raw(process.admin(), METRICS).await;
    let refused = "keybearer_admin_connections_refused_total{reason=\"connection_limit\"}";
    assert!(number(&scrape, refused) >= 300.0 - ROOM as f64, "{scrape}");
    let said = process.lines().iter().filter(|line| line.contains("refuses connections")).count();
    assert!(said < 5, "it is said once in a while, not each time: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_file_left_the_admin_listener_waits_and_goes_on_later() {
    let stage = Plan::default().more("workers: 1\nadmin: {address: \"127.0.0.1:0\"}").start().await;
    // Fewer than callers and the gateway itself ask for.
    let process = Process::start_with_files(&stage, 32).await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(TcpStream::connect(process.address()).await.unwrap());
        crowd.push(TcpStream::connect(process.admin()).await.unwrap());
    }
    let words = "connections wait to be accepted by the admin listener: Too many open files";
    eventually("it has no file left", || process.has_logged(words)).await;
    drop(crowd);
    let scrape = raw(process.admin(), METRICS).await;
    let pauses = number(&scrape, "keybearer_admin_accept_pauses_total{reason=\"files\"}");
    assert!((1.0..20.0).contains(&pauses), "one for each time, not for each attempt: {pauses}");
    let said = process.lines().iter().filter(|line| line.contains(words)).count();
    assert!(said < 5, "it is said once in a while, not at every attempt: {said}");
}

/// Over HTTP/2 one connection could ask for any number of things at a time.
#[tokio::test]
async fn over_tls_http_1_1_is_agreed_on() {
    let door = Door::tls("").await;
    let Way::Tls(authority) = &door.way else { panic!("{}", door.name()) };
    let caller = authority.caller().alpn(&["h2", "http/1.1"]);
    let mut stream = caller.connect(door.address(), "127.0.0.1").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    stream.write_all(METRICS).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
}

/// Its limit is fixed, so this takes ten seconds.
#[tokio::test]
async fn a_handshake_that_stands_still_is_ended_and_counted() {
    let door = Door::tls("").await;
    let mut stream = TcpStream::connect(door.address()).await.unwrap();
    // The first bytes of a ClientHello.
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    let refused = "keybearer_admin_connections_refused_total{reason=\"tls_handshake\"}";
    assert_eq!(door.metric(refused).await, 1.0);
}
