//! An answer on a stream, and whose move it is while it is sent.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Stream, Turn};
use crate::proxy::answer::Answer;

/// An answer whose taking is watched.
pub(in crate::listen) struct Paced {
    pub(in crate::listen) answer: Answer,
    pub(in crate::listen) stream: Rc<Stream>,
    /// The answer has broken off before its head was written. The library throws away what has not left when a
    /// stream is reset, and its caller would get no answer at all.
    pub(in crate::listen) broken: Option<<Answer as Body>::Error>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = <Answer as Body>::Error;

    /// The library asks for a frame only when the caller has room for it.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        // The library would queue as much for each stream as if its caller took it, and measures bytes only:
        // short pieces take many times their length.
        if this.stream.blocked_since.get().is_some() {
            this.stream.is_held.set(true);
            return Poll::Pending;
        }
        let mut frame = match this.broken.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => Pin::new(&mut this.answer).poll_frame(cx),
        };
        if let Poll::Ready(Some(Err(error))) = frame {
            if !this.stream.has_begun.get() {
                this.broken = Some(error);
                return Poll::Pending;
            }
            frame = Poll::Ready(Some(Err(error)));
        }
        match &frame {
            Poll::Ready(_) => {
                this.stream.pass();
                this.stream.turn_to(Turn::Caller);
            }
            Poll::Pending if this.stream.turn.get() != Turn::Upstream => this.stream.turn_to(Turn::Upstream),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::{super::Streams, *};
    use crate::body::ReceiveError;

    /// The library throws away a head that has not left when its stream is reset: the caller got no answer.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_breaks_off_at_once_is_not_reset_before_its_head_is_written() {
        let streams = Streams::new();
        let broken = Some(ReceiveError::from(h2::Error::from(h2::Reason::CANCEL)));
        let mut paced = Paced { answer: Answer::none(), stream: streams.open(1), broken };
        let mut next = |cx: &mut Context<'_>| Pin::new(&mut paced).poll_frame(cx);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(next(&mut cx).is_pending());
        streams.begins(3);
        assert!(next(&mut cx).is_pending(), "another one's head");
        streams.begins(1);
        assert!(matches!(next(&mut cx), Poll::Ready(Some(Err(_)))));
    }
}
