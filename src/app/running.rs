//! What can be asked of a started gateway, and how it is stopped.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    app::{Drained, Pulse, ReloadError, Running, Stop, control::Control, core::Files},
    config::Settings,
    listen::Address,
    token,
};

impl Running {
    /// Where the listener `name` listens, unless that is a unix socket.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let (_, address) = self.listeners().into_iter().find(|(n, _)| n == name)?;
        match address {
            Address::Ip(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    /// All listeners with their addresses.
    pub fn listeners(&self) -> Vec<(String, Address)> {
        self.core.listeners.addresses()
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.core.admin_address()
    }

    /// The token owners.
    pub fn profiles(&self) -> Arc<Vec<token::Handle>> {
        self.core.owners.shown.load_full()
    }

    /// Serves `settings` from now on. Blocks until new and changed profiles have their tokens, so it must
    /// not be called on an asynchronous task.
    ///
    /// # Errors
    /// [`ReloadError`]; everything goes on as it was then.
    pub fn reload(&self, settings: &Settings) -> Result<(), ReloadError> {
        self.core.reload(settings, Files::Anew)
    }

    /// Asks its threads whether they get on.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Who changes it; `None` when it was not started from a file.
    pub fn control(&self) -> Option<&Arc<Control>> {
        self.changes.as_ref()
    }

    /// Begins to stop: readiness turns, no connection is accepted any more, requests in flight go on.
    pub fn stop(&self) {
        self.core.gateway.drain();
        self.stop.send_if_modified(|stop| {
            let begins = *stop == Stop::No;
            if begins {
                *stop = Stop::Drain;
            }
            begins
        });
    }

    /// Waits until a stopping gateway has stopped; blocks the thread for at most the drain time.
    pub fn wait(mut self) -> Drained {
        let mut drained = Drained::Completely;
        for worker in self.workers.drain(..) {
            let outcome = worker.join().unwrap_or(Drained::Cut(0));
            drained = match (drained, outcome) {
                (Drained::Cut(a), Drained::Cut(b)) => Drained::Cut(a + b),
                (Drained::Cut(n), _) | (_, Drained::Cut(n)) => Drained::Cut(n),
                _ => Drained::Completely,
            };
        }
        self.core.flush_spans();
        self.stop.send_replace(Stop::Now);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        drained
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.gateway.drain();
        self.stop.send_replace(Stop::Now);
        // What is told of the gateway may be held by others for longer than it runs.
        self.core.administer(None, self.core.owners.control());
        self.core.listeners.release();
    }
}
