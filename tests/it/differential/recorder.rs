//! An upstream that writes down every byte it gets and answers each request with a plain 200.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::stage::eventually;

/// A request as its bytes arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) head: Vec<u8>,
    /// The body as it was framed, chunk lines and all.
    pub(crate) framed: Vec<u8>,
    /// The connection ended before the request did.
    pub(crate) is_cut: bool,
}

#[derive(Default)]
struct Notes {
    requests: Vec<Recorded>,
    /// Connections that are in the middle of a request.
    unfinished: usize,
}

pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    notes: Arc<Mutex<Notes>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::<Mutex<Notes>>::default();
        let kept = Arc::clone(&notes);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, Arc::clone(&kept)));
            }
        });
        Self { address, notes, task }
    }

    /// What has come since the last call, when nothing is on its way any more.
    pub(crate) async fn take(&self) -> Vec<Recorded> {
        eventually("requests have ended", || self.notes.lock().unwrap().unfinished == 0).await;
        std::mem::take(&mut self.notes.lock().unwrap().requests)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(mut stream: TcpStream, notes: Arc<Mutex<Notes>>) {
    let mut bytes = Vec::new();
    loop {
        while extent(&bytes).is_none() {
            let was_empty = bytes.is_empty();
            let read = stream.read_buf(&mut bytes).await;
            let mut notes = notes.lock().unwrap();
            if was_empty && !bytes.is_empty() {
                notes.unfinished += 1;
            }
            if !matches!(read, Ok(1..)) {
                if !bytes.is_empty() {
                    let head = head_length(&bytes).unwrap_or(bytes.len());
                    let framed = bytes.split_off(head);
                    notes.requests.push(Recorded { head: bytes, framed, is_cut: true });
                    notes.unfinished -= 1;
                }
                return;
            }
        }
        let (head, whole) = extent(&bytes).unwrap();
        let rest = bytes.split_off(whole);
        let framed = bytes.split_off(head);
        let is_head = bytes.starts_with(b"HEAD ");
        {
            let mut notes = notes.lock().unwrap();
            notes.requests.push(Recorded { head: bytes, framed, is_cut: false });
            if rest.is_empty() {
                notes.unfinished -= 1;
            }
        }
        bytes = rest;
        let answer: &[u8] = if is_head {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The ends of a head and of its whole request, as an upstream would see them that believes
/// `Transfer-Encoding` before `Content-Length`.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = head_length(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let value = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    if value("transfer-encoding:").is_some() {
        return Some((head, head + chunked(&bytes[head..])?.1));
    }
    let length = value("content-length:").map_or(0, |length| length.parse().unwrap_or(0));
    (bytes.len() >= head + length).then_some((head, head + length))
}

/// The data of chunks without extensions and trailers, and where they end. `None` also when they are
/// malformed: no request would ever be whole then, and the test would say so.
pub(crate) fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes.get(at..)?;
        let end = line.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).ok()?, 16).ok()?;
        at += end + 2;
        data.extend_from_slice(bytes.get(at..at + size)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
        if size == 0 {
            return Some((data, at));
        }
    }
}
