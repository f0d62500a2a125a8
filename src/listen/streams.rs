//! The streams of an HTTP/2 connection and the watch over their time.
//!
//! One connection carries many requests, and each has its own clock: a caller that stops taking one
//! answer loses that stream, not the others.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    listen::watched::{Ending, Watched},
    proxy::{answer::Answer, settings::Timeouts},
};

/// Whose move it is on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The request is being served: other limits hold.
    Gateway,
    /// The next bytes of the answer have to come from the upstream.
    Upstream,
    /// The caller has to make room for the next bytes.
    Caller,
    /// The stream has become a tunnel, which watches its own time.
    Tunnel,
}

/// One stream.
pub(super) struct Stream {
    turn: Cell<Turn>,
    since: Cell<Instant>,
    is_cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    passed: Rc<Cell<u32>>,
    /// The connection's, see [`Streams`].
    blocked_since: Rc<Cell<Option<Instant>>>,
    /// Its answer waits until the caller takes what is written.
    is_held: Cell<bool>,
}

impl Stream {
    fn turn_to(&self, turn: Turn) {
        if self.turn.get() != Turn::Tunnel {
            self.turn.set(turn);
            self.since.set(Instant::now());
        }
    }

    /// The answer's head is there.
    pub(super) fn begin_answer(&self) {
        self.turn_to(Turn::Caller);
    }

    /// From now on it is a tunnel. Gives where its messages are counted.
    pub(super) fn become_tunnel(&self) -> Rc<Cell<u32>> {
        self.turn.set(Turn::Tunnel);
        Rc::clone(&self.passed)
    }

    /// The upstream has sent one more piece of its answer.
    fn pass(&self) {
        self.passed.set(self.passed.get().saturating_add(1));
    }

    fn cancel(&self) {
        self.is_cancelled.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The outcome of `serving`, unless the stream is given up before. Dropping what serves it resets it.
    pub(super) async fn unless_cancelled<T>(&self, serving: impl Future<Output = T>) -> Option<T> {
        let mut serving = pin!(serving);
        poll_fn(|cx| match self.poll_cancelled(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => serving.as_mut().poll(cx).map(Some),
        })
        .await
    }

    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_cancelled.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether it was given up now.
    fn look(&self, now: Instant, timeouts: &Timeouts) -> bool {
        let waited = now - self.since.get();
        let is_late = match self.turn.get() {
            Turn::Caller => waited > timeouts.idle,
            Turn::Upstream => waited > timeouts.stream,
            Turn::Gateway | Turn::Tunnel => false,
        };
        if is_late && !self.is_cancelled.get() {
            self.cancel();
            return true;
        }
        false
    }
}

/// All streams of one connection, and how it is ending.
pub(super) struct Streams {
    open: RefCell<Vec<Rc<Stream>>>,
    idle_since: Cell<Instant>,
    /// Since when a frame or a header block has been incomplete.
    pub(super) partial_since: Cell<Option<Instant>>,
    /// Since when the caller has not taken what is written.
    blocked_since: Rc<Cell<Option<Instant>>>,
    /// No further streams are wanted.
    leaves: Cell<bool>,
    left_at: Cell<Option<Instant>>,
    /// Pieces of answers that upstreams have sent and nobody has looked at.
    passed: Rc<Cell<u32>>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            open: RefCell::default(),
            idle_since: Cell::new(Instant::now()),
            partial_since: Cell::default(),
            blocked_since: Rc::default(),
            leaves: Cell::default(),
            left_at: Cell::default(),
            passed: Rc::default(),
        }
    }

    /// A request has come.
    pub(super) fn open(&self) -> Rc<Stream> {
        let stream = Rc::new(Stream {
            turn: Cell::new(Turn::Gateway),
            since: Cell::new(Instant::now()),
            is_cancelled: Cell::default(),
            waker: RefCell::default(),
            passed: Rc::clone(&self.passed),
            blocked_since: Rc::clone(&self.blocked_since),
            is_held: Cell::default(),
        });
        self.open.borrow_mut().push(Rc::clone(&stream));
        stream
    }

    /// A request is over.
    pub(super) fn close(&self, stream: &Rc<Stream>) {
        let mut open = self.open.borrow_mut();
        open.retain(|other| !Rc::ptr_eq(other, stream));
        self.idle_since.set(Instant::now());
    }

    /// Whether the caller is to be told that no further streams are wanted.
    pub(super) fn leaves(&self) -> bool {
        self.leaves.get()
    }

    /// Pieces of answers that have gone to the caller since the last call. How a piece is cut up by the
    /// caller's windows makes no more of them.
    pub(super) fn take_passed(&self) -> u32 {
        self.passed.take()
    }

    /// The caller takes what is written, or does not.
    pub(super) fn blocked(&self, is_blocked: bool) {
        match (is_blocked, self.blocked_since.get()) {
            (true, None) => self.blocked_since.set(Some(Instant::now())),
            (false, Some(_)) => {
                self.blocked_since.set(None);
                self.open
                    .borrow()
                    .iter()
                    .filter(|stream| stream.is_held.take())
                    .for_each(|stream| stream.wake());
            }
            _ => {}
        }
    }

    pub(super) fn look(&self, watched: &Watched, now: Instant, timeouts: &Timeouts, stopping: bool) {
        let exceeds = |since: Option<Instant>, limit| since.is_some_and(|since| now - since > limit);
        if exceeds(self.blocked_since.get(), timeouts.idle) {
            return watched.end_because(Ending::SlowReader);
        }
        if exceeds(self.partial_since.get(), timeouts.header_read) {
            return watched.end_because(Ending::SlowHead);
        }
        let open = self.open.borrow();
        let lost = open.iter().filter(|stream| stream.look(now, timeouts)).count();
        watched.lost_streams.set(watched.lost_streams.get() + lost as u64);
        let is_idle = open.is_empty() && now - self.idle_since.get() > timeouts.idle;
        if (is_idle || stopping) && !self.leaves.replace(true) {
            self.left_at.set(Some(now));
            if is_idle && !stopping {
                watched.blame(Ending::Idle);
            }
            watched.wake();
        }
        // A caller that was told to go and stays.
        if open.is_empty() && exceeds(self.left_at.get(), timeouts.header_read) {
            watched.end_silently();
        }
    }
}

/// An answer whose taking is watched.
pub(super) struct Paced {
    pub(super) answer: Answer,
    pub(super) stream: Rc<Stream>,
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
        let frame = Pin::new(&mut this.answer).poll_frame(cx);
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
