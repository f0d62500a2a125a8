//! A worker's thread: its runtime, its share of every listener, and its end.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::{
    runtime::LocalOptions,
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    app::{Drained, Stop, pulse::Beat},
    listen::{self, Connections, Share},
    proxy::worker::{Gateway, Worker},
};

/// How often a stopping worker looks whether its last connection has closed.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// What a worker thread is started with.
pub(super) struct WorkerThread {
    pub(super) gateway: Arc<Gateway>,
    pub(super) index: usize,
    /// Its shares of listeners, now and later.
    pub(super) shares: mpsc::UnboundedReceiver<Share>,
    /// Answers whether this thread gets on.
    pub(super) beat: Beat,
    pub(super) stopped: watch::Receiver<Stop>,
}

impl WorkerThread {
    /// Serves until the gateway stops.
    pub(super) fn run(self) -> Drained {
        let options = LocalOptions::default();
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(options) {
            Ok(runtime) => {
                let drained = runtime.block_on(self.serve());
                // The system's resolver may hold a thread for long. Nobody waits for its answer any more.
                runtime.shutdown_background();
                drained
            }
            Err(error) => {
                tracing::error!(%error, worker = self.index, "a worker could not start");
                Drained::Cut(0)
            }
        }
    }

    async fn serve(self) -> Drained {
        let Self { gateway, index, mut shares, beat, mut stopped } = self;
        let worker = Worker::new(&gateway, index);
        let connections = Connections::new();
        let (stop_accepting, stopped_accepting) = watch::channel(false);
        let mut accepting = Vec::new();
        let watching = {
            let (worker, connections) = (Rc::clone(&worker), Rc::clone(&connections));
            tokio::task::spawn_local(async move { connections.watch(&worker).await })
        };
        // Ends with the runtime, so it answers while the worker drains.
        drop(tokio::task::spawn_local(beat.answer()));
        loop {
            // Neither branch loses anything: a share that was not taken stays in the queue.
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop >= Stop::Drain) => break,
                share = shares.recv() => {
                    let Some(share) = share else { break };
                    let (worker, connections) = (Rc::clone(&worker), Rc::clone(&connections));
                    let stopped = stopped_accepting.clone();
                    accepting.push(tokio::task::spawn_local(listen::accept(worker, share, connections, stopped)));
                    accepting.retain(|task| !task.is_finished());
                }
            }
        }
        let deadline = Instant::now() + worker.timeouts().drain;
        stop_accepting.send_replace(true);
        for task in accepting {
            if let Ok(Err(error)) = task.await {
                tracing::error!(%error, "a listener has ended");
            }
        }
        while connections.count() > 0 && Instant::now() < deadline && !is_now(&stopped) {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        watching.abort();
        match connections.count() {
            0 => Drained::Completely,
            open => Drained::Cut(open),
        }
    }
}

/// Also when the `Running` is gone: nobody waits for the requests then.
fn is_now(stopped: &watch::Receiver<Stop>) -> bool {
    *stopped.borrow() == Stop::Now || stopped.has_changed().is_err()
}
