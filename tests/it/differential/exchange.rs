//! One raw request to one server, and what became of it.

use std::{fmt, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    differential::recorder::{Recorded, Recorder, chunked},
    stage::PATIENCE,
};

/// Shows whether the connection still takes requests: sent behind the first answer.
const LAST: &[u8] = b"GET /v1/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What the caller saw and what the upstream got.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The statuses of the answers; `bare` for bytes without a head.
    statuses: Vec<String>,
    /// The connection takes another request.
    is_kept: bool,
    /// One line for each request that reached the upstream.
    forwarded: Vec<String>,
}

impl Outcome {
    /// Equal but for which status of a class is answered.
    pub(crate) fn resembles(&self, other: &Self) -> bool {
        let class = |status: &String| status.chars().next();
        self.is_kept == other.is_kept
            && self.forwarded == other.forwarded
            && self.statuses.iter().map(class).eq(other.statuses.iter().map(class))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = if self.statuses.is_empty() { "no answer".into() } else { self.statuses.join(" ") };
        write!(f, "{statuses}, {}", if self.is_kept { "kept" } else { "closed" })?;
        self.forwarded.iter().try_for_each(|line| write!(f, " -> {line}"))
    }
}

/// Sends `request` to the server at `address`, which forwards to `upstream`.
pub(crate) async fn exchange(
    address: SocketAddr,
    upstream: &Recorder,
    request: &[u8],
) -> (Outcome, Vec<Recorded>) {
    let is_head = request.starts_with(b"HEAD ");
    let answer = talk(address, request).await;
    let (mut statuses, _) = statuses(&answer, is_head);
    let mut recorded = upstream.take().await;
    let was_last = recorded.pop_if(|request| request.head.starts_with(b"GET /v1/last ")).is_some();
    if was_last {
        statuses.pop();
    }
    let forwarded = recorded.iter().map(line_of).collect();
    (Outcome { statuses, is_kept: was_last, forwarded }, recorded)
}

/// All that is answered to `request` and to the one behind it, until the connection closes.
pub(crate) async fn talk(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let is_head = request.starts_with(b"HEAD ");
    let talk = async {
        // A server may refuse and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let mut is_over = false;
        while !is_over && !statuses(&answer, is_head).1 {
            is_over = !matches!(stream.read_buf(&mut answer).await, Ok(1..));
        }
        let _ = stream.write_all(LAST).await;
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| {
        panic!("the connection is not closed after {}", shortened(&request.escape_ascii().to_string()))
    })
}

/// The statuses in `answer`, and whether one that is final has come to its end.
pub(crate) fn statuses(answer: &[u8], is_head: bool) -> (Vec<String>, bool) {
    let (mut found, mut is_final, mut rest) = (Vec::new(), false, answer);
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let Some(status) = head.strip_prefix("http/1.").and_then(|line| line.get(2..5)) else { break };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let length: usize = if is_head && found.is_empty() { 0 } else { length.unwrap_or(0) };
        rest = &rest[end + 4..];
        if rest.len() < length {
            return (found, is_final);
        }
        rest = &rest[length..];
        is_final = is_final || !status.starts_with('1');
        found.push(status.to_owned());
    }
    if !rest.is_empty() && !rest.starts_with(b"HTTP/") {
        found.push("bare".into());
    }
    (found, is_final)
}

/// Request line, the fields that not every request has, and the body.
fn line_of(request: &Recorded) -> String {
    let text = request.head.escape_ascii().to_string();
    let mut lines = text.split("\\r\\n");
    let mut line = shortened(lines.next().unwrap_or_default());
    let mut names: Vec<String> = lines
        .filter(|line| !line.is_empty())
        .map(|line| shortened(&line.split(':').next().unwrap_or_default().to_ascii_lowercase()))
        .collect();
    names.sort_unstable();
    for usual in ["authorization", "host", "via", "x-request-id"] {
        match names.iter().position(|name| name == usual) {
            Some(at) => drop(names.remove(at)),
            None => line.push_str(&format!(" -{usual}")),
        }
    }
    let mut names = names.as_slice();
    while let Some(name) = names.first() {
        let (same, others) = names.split_at(names.iter().take_while(|other| *other == name).count());
        let times = if same.len() == 1 { String::new() } else { format!("*{}", same.len()) };
        line.push_str(&format!(" +{name}{times}"));
        names = others;
    }
    let body = chunked(&request.framed).map_or_else(|| request.framed.clone(), |(data, _)| data);
    if !body.is_empty() {
        line.push_str(&format!(" \"{}\"", shortened(&body.escape_ascii().to_string())));
    }
    if request.is_cut {
        line.push_str(" (cut off)");
    }
    line
}

pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 120;
    if text.len() <= SHOWN { text.to_owned() } else { format!("{}…{} bytes", &text[..SHOWN], text.len()) }
}
