//! Requests that an HTTP/2 caller takes back before they are answered to their end.
//!
//! Each costs the work of a request and often a connection to the upstream, and makes room for the next one
//! at once: the number of streams bounds nothing then. So a connection may do it so often and no more, in
//! whatever rhythm. An upload that turns out to be too long has cost the same. What the caller makes the
//! library reset is bounded by the library.

use std::cell::Cell;

use tokio::time::Instant;

/// Requests that may be taken back at once: a browser that navigates away, or calls whose deadlines pass
/// while an upstream stands still, are hundreds.
const AT_ONCE: u32 = 1000;
/// And so many more in each second.
const PER_SECOND: u32 = 100;
/// And one for so many that were answered to their ends: who shares a connection among many, and hedges its
/// calls or gives them deadlines, takes back a part of them at any rate.
const ANSWERS_FOR_ONE: u32 = 4;

/// What a connection may still take back. Counted in answers, so that nothing is lost by dividing.
pub(super) struct Withdrawals {
    credit: Cell<u32>,
    refilled_at: Cell<Instant>,
    is_exceeded: Cell<bool>,
}

impl Withdrawals {
    pub(super) fn new() -> Self {
        Self {
            credit: Cell::new(AT_ONCE * ANSWERS_FOR_ONE),
            refilled_at: Cell::new(Instant::now()),
            is_exceeded: Cell::default(),
        }
    }

    /// A request was answered to its end.
    pub(super) fn answered(&self) {
        self.earn(1);
    }

    /// A request was taken back. Whether that was one too many.
    pub(super) fn withdrawn(&self) -> bool {
        let now = Instant::now();
        let millis = u32::try_from((now - self.refilled_at.get()).as_millis()).unwrap_or(u32::MAX);
        let earned = millis.saturating_mul(PER_SECOND * ANSWERS_FOR_ONE) / 1000;
        // Less than one is not lost: it is counted from when the last one was earned.
        if earned > 0 {
            self.refilled_at.set(now);
            self.earn(earned);
        }
        match self.credit.get().checked_sub(ANSWERS_FOR_ONE) {
            Some(left) => self.credit.set(left),
            None => self.is_exceeded.set(true),
        }
        self.is_exceeded()
    }

    /// Whether more were taken back than a connection may.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded.get()
    }

    fn earn(&self, answers: u32) {
        let credit = self.credit.get().saturating_add(answers);
        self.credit.set(credit.min(AT_ONCE * ANSWERS_FOR_ONE));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_may_be_taken_back_at_once_and_one_more_is_too_many() {
        let withdrawals = Withdrawals::new();
        assert!((0..AT_ONCE).all(|_| !withdrawals.withdrawn()));
        assert!(withdrawals.withdrawn() && withdrawals.is_exceeded());
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_rate_is_no_flood_and_a_faster_one_is() {
        for (every, is_flood) in [(33, false), (11, false), (8, true), (1, true)] {
            let withdrawals = Withdrawals::new();
            for _ in 0..20 * AT_ONCE {
                tokio::time::advance(Duration::from_millis(every)).await;
                withdrawals.withdrawn();
            }
            assert_eq!(withdrawals.is_exceeded(), is_flood, "one in {every} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_make_up_for_some_that_are_taken_back_at_any_rate() {
        for (answers, is_flood) in [(ANSWERS_FOR_ONE, false), (ANSWERS_FOR_ONE - 1, true)] {
            let withdrawals = Withdrawals::new();
            for _ in 0..20 * AT_ONCE {
                (0..answers).for_each(|_| withdrawals.answered());
                withdrawals.withdrawn();
            }
            assert_eq!(withdrawals.is_exceeded(), is_flood, "{answers} answers for each");
        }
    }
}
