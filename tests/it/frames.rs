//! A caller that writes HTTP/2 frame by frame, also such as no library would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::stage::PATIENCE;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// Error codes (RFC 9113 §7).
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A setting's six bytes.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A field as HPACK writes it when it shares nothing: no table, no Huffman code (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.extend(integer(text.len(), 7));
        bytes.extend(text.bytes());
    }
    bytes
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
pub(crate) fn integer(value: usize, prefix: u32) -> Vec<u8> {
    let limit = (1_usize << prefix) - 1;
    if value < limit {
        return vec![u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![u8::try_from(limit).unwrap()];
    let mut rest = value - limit;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The header block of a request for `path`.
pub(crate) fn head(method: &str, path: &str) -> Vec<u8> {
    [field(":method", method), field(":scheme", "http"), field(":authority", "a"), field(":path", path)]
        .concat()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path))
}

/// The head of a request whose body is still to come.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path))
}

/// The n-th stream of a caller, from 0.
pub(crate) fn nth(n: u32) -> u32 {
    2 * n + 1
}

/// A frame as it was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub(crate) fn error(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().unwrap()))
    }

    /// Whether a HEADERS frame says this status in one of the usual ways.
    pub(crate) fn has_status(&self, status: u16) -> bool {
        // The static table has seven of them (RFC 7541 appendix A); h2 writes others as text.
        let indexed = [200, 204, 206, 304, 400, 404, 500].iter().position(|s| *s == status);
        let indexed = indexed.map(|at| 0x88 + u8::try_from(at).unwrap());
        self.kind == HEADERS && self.payload.first().copied() == indexed
    }
}

/// The reading end of a connection.
pub(crate) struct Reader(OwnedReadHalf);

impl Reader {
    /// The next frame; none when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a frame or an end in time")
    }

    /// The next frame that `is_wanted`; others are passed over.
    pub(crate) async fn find(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if is_wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads until the connection ends, and returns the error code of its GOAWAY.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = frame.error();
            }
        }
        code
    }
}

/// The writing end.
pub(crate) struct Writer(OwnedWriteHalf);

impl Writer {
    /// Whether the other end still takes bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        // An end that takes nothing for so long is as good as closed.
        const STUCK: Duration = Duration::from_secs(10);
        matches!(tokio::time::timeout(STUCK, self.0.write_all(bytes)).await, Ok(Ok(())))
    }
}

/// A connection with the preface and `settings` sent.
pub(crate) async fn connect(address: SocketAddr, settings: &[u8]) -> (Reader, Writer) {
    let (reader, mut writer) = connect_raw(address).await;
    assert!(writer.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await);
    (reader, writer)
}

/// A connection on which nothing has been sent.
pub(crate) async fn connect_raw(address: SocketAddr) -> (Reader, Writer) {
    ends(TcpStream::connect(address).await.unwrap())
}

/// Both ends of a connection.
pub(crate) fn ends(stream: TcpStream) -> (Reader, Writer) {
    stream.set_nodelay(true).unwrap();
    let (read, write) = stream.into_split();
    (Reader(read), Writer(write))
}

/// A connection of the gateway's own, which has begun to speak HTTP/2 as a client.
pub(crate) async fn accept(listener: &TcpListener) -> (Reader, Writer) {
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    let (reader, mut writer) = ends(stream);
    // The gateway's windows hold from here on.
    assert!(writer.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await);
    (reader, writer)
}
