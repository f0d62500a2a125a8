//! The owners of all profiles' tokens, and how a reload changes them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use crate::{
    app::ReloadError,
    profile::{Profile, http::Http},
    telemetry::trace::Traces,
    token::{self, Turns},
};

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
    traces: Arc<Traces>,
}

/// Settings and owners by name.
type ByName = BTreeMap<String, (token::Settings, token::Handle)>;

impl Owners {
    /// None yet; their tasks run on `control`.
    pub(super) fn new(control: &Handle, traces: Arc<Traces>) -> Self {
        Self {
            control: control.clone(),
            http: Arc::default(),
            turns: Mutex::default(),
            by_name: Mutex::default(),
            shown: Arc::default(),
            traces,
        }
    }

    /// The runtime that they run on.
    pub(super) fn control(&self) -> &Handle {
        &self.control
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
                    let handle = token::start(settings.clone(), profile, turns, Arc::clone(&self.traces));
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

    /// Waits for the tokens of those that readiness waits for. Blocks meanwhile.
    pub(super) fn wait_for(&self, new: &[token::Handle]) -> Result<(), ReloadError> {
        new.iter().filter(|handle| handle.view().required).try_for_each(|handle| self.acquire(handle))
    }

    /// Waits for the tokens of those profiles of `settings` that are in `used`. What `settings` make anew is
    /// waited for when it is put in force; `with_new` tries that here, and lets go of it.
    pub(super) fn obtain(
        &self,
        settings: &[token::Settings],
        used: &BTreeSet<String>,
        with_new: bool,
    ) -> Result<(), ReloadError> {
        let (mut kept, mut changed) = (Vec::new(), Vec::new());
        let known = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for settings in settings {
            match known.get(&settings.profile.name).filter(|(before, _)| before == settings) {
                Some((_, handle)) if used.contains(&settings.profile.name) => kept.push(handle.clone()),
                Some(_) => {}
                None => changed.push(settings.clone()),
            }
        }
        drop(known);
        for handle in kept {
            self.acquire(&handle)?;
        }
        if with_new { self.wait_for(&self.prepare(&changed).1) } else { Ok(()) }
    }

    fn acquire(&self, handle: &token::Handle) -> Result<(), ReloadError> {
        let (tell, told) = mpsc::channel();
        let wanted = handle.clone();
        // On a task of the control plane, which ends with it: a wait of our own would panic then.
        drop(self.control.spawn(async move {
            let _ = tell.send(wanted.acquire(wanted.patience()).await);
        }));
        let outcome = told.recv().map_err(|_| ReloadError::Stopping)?;
        outcome.map(drop).map_err(|unavailable| {
            let why = match unavailable.reason {
                token::Reason::Failed(error) => error.to_string(),
                token::Reason::TimedOut => "the identity provider has not answered".to_owned(),
                token::Reason::TooManyWaiters => "too many requests wait for it".to_owned(),
            };
            ReloadError::Profile(handle.name().to_owned(), why)
        })
    }
}

/// Handles by name, as a routing table wants them.
pub(super) fn handles(all: &ByName) -> HashMap<String, token::Handle> {
    all.iter().map(|(name, (_, handle))| (name.clone(), handle.clone())).collect()
}
