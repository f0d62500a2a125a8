//! Reading a file that the configuration names: only what is a file, and not more of it than a bound.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{sync::Mutex as Turn, task::JoinError};
use zeroize::Zeroizing;

use crate::{
    clock::{self, Moment},
    source::Reason,
};

/// The bound for certificates and keys: a chain or a bundle of authorities fits many times.
pub const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// So long somebody waits for a file who cannot do anything else meanwhile.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Files that are read for those who wait, and since when.
static UNDER_WAY: LazyLock<(Mutex<HashMap<PathBuf, Moment>>, Condvar)> = LazyLock::new(Default::default);

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It could not be opened or read.
    Unreadable(Reason),
    /// A pipe or a device: reading it may wait for ever or never come to an end.
    NoFile,
    /// More than the bound.
    TooLarge,
}

/// The bytes of the file, which may be secret. Blocks as long as the file system does.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |error: io::Error| FileError::Unreadable(Reason::from(&error));
    // Before it is opened: that alone waits, for whoever writes into the pipe.
    let there = fs::metadata(path).map_err(unreadable)?;
    if !there.is_file() && !there.is_dir() {
        return Err(FileError::NoFile);
    }
    // Sized beforehand: a buffer that grows leaves copies of a key behind.
    let length = usize::try_from(there.len().min(bytes_max)).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(FileError::TooLarge) } else { Ok(bytes) }
}

/// What `read` gives, which reads the file at `path`, on a thread of its own: a file system that hangs must not
/// hold up other profiles. It holds one thread for each file, however often that is wanted: the next reading
/// begins when the one before has ended. A wait that is dropped takes no thread.
///
/// # Errors
/// When `read` panicked, or the runtime ends.
pub async fn apart<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // As many as files have been named.
    static TURNS: LazyLock<Mutex<HashMap<PathBuf, Arc<Turn<()>>>>> = LazyLock::new(Mutex::default);
    let turn = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(path.to_owned()).or_default())
    };
    let turn = turn.lock_owned().await;
    let reading = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        read()
    });
    reading.await
}

/// What `read` gives, which reads the file at `path`, for somebody who waits for it and serves nobody yet; `None` when
/// the file system hangs. Then a thread is left behind, one for each file: nobody else waits for that again.
pub fn at_once<T: Send + 'static>(path: &Path, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    within(AT_ONCE, path, read)
}

fn within<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (files, ended) = &*UNDER_WAY;
    let mut under_way = files.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(began) = under_way.get(path) {
        let left = limit.saturating_sub(clock::now().since(*began));
        let (after, waited) = ended.wait_timeout(under_way, left).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        under_way = after;
    }
    under_way.insert(path.to_owned(), clock::now());
    drop(under_way);
    let (reading, (tell, told)) = (Reading(path.to_owned()), mpsc::channel());
    let begun = thread::Builder::new().name("source".into()).spawn(move || {
        let outcome = read();
        drop(reading);
        // Who waited may have given up.
        let _ = tell.send(outcome);
    });
    begun.ok()?;
    told.recv_timeout(limit).ok()
}

/// Somebody reads the file, until this is dropped.
struct Reading(PathBuf);

impl Drop for Reading {
    fn drop(&mut self) {
        let (files, ended) = &*UNDER_WAY;
        files.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::mpsc, time::Duration};

    use super::*;

    /// Each token request left one more thread behind, until none was left for anybody.
    #[tokio::test]
    async fn a_file_that_hangs_holds_one_thread() {
        let (path, (lets, held)) = (Path::new("/nowhere/hangs"), mpsc::channel::<()>());
        let mut first = Box::pin(apart(path, move || held.recv()));
        // A part of a second is enough for the thread to begin; the reading goes on without its first reader.
        let _ = tokio::time::timeout(Duration::from_millis(10), first.as_mut()).await.unwrap_err();
        drop(first);
        let (begun, begins) = mpsc::channel();
        let mut second = Box::pin(apart(path, move || begun.send(())));
        tokio::time::timeout(Duration::from_millis(50), second.as_mut()).await.unwrap_err();
        assert!(begins.try_recv().is_err(), "the first reading has not ended");
        assert!(apart(Path::new("/nowhere/else"), || true).await.unwrap(), "other files are read");
        lets.send(()).unwrap();
        second.await.unwrap().unwrap();
        assert!(begins.try_recv().is_ok());
    }

    /// A configuration that named such a file was never read to its end.
    #[test]
    fn who_waits_for_a_file_that_hangs_is_told_and_leaves_one_thread_behind() {
        let (path, limit) = (Path::new("/nowhere/hangs-at-once"), Duration::from_millis(20));
        let (lets, held) = mpsc::channel::<()>();
        assert!(within(limit, path, move || held.recv()).is_none());
        let (begun, begins) = mpsc::channel();
        assert!(within(limit, path, move || begun.send(())).is_none());
        assert!(begins.recv().is_err(), "it was not read");
        let whole = Duration::from_secs(60);
        assert_eq!(within(whole, Path::new("/nowhere/else-at-once"), || 1), Some(1), "other files are read");
        lets.send(()).unwrap();
        assert_eq!(within(whole, path, || 2), Some(2));
    }

    #[test]
    fn pipes_devices_folders_and_what_is_too_large_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("pipe"), folder.path().join("file"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(&file, "12345678").unwrap();
        assert_eq!(read(&pipe, 8).unwrap_err(), FileError::NoFile);
        assert_eq!(read(Path::new("/dev/zero"), 8).unwrap_err(), FileError::NoFile);
        assert_eq!(read(&file, 7).unwrap_err(), FileError::TooLarge);
        assert_eq!(read(&file, 8).unwrap().as_slice(), b"12345678");
        assert!(matches!(read(folder.path(), 8), Err(FileError::Unreadable(_))));
        assert!(matches!(read(&folder.path().join("none"), 8), Err(FileError::Unreadable(_))));
    }
}
