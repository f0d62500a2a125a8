//! Whether the threads of a running gateway still get on with their work.
//!
//! Asked only when somebody wants to know, so a beat costs a request nothing: each thread runs one small
//! task that answers a question by its number. A thread that is stuck does not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// How often a question looks for its answers.
const POLL: Duration = Duration::from_millis(5);
/// The answer of a thread that has ended: to every question.
const ENDED: u64 = u64::MAX;

/// Asks every thread whether it gets on.
#[derive(Debug)]
pub struct Pulse {
    round: watch::Sender<u64>,
    beats: Vec<(String, Arc<AtomicU64>)>,
}

/// The side of one thread.
#[derive(Debug)]
pub(super) struct Beat {
    round: watch::Receiver<u64>,
    answered: Arc<AtomicU64>,
}

impl Pulse {
    /// For threads of these names, with the side of each.
    pub(super) fn of(names: impl IntoIterator<Item = String>) -> (Self, Vec<Beat>) {
        let (round, asked) = watch::channel(0);
        let beats: Vec<_> = names.into_iter().map(|name| (name, Arc::<AtomicU64>::default())).collect();
        let sides =
            beats.iter().map(|(_, answered)| Beat { round: asked.clone(), answered: Arc::clone(answered) });
        let sides = sides.collect();
        (Self { round, beats }, sides)
    }

    /// Asks all of them, and waits for so long. Threads that have ended do not count.
    ///
    /// # Errors
    /// The names of those that have not answered.
    pub async fn ask(&self, patience: Duration) -> Result<(), Vec<String>> {
        let deadline = Instant::now() + patience;
        self.round.send_modify(|round| *round += 1);
        let asked = *self.round.borrow();
        loop {
            let silent = self.beats.iter().filter(|(_, answered)| answered.load(Ordering::Relaxed) < asked);
            let silent: Vec<_> = silent.map(|(name, _)| name.clone()).collect();
            if silent.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(silent);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Beat {
    /// Answers until nobody is left to ask, or the task is dropped. To be spawned on the thread in question.
    pub(super) async fn answer(mut self) {
        while self.round.changed().await.is_ok() {
            let asked = *self.round.borrow_and_update();
            self.answered.store(asked, Ordering::Relaxed);
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.answered.store(ENDED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_stuck_thread_is_named_and_counts_again_when_it_goes_on() {
        let (pulse, mut beats) = Pulse::of(["worker-0", "worker-1"].map(str::to_owned));
        let (stuck, healthy) = (beats.pop().unwrap(), beats.pop().unwrap());
        tokio::spawn(healthy.answer());
        let (unblock, blocked) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let answering = tokio::spawn(stuck.answer());
                // What no task may do: it holds up its thread.
                blocked.recv().unwrap();
                answering.await.unwrap();
            });
        });
        assert_eq!(pulse.ask(PATIENCE).await, Err(vec!["worker-1".to_owned()]));
        unblock.send(()).unwrap();
        assert_eq!(pulse.ask(Duration::from_secs(20)).await, Ok(()));
        drop(pulse);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_not_waited_for() {
        let (pulse, beats) = Pulse::of(["worker-0".to_owned()]);
        drop(beats);
        assert_eq!(pulse.ask(PATIENCE).await, Ok(()));
    }
}
