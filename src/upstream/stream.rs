//! The bytes of one connection to an upstream, and what is known of them from outside.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::upstream::{
    bound::Era,
    gather,
    room::Place,
    traffic::{Closing, Traffic},
};

/// A connection to an upstream.
///
/// An upstream that answers early, for instance with 401 to an upload, may close its end while we are
/// still sending. Its answer is there to be read, so a failed write is not the end: from then on what
/// is written goes nowhere, and reading tells what the upstream had to say.
pub struct Stream {
    transport: Transport,
    wire: Rc<Wire>,
    _open: Open,
    _place: Option<Place>,
}

/// What a connection's bytes go over.
pub(super) enum Transport {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// An upgraded connection: its bytes, and those that were read already.
pub type Upgraded = (Stream, Bytes);

/// What is known of a connection while the protocol above holds its bytes.
#[derive(Default)]
pub(super) struct Wire {
    is_deaf: Cell<bool>,
    /// The certificate it was made with, if that is a profile's.
    era: Option<Era>,
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    /// What is to be sent waits until the upstream reads.
    is_blocked: Cell<bool>,
    /// Nothing more will come.
    has_ended: Cell<bool>,
    /// TLS has failed after its handshake.
    has_tls_failed: Cell<bool>,
    /// Who waits for something to come.
    waiting: Cell<Option<Waker>>,
    /// We are about to close it, for this reason.
    closing: Cell<Option<Closing>>,
}

impl Wire {
    /// Whether the upstream has stopped listening; such a connection is never used again.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf.get()
    }

    /// Whether it may not carry further requests: nobody listens, or it was made with a certificate that
    /// tokens are no longer bound to.
    pub(super) fn is_unfit(&self) -> bool {
        self.is_deaf() || self.era.as_ref().is_some_and(Era::is_over)
    }

    /// It will be closed for this reason, and counted when it is. The first one holds.
    pub(super) fn close_because(&self, why: Closing) {
        self.closing.set(self.closing.get().or(Some(why)));
    }

    /// Bytes that the system has taken so far. Unchanged means that nothing of a request has left.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Whether bytes wait here until the upstream reads.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// Bytes that have come so far.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Whether the upstream has said its last word.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Wakes whoever asked last when something has come, or the end.
    pub(super) fn wake_on_receipt(&self, waker: &Waker) {
        self.waiting.set(Some(waker.clone()));
    }

    /// Whether TLS has failed after its handshake. With TLS 1.3 that is when an upstream refuses our
    /// certificate, or the lack of one.
    pub(super) fn has_tls_failed(&self) -> bool {
        self.has_tls_failed.get()
    }
}

impl Stream {
    /// Puts a connection together, which is counted in `traffic`.
    pub(super) fn new(transport: Transport, era: Option<Era>, traffic: &Arc<Traffic>) -> Self {
        let wire = Rc::new(Wire { era, ..Wire::default() });
        let open = Open::begin(traffic, &wire);
        Self { transport, wire, _open: open, _place: None }
    }

    /// Holds `place` while it lives.
    pub(super) fn holding(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }

    /// Whether TLS goes over it.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// What is known of it, also later.
    pub(super) fn wire(&self) -> Rc<Wire> {
        Rc::clone(&self.wire)
    }

    /// Turns the failure of a write of `length` bytes into deafness, and counts a success.
    fn survive(&self, written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        self.wire.is_blocked.set(written.is_pending());
        match written {
            Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                self.wire.is_deaf.set(true);
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Ok(sent)) => {
                self.wire.sent_bytes.set(self.wire.sent_bytes.get() + sent as u64);
                Poll::Ready(Ok(sent))
            }
            written => written,
        }
    }
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        };
        let read = ready!(read);
        let wire = &this.wire;
        let received = (buf.filled().len() - before) as u64;
        wire.received_bytes.set(wire.received_bytes.get() + received);
        wire.has_ended.set(received == 0 && room > 0);
        if let Some(waker) = wire.waiting.take() {
            waker.wake();
        }
        if let Err(error) = &read {
            let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            wire.has_tls_failed.set(is_tls);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.wire.is_deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        };
        this.survive(written, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if this.wire.is_deaf() {
            return Poll::Ready(Ok(length));
        }
        let written = match &mut this.transport {
            Transport::Plain(stream) => gather::poll_write(stream, cx, bufs),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        };
        this.survive(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        };
        this.survive(flushed.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Counts one open connection while it lives, and why we have closed it.
struct Open(Arc<Traffic>, Rc<Wire>);

impl Open {
    fn begin(traffic: &Arc<Traffic>, wire: &Rc<Wire>) -> Self {
        traffic.begin();
        Self(Arc::clone(traffic), Rc::clone(wire))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end(self.1.closing.get());
    }
}
