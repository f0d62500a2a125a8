//! Time limits of requests, with timers that are used again.
//!
//! Nearly every limit is given up long before it is reached. A timer that stays set and is moved to a later
//! moment costs one exchange of a number; a new one has to be put into the runtime's wheel and taken out again.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that lie here at most; more are made and thrown away.
const RESTING_MAX: usize = 1024;
/// Stands for a limit beyond what a clock can tell.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

/// The timers of one worker.
#[derive(Clone, Default)]
pub struct Timers(Rc<RefCell<Vec<Pin<Box<Sleep>>>>>);

/// The time was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

impl Timers {
    /// The outcome of `what`, if it comes within `limit`.
    ///
    /// # Errors
    /// [`Late`] when it does not.
    pub async fn limit<T>(&self, limit: Duration, what: impl Future<Output = T>) -> Result<T, Late> {
        let mut what = pin!(what);
        let mut timer = Timer { sleep: None, timers: self };
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            timer.set(limit).poll(cx).map(|()| Err(Late))
        })
        .await
    }
}

/// A timer in use; goes back when it is dropped.
struct Timer<'a> {
    sleep: Option<Pin<Box<Sleep>>>,
    timers: &'a Timers,
}

impl Timer<'_> {
    /// The timer, which runs from the first call on.
    fn set(&mut self, limit: Duration) -> Pin<&mut Sleep> {
        let timers = self.timers;
        self.sleep
            .get_or_insert_with(|| {
                let now = Instant::now();
                let deadline = now.checked_add(limit).unwrap_or(now + FOREVER);
                match timers.0.borrow_mut().pop() {
                    Some(mut sleep) => {
                        sleep.as_mut().reset(deadline);
                        sleep
                    }
                    None => Box::pin(sleep_until(deadline)),
                }
            })
            .as_mut()
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut resting = self.timers.0.borrow_mut();
        if let Some(sleep) = self.sleep.take()
            && resting.len() < RESTING_MAX
        {
            resting.push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long `timers` let something wait that never comes.
    async fn patience(timers: &Timers, limit: Duration) -> Duration {
        let begin = Instant::now();
        assert_eq!(timers.limit(limit, pending::<()>()).await, Err(Late));
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_given_and_leaves_its_timer() {
        let timers = Timers::default();
        assert_eq!(timers.limit(SECOND, ready(7)).await, Ok(7));
        assert_eq!(timers.0.borrow().len(), 0, "nothing had to be waited for");
        assert_eq!(timers.limit(3 * SECOND, sleep(2 * SECOND)).await, Ok(()));
        assert_eq!(timers.0.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_used_again_keeps_the_new_limit_be_it_later_or_sooner() {
        let timers = Timers::default();
        assert_eq!(timers.limit(30 * SECOND, sleep(SECOND)).await, Ok(()));
        for limit in [40 * SECOND, SECOND, 2 * SECOND, Duration::from_millis(5), 60 * SECOND] {
            let waited = patience(&timers, limit).await;
            assert!(limit <= waited && waited <= limit + Duration::from_millis(2), "{limit:?}: {waited:?}");
        }
        assert_eq!(timers.0.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_ran_out_while_it_lay_here_is_set_anew() {
        let timers = Timers::default();
        assert_eq!(timers.limit(5 * SECOND, sleep(SECOND)).await, Ok(()));
        advance(60 * SECOND).await;
        assert!(patience(&timers, 3 * SECOND).await >= 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn two_waits_at_once_have_a_timer_each() {
        let timers = Timers::default();
        let both = async { tokio::join!(patience(&timers, SECOND), patience(&timers, 9 * SECOND)) };
        let (short, long) = both.await;
        assert!(short < 2 * SECOND && long >= 9 * SECOND, "{short:?} {long:?}");
        assert_eq!(timers.0.borrow().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_beyond_all_clocks_is_a_long_one() {
        let outcome = Timers::default().limit(Duration::MAX, sleep(3600 * SECOND)).await;
        assert_eq!(outcome, Ok(()));
    }
}
