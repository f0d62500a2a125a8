//! Changing what a running gateway does: all at once, or not at all.
//!
//! Everything that can fail comes first: new and changed profiles get their tokens, certificates are read,
//! sockets are bound. What follows cannot fail. Profiles that have not changed keep their tokens, listeners
//! keep their sockets, and requests in flight finish on what they began with.
//!
//! Sockets come last, and listen when nothing is left to wait for: where one of ours listens already, the
//! system gives the next ones a part of the connections from the first moment on.

use std::{io, sync::PoisonError};

use crate::{
    app::{
        StartError,
        core::{Core, Files, Kept},
        owners, snapshot, tracer,
    },
    config::Settings,
    listen::{Address, BindError},
};

/// The admin listener in messages.
const ADMIN: &str = "the admin listener";

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something has changed that only a restart can change.
    #[error("a change of {} needs a restart; nothing was changed", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// A listener cannot be had.
    #[error("{0}; nothing was changed")]
    Listen(#[from] BindError),
    /// Another listener of this gateway has the address.
    #[error("{0}; nothing was changed")]
    Own(Box<Own>),
    /// The routes, or the admin listener, cannot be served.
    #[error("{0}; nothing was changed")]
    Routes(#[from] StartError),
    /// A new or changed profile has no token.
    #[error("profile \"{0}\" gets no token ({1}); nothing was changed")]
    Profile(String, String),
    /// It waited for a token when the gateway was stopped.
    #[error("the gateway stops; nothing was changed")]
    Stopping,
}

/// A listener in the way of another one. Those of callers are bound beside each other, the admin listener is not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{wants} cannot listen on {wanted}: {holder} of this gateway has {address} until the reload is done (take that \
     away with one reload, and bring this with the next)"
)]
pub struct Own {
    /// The listener that cannot be had.
    pub wants: String,
    /// Its address.
    pub wanted: Address,
    /// The listener that is in its way.
    pub holder: String,
    /// Where that listens.
    pub address: Address,
}

impl Core {
    /// See [`super::Running::reload`]. `files` says what becomes of those of upstreams.
    pub(super) fn reload(&self, settings: &Settings, files: Files) -> Result<(), ReloadError> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let fixed = fixed(&serving, settings);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let traces = self.gateway.traces();
        let tracer = match serving.otlp == settings.otlp {
            true => traces.tracer(),
            false => tracer(settings, traces, self.owners.control()).map_err(StartError::from)?,
        };
        let (all, new) = self.owners.prepare(&settings.profiles);
        let mut snapshot =
            snapshot(settings, &owners::handles(&all), self.workers, Kept::of(&self.gateway, files))?;
        self.owners.wait_for(&new)?;
        let plan = self.listeners.prepare(settings).map_err(|error| self.of_ours(error.into()))?;
        let has_moved = is_administered_otherwise(&serving, settings);
        let admin = if has_moved { self.bind_admin(settings) } else { Ok(None) };
        let admin = admin.map_err(|error| self.of_ours(error.into()))?;
        self.listeners.open(&plan).map_err(|error| {
            self.restore_admin();
            self.of_ours(error.into())
        })?;
        // Nothing fails from here on.
        snapshot.tracer.clone_from(&tracer);
        traces.set(tracer);
        self.gateway.serve(snapshot);
        self.gateway.budget().allow(settings.replay.total_bytes);
        self.owners.set(all);
        self.listeners.apply(plan);
        if has_moved {
            self.administer(admin, self.owners.control());
        }
        if let Some(log) = self.log.as_ref().filter(|_| serving.log.level != settings.log.level) {
            log.set_level(settings.log.level);
        }
        *serving = settings.clone();
        Ok(())
    }

    /// Tells when an address is taken by a listener that serves now.
    fn of_ours(&self, error: ReloadError) -> ReloadError {
        let named = |name: &str| format!("listener \"{name}\"");
        let (wants, wanted, cause) = match &error {
            ReloadError::Listen(BindError::Socket { name, address, cause }) => (named(name), address, cause),
            ReloadError::Routes(StartError::Admin { address, cause }) => (ADMIN.to_owned(), address, cause),
            _ => return error,
        };
        if cause.kind() != io::ErrorKind::AddrInUse {
            return error;
        }
        let wanted = wanted.clone();
        let admin = self.admin_place().map(|address| (ADMIN.to_owned(), address));
        let listeners = self.listeners.addresses().into_iter().map(|(name, address)| (named(&name), address));
        let holder = admin.into_iter().chain(listeners).find(|(_, address)| address.collides_with(&wanted));
        let Some((holder, address)) = holder else { return error };
        ReloadError::Own(Box::new(Own { wants, wanted, holder, address }))
    }
}

/// Whether the admin listener is another one, or has another token: without one of its own it is in the state folder.
fn is_administered_otherwise(before: &Settings, after: &Settings) -> bool {
    let has_own_token = after.admin.as_ref().is_none_or(|admin| admin.token.is_some());
    before.admin != after.admin || (!has_own_token && before.state_dir != after.state_dir)
}

/// The parts of the configuration that only a restart can change and that have changed.
fn fixed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let parts = [
        ("workers", before.workers == after.workers),
        ("telemetry.log.format", before.log.format == after.log.format),
    ];
    parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}
