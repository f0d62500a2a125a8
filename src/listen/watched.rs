//! What is known of a connection, for its guard, its service and the worker's watch.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use crate::{
    caller::roster,
    listen::{streams::Streams, transport::TlsFacts},
    proxy::{fault::Fault, settings::Timeouts, tunnel::Tunnel},
    telemetry::listeners::ListenerShard,
};

/// An idle connection gives its buffers back after this.
const REST_AFTER: Duration = Duration::from_secs(2);
/// How long a connection may stay open for its next request while the gateway stops.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// What a connection is doing, for those who watch its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun and is not complete.
    Head,
    /// A request is being served, its answer has not begun: other limits hold.
    Busy,
    /// An answer is on its way.
    Answering,
}

/// The state of a connection, shared by its guard, its service and the worker's watch.
pub(super) struct Watched {
    pub(super) since: Cell<Instant>,
    pub(super) has_partial_head: Cell<bool>,
    /// The guard holds what it has not looked at: it came while a request was being served.
    pub(super) has_waiting: Cell<bool>,
    /// Requests that passed the guard, and those that have been answered.
    pub(super) passed: Cell<u64>,
    pub(super) served: Cell<u64>,
    pub(super) answered: Cell<u64>,
    pub(super) refused: RefCell<Option<(u64, Fault)>>,
    pub(super) has_refused: Cell<bool>,
    /// The current request's answer has begun.
    pub(super) is_answering: Cell<bool>,
    /// Bytes have gone out since the watch looked last.
    pub(super) has_moved: Cell<bool>,
    /// The caller does not take what is waiting for it. Behind an answer this is its end, which the library
    /// has taken and not written.
    pub(super) is_blocked: Cell<bool>,
    /// Informational responses that have to go out before anything else does.
    pub(super) interim: RefCell<BytesMut>,
    /// What takes the connection over once the answer's head is out.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
    is_tunnel: Cell<bool>,
    /// The connection has been idle for a while and may give its buffers back.
    pub(super) wants_rest: Cell<bool>,
    /// It is about to rest.
    pub(super) rests: Cell<bool>,
    /// It rested since its last request.
    has_rested: Cell<bool>,
    /// Why the connection was ended, if it was.
    pub(super) ending: Cell<Option<Ending>>,
    /// Where its streams are counted that are given up.
    pub(super) shard: Arc<ListenerShard>,
    /// What the TLS handshake has settled, if there was one.
    pub(super) tls: OnceCell<TlsFacts>,
    /// There when the connection speaks HTTP/2.
    pub(super) streams: OnceCell<Streams>,
    pub(super) end: Cell<End>,
    pub(super) waker: RefCell<Option<Waker>>,
    /// What it was accepted under holds no more: it ends behind its next answer, and in any case after the
    /// drain time.
    is_replaced: Arc<AtomicBool>,
    /// For those who ask who is connected.
    present: Arc<roster::Connection>,
    noted: Cell<u64>,
    leaving_since: Cell<Option<Instant>>,
}

/// Why the gateway has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing was asked for a while.
    Idle,
    /// Nothing was asked for a moment, and more HTTP/2 connections are idle than are kept.
    Surplus,
    /// A head did not get complete.
    SlowHead,
    /// An answer was not taken.
    SlowReader,
    /// An answer did not come.
    Silence,
    /// A WebSocket on which nothing moved.
    SilentTunnel,
    /// It stayed when its listener was gone or had other rules.
    Drain,
    /// More control frames than anybody needs.
    Flood,
    /// What came was no HTTP/2, or too much of it for the library.
    Http2,
}

/// How the watch ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    No,
    /// As if the caller had closed it.
    Silently,
    /// With the fault for a head that came too slowly.
    TooSlow,
}

impl Watched {
    pub(super) fn new(
        is_replaced: &Arc<AtomicBool>,
        present: &Arc<roster::Connection>,
        shard: &Arc<ListenerShard>,
    ) -> Rc<Self> {
        Rc::new(Self {
            since: Cell::new(Instant::now()),
            has_partial_head: Cell::new(false),
            has_waiting: Cell::new(false),
            passed: Cell::new(0),
            served: Cell::new(0),
            answered: Cell::new(0),
            refused: RefCell::new(None),
            has_refused: Cell::new(false),
            is_answering: Cell::new(false),
            has_moved: Cell::new(false),
            is_blocked: Cell::new(false),
            interim: RefCell::default(),
            tunnel: RefCell::default(),
            is_tunnel: Cell::new(false),
            ending: Cell::new(None),
            shard: Arc::clone(shard),
            wants_rest: Cell::new(false),
            rests: Cell::new(false),
            has_rested: Cell::new(false),
            tls: OnceCell::new(),
            streams: OnceCell::new(),
            end: Cell::new(End::No),
            waker: RefCell::new(None),
            is_replaced: Arc::clone(is_replaced),
            present: Arc::clone(present),
            noted: Cell::new(0),
            leaving_since: Cell::new(None),
        })
    }

