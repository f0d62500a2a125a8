//! Binding a listener's sockets, and what each worker gets of a listener.
//!
//! On an address every worker has a socket of its own; the socket of a path is one for all.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    caller::{TrustedProxies, roster::Roster},
    listen::{
        Limits, Settings,
        addresses::{Addresses, Crowd},
        bound::{self, BoundSocket, Held},
        certificate::CertificateError,
        inherited::Inherited,
        place::Address,
        tls::{Follower, Live},
        unix::SocketFile,
    },
    telemetry::listeners::{Certificates, ListenerShard},
    upstream::room::Room,
};

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 4096;

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses the socket.
    #[error("listener \"{name}\" cannot listen on {address}: {cause}{}", hint(address, cause))]
    Socket {
        /// The listener.
        name: String,
        /// Its address.
        address: Address,
        /// The system's reason.
        cause: io::Error,
    },
    /// Its certificates cannot be used.
    #[error("listener \"{0}\": {1}")]
    Certificate(String, CertificateError),
}

pub(crate) fn hint(address: &Address, cause: &io::Error) -> &'static str {
    match (address, cause.kind()) {
        (_, io::ErrorKind::AddrInUse) => {
            " (another process listens there; stop it or choose another address)"
        }
        (Address::Ip(_), io::ErrorKind::PermissionDenied) => " (ports below 1024 need a privilege)",
        (Address::Ip(_), io::ErrorKind::AddrNotAvailable) => {
            " (no interface of this machine has that address)"
        }
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            " (the gateway's user must be allowed to make files in that folder)"
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => " (make the folder first)",
        _ => "",
    }
}

/// A bound listener: one socket for each worker, and what all of them share.
pub struct Listener {
    settings: Settings,
    address: Address,
    sockets: Vec<BoundSocket>,
    is_inherited: bool,
    /// One of this process has had its address until now.
    follows: bool,
    /// The socket of a path.
    held: Option<Held>,
    /// The file of the one that it follows.
    followed: Option<Arc<SocketFile>>,
    live: watch::Sender<Option<Shared>>,
    open: Arc<AtomicUsize>,
    crowd: Arc<Crowd>,
    room: Arc<Room>,
    shards: Vec<Arc<ListenerShard>>,
    rosters: Vec<Arc<Roster>>,
    certificates: Arc<Certificates>,
    follower: Option<Follower>,
}

/// What a listener's workers have in common, and what a reload may change.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) open: Arc<AtomicUsize>,
    pub(super) room: Arc<Room>,
    pub(super) limits: Arc<Limits>,
    pub(super) addresses: Option<Arc<Addresses>>,
    pub(super) trusted: Arc<TrustedProxies>,
    pub(super) tls: Option<Arc<Live>>,
    pub(super) reuse_port: bool,
    /// Turns true when connections accepted under this shall end.
    pub(super) is_replaced: Arc<AtomicBool>,
}

/// What a listener is about to become. Everything that could fail has been done.
pub struct Change {
    settings: Settings,
    shared: Shared,
    follower: Option<Follower>,
}

impl Change {
    /// What it will be told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Listener {
    /// Binds a listener, with sockets for so many `workers`, unless its socket is `inherited`, which may not be at
    /// another one's of `all` addresses. It `follows` one of this process on the same address, or none. Nobody reaches it before [`Listener::listen`].
    ///
    /// # Errors
    /// [`BindError`]; nothing is bound then.
    pub fn bind(
        settings: &Settings,
        limits: &Limits,
        workers: usize,
        room: &Arc<Room>,
        follows: Option<&Self>,
        (inherited, all): (&Inherited, &[&Address]),
    ) -> Result<Self, BindError> {
        let (open, certificates, crowd) = (Arc::default(), Arc::default(), Arc::default());
        let (shared, follower) = shared(settings, limits, room, &open, &certificates, &crowd)?;
        if let Some(tls) = &shared.tls {
            tls.show();
        }
        let refused = |cause| refused(settings, cause);
        let handed = bound::handed(settings, workers, inherited, all).transpose().map_err(refused)?;
        let is_inherited = handed.is_some();
        let (address, sockets) = match handed {
            Some(handed) => handed,
            None => {
                let held = follows.and_then(|before| before.held.as_ref());
                bound::sockets(settings, workers, held).map_err(refused)?
            }
        };
        let held = sockets.first().map(BoundSocket::held).transpose().map_err(refused)?.flatten();
        let followed = follows.and_then(|before| before.held.as_ref()).filter(|_| held.is_some());
        Ok(Self {
            settings: settings.clone(),
            address,
            sockets,
            is_inherited,
            follows: follows.is_some(),
            followed: followed.map(|before| Arc::clone(&before.file)),
            held,
            live: watch::Sender::new(Some(shared)),
            open,
            crowd,
            room: Arc::clone(room),
            shards: (0..workers).map(|_| Arc::default()).collect(),
            rosters: (0..workers).map(|_| Arc::default()).collect(),
            certificates,
            follower,
        })
    }

