//! What is put on record of changes of accounts: lines of the audit log and of the history.

use crate::{
    admin::changes::{Action, Entry},
    app::control::ChangeError,
    config::Settings,
};

/// The word for no profile, and for no environment.
pub(super) const NONE: &str = "none";

/// The end of a switch that nobody asked for.
pub(super) struct Lost {
    /// The route; `None` for the environment.
    pub(super) route: Option<String>,
    /// What it had switched to.
    pub(super) from: Option<String>,
    pub(super) cause: Cause,
}

/// Why a switch ends that nobody has taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was for a while.
    Over,
    /// Its route or profile is not configured.
    Unknown,
    /// The configuration is not valid with it.
    Impossible,
    /// The gateway was started for another environment.
    OtherStart,
}

impl Lost {
    /// The same with what is served since, which is `settings`.
    pub(super) fn with(self, settings: &Settings, at: u64) -> Ended {
        let Self { route, from, cause } = self;
        let to = match &route {
            Some(route) => account(settings, route),
            None => settings.environment.clone(),
        };
        let (action, by) = (cause.action(), cause.by().to_owned());
        Ended { cause, entry: Entry { at, action, route, from, to, until: None, by } }
    }
}

impl Cause {
    fn action(self) -> Action {
        match self {
            Self::Over => Action::Expire,
            Self::Unknown | Self::Impossible | Self::OtherStart => Action::Drop,
        }
    }

    /// Who has ended it.
    pub(super) fn by(self) -> &'static str {
        match self {
            Self::Over => "its time was over",
            Self::Unknown | Self::Impossible => "configuration",
            Self::OtherStart => "restart",
        }
    }

    /// What an operator should know; nothing when it was meant to end.
    fn words(self) -> Option<&'static str> {
        match self {
            Self::Over => None,
            Self::Unknown => Some("the switch is dropped: its route or profile is not configured here"),
            Self::Impossible => Some("the switch is dropped: the configuration has problems with it"),
            Self::OtherStart => Some(
                "the gateway was started for another environment than before: the environment's switch ends",
            ),
        }
    }
}

/// A switch that has ended, and what is served since.
pub(super) struct Ended {
    cause: Cause,
    pub(super) entry: Entry,
}

impl Ended {
    /// What whoever has reloaded should know, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        let words = self.cause.words()?;
        let what = match &self.entry.route {
            Some(route) => format!("route \"{route}\""),
            None => "the environment".to_owned(),
        };
        Some(format!("{what}, switched to \"{}\": {words}", self.entry.from.as_deref().unwrap_or(NONE)))
    }

    /// Puts it in the log.
    pub(super) fn tell(&self) {
        if let Some(words) = self.cause.words() {
            tracing::warn!(route = self.entry.route, from = self.entry.from, "{words}");
        }
        changed(&self.entry);
    }
}

/// Puts on record what has come into force.
pub(super) fn changed(entry: &Entry) {
    tracing::info!(
        target: "audit",
        action = entry.action.word(),
        what = what(entry.route.as_deref()),
        route = entry.route,
        from = entry.from.as_deref().unwrap_or(NONE),
        to = entry.to.as_deref().unwrap_or(NONE),
        until = entry.until,
        by = entry.by,
        "the account was switched"
    );
}

/// Puts on record that somebody wanted a change and did not get it.
pub(super) fn refused(action: Action, route: Option<&str>, to: Option<&str>, by: &str, error: &ChangeError) {
    let (action, what) = (action.word(), what(route));
    tracing::info!(target: "audit", action, what, route, to, by, "the account was not switched: {error}");
}

/// What is switched, as the audit log calls it.
fn what(route: Option<&str>) -> &'static str {
    if route.is_some() { "route" } else { "environment" }
}

/// The profile of a route, or `none`.
pub(super) fn account(settings: &Settings, route: &str) -> Option<String> {
    let entry = settings.routes.iter().find(|entry| entry.name == route)?;
    Some(entry.target.profile.clone().unwrap_or_else(|| NONE.to_owned()))
}
