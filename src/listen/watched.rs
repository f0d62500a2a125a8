//! What is known of a connection, for its guard, its service and the worker's watch.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
};

use tokio::time::Instant;

use crate::proxy::fault::Fault;

/// What a connection is doing, for those who watch its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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
    /// Requests that passed the guard, and those that have been answered.
    pub(super) passed: Cell<u64>,
    pub(super) served: Cell<u64>,
    pub(super) answered: Cell<u64>,
    pub(super) refused: RefCell<Option<(u64, Fault)>>,
    pub(super) has_refused: Cell<bool>,
    /// The current request's answer has begun.
    pub(super) is_answering: Cell<bool>,
    /// Bytes have moved, either way, since the watch looked last.
    pub(super) has_moved: Cell<bool>,
    pub(super) end: Cell<End>,
    pub(super) waker: RefCell<Option<Waker>>,
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
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            since: Cell::new(Instant::now()),
            has_partial_head: Cell::new(false),
            passed: Cell::new(0),
            served: Cell::new(0),
            answered: Cell::new(0),
            refused: RefCell::new(None),
            has_refused: Cell::new(false),
            is_answering: Cell::new(false),
            has_moved: Cell::new(false),
            end: Cell::new(End::No),
            waker: RefCell::new(None),
        })
    }

    /// What the connection is doing, and since when.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let phase = if self.is_busy() {
            if self.is_answering.get() { Phase::Answering } else { Phase::Busy }
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

    /// Counts an answer's standstill from now if it has moved since the last look.
    pub(super) fn look(&self, now: Instant) {
        if self.has_moved.take() && self.is_answering.get() {
            self.since.set(now);
        }
    }

    /// Ends the connection between two requests.
    pub(super) fn end_silently(&self) {
        self.end_with(End::Silently);
    }

    /// Ends a connection whose head does not get complete.
    pub(super) fn end_too_slow(&self) {
        self.end_with(End::TooSlow);
    }

    fn end_with(&self, end: End) {
        self.end.set(end);
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
        // A request may be waiting in the guard; the library would not look for it by itself.
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn pass(&self) {
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
