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
    proxy::worker::{Former, Gateway, Shard},
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
    /// What a route has had with each of its profiles, by the route's name.
    pub(crate) counters: HashMap<String, Vec<Former>>,
    pub(crate) upstreams: HashMap<Place, Arc<Upstream>>,
}

/// Where requests go, and the owners of the tokens on them: connections are shared when all of it is equal.
/// Owners by their ids, as a profile that has changed may be another account of the same name.
pub(crate) type Place = (Origin, Vec<u64>);

/// The owners of a route's tokens.
pub(super) fn accounts<'a>(owners: impl IntoIterator<Item = &'a token::Handle>) -> Vec<u64> {
    owners.into_iter().map(token::Handle::id).collect()
}

/// What becomes of PEM files that were read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// They are read again: others may be there under the same names.
    Anew,
    /// What was read goes on to be used.
    AsTheyWere,
}

impl Kept {
    pub(super) fn of(gateway: &Gateway, files: Files) -> Self {
        let snapshot = gateway.snapshot();
        let stays = |upstream: &Upstream| files == Files::AsTheyWere || !upstream.origin().has_files();
        let mut kept = Self::default();
        for route in &snapshot.routes {
            let accounts = accounts(route.profile.iter().chain(&route.also));
            let latest = Former {
                profile: route.settings.profile.clone(),
                shards: route.shards.clone(),
                upstream: Some((accounts, Arc::clone(&route.upstream))),
            };
            let mut all: Vec<_> = route.former.iter().cloned().chain([latest]).collect();
            for one in &mut all {
                one.upstream.take_if(|(_, upstream)| !stays(upstream));
                if let Some((accounts, upstream)) = &one.upstream {
                    let place = (upstream.origin().clone(), accounts.clone());
                    kept.upstreams.insert(place, Arc::clone(upstream));
                }
            }
            kept.counters.insert(route.name.clone(), all);
        }
        kept
    }

    /// The counters of a route: those with this profile, if it has had it, and those with others that are
    /// still configured.
    pub(super) fn counters(
        &mut self,
        route: &str,
        profile: &Option<String>,
        settings: &Settings,
    ) -> Counters {
        let is_configured = |name: &String| settings.profiles.iter().any(|known| known.profile.name == *name);
        let mut former = self.counters.remove(route).unwrap_or_default();
        former.retain(|former| former.profile.as_ref().is_none_or(is_configured));
        let place = former.iter().position(|former| former.profile == *profile);
        let own = place.map(|place| former.remove(place).shards);
        Counters { own, former }
    }
}

/// See [`Kept::counters`].
pub(super) struct Counters {
    pub(super) own: Option<Vec<Arc<Shard>>>,
    pub(super) former: Vec<Former>,
}
