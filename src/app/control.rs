//! Changing a running gateway from outside: reload, switch, undo. One change at a time.
//!
//! What is in force is the text of a configuration file, an environment of it, and the switches made since.
//! Every change makes all three anew, so that a switch is checked by the same rules as the file.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    admin::changes::{Action, Glance, Reading, Reloaded, Switch, Switched, Wish},
    app::{
        ReloadError,
        core::{Core, Files},
        difference,
        expiry::Overdue,
        reading::{Prepared, environment, now, read},
        service,
        switches::{Store, Switches},
        undefined::undefined,
    },
    config::{self, Loaded, Secrets, Settings, problem::Problems},
    listen::inherited::Inherited,
};

/// The longest that a switch for a while may last.
pub const SWITCH_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Says what the command line says otherwise than the file.
pub type Overrides = Box<dyn Fn(&mut Settings) + Send + Sync>;

/// Where a gateway's configuration comes from.
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// The environment that was asked for.
    pub environment: Option<String>,
    /// What is said otherwise elsewhere.
    pub overrides: Overrides,
    /// Sockets that the service manager has bound.
    pub inherited: Arc<Inherited>,
}

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The configuration is not valid.
    #[error("the configuration has problems, nothing was changed:\n{0}")]
    Problems(Problems),
    /// The configuration cannot be put in force.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// There is no such route, profile or environment.
    #[error("{what} \"{name}\" is not defined (defined: {defined})")]
    Unknown {
        /// `route`, `profile` or `environment`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        defined: String,
    },
    /// A switch changes accounts; it takes none away.
    #[error(
        "a switch gives a route another account and cannot take its account away (set profile: none in the file, and reload)"
    )]
    NoAccount,
    /// It is so already.
    #[error("{0}; nothing was changed")]
    Already(String),
    /// The new profile has no token.
    #[error("profile \"{0}\" gets no token ({1}); nothing was changed")]
    NoToken(String, String),
    /// The change could not be kept for the next start.
    #[error("the switch cannot be kept in state_dir ({0}); nothing was changed")]
    NotKept(std::io::Error),
    /// A span that makes no sense.
    #[error("a switch may last from 1 second to 366 days")]
    Span,
}

/// The one who changes a running gateway.
pub struct Control {
    core: Arc<Core>,
    origin: Origin,
    store: Option<Store>,
    state: Mutex<State>,
    /// What is told of `state`, also while a change holds it: that may wait for tokens, and those who look
    /// run where tokens are fetched.
    shown: ArcSwap<View>,
}

pub(super) struct State {
    /// The text in force.
    text: String,
    environments: Vec<String>,
    pub(super) switches: Switches,
    reading: Reading,
    pub(super) overdue: Overdue,
}

impl State {
    fn view(&self, origin: &Origin) -> View {
        View {
            path: origin.path.clone(),
            environment: environment(origin, &self.switches),
            environments: self.environments.clone(),
            switches: self.switches.clone(),
            reading: self.reading.clone(),
        }
    }
}

/// What is in force, and what has been changed.
#[derive(Clone, Debug)]
pub struct View {
    /// The file.
    pub path: PathBuf,
    /// The environment in force.
    pub environment: Option<String>,
    /// Those that the file defines.
    pub environments: Vec<String>,
    /// The switches in force, and the history.
    pub switches: Switches,
    /// How the last reading went.
    pub reading: Reading,
}

impl Control {
    pub(super) fn new(core: Arc<Core>, origin: Origin, prepared: Prepared) -> Self {
        let Prepared { loaded, text, switches, store } = prepared;
        let reading = Reading { loaded_at: now(), ..Reading::default() };
        let state =
            State { text, environments: loaded.environments, switches, reading, overdue: Overdue::default() };
        let shown = ArcSwap::from_pointee(state.view(&origin));
        Self { core, origin, store, state: Mutex::new(state), shown }
    }

