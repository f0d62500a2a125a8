//! Connections that have become something else than HTTP: bytes go both ways until both ends are done.
//!
//! A tunnel begins when the upstream has agreed, never before (RFC 9110 §7.8). What it carries is
//! nobody's business; only its volume and its silence are noticed.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{
    body::Duplex,
    proxy::{attempt::RequestBody, record::Record},
    upstream::{connection::Connection, stream::Stream},
};

/// Bytes on their way in each direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// The upstream's end of a tunnel.
pub enum Far {
    /// An HTTP/1.1 connection behind its 101, and what was read of it beyond.
    Http1(Stream, Bytes),
    /// A stream of an HTTP/2 connection, and its place there.
    Http2(Duplex, Connection<RequestBody>),
}

/// A tunnel that waits for its caller.
pub struct Tunnel {
    far: Far,
    silence_max: Duration,
    record: Box<Record>,
    /// What the upstream has sent, by pieces.
    pieces: Rc<Cell<u32>>,
}

impl Tunnel {
    /// A tunnel to `far` that ends when nothing has moved for `silence_max`.
    pub fn new(far: Far, silence_max: Duration, record: Box<Record>) -> Self {
        Self { far, silence_max, record, pieces: Rc::default() }
    }

    /// Carries bytes between `near` and the upstream until both are done. `early` is what the caller
    /// has sent already. Whether it was ended because nothing moved.
    pub async fn run(self, near: impl AsyncRead + AsyncWrite + Unpin, early: Vec<u8>) -> bool {
        let Self { far, silence_max, mut record, pieces } = self;
        let counts = Rc::new(Counts { pieces, ..Counts::default() });
        let mut far = Counted { end: far, counts: Rc::clone(&counts) };
        let mut near = near;
        let carry = async {
            far.write_all(&early).await?;
            far.flush().await?;
            tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES).await
        };
        let carried = tokio::select! {
            carried = carry => Some(carried),
            () = counts.silence(silence_max) => None,
        };
        record.tunnelled(counts.received.get(), counts.sent.get());
        if carried.as_ref().is_some_and(|carried| carried.is_ok()) {
            record.complete();
        }
        carried.is_none()
    }

    /// `pieces` counts how often the upstream sends something.
    #[must_use]
    pub fn counted_by(self, pieces: Rc<Cell<u32>>) -> Self {
        Self { pieces, ..self }
    }
}

/// Bytes that have passed.
#[derive(Default)]
struct Counts {
    /// From the caller to the upstream.
    received: Cell<u64>,
    /// From the upstream to the caller.
    sent: Cell<u64>,
    pieces: Rc<Cell<u32>>,
}

impl Counts {
    /// Returns when nothing has moved for `limit`.
    async fn silence(&self, limit: Duration) {
        loop {
            let before = (self.received.get(), self.sent.get());
            tokio::time::sleep(limit).await;
            if before == (self.received.get(), self.sent.get()) {
                return;
            }
        }
    }
}

struct Counted {
    end: Far,
    counts: Rc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let from = buf.filled().len();
        let read = match &mut this.end {
            Far::Http1(_, ahead) if !ahead.is_empty() => {
                buf.put_slice(&ahead.split_to(ahead.len().min(buf.remaining())));
                Poll::Ready(Ok(()))
            }
            Far::Http1(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Far::Http2(stream, _) => Pin::new(stream).poll_read(cx, buf),
        };
        let read_bytes = (buf.filled().len() - from) as u64;
        this.counts.sent.set(this.counts.sent.get() + read_bytes);
        if read_bytes > 0 {
            this.counts.pieces.set(this.counts.pieces.get().saturating_add(1));
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.end {
            Far::Http1(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Far::Http2(stream, _) => Pin::new(stream).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(bytes)) = &written {
            this.counts.received.set(this.counts.received.get() + *bytes as u64);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().end {
            Far::Http1(stream, _) => Pin::new(stream).poll_flush(cx),
            Far::Http2(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().end {
            Far::Http1(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Far::Http2(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
