//! Changing a running gateway's routes and profiles: all at once, or not at all.
//!
//! Profiles that have not changed keep their tokens, and those that have get theirs before the change.
//! Requests in flight finish on what they began with.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use crate::{
    app::{Running, StartError, snapshot},
    config::Settings,
    profile::{Profile, http::Http},
    proxy::worker::{Gateway, Shard},
    token::{self, Turns},
    upstream::{Origin, Upstream},
};

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something has changed that only a restart can change.
    #[error("a change of {} needs a restart; nothing was changed", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// The routes cannot be served.
    #[error("{0}; nothing was changed")]
    Routes(#[from] StartError),
    /// A new or changed profile has no token.
    #[error("profile \"{0}\" gets no token ({1}); nothing was changed")]
    Profile(String, String),
}

/// The owners of all profiles' tokens.
pub(super) struct Owners {
    control: Handle,
    http: Arc<Http>,
    /// Profiles of one identity provider take turns among themselves, so that a provider that hangs does
    /// not hold up the others.
    turns: Mutex<HashMap<String, Turns>>,
    by_name: Mutex<BTreeMap<String, (token::Settings, token::Handle)>>,
    /// The same for those who only look.
    pub(super) shown: Arc<ArcSwap<Vec<token::Handle>>>,
}

type ByName = BTreeMap<String, (token::Settings, token::Handle)>;

impl Owners {
    /// None yet; their tasks run on `control`.
    pub(super) fn new(control: &Handle) -> Self {
        Self {
            control: control.clone(),
            http: Arc::default(),
            turns: Mutex::default(),
            by_name: Mutex::default(),
            shown: Arc::default(),
        }
    }

    /// The owners for `settings`: those there are, where nothing has changed, and new ones.
    pub(super) fn prepare(&self, settings: &[token::Settings]) -> (ByName, Vec<token::Handle>) {
        let known = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let _context = self.control.enter();
        let (mut all, mut new) = (ByName::new(), Vec::new());
        for settings in settings {
            let name = settings.profile.name.clone();
            let handle = match known.get(&name).filter(|(before, _)| before == settings) {
                Some((_, handle)) => handle.clone(),
                None => {
                    let profile = Profile::new(settings.profile.clone(), Arc::clone(&self.http));
                    let turns = turns.entry(profile.provider()).or_default().clone();
                    let handle = token::start(settings.clone(), profile, turns);
                    new.push(handle.clone());
                    handle
                }
            };
            all.insert(name, (settings.clone(), handle));
        }
        (all, new)
    }

    /// From now on these count. Owners that nobody holds any more end.
    pub(super) fn set(&self, all: ByName) {
        self.shown.store(Arc::new(all.values().map(|(_, handle)| handle.clone()).collect()));
        *self.by_name.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn wait_for(&self, new: &[token::Handle]) -> Result<(), ReloadError> {
        for handle in new.iter().filter(|handle| handle.view().required) {
            let outcome = self.control.block_on(handle.acquire(handle.patience()));
            outcome.map_err(|unavailable| {
                let why = match unavailable.reason {
                    token::Reason::Failed(error) => error.to_string(),
                    token::Reason::TimedOut => "the identity provider has not answered".to_owned(),
                    token::Reason::TooManyWaiters => "too many requests wait for it".to_owned(),
                };
                ReloadError::Profile(handle.name().to_owned(), why)
            })?;
        }
        Ok(())
    }
}

/// Handles by name, as a routing table wants them.
pub(super) fn handles(all: &ByName) -> HashMap<String, token::Handle> {
    all.iter().map(|(name, (_, handle))| (name.clone(), handle.clone())).collect()
}

/// What goes on to be used by the next snapshot: counters, and upstreams with their connections.
#[derive(Default)]
pub(crate) struct Kept {
    /// A route's counters, by its name.
    pub(crate) shards: HashMap<String, Vec<Arc<Shard>>>,
    /// By origin and profile.
    pub(crate) upstreams: HashMap<(Origin, Option<String>), Arc<Upstream>>,
}

impl Kept {
    fn of(gateway: &Gateway) -> Self {
        let snapshot = gateway.snapshot();
        let mut kept = Self::default();
        for route in &snapshot.routes {
            kept.shards.insert(route.name.clone(), route.shards.clone());
            let origin = route.upstream.origin();
            // Certificates may be other ones in files of the same name.
            if !origin.has_files() {
                let key = (origin.clone(), route.settings.profile.clone());
                kept.upstreams.insert(key, Arc::clone(&route.upstream));
            }
        }
        kept
    }
}

impl Running {
    /// Serves `settings` from now on: routes, profiles and upstreams. Blocks until new and changed
    /// profiles have their tokens, so it must not be called on an asynchronous task.
    ///
    /// # Errors
    /// [`ReloadError`]; everything goes on as it was then.
    pub fn reload(&self, settings: &Settings) -> Result<(), ReloadError> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let fixed = changed(&serving, settings);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let (all, new) = self.owners.prepare(&settings.profiles);
        let snapshot = snapshot(settings, &handles(&all), self.workers.len(), Kept::of(&self.gateway))?;
        self.owners.wait_for(&new)?;
        self.gateway.serve(snapshot);
        self.owners.set(all);
        *serving = settings.clone();
        Ok(())
    }
}

/// The parts of the configuration that only a restart can change and that have changed.
fn changed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let parts = [
        ("listeners", before.listeners == after.listeners),
        ("admin", before.admin == after.admin),
        ("workers", before.workers == after.workers),
        ("telemetry.log", before.log == after.log),
        ("limits", before.limits == after.limits && before.connections == after.connections),
        ("timeouts", before.timeouts == after.timeouts),
        ("replay.total", before.replay.total_bytes == after.replay.total_bytes),
    ];
    parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}
