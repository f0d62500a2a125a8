//! HTTP/1.1 on a connection to an upstream: one request at a time.

use std::rc::Rc;

use http::Extensions;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::upstream::{
    Closing, Sendable,
    connect::ConnectError,
    driven::Driven,
    interims::Interims,
    stream::{Stream, Wire},
};

/// A response head of an upstream, and at most this much of its body read ahead. Bounds what a busy
/// connection costs.
const READ_BUFFER_MAX: usize = 64 * 1024;
/// Fields of a response head. The library's own measure is 100.
const HEADERS_MAX: usize = 256;

/// A connection, as it lies in the pool.
pub(super) struct Idle<B: Sendable> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) driven: Rc<Driven<B>>,
    pub(super) wire: Rc<Wire>,
    /// Informational responses to the current request.
    pub(super) interims: Interims,
    /// Makes the library tell of them.
    pub(super) hearing: Extensions,
    pub(super) since: Instant,
    /// From then on it takes no request.
    pub(super) expires: Instant,
    /// Whether it has carried a request.
    pub(super) is_used: bool,
}

impl<B: Sendable> Idle<B> {
    /// Takes notice of what has happened while nobody was looking, and says whether a request can go out.
    pub(super) fn is_ready(&mut self) -> bool {
        self.driven.catch_up();
        if !self.sender.is_ready() {
            // It is new, or the last answer's end has not been noticed yet.
            self.driven.turn();
        }
        self.sender.is_ready()
    }

    /// Whether it may carry another request.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        if self.sender.is_closed() || self.wire.is_unfit() {
            return false;
        }
        if now >= self.expires {
            self.wire.close_because(Closing::MaxAge);
        }
        now < self.expires
    }
}

/// Begins HTTP/1.1 on `stream`.
///
/// # Errors
/// When the library refuses.
pub(super) async fn begin<B: Sendable>(stream: Stream, expires: Instant) -> Result<Idle<B>, ConnectError> {
    let wire = stream.wire();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ConnectError::Unreachable(Rc::new(std::io::Error::other(e))))?;
    let driven = Driven::new(connection, Rc::clone(&wire));
    let interims = Interims::default();
    let hearing = interims.hearing();
    Ok(Idle { sender, driven, wire, interims, hearing, since: Instant::now(), expires, is_used: false })
}
