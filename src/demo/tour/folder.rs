//! A private temporary folder for the demo's secrets, gone when it is dropped.
//!
//! A process that is killed leaves it behind; what it holds is worth nothing outside of that process.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::secret::Secret;

/// A folder that only this user can enter.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one below the system's temporary folder. Nobody can have prepared it: its name is drawn,
    /// and a name that exists is an error.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new() -> io::Result<Folder> {
        let name = format!("keybearer-demo-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only this user can read.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn keep(&self, name: &str, secret: &Secret) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))?;
        file.write_all(secret.expose().as_bytes())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is the system's to clean: it is in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_for_this_user_only_and_do_not_stay() {
        let folder = Folder::new().unwrap();
        folder.keep("a.secret", &Secret::new("value".into())).unwrap();
        let path = folder.path().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a.secret"))), (0o700, 0o600));
        drop(folder);
        assert!(!path.exists());
    }
}
