//! A message's body as it comes, whatever version of HTTP it comes over, and the ways of HTTP/2.
//!
//! HTTP/1.1 is left to hyper. HTTP/2 is driven through the library below it, `h2`: hyper has no place
//! for informational responses there, and gives a stream away only when all of it is answered.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

mod driven;
mod duplex;
mod kept;
mod sending;

pub use driven::{Drive, Driven, Read};
pub use duplex::Duplex;
use kept::Kept;
pub use sending::{Unsent, send};

/// A body on its way in.
pub enum Received {
    /// There is none.
    Empty,
    /// Over HTTP/1.1, from a connection that moves by itself.
    Http1(Incoming),
    /// Over HTTP/1.1, from a connection that its reader moves.
    Driven(Driven),
    /// Over a stream of an HTTP/2 connection.
    Http2(Http2),
    /// None, but bytes in both directions: the answer to a CONNECT.
    Duplex(Duplex),
    /// Whatever it comes over, its beginning has been read already.
    Kept(Box<Kept>),
}

/// What is done when somebody begins to read a body.
pub type Wanted = Box<dyn FnOnce()>;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Received {
    /// The body of a request: whatever ends its stream early breaks it off. `wanted` is called when
    /// somebody begins to read it.
    pub fn of_request(stream: RecvStream, headers: &HeaderMap, wanted: Option<Wanted>) -> Self {
        Self::of(stream, headers, false, wanted)
    }

    /// The body of a response, behind whose end the stream may be closed in peace (RFC 9113 §8.1).
    pub fn of_response(stream: RecvStream, headers: &HeaderMap) -> Self {
        Self::of(stream, headers, true, None)
    }

    fn of(stream: RecvStream, headers: &HeaderMap, may_be_closed: bool, wanted: Option<Wanted>) -> Self {
        if stream.is_end_stream() {
            return Self::Empty;
        }
        Self::Http2(Http2 { stream, left: length(headers), has_data: true, may_be_closed, wanted })
    }

    /// Reads on and keeps what comes for whoever reads the body later, until there are more than `bytes_max`. Whether
    /// all of it has come, so that what it came over is free. What has come is kept also if this is dropped.
    pub async fn keep(&mut self, bytes_max: usize) -> bool {
        let rest = std::mem::replace(self, Self::Empty);
        let kept = match rest {
            Self::Kept(kept) => kept,
            rest => Box::new(Kept::new(rest)),
        };
        *self = Self::Kept(kept);
        let Self::Kept(kept) = self else { return false };
        kept.read(bytes_max).await
    }

    /// Takes the bytes of both directions out.
    pub fn take_duplex(&mut self) -> Option<Duplex> {
        match std::mem::replace(self, Self::Empty) {
            Self::Duplex(duplex) => Some(duplex),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        match self.get_mut() {
            Self::Empty | Self::Duplex(_) => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(ReceiveError::Http1),
            Self::Driven(body) => body.poll_frame(cx).map_err(ReceiveError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(ReceiveError::Http2),
            Self::Kept(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Duplex(_) => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Driven(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
            Self::Kept(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Duplex(_) => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Driven(body) => body.size_hint(),
            Self::Http2(body) => body.left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Kept(body) => body.size_hint(),
        }
    }
}

/// A body on a stream of an HTTP/2 connection.
pub struct Http2 {
    stream: RecvStream,
    /// What is still to come, if that was announced. The library holds the peer to it.
    left: Option<u64>,
    /// Trailers come after the data.
    has_data: bool,
    /// Whether NO_ERROR is an end like any other.
    may_be_closed: bool,
    wanted: Option<Wanted>,
}

impl Http2 {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted();
        }
        while self.has_data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever takes a frame has room for it; the next one may come.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.broken(error)),
                None => self.has_data = false,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(self.broken(error)),
        }
    }

    /// The end that `error` is. NO_ERROR behind END_STREAM never gets here; before it, only a length that was
    /// announced tells that nothing is missing.
    fn broken(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        let is_end = self.may_be_closed
            && error.is_remote()
            && error.reason() == Some(Reason::NO_ERROR)
            && self.left == Some(0);
        if is_end { None } else { Some(Err(error)) }
    }
}

/// A length that can be relied on: one, of digits only.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(length), None) if length.as_bytes().iter().all(u8::is_ascii_digit) => {
            length.to_str().ok()?.parse().ok()
        }
        _ => None,
    }
}
