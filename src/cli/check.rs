//! `keybearer check`: what is wrong with a configuration, and what this machine lacks for it.
//!
//! Nothing is bound, and no command of a secret (`exec`) is run.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _},
    path::Path,
    process::{self, ExitCode},
};

use crate::{
    cli::{ConfigArgs, Configured, Failure, print, say},
    config::Settings,
    listen::Address,
};

pub(super) fn check(args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let Configured { path, loaded } = args.load()?;
    for warning in &loaded.warnings {
        say(&format!("warning: {}\n", warning.to_string().trim_end()));
    }
    let settings = &loaded.settings;
    for lack in lacks(settings) {
        say(&format!("warning: {}: {lack}\n", path.display()));
    }
    let environments = match loaded.environments.as_slice() {
        [] => String::new(),
        names => format!(", {} ({})", counted(names.len(), "environment"), names.join(", ")),
    };
    print(&format!(
        "{} is valid: {}, {}, {}{environments}\n",
        path.display(),
        counted(settings.listeners.len(), "listener"),
        counted(settings.profiles.len(), "profile"),
        counted(settings.routes.len(), "route"),
    ))
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What would keep the gateway from starting here, or from keeping anything. Warnings: it may run as another user,
/// and on a machine where folders are made for it.
fn lacks(settings: &Settings) -> Vec<String> {
    let listeners = settings.listeners.iter().map(|own| (format!("listener {:?}", own.name), &own.address));
    let admin = settings.admin.iter().map(|admin| ("admin".to_owned(), &admin.address));
    let sockets = listeners.chain(admin).filter_map(|(place, address)| {
        let Address::Unix(socket) = address else { return None };
        Some(format!("{place}: address: {}", lack_of_socket(&socket.path)?))
    });
    let state = settings.state_dir.as_deref().and_then(lack_of_state);
    sockets.chain(state).collect()
}

fn lack_of_socket(path: &Path) -> Option<String> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => None,
        Ok(_) => Some(format!(
            "{} is no socket, so none can be made there (move it away, or choose another path)",
            path.display()
        )),
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.is_dir())?;
            // A service manager makes these at the start (RuntimeDirectory=).
            let is_made_later = folder.parent() == Some(Path::new("/run"));
            let words =
                format!("the folder {} is not there (make it for the gateway's user)", folder.display());
            (!is_made_later).then_some(words)
        }
    }
}

/// Whether the folder could be made is tried with another one beside it: some file systems, such as /proc, say it no
/// other way. Nothing is said of what this user cannot look into: the gateway's may.
fn lack_of_state(folder: &Path) -> Option<String> {
    let remedy = "make it for the gateway's user, or name another folder";
    match fs::metadata(folder) {
        Ok(there) if there.is_dir() => return None,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        _ => {}
    }
    if fs::symlink_metadata(folder).is_ok() {
        return Some(format!("state_dir: {} is no folder ({remedy})", folder.display()));
    }
    let above = folder.ancestors().skip(1).find(|above| fs::symlink_metadata(above).is_ok())?;
    let error = try_to_make_one_in(above).err()?;
    let (folder, above) = (folder.display(), above.display());
    Some(format!(
        "state_dir: {folder} cannot be made: this user can make no folder in {above}: {error} ({remedy})"
    ))
}

fn try_to_make_one_in(folder: &Path) -> io::Result<()> {
    let trial = folder.join(format!(".keybearer-check-{}", process::id()));
    fs::DirBuilder::new().mode(0o700).create(&trial)?;
    fs::remove_dir(&trial)
}
