//! The streams of an HTTP/2 connection and the watch over their time.
//!
//! One connection carries many requests, and each has its own clock: a caller that stops taking one
//! answer loses that stream, not the others.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::{
    listen::watched::{Ending, Watched},
    proxy::settings::Timeouts,
};

mod paced;

pub(super) use paced::Paced;

/// What one stream may send before it is another one's turn, at most.
const TURN_BYTES: u64 = 64 * 1024;
/// A caller that was told to go is listened to for so long, in all and without a byte from it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whose move it is on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The request is being served: other limits hold.
    Gateway,
    /// The next bytes of the answer have to come from the upstream.
    Upstream,
    /// The caller has to make room for the next bytes.
    Caller,
    /// The same, but they are the last ones: the library has them, and nobody serves the stream any more.
    Ending,
    /// The stream has become a tunnel, which watches its own time.
    Tunnel,
}

/// One stream.
pub(super) struct Stream {
    id: u32,
    turn: Cell<Turn>,
    since: Cell<Instant>,
    /// What the connection had sent by then.
    mark: Cell<u64>,
    /// The library has its answer to the end.
    is_finished: Cell<bool>,
    /// The end has been written, or one side has reset it.
    is_over: Cell<bool>,
    is_cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    passed: Rc<Cell<u32>>,
    /// The connection's, see [`Streams`].
    blocked_since: Rc<Cell<Option<Instant>>>,
    /// Its answer waits until the caller takes what is written.
    is_held: Cell<bool>,
    /// The head of its answer, or of an informational one, has been written.
    has_begun: Cell<bool>,
    sent: Rc<Cell<u64>>,
}

impl Stream {
    fn turn_to(&self, turn: Turn) {
        if self.turn.get() != Turn::Tunnel {
            self.turn.set(turn);
            self.begin();
        }
    }

    /// Its time counts from now.
    fn begin(&self) {
        self.since.set(Instant::now());
        self.mark.set(self.sent.get());
    }

    /// The library has been given the answer to its end.
    pub(super) fn finish(&self) {
        self.is_finished.set(true);
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

    /// Whether it had not been given up before.
    fn cancel(&self) -> bool {
        self.wake();
        !self.is_cancelled.replace(true)
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

    /// Whether it has waited for too long. `line` is how much the connection has to have sent meanwhile, if it
    /// is the connection that the caller reads slowly and not the stream.
    fn is_late(&self, now: Instant, timeouts: &Timeouts, line: u64) -> bool {
        let waited = now - self.since.get();
        match self.turn.get() {
            Turn::Caller | Turn::Ending => {
                waited > timeouts.idle && self.sent.get() - self.mark.get() >= line
            }
            Turn::Upstream => waited > timeouts.stream,
            Turn::Gateway | Turn::Tunnel => false,
        }
    }
}

/// All streams of one connection, and how it is ending.
pub(super) struct Streams {
    /// Those that are served, and those whose end has not been written.
    open: RefCell<FxHashMap<u32, Rc<Stream>>>,
    idle_since: Cell<Instant>,
    /// Since when a frame or a header block has been incomplete.
    pub(super) partial_since: Cell<Option<Instant>>,
    /// Since when the caller has not taken what is written.
    blocked_since: Rc<Cell<Option<Instant>>>,
    /// No further streams are wanted.
    leaves: Cell<bool>,
    left_at: Cell<Option<Instant>>,
    /// Since when a closed connection has been listened to, and when something came last.
    lingering: Cell<Option<(Instant, Instant)>>,
    /// Bytes that have gone out.
    sent: Rc<Cell<u64>>,
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
            lingering: Cell::default(),
            sent: Rc::default(),
            passed: Rc::default(),
        }
    }

    /// A request has come.
    pub(super) fn open(&self, id: u32) -> Rc<Stream> {
        let stream = Rc::new(Stream {
            id,
            turn: Cell::new(Turn::Gateway),
            since: Cell::new(Instant::now()),
            mark: Cell::default(),
            is_finished: Cell::default(),
            is_over: Cell::default(),
            is_cancelled: Cell::default(),
            waker: RefCell::default(),
            passed: Rc::clone(&self.passed),
            blocked_since: Rc::clone(&self.blocked_since),
            is_held: Cell::default(),
            has_begun: Cell::default(),
            sent: Rc::clone(&self.sent),
        });
        self.open.borrow_mut().insert(id, Rc::clone(&stream));
        stream
    }

