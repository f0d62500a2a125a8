//! Changing a running gateway from outside. One change at a time: the reload is here, switches are beside it.
//!
//! What is in force is the text of a configuration file, an environment of it, and the switches made since.
//! Every change makes all three anew, so that a switch is checked by the same rules as the file.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;

use crate::{
    admin::changes::{Glance, Reading, Reloaded},
    app::{
        ReloadError,
        core::{Core, Files},
        difference::{self, Known},
        expiry::Overdue,
        reading::{Own, Read, environment, now, read},
        record::Ended,
        relocation::Relocation,
        restart::Prepared,
        service,
        switches::{Store, Switches},
    },
    config::{self, Secrets, Settings, problem::Problems},
    listen::inherited::Inherited,
};

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
    /// Nothing can be kept in the state folder that a reload brings.
    #[error("state_dir {} cannot be used ({cause}); nothing was changed", .folder.display())]
    StateDir {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A span that makes no sense.
    #[error("a switch may last from 1 second to 366 days")]
    Span,
}

/// The one who changes a running gateway.
pub struct Control {
    pub(super) core: Arc<Core>,
    pub(super) origin: Origin,
    state: Mutex<State>,
    /// What is told of `state`, also while a change holds it: that may wait for tokens, and those who look
    /// run where tokens are fetched.
    shown: ArcSwap<View>,
}

pub(super) struct State {
    /// The text in force.
    pub(super) text: String,
    pub(super) environments: Vec<String>,
    pub(super) switches: Switches,
    /// What the file says where they say otherwise.
    pub(super) own: Own,
    /// Where they are kept.
    pub(super) store: Option<Store>,
    reading: Reading,
    pub(super) overdue: Overdue,
}

impl State {
    fn view(&self, origin: &Origin) -> View {
        View {
            path: origin.path.clone(),
            environment: environment(origin, &self.switches),
            environments: self.environments.clone(),
            switched: self.switches.over(&self.own).map(str::to_owned).collect(),
            has_other_environment: environment(origin, &self.switches) != origin.environment,
            switches: self.switches.clone(),
            reading: self.reading.clone(),
        }
    }

    /// Keeps `switches` for the next start, or warns.
    pub(super) fn keep(&self, switches: &Switches) {
        if let Some(store) = &self.store
            && let Err(error) = store.save(switches)
        {
            tracing::warn!(%error, "the switches cannot be kept in state_dir");
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
    /// Routes that have another profile than the file gives them.
    pub switched: Vec<String>,
    /// Whether the environment is another one than the gateway was started for.
    pub has_other_environment: bool,
    /// What was switched and can be undone, and the history.
    pub switches: Switches,
    /// How the last reading went.
    pub reading: Reading,
}

impl Control {
    pub(super) fn new(core: Arc<Core>, origin: Origin, prepared: Prepared) -> Self {
        let Prepared { loaded, own, text, switches, store } = prepared;
        let reading = Reading { loaded_at: now(), ..Reading::default() };
        let (environments, overdue) = (loaded.environments, Overdue::default());
        let state = State { text, environments, switches, own, store, reading, overdue };
        let shown = ArcSwap::from_pointee(state.view(&origin));
        Self { core, origin, state: Mutex::new(state), shown }
    }

    /// What monitors want to know. Never blocks.
    pub fn glance(&self) -> Arc<Glance> {
        let view = self.view();
        Arc::new(Glance {
            is_valid: view.reading.refused.is_none(),
            done: view.reading.done,
            failed: view.reading.failed,
            switched: view.switched.clone(),
            has_other_environment: view.has_other_environment,
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

    pub(super) fn show(&self, state: &State) {
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
        let done = self.try_reload(&mut state).inspect_err(|error| {
            tracing::error!(by, "the configuration was not reloaded: {error}");
        });
        match &done {
            Ok(_) => {
                state.reading.loaded_at = now();
                state.reading.refused = None;
                state.reading.done += 1;
                tracing::info!(target: "audit", action = "reload", by, "the configuration was reloaded");
            }
            Err(error) => {
                state.reading.refused = Some(error.to_string());
                state.reading.failed += 1;
            }
        }
        self.show(&state);
        service::ready(&self.status(&state));
        done
    }

    fn try_reload(&self, state: &mut State) -> Result<Reloaded, ChangeError> {
        let text = config::read_text(&self.origin.path).map_err(ChangeError::Problems)?;
        let mut read = read(&self.origin, &text, state.switches.clone(), Secrets::Needed)
            .map_err(ChangeError::Problems)?;
        let ended = read.note_ended();
        let Read { loaded, own, switches, .. } = read;
        let before = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (former, folder) = (before.state_dir.as_deref(), loaded.settings.state_dir.as_deref());
        let relocation = Relocation::begin(former, folder, state.store.as_ref(), &switches)?;
        if let Err(error) = self.core.reload(&loaded.settings, Files::Anew) {
            relocation.into_iter().for_each(Relocation::take_back);
            return Err(error.into());
        }
        for warning in loaded.warnings_for_log() {
            tracing::warn!("{}", warning.to_string().trim_end());
        }
        match relocation {
            Some(relocation) => relocation.finish(&mut state.store),
            None => state.keep(&switches),
        }
        ended.iter().for_each(Ended::tell);
        let before = Known::of(before, &state.own, &state.environments);
        let after = Known::of(loaded.settings, &own, &loaded.environments);
        let warnings = loaded.warnings.iter().map(|warning| warning.to_string().trim_end().to_owned());
        let warnings = warnings.chain(ended.iter().filter_map(Ended::warning));
        let reloaded = Reloaded { warnings: warnings.collect(), ..difference::between(&before, &after) };
        state.text = text;
        state.environments = loaded.environments;
        state.switches = switches;
        state.own = own;
        Ok(reloaded)
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
}
