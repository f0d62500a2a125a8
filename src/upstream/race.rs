//! Happy Eyeballs (RFC 8305 §5): several addresses are tried with a small delay between them, and the
//! first one that connects wins.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::upstream::addresses::Failures;

/// How long an address may take before the next one is tried as well (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers, by `dial`. Failures start the next one at once.
///
/// Addresses that failed are remembered in `failures`, and so are those that were still silent after
/// [`STAGGER`] when the race ended, however it ended.
///
/// # Errors
/// The last address's error when all have failed.
pub(super) async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    failures: &RefCell<Failures>,
    dial: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = addresses.into_iter();
    let Some(first) = waiting.next() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    };
    let mut runners = Runners { running: vec![Runner::start(first, &dial)], failures };
    let mut next_start = Instant::now() + STAGGER;
    loop {
        let has_more = waiting.len() > 0;
        // The branch that loses keeps its state outside: runners go on, the time stands.
        let error = tokio::select! {
            biased;
            outcome = runners.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => Some(error),
            },
            () = sleep_until(next_start), if has_more => None,
        };
        match (waiting.next(), error) {
            (Some(address), _) => {
                runners.running.push(Runner::start(address, &dial));
                next_start = Instant::now() + STAGGER;
            }
            (None, Some(error)) if runners.running.is_empty() => return Err(error),
            (None, _) => {}
        }
    }
}

/// One address that is being tried.
struct Runner<F> {
    address: SocketAddr,
    since: Instant,
    dialing: Pin<Box<F>>,
}

impl<F> Runner<F> {
    fn start(address: SocketAddr, dial: impl Fn(SocketAddr) -> F) -> Self {
        Self { address, since: Instant::now(), dialing: Box::pin(dial(address)) }
    }
}

/// Everybody in the race.
struct Runners<'a, F> {
    running: Vec<Runner<F>>,
    failures: &'a RefCell<Failures>,
}

impl<T, F: Future<Output = io::Result<T>>> Runners<'_, F> {
    /// What the next one that is done has reached.
    async fn next(&mut self) -> io::Result<T> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let done = self.running.iter_mut().enumerate().find_map(|(index, runner)| {
            match runner.dialing.as_mut().poll(cx) {
                Poll::Ready(outcome) => Some((index, outcome)),
                Poll::Pending => None,
            }
        });
        let Some((index, outcome)) = done else { return Poll::Pending };
        let runner = self.running.swap_remove(index);
        let mut failures = self.failures.borrow_mut();
        match &outcome {
            Ok(_) => failures.forget(runner.address),
            Err(_) => failures.add(runner.address),
        }
        Poll::Ready(outcome)
    }
}

/// A silent address costs every connection its delay: it is remembered like one that refuses. A race
/// that was given up early says nothing.
impl<F> Drop for Runners<'_, F> {
    fn drop(&mut self) {
        let mut failures = self.failures.borrow_mut();
        let silent = self.running.iter().filter(|runner| runner.since.elapsed() >= STAGGER);
        silent.for_each(|runner| failures.add(runner.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an address does: connects or fails after some milliseconds, or never anything.
    #[derive(Clone, Copy)]
    enum Does {
        Connect(u64),
        Fail(u64),
        Nothing,
    }
    use Does::{Connect, Fail, Nothing};

    fn address(index: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1 + u16::try_from(index).unwrap()))
    }

    /// Who wins and when, and who is remembered as failed.
    async fn run(does: &[Does], limit: u64) -> (Option<usize>, u64, Vec<usize>) {
        let start = Instant::now();
        let failures = RefCell::default();
        let dial = |address: SocketAddr| {
            let index = usize::from(address.port() - 1);
            let does = does[index];
            async move {
                let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
                match does {
                    Connect(ms) => wait(ms).await,
                    Fail(ms) => {
                        wait(ms).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Nothing => std::future::pending().await,
                }
                Ok(index)
            }
        };
        let racing = race((0..does.len()).map(address).collect(), &failures, dial);
        let winner = tokio::time::timeout(Duration::from_millis(limit), racing).await;
        let winner = winner.ok().and_then(Result::ok);
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        let failed = (0..does.len()).filter(|index| failures.borrow().has(address(*index))).collect();
        (winner, took, failed)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_connects_wins() {
        for (does, winner, took, failed) in [
            (&[Connect(10)][..], Some(0), 10, &[][..]),
            (&[Connect(200), Connect(1)], Some(0), 200, &[]),
            (&[Connect(400), Connect(1)], Some(1), 251, &[0]),
            (&[Connect(300), Connect(100)], Some(0), 300, &[]),
            (&[Nothing, Connect(5)], Some(1), 255, &[0]),
            (&[Fail(10), Connect(5)], Some(1), 15, &[0]),
            (&[Fail(1), Fail(1), Connect(5)], Some(2), 7, &[0, 1]),
            (&[Nothing, Fail(10), Connect(5)], Some(2), 265, &[0, 1]),
            (&[Nothing, Nothing, Nothing, Connect(1)], Some(3), 751, &[0, 1, 2]),
            (&[Fail(3), Fail(4)], None, 7, &[0, 1]),
            (&[Nothing, Fail(4)], None, 1000, &[0, 1]),
            (&[], None, 0, &[]),
        ] {
            let outcome = run(does, 1000).await;
            assert_eq!(outcome, (winner, took, failed.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_that_is_given_up_early_blames_nobody() {
        assert_eq!(run(&[Nothing, Nothing], 200).await, (None, 200, vec![]));
        assert_eq!(run(&[Nothing, Nothing], 400).await, (None, 400, vec![0]));
    }
}
