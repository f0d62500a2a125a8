//! The admin listener of a running gateway: bound, served, and moved by a reload.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    admin::{
        self,
        access::Access,
        socket::{Bound, Tls},
    },
    app::{StartError, core::Core},
    config::{self, Settings},
    listen::{self, Address, Follower, inherited::Inherited, unix::SocketFile},
    secret::{Fingerprint, Secret},
    source::Source,
    telemetry::listeners::Certificates,
};

/// The token's file in the state folder.
const TOKEN_FILE: &str = "admin-token";
/// Random bytes of a token that is made here.
const TOKEN_BYTES: usize = 32;

/// An admin listener that is bound and not served yet.
pub(super) struct Admin {
    place: Place,
    /// The socket once more, to be served.
    socket: Bound,
    access: Access,
    follower: Option<Follower>,
    certificates: Arc<Certificates>,
}

/// A socket and where it is.
struct Place {
    socket: Bound,
    /// As it was wanted: port 0 is any.
    wanted: Address,
    /// As it is.
    address: Address,
    /// Of a unix socket, unless it is the service manager's.
    file: Option<Arc<SocketFile>>,
    reuse_port: bool,
}

/// An admin listener that is served.
pub(super) struct Administering {
    place: Place,
    tasks: Vec<AbortHandle>,
}

impl Drop for Administering {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Administering {
    /// Puts back what a reload has changed of the socket before it was refused.
    fn restore(&self) {
        if let Err(error) = self.place.socket.share(self.place.reuse_port) {
            tracing::warn!(%error, "whether others may listen on the admin listener's address has changed");
        }
        if let (Some(file), Address::Unix(socket)) = (&self.place.file, &self.place.wanted)
            && let Err(error) = file.permit(socket)
        {
            tracing::warn!(%error, "the admin socket has lost its permissions");
        }
    }
}

impl Place {
    /// Binds it anew.
    fn bind(admin: &config::Admin, tls: Option<Tls>, inherited: &Inherited) -> io::Result<Self> {
        let (wanted, reuse_port) = (admin.address.clone(), admin.reuse_port);
        match &admin.address {
            Address::Ip(ip) => {
                let handed = inherited.tcp_at(&admin.address);
                let socket = handed.unwrap_or_else(|| admin::bind(*ip, reuse_port))?;
                let address = Address::Ip(socket.local_addr()?);
                Ok(Self { socket: Bound::Tcp(socket, tls), wanted, address, file: None, reuse_port })
            }
            Address::Unix(path) => {
                let (socket, file) = match inherited.unix_at(&admin.address) {
                    // Its file is the service manager's.
                    Some(handed) => (Bound::Unix(handed?, Arc::new(())), None),
                    None => {
                        let (socket, file) = listen::unix::bind_file(path)?;
                        (Bound::Unix(socket, Arc::<SocketFile>::clone(&file)), Some(file))
                    }
                };
                Ok(Self { socket, address: wanted.clone(), wanted, file, reuse_port })
            }
        }
    }

