//! The move of the switches to another state folder, when a reload brings one.
//!
//! They are written there before anything is put in force, so that a folder in which nothing can be kept refuses the
//! reload. The file in the former folder goes when all is done: a start with that folder would find old switches.

use std::{fs, path::Path};

use crate::app::{
    control::ChangeError,
    switches::{Store, Switches},
};

/// Switches that are written in another folder, on which nothing relies yet.
pub(super) struct Relocation {
    /// `None` when nothing is kept from now on.
    store: Option<Store>,
    /// The file that was there before.
    before: Option<Vec<u8>>,
}

impl Relocation {
    /// Writes `switches` into `folder`.
    pub(super) fn begin(folder: Option<&Path>, switches: &Switches) -> Result<Self, ChangeError> {
        let Some(folder) = folder else { return Ok(Self { store: None, before: None }) };
        let begun = || {
            let store = Store::open(folder)?;
            let before = store.bytes()?;
            store.save(switches)?;
            Ok(Self { store: Some(store), before })
        };
        begun().map_err(|cause| ChangeError::StateDir { folder: folder.to_owned(), cause })
    }

    /// The reload was refused: the new folder gets back what it had.
    pub(super) fn take_back(self) {
        let Some(store) = self.store else { return };
        if let Err(error) = store.restore(self.before.as_deref()) {
            let folder = store.folder().display();
            tracing::warn!(%folder, %error, "switches of a reload that was refused stay in this folder");
        }
    }

    /// The reload is done: what is switched is kept here from now on, and not in the place of `store`.
    pub(super) fn finish(self, store: &mut Option<Store>) {
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

/// Whether both are one folder, whatever they are called.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
