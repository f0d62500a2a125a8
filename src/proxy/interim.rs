//! Informational responses of an upstream, and what waits for them.
//!
//! They may arrive on a connection's own task, as over HTTP/2, while the request's task waits for the answer. A large
//! upload waits for "100 Continue" before its first byte, so that a refused token costs no upload.

use std::{
    cell::{Cell, RefCell},
    mem,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, StatusCode};

use crate::{proxy::line::Interim, upstream::Hear};

/// An upstream that informs more often than this has no answer in mind.
const INTERIMS_MAX: usize = 64;
/// Bytes of header fields of one informational response.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// Informational responses to one attempt.
#[derive(Clone, Default)]
pub(super) struct Interims(Arc<Mutex<Arrived>>);

#[derive(Default)]
struct Arrived {
    waiting: Vec<Interim>,
    count: usize,
    waker: Option<Waker>,
}

/// The upstream sends informational responses without end.
#[derive(Debug)]
pub(super) struct TooMany;

impl Hear for Interims {
    fn heard(&self, status: StatusCode, headers: &HeaderMap) {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.count += 1;
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > INTERIM_BYTES_MAX {
            arrived.count = usize::MAX;
        } else if arrived.count <= INTERIMS_MAX {
            arrived.waiting.push(Interim { status, headers: headers.clone() });
        }
        if let Some(waker) = arrived.waker.take() {
            waker.wake();
        }
    }
}

impl Interims {
    /// What has arrived since the last time; wakes the task when more does.
    pub(super) fn take(&self, cx: &Context<'_>) -> Result<Vec<Interim>, TooMany> {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if arrived.count > INTERIMS_MAX {
            return Err(TooMany);
        }
        if !arrived.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            arrived.waker = Some(cx.waker().clone());
        }
        Ok(mem::take(&mut arrived.waiting))
    }
}

/// Holds a body back until the upstream wants it.
#[derive(Default)]
pub struct Gate {
    state: Cell<State>,
    waiting: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open,
    /// Nobody will open it any more.
    Abandoned,
}

impl Gate {
    /// Lets the body go.
    pub(super) fn open(&self) {
        self.turn(State::Open);
    }

    /// Whether it is still undecided.
    pub(super) fn is_closed(&self) -> bool {
        self.state.get() == State::Closed
    }

    /// Ready once the body may go; an error when it never may.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(), ()>> {
        match self.state.get() {
            State::Open => Poll::Ready(Ok(())),
            State::Abandoned => Poll::Ready(Err(())),
            State::Closed => {
                *self.waiting.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn turn(&self, state: State) {
        if self.is_closed() {
            self.state.set(state);
            if let Some(waker) = self.waiting.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// Who may open a gate. Dropped with the answer: a body that was not wanted by then is not sent, and
/// its connection closes.
pub struct Keeper(Rc<Gate>);

impl Keeper {
    /// Whoever asks first keeps the gate.
    pub(super) fn new() -> Self {
        Self(Rc::default())
    }

    pub(super) fn gate(&self) -> &Rc<Gate> {
        &self.0
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.turn(State::Abandoned);
    }
}