    /// The same socket under other settings, with permissions changed already, see [`Administering::restore`].
    fn again(&self, admin: &config::Admin, tls: Option<Tls>) -> io::Result<Self> {
        let socket = self.socket.try_clone()?.with_tls(tls);
        let (wanted, file, reuse_port) = (admin.address.clone(), self.file.clone(), admin.reuse_port);
        if self.reuse_port != reuse_port {
            socket.share(reuse_port)?;
        }
        if let (Some(file), Address::Unix(socket)) = (&file, &wanted)
            && self.wanted != wanted
        {
            file.permit(socket)?;
        }
        Ok(Self { socket, wanted, address: self.address.clone(), file, reuse_port })
    }
}

impl Admin {
    /// Binds what `settings` say, if they want an admin listener, and reads or makes its token. A socket that is
    /// served there `now` is used as it is.
    pub(super) fn bind(
        settings: &Settings,
        inherited: &Inherited,
        now: Option<&Administering>,
    ) -> Result<Option<Self>, StartError> {
        let Some(admin) = &settings.admin else { return Ok(None) };
        let refused = |error: io::Error| StartError::Admin { address: admin.address.clone(), cause: error };
        // Its own, as this one may never be served.
        let certificates = Arc::<Certificates>::default();
        let (tls, follower) = match &admin.tls {
            Some(tls) => {
                let served = listen::tls::served("admin", tls, &certificates);
                let (config, follower) = served.map_err(StartError::AdminCertificate)?;
                (Some(config), Some(follower))
            }
            None => (None, None),
        };
        let token = token(admin, settings)?;
        let access = Access { hosts: admin.hosts.clone(), token, has_tls: admin.tls.is_some() };
        let is_there = |now: &&Administering| {
            now.place.wanted.is_at(&admin.address) || now.place.address.is_at(&admin.address)
        };
        let now = now.filter(is_there);
        let place = match now {
            Some(now) => now.place.again(admin, tls),
            None => Place::bind(admin, tls, inherited),
        };
        let placed = place.and_then(|place| Ok((place.socket.try_clone()?, place)));
        let (socket, place) = placed.map_err(|error| {
            now.iter().for_each(|now| now.restore());
            refused(error)
        })?;
        Ok(Some(Self { place, socket, access, follower, certificates }))
    }
}

/// The token for changes, as a fingerprint.
fn token(admin: &config::Admin, settings: &Settings) -> Result<Option<Fingerprint>, StartError> {
    let source = match (&admin.token, &settings.state_dir) {
        (Some(source), _) => source.clone(),
        (None, Some(folder)) => {
            let path = folder.join(TOKEN_FILE);
            let failed = |cause| StartError::AdminToken { path: path.clone(), cause };
            make_token(folder, &path).map_err(failed)?;
            Source::File(path)
        }
        (None, None) => return Ok(None),
    };
    source.secret_now().map(|token| Some(token.fingerprint())).map_err(StartError::AdminTokenSource)
}

/// Makes the token's file, for the gateway's user only, unless it is there.
fn make_token(folder: &Path, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return look_at(path),
        Err(error) => return Err(error),
    };
    let mut random = [0; TOKEN_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("the system gives no randomness"))?;
    let token = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(random));
    let written = file.write_all(token.expose().as_bytes()).and_then(|()| file.write_all(b"\n"));
    if let Err(error) = written.and_then(|()| file.sync_all()) {
        // Half a token would be taken for one.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    tracing::info!(path = %path.display(), "an admin token was made");
    Ok(())
}

/// Warns of a token that everybody on this machine may read, for instance because it came out of a backup.
fn look_at(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if fs::metadata(path)?.permissions().mode() & 0o004 != 0 {
        let file = path.display();
        tracing::warn!(%file, "the admin token can be read by everybody on this machine (chmod 600, and make a new one)");
    }
    Ok(())
}

impl Core {
    /// Binds the admin listener that `settings` want, see [`Admin::bind`].
    pub(super) fn bind_admin(&self, settings: &Settings) -> Result<Option<Admin>, StartError> {
        Admin::bind(settings, &self.listeners.inherited, self.administering().as_ref())
    }

    /// Undoes what [`Core::bind_admin`] has done to a socket in use.
    pub(super) fn restore_admin(&self) {
        self.administering().iter().for_each(Administering::restore);
    }

    /// Serves `admin` from now on, in the place of the one before.
    pub(super) fn administer(&self, admin: Option<Admin>, control: &Handle) {
        let next = admin.map(|Admin { place, socket, access, follower, certificates }| {
            let shown = Arc::new(admin::Shown {
                gateway: Arc::clone(&self.gateway),
                profiles: Arc::clone(&self.owners.shown),
                listeners: Arc::clone(&self.listeners.shown),
                log: self.log.clone(),
                access,
                control: Arc::clone(&self.control),
                started: self.started,
                readers: admin::events::Readers::default(),
                connections: Arc::clone(&self.admin_connections),
                certificates,
            });
            let mut tasks = vec![
                control
                    .spawn(async move {
                        if let Err(error) = admin::serve(socket, shown).await {
                            tracing::error!(%error, "the admin listener has ended");
                        }
                    })
                    .abort_handle(),
            ];
            let follower = follower.map(|follower| control.spawn(listen::tls::follow(vec![follower])));
            tasks.extend(follower.map(|task| task.abort_handle()));
            Administering { place, tasks }
        });
        let mut administering = self.administering();
        let before = std::mem::replace(&mut *administering, next);
        let file = |now: &Option<Administering>| now.as_ref().and_then(|now| now.place.file.clone());
        if let Some(gone) = file(&before)
            && file(&administering).is_none_or(|kept| !Arc::ptr_eq(&kept, &gone))
        {
            // At once: the next reload may want the path again.
            gone.remove();
        }
    }

    /// Where the admin listener listens.
    pub(super) fn admin_place(&self) -> Option<Address> {
        Some(self.administering().as_ref()?.place.address.clone())
    }

    /// The same, unless that is a unix socket.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        match self.admin_place()? {
            Address::Ip(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    fn administering(&self) -> MutexGuard<'_, Option<Administering>> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
