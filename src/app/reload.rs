//! Changing what a running gateway does: all at once, or not at all.
//!
//! Everything that can fail comes first: new and changed profiles get their tokens, certificates are read,
//! sockets are bound. What follows cannot fail. Profiles that have not changed keep their tokens, listeners
//! keep their sockets, and requests in flight finish on what they began with.
//!
//! Sockets come last, and listen when nothing is left to wait for: where one of ours listens already, the
//! system gives the next ones a part of the connections from the first moment on.

use std::sync::PoisonError;

use crate::{
    app::{
        StartError,
        administering::Admin,
        core::{Core, Files, Kept},
        owners, snapshot, tracer,
    },
    config::Settings,
    listen,
};

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something has changed that only a restart can change.
    #[error("a change of {} needs a restart; nothing was changed", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// A listener cannot be had.
    #[error("{0}; nothing was changed")]
    Listen(#[from] listen::BindError),
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
        let plan = self.listeners.prepare(settings)?;
        let has_moved = serving.admin != settings.admin;
        let admin = if has_moved { Admin::bind(settings, &self.listeners.inherited)? } else { None };
        self.listeners.open(&plan)?;
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
}

/// The parts of the configuration that only a restart can change and that have changed.
fn fixed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let parts = [
        ("workers", before.workers == after.workers),
        ("telemetry.log.format", before.log.format == after.log.format),
    ];
    parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}
