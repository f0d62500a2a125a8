//! Recording a request body while it streams, so that it can be sent a second time.
//!
//! The body is *teed*: every frame goes on at once and is kept, up to a limit, beside the stream.
//! Nothing is read ahead of the upstream. An [`Attempt`] that starts later gets the recorded prefix
//! first and the rest of the caller's stream after it, so even a 401 in the middle of an upload can
//! be answered by a second attempt. Trailers of requests are dropped (RFC 9110 §6.5.1 allows it).
//!
//! Everything of one request lives on one thread; only the [`Budget`] is shared.

use std::{cell::RefCell, rc::Rc, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use tokio::time::Instant;

mod attempt;
mod budget;

pub use attempt::Attempt;
pub use budget::Budget;

/// What keeping one frame costs beside its bytes: a flood of tiny frames must not be cheap.
const FRAME_OVERHEAD: usize = 64;

/// A shorter frame is kept as a copy. It is a part of the buffer that it was read into, some 8 KiB, and would
/// keep all of it.
const SHARED_BYTES_MIN: usize = 4096;

/// Why a body cannot be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplayable {
    /// Replay is turned off for the route.
    Off,
    /// The body is longer than the limit.
    OverLimit,
    /// All requests together hold as much as they may.
    BudgetSpent,
    /// The caller's stream failed.
    Broken,
}

/// Why an attempt's body ends early.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError<E> {
    /// The caller's stream failed.
    #[error("the caller's body broke off")]
    Caller(#[source] E),
    /// The caller's body is longer than a body may be.
    #[error("the caller's body is too long")]
    TooLong,
    /// Another attempt has taken over for good.
    #[error("the attempt was given up for another one")]
    Abandoned,
}

/// One request's body, recorded while it streams.
pub struct Recorder<S> {
    tape: Rc<RefCell<Tape<S>>>,
}

struct Tape<S> {
    source: S,
    length: SizeHint,
    ended: bool,
    frames: Vec<Bytes>,
    held_bytes: usize,
    recorded_bytes: usize,
    limit_bytes: usize,
    budget: Arc<Budget>,
    /// Whether frames are still kept, or why not.
    recording: Result<(), NotReplayable>,
    /// The request is settled: only the active attempt lives, and what was recorded may go once it
    /// has been sent.
    settled: bool,
    /// The attempt that may draw from the source; others are parked at the end of the tape.
    active: u8,
    /// Attempts that have been given everything drawn so far, one bit each.
    caught_up: u32,
    /// Whom to wake when another attempt becomes the active one. The source knows one waker only, the
    /// last attempt's that asked it, so each attempt that waits has one here.
    waiting: Vec<(u8, Waker)>,
    drawn_bytes: u64,
    /// A longer body is not drawn to its end.
    bytes_max: u64,
    /// Since when the caller has been asked for more, if it has not sent it yet.
    asked_at: Option<Instant>,
    /// How long the caller was waited for before that.
    awaited: Duration,
    /// When an attempt was last given something.
    moved_at: Instant,
}

impl<S> Tape<S> {
    fn erase(&mut self) {
        self.frames = Vec::new();
        self.budget.give(std::mem::take(&mut self.held_bytes));
    }

    fn is_over(&self, attempt: u8) -> bool {
        self.settled && attempt != self.active
    }

    /// Nobody waits for the caller.
    fn heard(&mut self) {
        self.awaited += self.asked_at.take().map_or(Duration::ZERO, |at| at.elapsed());
    }

    fn wait(&mut self, attempt: u8, waker: &Waker) {
        match self.waiting.iter_mut().find(|(number, _)| *number == attempt) {
            Some((_, known)) => known.clone_from(waker),
            None => self.waiting.push((attempt, waker.clone())),
        }
    }

    /// From now on `attempt` is the only one.
    fn settle(&mut self, attempt: u8) {
        self.settled = true;
        self.active = attempt;
        if self.caught_up & bit(attempt) != 0 {
            self.erase();
        }
        self.waiting.drain(..).for_each(|(_, waker)| waker.wake());
    }

    fn stop(&mut self, why: NotReplayable) {
        self.recording = Err(why);
        self.erase();
    }

    /// Keeps `frame` if it may be kept; says whether it is on the tape.
    fn keep(&mut self, frame: &Bytes) -> bool {
        if self.recording.is_err() || self.settled {
            return false;
        }
        let cost = frame.len() + FRAME_OVERHEAD;
        if self.recorded_bytes + frame.len() > self.limit_bytes {
            self.stop(NotReplayable::OverLimit);
        } else if !self.budget.take(cost) {
            self.stop(NotReplayable::BudgetSpent);
        } else {
            self.held_bytes += cost;
            self.recorded_bytes += frame.len();
            let is_short = frame.len() < SHARED_BYTES_MIN;
            self.frames.push(if is_short { Bytes::copy_from_slice(frame) } else { frame.clone() });
            return true;
        }
        false
    }
}

impl<S> Drop for Tape<S> {
    fn drop(&mut self) {
        self.erase();
    }
}

