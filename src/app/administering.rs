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
    admin::{self, access::Access, socket::Bound},
    app::{StartError, core::Core},
    config::{self, Settings},
    listen::{self, Address, Follower, inherited::Inherited},
    secret::{Fingerprint, Secret},
    source::Source,
};

/// The token's file in the state folder.
const TOKEN_FILE: &str = "admin-token";
/// Random bytes of a token that is made here.
const TOKEN_BYTES: usize = 32;

/// An admin listener that is bound and not served yet.
pub(super) struct Admin {
    socket: Bound,
    address: Address,
    access: Access,
    follower: Option<Follower>,
}

/// An admin listener that is served.
pub(super) struct Administering {
    address: Address,
    tasks: Vec<AbortHandle>,
}

impl Drop for Administering {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Admin {
    /// Binds what `settings` say, if they want an admin listener, and reads or makes its token.
    pub(super) fn bind(settings: &Settings, inherited: &Inherited) -> Result<Option<Self>, StartError> {
        let Some(admin) = &settings.admin else { return Ok(None) };
        let refused = |error: io::Error| StartError::Admin { address: admin.address.clone(), cause: error };
        let (tls, follower) = match &admin.tls {
            Some(tls) => {
                let (config, follower) =
                    listen::tls::served("admin", tls).map_err(StartError::AdminCertificate)?;
                (Some(config), Some(follower))
            }
            None => (None, None),
        };
        let (socket, address) = match &admin.address {
            Address::Ip(ip) => {
                let handed = inherited.tcp_at(&admin.address);
                let socket = handed.unwrap_or_else(|| admin::bind(*ip, admin.reuse_port)).map_err(refused)?;
                let address = Address::Ip(socket.local_addr().map_err(refused)?);
                (Bound::Tcp(socket, tls), address)
            }
            Address::Unix(path) => {
                let bound = match inherited.unix_at(&admin.address) {
                    // Its file is the service manager's.
                    Some(handed) => handed.map(|socket| Bound::Unix(socket, Box::new(()))),
                    None => listen::unix::bind_file(path).map(|(socket, file)| Bound::Unix(socket, file)),
                };
                (bound.map_err(refused)?, admin.address.clone())
            }
        };
        let token = token(admin, settings)?;
        let access = Access { hosts: admin.hosts.clone(), token, has_tls: admin.tls.is_some() };
        Ok(Some(Self { socket, address, access, follower }))
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
    /// Serves `admin` from now on, in the place of the one before.
    pub(super) fn administer(&self, admin: Option<Admin>, control: &Handle) {
        let next = admin.map(|Admin { socket, address, access, follower }| {
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
            Administering { address, tasks }
        });
        *self.administering() = next;
    }

    /// Where the admin listener listens, unless that is a unix socket.
    pub(super) fn admin_address(&self) -> Option<SocketAddr> {
        match self.administering().as_ref()?.address {
            Address::Ip(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    fn administering(&self) -> MutexGuard<'_, Option<Administering>> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
