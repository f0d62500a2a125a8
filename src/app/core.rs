//! What a running gateway consists of, its threads aside: what a reload reads and changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use crate::{
    admin::{changes::Control, connections::Connections},
    app::{administering::Administering, listeners::Listeners, owners::Owners},
    clock::Moment,
    config::Settings,
    export,
    proxy::worker::{Gateway, Shard},
    telemetry, token,
    upstream::{Origin, Upstream},
};

/// The parts of a running gateway.
pub(super) struct Core {
    /// Number of worker threads; fixed for life.
    pub(super) workers: usize,
    pub(super) gateway: Arc<Gateway>,
    pub(super) owners: Owners,
    pub(super) listeners: Listeners,
    pub(super) log: Option<telemetry::log::Handle>,
    pub(super) admin: Mutex<Option<Administering>>,
    /// Of all admin listeners, one after the other.
    pub(super) admin_connections: Arc<Connections>,
    /// Set when there is a file to read again.
    pub(super) control: Arc<OnceLock<Arc<dyn Control>>>,
    pub(super) started: Moment,
    /// The settings in force.
    pub(super) serving: Mutex<Settings>,
}

/// How long a stopping gateway waits for a collector.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

impl Core {
    /// Sends the spans that wait, if a collector takes them soon. Blocks meanwhile.
    pub(super) fn flush_spans(&self) {
        if let Some(tracer) = self.gateway.traces().tracer() {
            export::flush(&tracer, FLUSH_LIMIT, self.owners.control());
        }
    }
}

/// What goes on to be used by the next snapshot: counters, and upstreams with their connections.
#[derive(Default)]
pub(crate) struct Kept {
    /// A route's counters, by its name.
    pub(crate) shards: HashMap<String, Vec<Arc<Shard>>>,
    pub(crate) upstreams: HashMap<Place, Arc<Upstream>>,
}

/// Where requests go, and the owners of the tokens on them: connections are shared when all of it is equal.
/// Owners by their ids, as a profile that has changed may be another account of the same name.
pub(crate) type Place = (Origin, Vec<u64>);

/// The owners of a route's tokens.
pub(super) fn accounts<'a>(owners: impl IntoIterator<Item = &'a token::Handle>) -> Vec<u64> {
    owners.into_iter().map(token::Handle::id).collect()
}

impl Kept {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let snapshot = gateway.snapshot();
        let mut kept = Self::default();
        for route in &snapshot.routes {
            kept.shards.insert(route.name.clone(), route.shards.clone());
            let origin = route.upstream.origin();
            // Certificates may be other ones in files of the same name.
            if !origin.has_files() {
                let place = (origin.clone(), accounts(route.profile.iter().chain(&route.also)));
                kept.upstreams.insert(place, Arc::clone(&route.upstream));
            }
        }
        kept
    }
}