    /// What the connection is doing, and since when.
    fn phase(&self) -> (Phase, Instant) {
        let phase = if self.is_tunnel.get() {
            Phase::Busy
        } else if self.is_blocked.get() || (self.is_busy() && self.is_answering.get()) {
            // Also where the next request is being served already, or waits for room to be.
            Phase::Answering
        } else if self.is_busy() {
            Phase::Busy
        } else if self.has_partial_head.get() {
            Phase::Head
        } else {
            Phase::Idle
        };
        (phase, self.since.get())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.passed.get() > self.answered.get()
    }

    /// The current request's answer begins.
    pub(super) fn begin_answer(&self) {
        self.is_answering.set(true);
        self.since.set(Instant::now());
    }

    /// Whether its listener is gone or has other rules about who may connect.
    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Relaxed)
    }

    /// Since when that has been so, as far as the watch has seen.
    fn leaving_since(&self, now: Instant) -> Option<Instant> {
        if self.leaving_since.get().is_none() && self.is_replaced() {
            self.leaving_since.set(Some(now));
        }
        self.leaving_since.get()
    }

    /// Looks at the connection's clocks and ends what takes too long.
    pub(super) fn look(&self, now: Instant, timeouts: &Timeouts, stopping_since: Option<Instant>) {
        let leaving_since = self.leaving_since(now);
        // Whoever stays, whatever for, would be served under rules that do not hold. The end of a stop is the
        // worker's business.
        let has_stayed = leaving_since.is_some_and(|at| now - at > timeouts.drain);
        if has_stayed && stopping_since.is_none() {
            return self.end_because(Ending::Drain);
        }
        let stopping_since = stopping_since.or(leaving_since);
        // Here and not with each request, which would pay for it.
        if self.noted.replace(self.served.get()) != self.served.get() {
            self.present.note(self.served.get());
        }
        if let Some(streams) = self.streams.get() {
            return streams.look(self, now, timeouts, stopping_since.is_some());
        }
        // Counts an answer's standstill from now if it has moved since the last look. A head's time is for all
        // of it, whatever else goes on.
        if self.has_moved.take() && (self.is_blocked.get() || !self.has_partial_head.get()) {
            self.since.set(now);
        }
        let (phase, since) = self.phase();
        let waited = now - since;
        match phase {
            Phase::Answering if self.is_blocked.get() && waited > timeouts.idle => {
                self.end_because(Ending::SlowReader);
            }
            Phase::Answering if waited > timeouts.stream => self.end_because(Ending::Silence),
            Phase::Head if waited > timeouts.header_read => {
                self.blame(Ending::SlowHead);
                self.end_with(End::TooSlow);
            }
            Phase::Idle if waited > timeouts.idle => self.end_because(Ending::Idle),
            // The caller may be about to send: it gets a moment, and its answer says `close`.
            Phase::Idle if stopping_since.is_some_and(|at| now - at.max(since) > LAST_CHANCE) => {
                self.end_silently();
            }
            Phase::Idle if waited > REST_AFTER && self.served.get() > 0 && !self.has_rested.replace(true) => {
                self.wants_rest.set(true);
                self.wake();
            }
            Phase::Head | Phase::Idle | Phase::Busy | Phase::Answering => {}
        }
    }

    /// Nothing is on its way, in or out.
    pub(super) fn may_rest(&self) -> bool {
        !self.is_busy() && !self.has_partial_head.get() && !self.is_blocked.get()
    }

    /// From now on the connection is a tunnel, which watches its own time.
    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        let tunnel = self.tunnel.take();
        self.is_tunnel.set(tunnel.is_some());
        tunnel
    }

    /// Ends the connection, which is counted.
    pub(super) fn end_because(&self, why: Ending) {
        self.blame(why);
        self.end_silently();
    }

    /// The first reason counts: what follows from it is none of its own.
    pub(super) fn blame(&self, why: Ending) {
        self.ending.set(self.ending.get().or(Some(why)));
    }

    /// Ends the connection between two requests.
    pub(super) fn end_silently(&self) {
        self.end_with(End::Silently);
    }

    fn end_with(&self, end: End) {
        self.end.set(end);
        self.wake();
    }

    /// The watch has ended it in the middle of an answer.
    pub(super) fn is_given_up(&self) -> bool {
        self.end.get() == End::Silently && (self.is_busy() || self.is_blocked.get())
    }

    /// Lets the connection's task look at what has changed.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The library hands over the next request: the fault it stands for, if it is a stand-in.
    pub(super) fn serve(&self) -> Option<Fault> {
        let number = self.served.get();
        self.served.set(number + 1);
        let mut refused = self.refused.borrow_mut();
        if refused.as_ref().is_some_and(|(at, _)| *at == number) {
            return refused.take().map(|(_, fault)| fault);
        }
        None
    }

    /// A request is over.
    pub(super) fn answer(&self) {
        self.answered.set(self.answered.get() + 1);
        self.is_answering.set(false);
        self.since.set(Instant::now());
        // The library would not look by itself for what waits in the guard. To wake it for nothing is
        // dear: the whole connection is looked at once more.
        if self.has_waiting.get() {
            self.wake();
        }
    }

    pub(super) fn pass(&self) {
        self.has_rested.set(false);
        self.passed.set(self.passed.get() + 1);
    }

    pub(super) fn refuse(&self, fault: Fault) {
        *self.refused.borrow_mut() = Some((self.passed.get(), fault));
        self.has_refused.set(true);
        self.pass();
    }

    pub(super) fn wake_by(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
