//! What the service manager is told of a running gateway (`sd_notify`), if one has started it.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody wants to know, and nothing is said.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;

use crate::app::pulse::Pulse;

/// Everything listens. `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again. [`ready`] must follow, whatever becomes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of the reload"),
    }
}

/// Requests in flight are finished, and then the process ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping: requests in flight are finished")]);
}

/// Tells for ever that the gateway is alive, if the service manager wants that, and as long as all its
/// threads are.
pub async fn keep_alive(pulse: &Pulse) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let pause = pause(limit);
    loop {
        match pulse.ask(pause).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(silent) => tracing::error!(
                silent = silent.join(", "),
                "threads do not answer; the service manager restarts the gateway unless they do soon"
            ),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Between two signs of life: together with the wait for an answer at most half of what systemd waits.
fn pause(limit: Duration) -> Duration {
    limit / 4
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told what the gateway does");
    }
}
