//! Bytes in both directions over a stream of an HTTP/2 connection (RFC 8441 §4).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::sending::poll_room;

/// Taken from a writer at a time; a frame of the usual size.
const PIECE_BYTES: usize = 16 * 1024;

/// A stream as bytes in both directions. Dropped before its end, it is reset.
pub struct Duplex {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// Has come and was not read.
    ahead: Bytes,
}

impl Duplex {
    /// The two directions of one stream.
    pub fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Self {
        Self { sending, receiving, ahead: Bytes::new() }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() {
            match ready!(this.receiving.poll_data(cx)) {
                Some(Ok(data)) => this.ahead = data,
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) if is_goodbye(&error) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let bytes = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead.split_to(bytes));
        // Only what was taken makes room for more.
        let _ = this.receiving.flow_control().release_capacity(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = buf.len().min(PIECE_BYTES);
        this.sending.reserve_capacity(wanted);
        ready!(poll_room(&mut this.sending, cx)).map_err(broken)?;
        let mut piece = buf.take(wanted.min(this.sending.capacity()));
        let bytes = piece.remaining();
        let piece = piece.copy_to_bytes(bytes);
        Poll::Ready(this.sending.send_data(piece, false).map(|()| bytes).map_err(broken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().sending.send_data(Bytes::new(), true) {
            Err(error) if !is_goodbye(&error) => Poll::Ready(Err(broken(error))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// RFC 8441 §5: how the other side closes without an end of its data.
fn is_goodbye(error: &h2::Error) -> bool {
    matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}
