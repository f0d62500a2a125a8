//! What a running gateway consists of, its threads aside: what a reload reads and changes.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    admin,
    app::{StartError, listeners::Listeners, owners::Owners},
    config::Settings,
    proxy::worker::{Gateway, Shard},
    telemetry,
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
    /// The settings in force.
    pub(super) serving: Mutex<Settings>,
}

/// An admin listener that is bound and not served yet.
pub(super) struct Admin {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Admin {
    pub(super) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let refused = |error: io::Error| StartError::Admin(address, error);
        let socket = admin::bind(address).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self { socket, address })
    }
}

/// An admin listener that is served.
pub(super) struct Administering {
    address: SocketAddr,
    task: AbortHandle,
}

impl Core {
    /// Serves `admin` from now on, in the place of the one before.
    pub(super) fn administer(&self, admin: Option<Admin>, control: &Handle) {
        let next = admin.map(|Admin { socket, address }| {
            let shown = Arc::new(admin::Shown {
                gateway: Arc::clone(&self.gateway),
                profiles: Arc::clone(&self.owners.shown),
                listeners: Arc::clone(&self.listeners.shown),
                log: self.log.clone(),
            });
            let task = control.spawn(async move {
                if let Err(error) = admin::serve(socket, shown).await {
                    tracing::error!(%error, "the admin listener has ended");
                }
            });
            Administering { address, task: task.abort_handle() }
        });
        let before = std::mem::replace(&mut *self.administering(), next);
        if let Some(before) = before {
            before.task.abort();
        }
    }

    /// Where the admin listener listens.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        self.administering().as_ref().map(|admin| admin.address)
    }

    fn administering(&self) -> MutexGuard<'_, Option<Administering>> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub(super) fn of(gateway: &Gateway) -> Self {
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
