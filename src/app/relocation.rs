//! The move of the switches to another state folder, when a reload brings one.
//!
//! They are written there before anything is put in force, so that a folder in which nothing can be kept refuses the
//! reload. The file in the former folder goes when all is done: a start with that folder would find old switches.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::app::{
    control::ChangeError,
    switches::{Store, Switches},
};

/// Switches that are written in another folder, on which nothing relies yet.
#[derive(Default)]
pub(super) struct Relocation {
    /// `None` when nothing is kept from now on.
    store: Option<Store>,
    /// The file that was there before.
    before: Option<Vec<u8>>,
    /// Where that is kept, if it has other switches.
    aside: Option<PathBuf>,
    /// Folders that were made, the innermost first.
    made: Vec<PathBuf>,
}

impl Relocation {
    /// Writes `switches` into the folder that a reload brings, when they are not kept there yet. `before` is the
    /// folder of the settings in force, `former` where switches are kept now: nowhere, when that could not be used.
    pub(super) fn begin(
        before: Option<&Path>,
        folder: Option<&Path>,
        former: Option<&Store>,
        switches: &Switches,
    ) -> Result<Option<Self>, ChangeError> {
        let is_the_same = before == folder;
        let Some(folder) = folder else {
            return Ok((!is_the_same).then(Self::default));
        };
        if is_the_same && former.is_some() {
            return Ok(None);
        }
        match Self::write(folder, former, switches) {
            Ok(begun) => Ok(Some(begun)),
            // It has kept the gateway from starting as little.
            Err(error) if is_the_same => {
                let shown = folder.display();
                tracing::error!("state_dir {shown} still cannot be used, switches will not be kept: {error}");
                Ok(None)
            }
            Err(cause) => Err(ChangeError::StateDir { folder: folder.to_owned(), cause }),
        }
    }

    fn write(folder: &Path, former: Option<&Store>, switches: &Switches) -> io::Result<Self> {
        let made: Vec<_> = folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        let mut begun = Self { made, ..Self::default() };
        begun.keep(folder, former, switches).inspect_err(|_| begun.clear())?;
        Ok(begun)
    }

    fn keep(&mut self, folder: &Path, former: Option<&Store>, switches: &Switches) -> io::Result<()> {
        let store = Store::open(folder)?;
        self.before = store.bytes()?;
        let is_ours = former.is_some_and(|former| is_same(folder, former.folder()));
        let theirs = self.before.as_ref().filter(|bytes| !is_ours && is_other(bytes, switches));
        self.aside = theirs.map(|bytes| store.put_aside(bytes)).transpose()?;
        store.save(switches)?;
        self.store = Some(store);
        Ok(())
    }

    /// The reload was refused: the new folder gets back what it had, and goes if it was not there.
    pub(super) fn take_back(self) {
        let restored = self.store.as_ref().map_or(Ok(()), |store| store.restore(self.before.as_deref()));
        if let (Err(error), Some(store)) = (restored, &self.store) {
            let folder = store.folder().display();
            tracing::warn!(%folder, %error, "switches of a reload that was refused stay in this folder");
        }
        self.clear();
    }

    /// Takes away what was made. Folders with anything in them stay.
    fn clear(&self) {
        self.aside.iter().for_each(|aside| drop(fs::remove_file(aside)));
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }

    /// The reload is done: what is switched is kept here from now on, and not in the place of `store`.
    pub(super) fn finish(self, store: &mut Option<Store>) {
        if let Some(aside) = &self.aside {
            let aside = aside.display();
            tracing::warn!(%aside, "state_dir had other switches, which are not in force: they were put aside");
        }
        let former = std::mem::replace(store, self.store);
        let Some(former) = former
            .filter(|former| store.as_ref().is_none_or(|store| !is_same(store.folder(), former.folder())))
        else {
            return;
        };
        if let Err(error) = former.restore(None) {
            let folder = former.folder().display();
            tracing::warn!(%folder, %error, "the former state_dir still has its switches: a start with it would find them");
        }
    }
}

/// Whether both are one folder, whatever they are called: also where one is mounted in two places.
fn is_same(a: &Path, b: &Path) -> bool {
    let of = |path: &Path| fs::metadata(path).map(|folder| (folder.dev(), folder.ino()));
    matches!((of(a), of(b)), (Ok(a), Ok(b)) if a == b)
}

/// Whether a file has switches, and others than these.
fn is_other(bytes: &[u8], switches: &Switches) -> bool {
    match serde_json::from_slice::<Switches>(bytes) {
        Ok(theirs) => theirs != *switches && theirs != Switches::default(),
        // Nobody knows.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_the_same_under_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("one")).unwrap();
        fs::create_dir(path("two")).unwrap();
        std::os::unix::fs::symlink(path("one"), path("link")).unwrap();
        for (name, expected) in [("one", true), ("two/../one", true), ("link", true), ("two", false)] {
            assert_eq!(is_same(&path("one"), &path(name)), expected, "{name}");
        }
        assert!(!is_same(&path("none"), &path("none")), "nothing is there");
        // A folder that is mounted in two places has two real paths, as a file with two names has.
        fs::write(path("file"), "").unwrap();
        fs::hard_link(path("file"), path("other")).unwrap();
        assert!(is_same(&path("file"), &path("other")));
    }
}
