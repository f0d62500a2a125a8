//! The thread that sees to what happens by itself: switches end, and a changed file is read again.
//!
//! It blocks, which no task of a runtime may: a reload waits for tokens.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use crate::app::control::Control;

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What tells that a file is another one. Links are followed: what Kubernetes swaps is a link.
type Print = Option<(SystemTime, u64, u64)>;

fn print(path: &Path) -> Print {
    use std::os::unix::fs::MetadataExt as _;
    let there = fs::metadata(path).ok()?;
    Some((there.modified().ok()?, there.len(), there.ino()))
}

/// Starts it. It ends when what this gives is dropped.
pub(super) fn start(control: Arc<Control>, path: PathBuf) -> io::Result<mpsc::Sender<()>> {
    let (alive, gone) = mpsc::channel::<()>();
    thread::Builder::new().name("changes".into()).spawn(move || {
        let (mut read, mut last) = (print(&path), print(&path));
        while gone.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
            control.expire();
            if !control.watches() {
                read = print(&path);
                continue;
            }
            let seen = print(&path);
            // Twice the same: whoever writes it has finished.
            if seen != read && seen == last && seen.is_some() {
                // What it says about a broken file is in the log and in its view.
                let _ = control.reload("the file has changed");
                read = seen;
            }
            last = seen;
        }
    })?;
    Ok(alive)
}
