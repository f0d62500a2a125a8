//! One sending of a recorded body: what is on the tape first, then the caller's stream.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{AttemptError, NotReplayable, Tape, bit};

/// One sending of a recorded body.
pub struct Attempt<S> {
    tape: Rc<RefCell<Tape<S>>>,
    number: u8,
    position: usize,
}

impl<S> Attempt<S> {
    pub(super) fn new(tape: Rc<RefCell<Tape<S>>>, number: u8) -> Self {
        Self { tape, number, position: 0 }
    }
}

impl<S: Body<Data = Bytes> + Unpin> Body for Attempt<S> {
    type Data = Bytes;
    type Error = AttemptError<S::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut guard = this.tape.borrow_mut();
        let tape = &mut *guard;
        // A stream that broke off has no end: silence would pass for one.
        if tape.is_over(this.number) || tape.recording == Err(NotReplayable::Broken) {
            return Poll::Ready(Some(Err(AttemptError::Abandoned)));
        }
        if let Some(frame) = tape.frames.get(this.position).cloned() {
            this.position += 1;
            tape.moved_at = Instant::now();
            if this.position == tape.frames.len() {
                tape.caught_up |= bit(this.number);
                // Whoever sends it may not ask again behind its end.
                if tape.settled && this.number == tape.active {
                    tape.erase();
                    this.position = 0;
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if this.number != tape.active {
            tape.wait(this.number, cx.waker());
            return Poll::Pending;
        }
        if tape.settled && !tape.frames.is_empty() {
            tape.erase();
            this.position = 0;
        }
        drop(guard);
        this.draw(cx)
    }

    fn is_end_stream(&self) -> bool {
        let tape = self.tape.borrow();
        let source_ended = tape.ended || tape.source.is_end_stream();
        source_ended && self.position >= tape.frames.len() && !tape.is_over(self.number)
    }

    fn size_hint(&self) -> SizeHint {
        // Asked before the first frame, when all attempts have the whole body in front of them.
        if self.position == 0 { self.tape.borrow().length } else { SizeHint::default() }
    }
}

type Drawn<E> = Result<Frame<Bytes>, AttemptError<E>>;

impl<S: Body<Data = Bytes> + Unpin> Attempt<S> {
    /// The next frame of the caller's stream.
    fn draw(&mut self, cx: &mut Context<'_>) -> Poll<Option<Drawn<S::Error>>> {
        let mut guard = self.tape.borrow_mut();
        let tape = &mut *guard;
        while !tape.ended {
            let Poll::Ready(drawn) = Pin::new(&mut tape.source).poll_frame(cx) else {
                tape.asked_at.get_or_insert_with(Instant::now);
                tape.wait(self.number, cx.waker());
                return Poll::Pending;
            };
            tape.heard();
            tape.moved_at = Instant::now();
            let frame = match drawn {
                None => {
                    tape.ended = true;
                    break;
                }
                Some(Err(error)) => {
                    tape.stop(NotReplayable::Broken);
                    return Poll::Ready(Some(Err(AttemptError::Caller(error))));
                }
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            tape.drawn_bytes += data.len() as u64;
            if tape.drawn_bytes > tape.bytes_max {
                tape.stop(NotReplayable::Broken);
                return Poll::Ready(Some(Err(AttemptError::TooLong)));
            }
            tape.caught_up = bit(self.number);
            if tape.keep(&data) {
                self.position += 1;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        tape.caught_up |= bit(self.number);
        Poll::Ready(None)
    }
}
