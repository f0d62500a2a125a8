//! What a gateway tells of itself over the API, as the commands read it. What another version does not tell is
//! empty here.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    admin::changes::{Entry, Switch},
    cli::{Failure, client::Client},
};

/// One look at a gateway.
pub(super) struct Report {
    /// All of it, as the API said it.
    pub(super) json: Value,
    /// The gateway as a whole.
    pub(super) status: Status,
    /// Its listeners.
    pub(super) listeners: Vec<Listener>,
    /// Its routes.
    pub(super) routes: Vec<Route>,
    /// Its profiles.
    pub(super) profiles: Vec<Profile>,
    /// Who is connected, if that was asked.
    pub(super) callers: Callers,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) stopping: bool,
    pub(super) uptime_seconds: u64,
    pub(super) configuration: Option<Configuration>,
    pub(super) log_lines_dropped: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Configuration {
    pub(super) path: String,
    pub(super) environment: Option<String>,
    pub(super) environments: Vec<String>,
    pub(super) reading: Reading,
    pub(super) switched: BTreeMap<String, Switch>,
    pub(super) switched_environment: Option<Switch>,
    pub(super) history: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Reading {
    pub(super) loaded_at: u64,
    pub(super) refused: Option<String>,
    pub(super) done: u64,
    pub(super) failed: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) connections: u64,
    pub(super) accepted: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Callers {
    pub(super) callers: Vec<Caller>,
    pub(super) more: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Caller {
    pub(super) listener: String,
    pub(super) caller: String,
    pub(super) certificate: Option<String>,
    pub(super) connections: u64,
    pub(super) since: u64,
    pub(super) requests: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) upstream: String,
    pub(super) profile: Option<String>,
    pub(super) switched: Option<Switch>,
    pub(super) requests: BTreeMap<String, u64>,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) unauthorized: BTreeMap<String, u64>,
    pub(super) in_flight: i64,
    pub(super) duration: Distribution,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Distribution {
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) ready: bool,
    pub(super) generation: u64,
    pub(super) next_request_at: Option<u64>,
    pub(super) expires_at: Option<u64>,
    pub(super) requests_failed: u64,
    pub(super) error: Option<String>,
    pub(super) meaning: Option<String>,
    pub(super) remedy: Option<String>,
    pub(super) missing_roles: Vec<String>,
    pub(super) clock_skew_s: Option<i64>,
    pub(super) routes: Vec<String>,
}

impl Report {
    /// Asks for everything, and for the callers if that is wanted.
    pub(super) async fn of(client: &Client, with_callers: bool) -> Result<Self, Failure> {
        let mut json = client.ask("/status").await?;
        let mut rest = Map::new();
        for part in ["listeners", "routes", "profiles"].into_iter().chain(with_callers.then_some("callers")) {
            rest.insert(part.to_owned(), client.ask(&format!("/{part}")).await?);
        }
        let status = read(&json)?;
        let part = |name: &str| rest.get(name).cloned().unwrap_or_default();
        let (listeners, routes, profiles) =
            (read(&part("listeners"))?, read(&part("routes"))?, read(&part("profiles"))?);
        let callers = rest.get("callers").map(read).transpose()?.unwrap_or_default();
        if let Some(all) = json.as_object_mut() {
            all.extend(rest);
        }
        Ok(Self { json, status, listeners, routes, profiles, callers })
    }
}

/// What an answer says, if it is what this program expects.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|error| {
        let version = env!("CARGO_PKG_VERSION");
        anyhow::anyhow!(
            "the gateway's answer is not understood: {error} (has it another version? this is {version})"
        )
        .into()
    })
}