impl<S: Body<Data = Bytes> + Unpin> Recorder<S> {
    /// Prepares to record `source`. A body that is known to be too long is not recorded at all.
    /// One that turns out longer than `bytes_max` breaks off.
    pub fn new(source: S, limit_bytes: usize, bytes_max: u64, budget: &Arc<Budget>) -> Self {
        let length = source.size_hint();
        let recording = if limit_bytes == 0 {
            Err(NotReplayable::Off)
        } else if length.lower() > limit_bytes as u64 {
            Err(NotReplayable::OverLimit)
        } else {
            Ok(())
        };
        let tape = Tape {
            source,
            length,
            ended: false,
            frames: Vec::new(),
            held_bytes: 0,
            recorded_bytes: 0,
            limit_bytes,
            budget: Arc::clone(budget),
            recording,
            settled: false,
            active: 0,
            caught_up: 0,
            waiting: Vec::new(),
            drawn_bytes: 0,
            bytes_max,
            asked_at: None,
            awaited: Duration::ZERO,
            moved_at: Instant::now(),
        };
        Self { tape: Rc::new(RefCell::new(tape)) }
    }

    /// Whether everything that was sent so far could be sent again.
    ///
    /// # Errors
    /// The reason why not.
    pub fn is_replayable(&self) -> Result<(), NotReplayable> {
        let tape = self.tape.borrow();
        match tape.recording {
            // What has not begun can begin again, however long it is.
            Err(NotReplayable::OverLimit | NotReplayable::Off) if tape.drawn_bytes == 0 => Ok(()),
            recording => recording,
        }
    }

    /// Whether the body is being kept for a second attempt.
    pub fn is_recording(&self) -> bool {
        self.tape.borrow().recording.is_ok()
    }

    /// The body's length, when it is known.
    pub fn length(&self) -> Option<u64> {
        self.tape.borrow().length.exact()
    }

    /// Bytes drawn from the caller so far.
    pub fn drawn_bytes(&self) -> u64 {
        self.tape.borrow().drawn_bytes
    }

    /// Whether it is the caller who has to send more before anything can go on.
    pub fn awaits_caller(&self) -> bool {
        self.tape.borrow().asked_at.is_some()
    }

    /// How long it has been the caller who had to send more, all in all.
    pub fn awaited(&self) -> Duration {
        let tape = self.tape.borrow();
        tape.awaited + tape.asked_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// When an attempt was last given a part of the body, or its end.
    pub fn moved_at(&self) -> Instant {
        self.tape.borrow().moved_at
    }

    /// A new attempt at sending the body from its first byte. An earlier one is parked.
    pub fn attempt(&self) -> Attempt<S> {
        let mut tape = self.tape.borrow_mut();
        tape.active += 1;
        tape.heard();
        // Whoever sends a body that is known to be empty does not ask for it.
        if tape.ended && tape.drawn_bytes == 0 {
            tape.caught_up |= bit(tape.active);
        }
        Attempt::new(Rc::clone(&self.tape), tape.active)
    }

    /// Holds the current attempt where it is: it takes nothing more from the caller's stream until
    /// it is resumed, and what the caller has sent stays on the tape.
    pub fn park(&self) -> Parked {
        let mut tape = self.tape.borrow_mut();
        let parked = Parked { number: tape.active, drawn_bytes: tape.drawn_bytes };
        tape.active += 1;
        tape.heard();
        parked
    }

    /// Gives the stream back to a parked attempt, because later ones have failed. It is the last.
    ///
    /// When a later one has drawn what could not be kept, the parked one would have a hole: it stays parked until
    /// the recorder is dropped, so that the answer to it can be read meanwhile.
    pub fn resume(&self, parked: Parked) {
        let mut tape = self.tape.borrow_mut();
        let has_hole = tape.recording.is_err() && tape.drawn_bytes > parked.drawn_bytes;
        if !has_hole {
            tape.settle(parked.number);
        }
    }

    /// Whether the caller's stream has been taken to its end and the current attempt was given all.
    pub fn is_sent(&self) -> bool {
        let tape = self.tape.borrow();
        let has_ended = tape.ended || tape.source.is_end_stream();
        has_ended && tape.caught_up & bit(tape.active) != 0
    }

    /// Whether the caller's stream has been taken to its end.
    pub fn has_ended(&self) -> bool {
        let tape = self.tape.borrow();
        tape.ended || tape.source.is_end_stream()
    }

    /// No further attempt will be made: earlier ones end, and the memory goes once it was sent.
    pub fn settle(&self) {
        let mut tape = self.tape.borrow_mut();
        let active = tape.active;
        tape.settle(active);
    }
}

/// Nobody is left who could resume an attempt: those that are parked end, or they would keep their
/// connections for ever.
impl<S> Drop for Recorder<S> {
    fn drop(&mut self) {
        let mut tape = self.tape.borrow_mut();
        let active = tape.active;
        tape.settle(active);
    }
}

fn bit(attempt: u8) -> u32 {
    1u32.checked_shl(attempt.into()).unwrap_or(0)
}

/// An attempt that waits, see [`Recorder::park`].
#[must_use = "a parked attempt waits for ever unless it is resumed or the recorder is settled"]
pub struct Parked {
    number: u8,
    drawn_bytes: u64,
}

#[cfg(test)]
mod tests;
