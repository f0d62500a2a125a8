//! What a connection of the admin listener is doing, and since when: whatever takes too long ends it.
//!
//! It knows no HTTP. The stream tells it of bytes, the service of requests, the bodies of their ends. A request
//! that is being worked on has no limit here, and neither has an answer that its reader takes, however long
//! it lasts.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::proxy::settings::Timeouts;

/// The longest time between two looks at a connection's clock.
const LOOK_PERIOD_MAX: Duration = Duration::from_secs(1);
/// The shortest.
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(20);

/// How long to wait with the next look, so that a limit is kept to about a quarter.
pub(super) fn look_period(timeouts: &Timeouts) -> Duration {
    let shortest = timeouts.header_read.min(timeouts.idle).min(timeouts.body);
    (shortest / 4).clamp(LOOK_PERIOD_MIN, LOOK_PERIOD_MAX)
}

/// Why a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing was asked for a while.
    Idle,
    /// A head did not get complete.
    SlowHead,
    /// The body of a request did not.
    SlowBody,
    /// An answer was not taken.
    SlowReader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head is wanted: it has begun, or the connection is new.
    Head,
    /// A request is worked on, or its answer is on its way.
    Busy,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// A request's body has been on its way since then.
    body_since: Option<Instant>,
    /// The other side has taken nothing since then, although something waits for it.
    stuck_since: Option<Instant>,
}

impl State {
    /// Somebody who connects is about to ask: a new connection has no more time than a head.
    fn new(now: Instant) -> Self {
        Self { phase: Phase::Head, since: now, body_since: None, stuck_since: None }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.since) = (phase, now);
    }

    fn received(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            self.enter(Phase::Head, now);
        }
    }

    fn sent(&mut self, now: Instant) {
        self.stuck_since = None;
        // The end of a large answer goes out when its body is over already.
        if self.phase == Phase::Idle {
            self.since = now;
        }
    }

    fn asked(&mut self, has_body: bool, now: Instant) {
        self.enter(Phase::Busy, now);
        self.body_since = has_body.then_some(now);
    }

    fn answered(&mut self, now: Instant) {
        self.enter(Phase::Idle, now);
        self.body_since = None;
    }

    fn overdue(&self, now: Instant, timeouts: &Timeouts) -> Option<Ending> {
        let is_over = |since: Option<Instant>, limit| since.is_some_and(|since| now - since > limit);
        let since = Some(self.since);
        if is_over(self.stuck_since, timeouts.idle) {
            return Some(Ending::SlowReader);
        }
        if is_over(self.body_since, timeouts.body) {
            return Some(Ending::SlowBody);
        }
        match self.phase {
            Phase::Idle if is_over(since, timeouts.idle) => Some(Ending::Idle),
            Phase::Head if is_over(since, timeouts.header_read) => Some(Ending::SlowHead),
            Phase::Idle | Phase::Head | Phase::Busy => None,
        }
    }
}

/// The clock of one connection. All who touch it run on the control plane.
pub(super) struct Watched(Mutex<State>);

impl Watched {
    /// The clock of a connection that begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::new(Instant::now()))))
    }

    /// The TLS handshake is over, which has a limit of its own.
    pub(super) fn restart(&self) {
        *self.state() = State::new(Instant::now());
    }

    /// A request's head is complete.
    pub(super) fn asked(&self, has_body: bool) {
        self.state().asked(has_body, Instant::now());
    }

    /// Why the connection should end now, if it should.
    pub(super) fn overdue(&self, timeouts: &Timeouts) -> Option<Ending> {
        self.state().overdue(Instant::now(), timeouts)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_written(&self, written: &Poll<io::Result<usize>>) {
        let now = Instant::now();
        match written {
            Poll::Ready(_) => self.state().sent(now),
            Poll::Pending => {
                self.state().stuck_since.get_or_insert(now);
            }
        }
    }
}

/// A socket whose bytes are noted. It lies below TLS, where each byte that goes out has been taken.
pub(super) struct WatchedStream<S> {
    stream: S,
    watched: Arc<Watched>,
}

impl<S> WatchedStream<S> {
    /// Notes the bytes of `stream` in `watched`.
    pub(super) fn new(stream: S, watched: &Arc<Watched>) -> Self {
        Self { stream, watched: Arc::clone(watched) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watched.state().received(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched.has_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched.has_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Which body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A request's: its time is over with its last byte.
    Request,
    /// An answer's: what comes next is another request.
    Answer,
}

/// A body whose end is noted, also when nobody wants the rest of it.
pub(super) struct WatchedBody<B> {
    body: B,
    side: Side,
    watched: Arc<Watched>,
}

impl<B> WatchedBody<B> {
    /// Notes the end of `body` in `watched`.
    pub(super) fn new(body: B, side: Side, watched: &Arc<Watched>) -> Self {
        Self { body, side, watched: Arc::clone(watched) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.side == Side::Request && !matches!(frame, Some(Ok(_))) {
            self.watched.state().body_since = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for WatchedBody<B> {
    fn drop(&mut self) {
        let mut state = self.watched.state();
        match self.side {
            Side::Request => state.body_since = None,
            Side::Answer => state.answered(Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What becomes of a connection to which `life` happens, so long after its last event.
    fn after(seconds: u32, life: impl FnOnce(&mut State, Instant)) -> Option<Ending> {
        let began = Instant::now();
        let mut state = State::new(began);
        // What has happened before must not count.
        let now = began + 5 * SECOND;
        life(&mut state, now);
        state.overdue(now + seconds * SECOND, &Timeouts::default())
    }

    #[test]
    fn a_new_connection_has_the_time_of_a_head() {
        assert_eq!(after(5, |_, _| {}), None);
        assert_eq!(after(6, |_, _| {}), Some(Ending::SlowHead), "five have passed before");
        assert_eq!(after(6, State::received), Some(Ending::SlowHead), "a byte does not prolong it");
    }

    #[test]
    fn between_requests_it_has_longer_until_the_next_one_begins() {
        let idle = |state: &mut State, now| {
            state.asked(false, now);
            state.answered(now);
        };
        assert_eq!(after(75, idle), None);
        assert_eq!(after(76, idle), Some(Ending::Idle));
        let next = |state: &mut State, now| {
            idle(state, now);
            state.received(now);
            state.received(now + 9 * SECOND);
        };
        assert_eq!(after(10, next), None);
        assert_eq!(after(11, next), Some(Ending::SlowHead));
    }

    #[test]
    fn work_and_an_answer_that_is_taken_have_no_limit() {
        let asked = |state: &mut State, now| state.asked(false, now);
        assert_eq!(after(100_000, asked), None);
        let moving = |state: &mut State, now| {
            state.asked(false, now);
            state.stuck_since = Some(now);
            state.sent(now);
        };
        assert_eq!(after(100_000, moving), None);
        let rest = |state: &mut State, now| {
            state.answered(now);
            state.sent(now + 70 * SECOND);
        };
        assert_eq!(after(100, rest), None, "what is left of an answer is still being taken");
    }

    #[test]
    fn a_body_and_a_reader_that_stand_still_end_it() {
        let upload = |state: &mut State, now| state.asked(true, now);
        assert_eq!(after(30, upload), None);
        assert_eq!(after(31, upload), Some(Ending::SlowBody));
        let stuck = |state: &mut State, now| {
            state.asked(false, now);
            state.stuck_since = Some(now);
        };
        assert_eq!(after(75, stuck), None);
        assert_eq!(after(76, stuck), Some(Ending::SlowReader));
    }
}
