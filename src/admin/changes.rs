//! The words in which a running gateway is changed, and who changes it.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One route's other profile, or another environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Switch {
    /// What is served now: a profile's name, or an environment's; `None` means no environment.
    pub to: Option<String>,
    /// What was served before.
    pub from: Option<String>,
    /// Seconds since 1970.
    pub at: u64,
    /// When it ends by itself, in seconds since 1970.
    pub until: Option<u64>,
    /// Who asked.
    pub by: String,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Seconds since 1970.
    pub at: u64,
    /// What was done.
    pub action: Action,
    /// The route; `None` for the whole environment.
    pub route: Option<String>,
    /// What was served before.
    pub from: Option<String>,
    /// What is served since.
    pub to: Option<String>,
    /// When it ends by itself, in seconds since 1970.
    pub until: Option<u64>,
    /// Who asked.
    pub by: String,
}

/// What can be done with a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Another profile, or another environment.
    Switch,
    /// Back to what was before.
    Undo,
    /// Its time was over.
    Expire,
    /// The configuration does not have its route or profile, or not its environment.
    Drop,
}

impl Action {
    /// The word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Undo => "undo",
            Self::Expire => "expire",
            Self::Drop => "drop",
        }
    }
}

/// What a switch is asked to do.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The route; `None` for the whole environment.
    pub route: Option<String>,
    /// The profile, or the environment; `None` for no environment.
    pub to: Option<String>,
    /// How long; `None` until it is undone.
    pub lasts: Option<Duration>,
    /// Only tries whether it could be done.
    pub is_dry_run: bool,
}

/// What became of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Switched {
    /// What was served before.
    pub from: Option<String>,
    /// What is served now, or would be.
    pub to: Option<String>,
    /// When it ends by itself, in seconds since 1970.
    pub until: Option<u64>,
    /// Whether a restart keeps it.
    pub is_kept: bool,
    /// Of an environment: routes that have another profile than it gives them, as they are switched themselves.
    pub still_switched: Vec<String>,
    /// Routes whose own switch ends with this, as its profile is not configured in what is served then.
    pub dropped: Vec<String>,
}

/// How the last reading of the configuration went.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Reading {
    /// Seconds since 1970 of the configuration in force.
    pub loaded_at: u64,
    /// Why a newer one is not in force.
    pub refused: Option<String>,
    /// Reloads that came into force.
    pub done: u64,
    /// Reloads that were refused.
    pub failed: u64,
}

/// What a reload has changed, by names such as `route "orders"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Reloaded {
    /// What was not there before.
    pub added: Vec<String>,
    /// What is another now.
    pub changed: Vec<String>,
    /// What is not there any more.
    pub removed: Vec<String>,
    /// What an operator should know of the new configuration.
    pub warnings: Vec<String>,
}

/// What is in force, and what was changed since the start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Configuration {
    /// The file.
    pub path: String,
    /// The environment in force.
    pub environment: Option<String>,
    /// Those that the file defines.
    pub environments: Vec<String>,
    /// How the last reading went.
    pub reading: Reading,
    /// Routes with their latest switch, which can be undone, by name.
    pub switched: std::collections::BTreeMap<String, Switch>,
    /// The environment's latest switch, which can be undone.
    pub switched_environment: Option<Switch>,
    /// What was switched and undone, the latest first; a hundred at most.
    pub history: Vec<Entry>,
}

/// What a monitor wants to know, which is there without waiting for a change that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Whether the file, as it was last read, is in force.
    pub is_valid: bool,
    /// Reloads that came into force.
    pub done: u64,
    /// Reloads that were refused.
    pub failed: u64,
    /// Routes that have another profile than the file gives them, in order.
    pub switched: Vec<String>,
    /// Whether the environment is another one than the gateway was started for.
    pub has_other_environment: bool,
}

impl Default for Glance {
    /// Of a gateway that was not started from a file: nothing can be wrong with it.
    fn default() -> Self {
        Self { is_valid: true, done: 0, failed: 0, switched: Vec::new(), has_other_environment: false }
    }
}

/// Why something was not changed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the API answers.
    pub status: StatusCode,
    /// A stable word for programs.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// Who changes the gateway. Every method but [`Control::glance`] may block for as long as a token request takes.
pub trait Control: Send + Sync + 'static {
    /// What monitors want to know. Never blocks.
    fn glance(&self) -> Arc<Glance>;

    /// What is in force.
    fn configuration(&self) -> Configuration;

    /// Reads the file again and serves what it says. `by` says who asked.
    ///
    /// # Errors
    /// [`Refusal`].
    fn reload(&self, by: &str) -> Result<Reloaded, Refusal>;

    /// Serves a route with another profile, or everything in another environment.
    ///
    /// # Errors
    /// [`Refusal`].
    fn switch(&self, wish: &Wish, by: &str) -> Result<Switched, Refusal>;

    /// Takes back the latest switch of `route`, or of the environment.
    ///
    /// # Errors
    /// [`Refusal`].
    fn undo(&self, route: Option<&str>, by: &str) -> Result<Switched, Refusal>;
}

/// A span as people write it: `90s`, `30m`, `8h`, `2d`.
pub fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("8h", 28_800), ("2d", 172_800)] {
            assert_eq!(span(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "30", "1.5h", "-1s", "+1s", "30 m", "99999999999999999999d"] {
            assert_eq!(span(text), None, "{text}");
        }
    }
}
