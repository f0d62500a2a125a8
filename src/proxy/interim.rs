//! What waits for an informational response: a large upload waits for "100 Continue" before its first byte, so
//! that a refused token costs no upload.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

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
