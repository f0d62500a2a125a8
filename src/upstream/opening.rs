//! A connection that is being made and that several requests wait for.

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
};

use tokio::sync::watch;

use crate::upstream::connect::ConnectError;

/// A connection that is being made. All who wait get its outcome.
pub(super) struct Opening {
    /// The connection's number in its pool.
    pub(super) number: u64,
    waiting: Cell<usize>,
    outcome: Rc<OnceCell<Result<(), ConnectError>>>,
    ended: watch::Receiver<()>,
}

/// The other side of an [`Opening`]. Dropping it ends the wait, too.
pub(super) struct End {
    outcome: Rc<OnceCell<Result<(), ConnectError>>>,
    _ended: watch::Sender<()>,
}

impl Opening {
    /// One with one who waits.
    pub(super) fn begin(number: u64) -> (Rc<Self>, End) {
        let (sender, ended) = watch::channel(());
        let outcome = Rc::default();
        let end = End { outcome: Rc::clone(&outcome), _ended: sender };
        (Rc::new(Self { number, waiting: Cell::new(1), outcome, ended }), end)
    }

    /// Takes one more who waits, unless there are `room` already.
    pub(super) fn join(&self, room: usize) -> bool {
        let has_room = self.waiting.get() < room;
        self.waiting.set(self.waiting.get() + usize::from(has_room));
        has_room
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// When the connection could not be made.
    pub(super) async fn ended(&self) -> Result<(), ConnectError> {
        // Nothing is ever sent: an error says that the other side is gone.
        let _ = self.ended.clone().changed().await;
        self.outcome.get().cloned().unwrap_or(Ok(()))
    }
}

impl End {
    /// Tells the outcome to all.
    pub(super) fn with(self, outcome: Result<(), ConnectError>) {
        let _ = self.outcome.set(outcome);
    }
}