    /// A request is over. Its stream stays until the end of the answer has been written.
    pub(super) fn close(&self, stream: &Stream) {
        if stream.is_finished.get() && !stream.is_over.get() {
            stream.turn.set(Turn::Ending);
            return stream.begin();
        }
        self.open.borrow_mut().remove(&stream.id);
        self.idle_since.set(Instant::now());
    }

    /// The head of a stream's answer has been written.
    pub(super) fn begins(&self, id: u32) {
        if let Some(stream) = self.open.borrow().get(&id)
            && !stream.has_begun.replace(true)
        {
            stream.wake();
        }
    }

    /// A part of a stream's answer has been written.
    pub(super) fn moves(&self, id: u32) {
        let open = self.open.borrow();
        let stream = open.get(&id).filter(|s| matches!(s.turn.get(), Turn::Caller | Turn::Ending));
        if let Some(stream) = stream {
            stream.begin();
        }
    }

    /// The end of a stream has been written, or the caller wants no more of it. Whether it was open.
    pub(super) fn ends(&self, id: u32) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(stream) = open.get(&id) else { return false };
        stream.is_over.set(true);
        if stream.turn.get() == Turn::Ending {
            open.remove(&id);
            self.idle_since.set(Instant::now());
        }
        true
    }

    /// So many bytes have gone out.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
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
                    .values()
                    .filter(|stream| stream.is_held.take())
                    .for_each(|stream| stream.wake());
            }
            _ => {}
        }
    }

    /// The connection is closed, and something may still come.
    pub(super) fn linger(&self) {
        let now = Instant::now();
        self.lingering.set(Some((self.lingering.get().map_or(now, |(begun, _)| begun), now)));
    }

    pub(super) fn look(&self, watched: &Watched, now: Instant, timeouts: &Timeouts, stopping: bool) {
        let exceeds = |since: Option<Instant>, limit| since.is_some_and(|since| now - since > limit);
        if exceeds(self.blocked_since.get(), timeouts.idle) {
            return watched.end_because(Ending::SlowReader);
        }
        if exceeds(self.partial_since.get(), timeouts.header_read) {
            return watched.end_because(Ending::SlowHead);
        }
        let has_left_ends = self.give_up(watched, now, timeouts);
        let is_empty = self.open.borrow().is_empty() && self.blocked_since.get().is_none();
        if has_left_ends && is_empty {
            return watched.end_because(Ending::SlowReader);
        }
        let is_idle = is_empty && now - self.idle_since.get() > timeouts.idle;
        if (is_idle || stopping) && !self.leaves() {
            self.leave(watched, now, (!stopping).then_some(Ending::Idle));
        }
        // A caller that was told to go and stays. It may still be reading what it got last.
        let left_at = self.left_at.get().map(|at| at.max(self.idle_since.get()));
        let has_lingered = self
            .lingering
            .get()
            .is_some_and(|(begun, last)| now - begun > LINGER_TIME_MAX || now - last > LINGER_PAUSE_MAX);
        if has_lingered || (is_empty && exceeds(left_at, timeouts.header_read)) {
            watched.end_silently();
        }
    }

    /// Since when nothing has been asked on it, unless it is told to go already.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_idle = !self.leaves() && self.open.borrow().is_empty() && self.blocked_since.get().is_none();
        is_idle.then(|| self.idle_since.get())
    }

    /// Tells the caller that no further streams are wanted (GOAWAY, RFC 9113 §6.8). What it sends before it
    /// knows is still served.
    pub(super) fn leave(&self, watched: &Watched, now: Instant, why: Option<Ending>) {
        self.leaves.set(true);
        self.left_at.set(Some(now));
        if let Some(why) = why {
            watched.blame(why);
        }
        watched.wake();
    }

    /// Gives up the streams that have waited for too long. Whether one of them was nobody's any more: it is
    /// forgotten, as only the end of the connection ends it.
    fn give_up(&self, watched: &Watched, now: Instant, timeouts: &Timeouts) -> bool {
        let (mut lost, mut has_left_ends) = (0, false);
        let mut open = self.open.borrow_mut();
        let is_blocked = self.blocked_since.get().is_some();
        let line = if is_blocked { open.len() as u64 * TURN_BYTES } else { 0 };
        open.retain(|_, stream| {
            let is_late = stream.is_late(now, timeouts, line);
            let is_left = is_late && stream.turn.get() == Turn::Ending;
            has_left_ends |= is_left;
            lost += u64::from(is_late && !is_left && stream.cancel());
            !is_left
        });
        watched.shard.lost_streams.add(lost);
        has_left_ends
    }
}
