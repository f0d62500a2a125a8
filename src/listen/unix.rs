//! Sockets in the file system: who may connect, and whose file it is.
//!
//! A socket listens only after its owner and mode are set, so there is no moment in which a stranger
//! can connect. A file that a dead process left is replaced; one that somebody answers on is not.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::listen::{bind::BACKLOG, place::UnixSocket};

/// How long binding waits for others who bind in the same folder; each takes some microseconds.
const ALONE_TRY: Duration = Duration::from_millis(5);
const ALONE_TRIES_MAX: usize = 200;

/// The longest path, as the kernel's address has room for it and a zero behind it.
pub const PATH_BYTES_MAX: usize = 107;

/// The number of a user, given by name or as a number.
///
/// # Errors
/// When this machine knows no such user.
pub fn user_id(user: &str) -> io::Result<u32> {
    let found = || Ok(User::from_name(user)?.map(|user| user.uid.as_raw()));
    number_or(user, found)
}

/// The number of a group, given by name or as a number.
///
/// # Errors
/// When this machine knows no such group.
pub fn group_id(group: &str) -> io::Result<u32> {
    let found = || Ok(Group::from_name(group)?.map(|group| group.gid.as_raw()));
    number_or(group, found)
}

fn number_or(text: &str, found: impl FnOnce() -> nix::Result<Option<u32>>) -> io::Result<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    found()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Makes the socket and listens on it.
pub(super) fn bind(settings: &UnixSocket) -> io::Result<(UnixListener, Arc<SocketFile>)> {
    let path = &settings.path;
    let address = SockAddr::unix(path)?;
    // Until it listens: before that, another gateway would take the file for one that a dead process has left.
    let _alone = alone(path);
    clear(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    // From here on it is ours: also a failure below takes it away again.
    let file = Arc::new(SocketFile::of(path)?);
    file.permit(settings)?;
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), file))
}

/// A unix socket for others than callers, with what takes its file away when dropped.
///
/// # Errors
/// The system's.
pub fn bind_file(settings: &UnixSocket) -> io::Result<(UnixListener, Arc<SocketFile>)> {
    bind(settings)
}

/// Keeps other gateways from binding a socket in the same folder, until it is dropped. Whoever may not read the folder,
/// or finds it held by a stranger, goes on without it.
fn alone(path: &Path) -> Option<fs::File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::File::open(folder).ok()?;
    for _ in 0..ALONE_TRIES_MAX {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(fs::TryLockError::WouldBlock) => std::thread::park_timeout(ALONE_TRY),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Takes a file away that a dead process has left.
fn clear(path: &Path, address: &SockAddr) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        let words = "a file that is no socket is there; move it away or choose another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One that listens but is busy must not hold us up: it says so instead.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}

/// The file of a socket of ours. Taken away at the end, unless it is another's by then.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The user and group that the system gave it to.
    made_for: (u32, u32),
    /// Whether it is to be taken away at the end.
    is_ours: AtomicBool,
    is_passed_on: AtomicBool,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let made = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: made.dev(),
            inode: made.ino(),
            made_for: (made.uid(), made.gid()),
            is_ours: AtomicBool::new(true),
            is_passed_on: AtomicBool::default(),
        })
    }

    /// The same file for a listener that may take the socket over, see [`SocketFile::pass_to`].
    pub(super) fn next(&self) -> Self {
        Self {
            path: self.path.clone(),
            device: self.device,
            inode: self.inode,
            made_for: self.made_for,
            is_ours: AtomicBool::new(false),
            is_passed_on: AtomicBool::default(),
        }
    }

    /// From now on the file is `next`'s, and so is the queue of its socket.
    pub(super) fn pass_to(&self, next: &Self) {
        self.is_passed_on.store(true, Ordering::Relaxed);
        let is_ours = self.is_ours.swap(false, Ordering::Relaxed);
        next.is_ours.store(is_ours, Ordering::Relaxed);
    }

    /// Whether another listener has the socket by now.
    pub(super) fn is_passed_on(&self) -> bool {
        self.is_passed_on.load(Ordering::Relaxed)
    }

    /// Says who may connect. In between nobody may who may not before and after.
    ///
    /// # Errors
    /// The system's, or that the file is not there any more. Some of it may have been done then.
    pub fn permit(&self, settings: &UnixSocket) -> io::Result<()> {
        let there = fs::symlink_metadata(&self.path)?;
        if !self.is(&there) {
            return Err(io::Error::other("another file is in its place by now"));
        }
        let set = |mode| fs::set_permissions(&self.path, fs::Permissions::from_mode(mode));
        set(there.mode() & settings.mode)?;
        let (user, group) = self.made_for;
        let wanted = (settings.owner.unwrap_or(user), settings.group.unwrap_or(group));
        if wanted != (there.uid(), there.gid()) {
            chown(&self.path, Some(wanted.0), Some(wanted.1))
                .map_err(|error| io::Error::other(format!("its owner or group cannot be set: {error}")))?;
        }
        set(settings.mode)
    }

    fn is(&self, there: &fs::Metadata) -> bool {
        (there.dev(), there.ino()) == (self.device, self.inode)
    }

    /// Takes the file away: nobody can connect from here on.
    pub fn remove(&self) {
        if !self.is_ours.swap(false, Ordering::Relaxed) {
            return;
        }
        let is_there = fs::symlink_metadata(&self.path).is_ok_and(|there| self.is(&there));
        if is_there && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file cannot be removed");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, sync::Barrier, thread};

    use super::*;

    /// Whoever looked at a socket that did not listen yet used to take its file away.
    #[test]
    fn of_several_who_bind_at_once_one_has_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            UnixSocket { path: folder.path().join("s.sock"), mode: 0o600, owner: None, group: None };
        for _ in 0..100 {
            // A file that a dead process has left.
            drop(UnixListener::bind(&settings.path).unwrap());
            let barrier = Barrier::new(4);
            let all: Vec<_> = thread::scope(|scope| {
                let bind = || {
                    barrier.wait();
                    bind(&settings)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|bound| bound.is_ok()).count(), 1);
            UnixStream::connect(&settings.path).unwrap();
        }
    }
}