    /// Refuses an address on which another process listens. To be asked of all listeners before one of them
    /// listens.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn probe(&self) -> Result<(), BindError> {
        match self.address {
            Address::Ip(address) if !self.is_inherited && !self.follows && !self.settings.reuse_port => {
                bound::refuse_shared(address).map_err(|cause| refused(&self.settings, cause))
            }
            Address::Ip(_) | Address::Unix(_) => Ok(()),
        }
    }

    /// From now on connections wait to be accepted.
    ///
    /// # Errors
    /// [`BindError`], when another process has begun to listen on the address meanwhile.
    pub fn listen(&self) -> Result<(), BindError> {
        if self.is_inherited {
            return Ok(());
        }
        let listening = self.sockets.iter().try_for_each(BoundSocket::listen);
        listening.map_err(|cause| refused(&self.settings, cause))
    }

    /// Whether it has the socket of another listener, whose file may have other permissions than it wants.
    pub fn takes_over(&self) -> bool {
        self.followed.is_some()
    }

    /// Says who may connect to the socket of a path.
    ///
    /// # Errors
    /// [`BindError`]; some of it may have been done then.
    pub fn permit(&self, settings: &Settings) -> Result<(), BindError> {
        match (&self.held, &settings.address) {
            (Some(held), Address::Unix(socket)) => {
                held.file.permit(socket).map_err(|cause| refused(settings, cause))
            }
            _ => Ok(()),
        }
    }

    /// From now on the file of the socket that it takes over is its own.
    pub fn take_over(&self) {
        if let (Some(before), Some(held)) = (&self.followed, &self.held) {
            before.pass_to(&held.file);
        }
    }

    /// Whether `settings` can be had without another socket.
    pub fn can_become(&self, settings: &Settings) -> bool {
        self.settings.name == settings.name && self.settings.address.is_at(&settings.address)
    }

    /// Makes ready to be told `settings` and `limits`, on the same socket.
    ///
    /// # Errors
    /// [`BindError`] when its certificates cannot be used; nothing has changed then.
    pub fn prepare(&self, settings: &Settings, limits: &Limits) -> Result<Change, BindError> {
        let (room, open, certificates) = (&self.room, &self.open, &self.certificates);
        let (shared, follower) = shared(settings, limits, room, open, certificates, &self.crowd)?;
        Ok(Change { settings: settings.clone(), shared, follower })
    }

    /// From now on connections are accepted under `change`. Where it says other things about who may
    /// connect, those there are end soon, at the latest after the drain time.
    pub fn apply(&mut self, change: Change) {
        let is_same = self.settings == change.settings;
        match &change.shared.tls {
            Some(tls) => tls.show(),
            None => self.certificates.show(Vec::new()),
        }
        let before = self.live.send_replace(Some(change.shared));
        if let Some(before) = before.filter(|_| !is_same) {
            before.is_replaced.store(true, Ordering::Relaxed);
        }
        self.settings = change.settings;
        if let Address::Unix(_) = self.settings.address {
            self.address = self.settings.address.clone();
        }
        self.follower = change.follower;
    }

    /// Accepts no connection any more; those there are end soon, at the latest after the drain time.
    pub fn close(&self) {
        if let Some(shared) = self.live.send_replace(None) {
            shared.is_replaced.store(true, Ordering::Relaxed);
        }
        // At once: the next reload may want the path again.
        if let Some(held) = &self.held {
            held.file.remove();
        }
    }

    /// Lets go of the socket that another listener might have taken over.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where it really listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Open connections; for metrics.
    pub fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// What its workers count, each for itself; for metrics.
    pub fn shards(&self) -> Vec<Arc<ListenerShard>> {
        self.shards.clone()
    }

    /// Who is connected, by worker.
    pub fn rosters(&self) -> Vec<Arc<Roster>> {
        self.rosters.clone()
    }

    /// What is known of its certificates; for metrics.
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// What follows its certificates' files. To be taken once after each change, and only if it
    /// speaks TLS.
    pub fn follower(&mut self) -> Option<Follower> {
        self.follower.take()
    }

    /// One worker's share of the listener. To be taken once for each worker.
    pub fn share(&mut self) -> Option<Share> {
        let socket = self.sockets.pop()?;
        let shard = Arc::clone(self.shards.get(self.sockets.len())?);
        let roster = Arc::clone(self.rosters.get(self.sockets.len())?);
        let entry = Entry { name: self.settings.name.as_str().into(), shard, roster };
        let is_inherited = self.is_inherited;
        Some(Share { socket, entry, is_inherited, live: self.live.subscribe() })
    }
}

fn refused(settings: &Settings, cause: io::Error) -> BindError {
    BindError::Socket { name: settings.name.clone(), address: settings.address.clone(), cause }
}

fn shared(
    settings: &Settings,
    limits: &Limits,
    room: &Arc<Room>,
    open: &Arc<AtomicUsize>,
    certificates: &Arc<Certificates>,
    crowd: &Arc<Crowd>,
) -> Result<(Shared, Option<Follower>), BindError> {
    let name: Arc<str> = settings.name.as_str().into();
    let following = settings.tls.as_ref().map(|tls| Follower::start(&name, tls, certificates));
    let following = following.transpose().map_err(|e| BindError::Certificate(settings.name.clone(), e))?;
    let (tls, follower) = following.unzip();
    let shared = Shared {
        open: Arc::clone(open),
        room: Arc::clone(room),
        limits: Arc::new(*limits),
        addresses: Addresses::new(limits, crowd),
        trusted: Arc::new(settings.trusted_proxies.clone()),
        tls,
        reuse_port: settings.reuse_port,
        is_replaced: Arc::default(),
    };
    Ok((shared, follower))
}

/// One worker's part of a listener.
pub struct Share {
    pub(super) socket: BoundSocket,
    pub(super) entry: Entry,
    /// Whether its queue is for the next process.
    pub(super) is_inherited: bool,
    /// `None` when the listener has closed.
    pub(super) live: watch::Receiver<Option<Shared>>,
}

/// What a worker needs to know of a listener, whatever becomes of it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) shard: Arc<ListenerShard>,
    pub(super) roster: Arc<Roster>,
}
