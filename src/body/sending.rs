//! A body that goes out over a stream of an HTTP/2 connection.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

/// A shorter piece is a part of the buffer that it was read into, some 8 KiB, and the library's measure of what
/// waits for room knows only its own length. So it is queued as a copy.
const SHORT_BYTES: usize = 4096;

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unsent<E> {
    /// It broke off itself. The stream was reset.
    #[error("the body broke off")]
    Body(#[source] E),
    /// The other side wants no more of it, or the connection is gone.
    #[error(transparent)]
    Stream(#[from] h2::Error),
}

/// Sends `body` to its end. A body that breaks off resets the stream with `reason`.
///
/// A frame is taken from the body first, and room for it is asked for then: room that is kept for what
/// may never come would be missing on the other streams of the connection.
///
/// # Errors
/// [`Unsent`]; the stream is over then.
pub async fn send<B>(
    mut body: B,
    mut stream: SendStream<Bytes>,
    reason: Reason,
) -> Result<(), Unsent<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    // What came behind short pieces that were put together.
    let mut ahead = None;
    loop {
        let next = match ahead.take() {
            Some(next) => next,
            None => {
                poll_fn(|cx| match poll_reset(&mut stream, cx) {
                    Poll::Ready(error) => Poll::Ready(Err(error)),
                    Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Ok),
                })
                .await?
            }
        };
        let frame = match next {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                stream.send_reset(reason);
                return Err(Unsent::Body(error));
            }
            None => return Ok(stream.send_data(Bytes::new(), true)?),
        };
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => {
                if data.is_empty() && !body.is_end_stream() {
                    continue;
                }
                room(&mut stream, data.len()).await?;
                // Behind the wait for room: until then it is the other side's turn, not the body's.
                let is_short = data.len() < SHORT_BYTES;
                let data = if is_short { compact(data, &mut body, &mut ahead).await } else { data };
                let is_last = ahead.as_ref().map_or_else(|| body.is_end_stream(), Option::is_none);
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Err(Ok(trailers)) => return Ok(stream.send_trailers(trailers)?),
            Err(Err(_)) => {}
        }
    }
}

type Next<E> = Option<Result<Frame<Bytes>, E>>;

/// A short piece, together with those that are there already, in memory of its own. What follows and is no such
/// piece is left in `ahead`.
async fn compact<B>(first: Bytes, body: &mut B, ahead: &mut Option<Next<B::Error>>) -> Bytes
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut all = BytesMut::from(first.as_ref());
    poll_fn(|cx| {
        while all.len() < SHORT_BYTES && !body.is_end_stream() {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame)))
                    if frame.data_ref().is_some_and(|data| data.len() < SHORT_BYTES) =>
                {
                    all.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                Poll::Ready(next) => {
                    *ahead = Some(next);
                    break;
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    })
    .await;
    all.freeze()
}

/// Waits until the other side takes some of `bytes`. One is asked for: the library asks for the rest when
/// it has it.
async fn room(stream: &mut SendStream<Bytes>, bytes: usize) -> Result<(), h2::Error> {
    if bytes == 0 {
        return Ok(());
    }
    stream.reserve_capacity(1);
    poll_fn(|cx| {
        if let Poll::Ready(error) = poll_reset(stream, cx) {
            return Poll::Ready(Err(error));
        }
        poll_room(stream, cx)
    })
    .await
}

/// Ready when some of what was reserved may be sent.
pub(super) fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
    Poll::Ready(Ok(()))
}

/// Ready when the stream is over.
fn poll_reset(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<h2::Error> {
    stream.poll_reset(cx).map(|reset| reset.map_or_else(|error| error, h2::Error::from))
}
