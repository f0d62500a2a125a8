//! An upstream that answers whatever a test wants, on a raw socket, and callers that write raw bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::stage::{PATIENCE, Plan, Stage, raw};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a hostile upstream does with a request.
pub(crate) enum Step {
    /// Answers with these bytes and waits for the next request.
    Keep(Vec<u8>),
    /// Answers with these bytes and closes.
    Close(Vec<u8>),
    /// Answers nothing and keeps the connection.
    Silence,
}

pub(crate) fn keep(answer: impl AsRef<[u8]>) -> Step {
    Step::Keep(answer.as_ref().to_vec())
}

pub(crate) fn close(answer: impl AsRef<[u8]>) -> Step {
    Step::Close(answer.as_ref().to_vec())
}

/// An upstream that answers whatever a test wants, on a raw socket.
pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Hostile {
    /// `answer` gets the number of the request and its bytes.
    pub(crate) async fn start(answer: impl Fn(usize, &str) -> Step + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(AtomicUsize::new(0));
        let (answer, seen, count) = (Arc::new(answer), Arc::clone(&requests), Arc::clone(&open));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen, count) = (Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&count));
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    serve(stream, &*answer, &seen).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, requests, open, task }
    }

    /// It answers every request with the same bytes.
    pub(crate) async fn saying(answer: &'static str) -> Self {
        Self::start(move |_, _| keep(answer)).await
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// A gateway of one worker in front of it: one pool.
    pub(crate) async fn stage(&self, more: &str) -> Stage {
        self.stage_with("profile: account", more).await
    }

    pub(crate) async fn stage_with(&self, route: &str, more: &str) -> Stage {
        let route = format!("all: {{upstream: \"http://{}\", {route}}}", self.address);
        let more = format!("workers: 1\n{more}");
        let stage = Plan::default().routes(&route).more(&more).start().await;
        stage.ready().await;
        stage
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads requests and answers them until either side has had enough.
async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(usize, &str) -> Step + Send + Sync),
    seen: &Mutex<Vec<String>>,
) {
    let mut bytes = Vec::new();
    loop {
        while !is_whole(&bytes) {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        let request = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        match answer(number, &request) {
            Step::Keep(answer) => {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
            Step::Close(answer) => {
                let _ = stream.write_all(&answer).await;
                return;
            }
            Step::Silence => {}
        }
    }
}

/// Whether `bytes` hold one request to its end, by the framing that the gateway generates.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
}

pub(crate) fn get(fields: &str) -> String {
    format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n")
}

pub(crate) fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect()
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends raw bytes; nothing may be forwarded; gives the answer.
pub(crate) async fn refused(stage: &Stage, up: &Hostile, request: &str) -> String {
    let before = up.count();
    let answer = raw(stage.address(), request.as_bytes()).await;
    assert_eq!(up.count(), before, "{request:?} reached the upstream");
    answer
}

/// Sends raw bytes that make one request; gives what the upstream saw.
pub(crate) async fn forwarded(stage: &Stage, up: &Hostile, request: &str) -> String {
    let before = up.count();
    let answer = raw(stage.address(), request.as_bytes()).await;
    assert!(answer.contains(" 200 OK\r\n"), "{request:?} gave {answer}");
    assert_eq!(up.count(), before + 1, "{request:?}");
    up.requests().pop().unwrap()
}
