//! Callers and upstreams that do everything in pieces, at odd moments, and not always to the end.
//!
//! A connection to an upstream has no task of its own: whoever waits for it moves it. Whatever the order in
//! which both sides act, every request ends, every body arrives as it was sent, and nothing of one answer
//! gets into another.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    differential::recorder::chunked,
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

const REQUESTS: u64 = 800;
const CALLERS: u64 = 12;
/// An answer to nothing.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";

/// All that both sides do about one request; its number decides.
#[derive(Debug)]
struct Script {
    number: u64,
    uploaded: usize,
    has_length: bool,
    interims: u8,
    /// How many of the parts of the answer leave before the upload is read.
    early: Early,
    answered: usize,
    is_chunked: bool,
    end: End,
    leaves: Leaves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    Nothing,
    Head,
    All,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kept,
    Closed,
    /// Bytes follow that nobody has asked for.
    Stray,
    CutInHead,
    CutInBody,
}

/// When the caller has had enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Never,
    BeforeHead,
    InBody,
}

impl Script {
    fn of(number: u64) -> Self {
        let mut rng = Rng::with_seed(number);
        let mut length = |most: usize| match rng.u8(0..4) {
            0 => 0,
            1 => rng.usize(1..100),
            _ => rng.usize(1..most),
        };
        let (uploaded, answered) = (length(150_000), length(100_000));
        let end = [End::Kept, End::Kept, End::Kept, End::Closed, End::Stray, End::CutInHead, End::CutInBody];
        let leaves = [Leaves::Never, Leaves::Never, Leaves::Never, Leaves::BeforeHead, Leaves::InBody];
        let is_empty = answered == 0;
        Self {
            number,
            uploaded,
            has_length: rng.bool(),
            interims: rng.u8(0..3),
            early: [Early::Nothing, Early::Nothing, Early::Head, Early::All][rng.usize(0..4)],
            answered,
            // An empty body can be cut in two only when it is one chunk.
            is_chunked: rng.bool() || is_empty,
            end: end[rng.usize(0..end.len())],
            leaves: leaves[rng.usize(0..leaves.len())],
        }
    }

    fn is_whole(&self) -> bool {
        !matches!(self.end, End::CutInHead | End::CutInBody)
    }

    fn upload(&self) -> Vec<u8> {
        content(!self.number, self.uploaded)
    }

    fn answer(&self) -> Vec<u8> {
        content(self.number, self.answered)
    }

    fn head(&self) -> String {
        let close = if self.end == End::Closed { "Connection: close\r\n" } else { "" };
        let framing = if self.is_chunked {
            "Transfer-Encoding: chunked".into()
        } else {
            format!("Content-Length: {}", self.answered)
        };
        format!("HTTP/1.1 200 OK\r\n{close}{framing}\r\n\r\n")
    }
}

/// Bytes that tell whose they are.
fn content(number: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(number);
    (0..length).map(|_| rng.u8(..)).collect()
}

fn pieces(rng: &mut Rng, bytes: &[u8]) -> Vec<Bytes> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    while !rest.is_empty() {
        let most = rest.len().min(if rng.u8(0..3) == 0 { 50 } else { 30_000 });
        let (piece, behind) = rest.split_at(rng.usize(1..=most).max(rest.len() / 40));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = behind;
    }
    pieces
}

/// Lets others act, for longer or shorter.
async fn moment(rng: &mut Rng) {
    for _ in 0..rng.u8(0..4) {
        tokio::task::yield_now().await;
    }
    if rng.u8(0..40) == 0 {
        pause().await;
    }
}

struct Upstream {
    address: SocketAddr,
    wrong: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let found = Arc::clone(&wrong);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let found = Arc::clone(&found);
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let mut connection = Connection { stream, bytes: Vec::new(), found };
                    while connection.serve().await.is_some() {}
                });
            }
        });
        Self { address, wrong, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    found: Arc<Mutex<Vec<String>>>,
}