    /// What monitors want to know. Never blocks.
    pub fn glance(&self) -> Arc<Glance> {
        let view = self.view();
        Arc::new(Glance {
            is_valid: view.reading.refused.is_none(),
            done: view.reading.done,
            failed: view.reading.failed,
            switched: view.switches.routes().map(|(route, _)| route.to_owned()).collect(),
            has_other_environment: view.switches.environment().is_some(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a change of the file is put in force by itself.
    pub fn watches(&self) -> bool {
        self.core.serving.lock().unwrap_or_else(PoisonError::into_inner).watch
    }

    /// What is in force. Never blocks.
    pub fn view(&self) -> Arc<View> {
        self.shown.load_full()
    }

    fn show(&self, state: &State) {
        self.shown.store(Arc::new(state.view(&self.origin)));
    }

    /// Reads the file again and serves what it says. Blocks until new and changed profiles have their
    /// tokens. `by` says who asked. What has changed is told.
    ///
    /// # Errors
    /// [`ChangeError`]; it is kept for [`Control::view`] and logged.
    pub fn reload(&self, by: &str) -> Result<Reloaded, ChangeError> {
        let mut state = self.state();
        service::reloading();
        let mut switches = state.switches.clone();
        let outcome = config::read_text(&self.origin.path).map_err(ChangeError::Problems).and_then(|text| {
            let loaded =
                read(&self.origin, &text, &mut switches, Secrets::Needed).map_err(ChangeError::Problems)?;
            let before = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.core.reload(&loaded.settings, Files::Anew)?;
            let reloaded = difference::between(&before, &loaded);
            Ok((text, loaded, reloaded))
        });
        let done = match outcome {
            Ok((text, loaded, reloaded)) => {
                for warning in loaded.warnings_for_log() {
                    tracing::warn!("{}", warning.to_string().trim_end());
                }
                self.keep(&switches);
                state.text = text;
                state.environments = loaded.environments;
                state.switches = switches;
                state.reading.loaded_at = now();
                state.reading.refused = None;
                state.reading.done += 1;
                self.show(&state);
                tracing::info!(target: "audit", action = "reload", by, "the configuration was reloaded");
                Ok(reloaded)
            }
            Err(error) => {
                state.reading.refused = Some(error.to_string());
                state.reading.failed += 1;
                self.show(&state);
                tracing::error!(by, "the configuration was not reloaded: {error}");
                Err(error)
            }
        };
        service::ready(&self.status(&state));
        done
    }

    /// One line for the service manager: what is served.
    pub fn service_status(&self) -> String {
        self.status(&self.state())
    }

    fn status(&self, state: &State) -> String {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let (routes, profiles) = (serving.routes.len(), serving.profiles.len());
        let refused = match state.reading.refused {
            Some(_) => "; the last reload was refused, the log says why",
            None => "",
        };
        format!("serving; routes: {routes}, profiles: {profiles}{refused}")
    }

    /// Serves a route with another profile, or everything in another environment. The tokens of profiles that
    /// are new to a route are obtained first. Blocks meanwhile.
    ///
    /// # Errors
    /// [`ChangeError`]; unless it was a dry run, it is logged.
    pub fn switch(&self, wish: &Wish, by: &str) -> Result<Switched, ChangeError> {
        let outcome = self.try_switch(wish, by);
        outcome.inspect_err(|error| {
            if !wish.is_dry_run {
                refused(Action::Switch, wish.route.as_deref(), wish.to.as_deref(), by, error);
            }
        })
    }

    fn try_switch(&self, wish: &Wish, by: &str) -> Result<Switched, ChangeError> {
        let mut state = self.state();
        if wish.lasts.is_some_and(|lasts| lasts < Duration::from_secs(1) || lasts > SWITCH_MAX) {
            return Err(ChangeError::Span);
        }
        let from = self.served(&state, wish)?;
        let at = now();
        let until = wish.lasts.map(|lasts| at + lasts.as_secs());
        let mut switches = state.switches.clone();
        let (to, by) = (wish.to.clone(), by.to_owned());
        switches.push(wish.route.as_deref(), Switch { to, from: from.clone(), at, until, by });
        let is_kept = self.store.is_some();
        let switched = Switched { from, to: wish.to.clone(), until, is_kept };
        let loaded = self.again(&state.text, &mut switches)?;
        let used = self.new_accounts(&loaded.settings);
        self.core.owners.obtain(&loaded.settings.profiles, &used, wish.is_dry_run).map_err(no_token)?;
        if !wish.is_dry_run {
            self.put_in_force(&mut state, switches, &loaded)?;
        }
        Ok(switched)
    }

    /// Takes back the latest switch of `route`, or of the environment.
    ///
    /// # Errors
    /// [`ChangeError`]; it is logged.
    pub fn undo(&self, route: Option<&str>, by: &str) -> Result<Switched, ChangeError> {
        let outcome = self.take_back(route, Action::Undo, by);
        outcome.inspect_err(|error| refused(Action::Undo, route, None, by, error))
    }

    pub(super) fn take_back(
        &self,
        route: Option<&str>,
        action: Action,
        by: &str,
    ) -> Result<Switched, ChangeError> {
        let mut state = self.state();
        let mut switches = state.switches.clone();
        let Some(gone) = switches.pop(route, action, now(), by) else {
            let words = match route {
                Some(route) => format!("route \"{route}\" is not switched"),
                None => "the environment is not switched".to_owned(),
            };
            return Err(ChangeError::Already(words));
        };
        let loaded = self.again(&state.text, &mut switches)?;
        self.put_in_force(&mut state, switches, &loaded)?;
        Ok(Switched { from: gone.to, to: gone.from, until: None, is_kept: self.store.is_some() })
    }

    /// Profiles that routes of `settings` have and did not have before.
    fn new_accounts(&self, settings: &Settings) -> BTreeSet<String> {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<_, _> =
            serving.routes.iter().map(|route| (&route.name, &route.target.profile)).collect();
        let changed =
            settings.routes.iter().filter(|route| before.get(&route.name) != Some(&&route.target.profile));
        changed.filter_map(|route| route.target.profile.clone()).collect()
    }

    /// The settings of the text in force with other switches. Files are not judged again: one that somebody is
    /// about to write, of a listener perhaps, must not keep an account in force. Those of parts that change are
    /// read when these are put in force.
    fn again(&self, text: &str, switches: &mut Switches) -> Result<Loaded, ChangeError> {
        read(&self.origin, text, switches, Secrets::Optional).map_err(ChangeError::Problems)
    }

    fn put_in_force(
        &self,
        state: &mut State,
        switches: Switches,
        loaded: &Loaded,
    ) -> Result<(), ChangeError> {
        // Kept first: what cannot be kept is not done.
        if let Some(store) = &self.store {
            store.save(&switches).map_err(ChangeError::NotKept)?;
        }
        if let Err(error) = self.core.reload(&loaded.settings, Files::AsTheyWere) {
            self.keep(&state.switches);
            return Err(no_token(error));
        }
        let new = switches.history().next();
        if let Some(entry) = new {
            tracing::info!(
                target: "audit",
                action = entry.action.word(),
                route = entry.route,
                from = entry.from,
                to = entry.to,
                until = entry.until,
                by = entry.by,
                "the account was switched"
            );
        }
        state.switches = switches;
        self.show(state);
        Ok(())
    }

    fn keep(&self, switches: &Switches) {
        if let Some(store) = &self.store
            && let Err(error) = store.save(switches)
        {
            tracing::warn!(%error, "the switches cannot be kept in state_dir");
        }
    }

    /// What is served before a switch, after a look at whether the switch makes sense.
    fn served(&self, state: &State, wish: &Wish) -> Result<Option<String>, ChangeError> {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = &wish.route else {
            let from = environment(&self.origin, &state.switches);
            if let Some(name) = wish.to.as_ref().filter(|name| !state.environments.contains(name)) {
                return Err(undefined("environment", name, state.environments.iter().map(String::as_str)));
            }
            return match from == wish.to {
                true => Err(ChangeError::Already("this environment is in force already".into())),
                false => Ok(from),
            };
        };
        let Some(entry) = serving.routes.iter().find(|entry| entry.name == *route) else {
            return Err(undefined("route", route, serving.routes.iter().map(|entry| entry.name.as_str())));
        };
        let profiles = || serving.profiles.iter().map(|profile| profile.profile.name.as_str());
        let profile = wish.to.as_deref().unwrap_or("none");
        if profile == "none" {
            return Err(ChangeError::NoAccount);
        }
        if !profiles().any(|name| name == profile) {
            return Err(undefined("profile", profile, profiles()));
        }
        let from = entry.target.profile.clone();
        if from.as_deref() == Some(profile) {
            let words = format!("route \"{route}\" is served with profile \"{profile}\" already");
            return Err(ChangeError::Already(words));
        }
        Ok(Some(from.unwrap_or_else(|| "none".to_owned())))
    }
}

/// Puts on record that somebody wanted a change and did not get it.
fn refused(action: Action, route: Option<&str>, to: Option<&str>, by: &str, error: &ChangeError) {
    let action = action.word();
    tracing::info!(target: "audit", action, route, to, by, "the account was not switched: {error}");
}

fn no_token(error: ReloadError) -> ChangeError {
    match error {
        ReloadError::Profile(profile, why) => ChangeError::NoToken(profile, why),
        other => other.into(),
    }
}