impl Connection {
    /// Serves a request. `None` when the connection is over.
    async fn serve(&mut self) -> Option<()> {
        let head = self.head().await?;
        let number = head.split("/v1/").nth(1)?.split(' ').next()?.parse().ok()?;
        let script = Script::of(number);
        let mut rng = Rng::with_seed(number + 1_000_000);
        if head.contains("expect: 100-continue") && script.early == Early::Nothing {
            self.write(&mut rng, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        for _ in 0..script.interims {
            self.write(&mut rng, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await?;
        }
        let (mut head_bytes, mut body) = (script.head(), self.body(&script, &mut rng));
        if script.end == End::CutInHead {
            head_bytes.truncate(rng.usize(0..head_bytes.len() - 1));
            body.clear();
        }
        let (first, second) = match script.early {
            Early::Nothing => (Vec::new(), [head_bytes.as_bytes(), &body].concat()),
            Early::Head => (head_bytes.into_bytes(), body),
            Early::All => ([head_bytes.as_bytes(), &body].concat(), Vec::new()),
        };
        self.write(&mut rng, &first).await?;
        let upload = self.upload(&head).await?;
        if upload != script.upload() {
            let lengths = (upload.len(), script.uploaded);
            self.found
                .lock()
                .unwrap()
                .push(format!("an upload is not what was sent, {lengths:?}: {script:?}"));
        }
        self.write(&mut rng, &second).await?;
        (script.end == End::Kept || script.end == End::Stray).then_some(())
    }

    /// What is behind the head, as far as it comes.
    fn body(&self, script: &Script, rng: &mut Rng) -> Vec<u8> {
        let answer = script.answer();
        let mut body = if script.is_chunked {
            let chunk =
                |piece: Bytes| [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            let chunks = pieces(rng, &answer).into_iter().flat_map(chunk);
            chunks.chain(b"0\r\n\r\n".iter().copied()).collect()
        } else {
            answer
        };
        match script.end {
            End::Stray => body.extend_from_slice(STRAY),
            End::CutInBody => body.truncate(body.len() / 2),
            _ => {}
        }
        body
    }

    async fn write(&mut self, rng: &mut Rng, bytes: &[u8]) -> Option<()> {
        let (start, mut end) = bytes.split_at(bytes.len().saturating_sub(100));
        for piece in pieces(rng, start) {
            self.stream.write_all(&piece).await.ok()?;
            moment(rng).await;
        }
        while !end.is_empty() {
            let written = self.stream.write(end).await.ok()?;
            // What nobody has asked for comes with the end of an answer, or not: later it would be the next one's.
            if written < end.len() && end.len() - written <= STRAY.len() && end.ends_with(STRAY) {
                return None;
            }
            end = &end[written..];
        }
        Some(())
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.bytes.split_off(end + 4);
                let head = std::mem::replace(&mut self.bytes, rest);
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.read().await?;
        }
    }

    async fn upload(&mut self, head: &str) -> Option<Vec<u8>> {
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let is_chunked = head.contains("transfer-encoding: chunked");
        loop {
            let whole = match length {
                Some(length) if self.bytes.len() >= length => Some((self.bytes[..length].to_vec(), length)),
                None if is_chunked => chunked(&self.bytes),
                None => Some((Vec::new(), 0)),
                Some(_) => None,
            };
            if let Some((data, end)) = whole {
                self.bytes.drain(..end);
                return Some(data);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Option<()> {
        matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)).then_some(())
    }
}

/// What became of a request: its body, or nothing when the caller left.
async fn call(http: &reqwest::Client, url: String, script: &Script) -> Result<Option<Vec<u8>>, String> {
    let mut rng = Rng::with_seed(script.number + 2_000_000);
    let parts = stream::iter(pieces(&mut rng, &script.upload()));
    let mut own = rng.fork();
    let parts = parts.then(move |piece| {
        let mut rng = own.fork();
        async move {
            moment(&mut rng).await;
            Ok::<_, std::io::Error>(piece)
        }
    });
    let body = match script.has_length {
        true => reqwest::Body::from(script.upload()),
        false => reqwest::Body::wrap_stream(parts),
    };
    let sending = http.post(url).body(body).send();
    let response = if script.leaves == Leaves::BeforeHead {
        tokio::select! {
            response = sending => response,
            () = async { for _ in 0..5 { moment(&mut rng).await } } => return Ok(None),
        }
    } else {
        sending.await
    };
    let mut response = response.map_err(|error| format!("{error:?}"))?;
    if response.status() != 200 {
        return Err(format!("{} {}", response.status(), response.text().await.unwrap_or_default()));
    }
    let mut read = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| format!("{error:?}"))? {
        read.extend_from_slice(&piece);
        if script.leaves == Leaves::InBody && read.len() > script.answered / 2 {
            return Ok(None);
        }
        moment(&mut rng).await;
    }
    Ok(Some(read))
}

async fn judge(http: &reqwest::Client, url: String, script: &Script) -> Option<String> {
    match tokio::time::timeout(PATIENCE, call(http, url, script)).await {
        Err(_) => Some(format!("has not ended: {script:?}")),
        Ok(Ok(Some(read))) if read != script.answer() => {
            Some(format!("{} bytes that are not the answer's: {script:?}", read.len()))
        }
        Ok(Ok(Some(_))) if !script.is_whole() => Some(format!("looks whole: {script:?}")),
        Ok(Err(error)) if script.is_whole() => Some(format!("{error}: {script:?}")),
        Ok(_) => None,
    }
}

async fn all(stage: &Arc<Stage>, clients: [reqwest::Client; 2]) -> Vec<String> {
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (stage, http) = (Arc::clone(stage), clients[(caller % 2) as usize].clone());
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                for number in (caller..REQUESTS).step_by(CALLERS as usize) {
                    let script = Script::of(number);
                    wrong.extend(judge(&http, stage.url(&format!("/v1/{number}")), &script).await);
                }
                wrong
            })
        })
        .collect();
    let mut wrong = Vec::new();
    for caller in callers {
        wrong.extend(caller.await.unwrap());
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_order_every_request_ends_and_gets_what_is_its_own() {
    let upstream = Upstream::start().await;
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", upstream.address);
    let stage = Plan::default().routes(&route).more("workers: 1\nreplay: {limit: 32KiB}").start().await;
    stage.ready().await;
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let clients = [stage.http.clone(), http2];
    let stage = Arc::new(stage);
    let mut wrong = all(&stage, clients).await;
    wrong.append(&mut upstream.wrong.lock().unwrap());
    assert!(wrong.is_empty(), "{} are wrong:\n{:#?}", wrong.len(), wrong.iter().take(10).collect::<Vec<_>>());
    eventually("the gateway holds nothing any more", || Arc::strong_count(&stage) == 1).await;
}
