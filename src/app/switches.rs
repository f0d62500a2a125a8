//! Which routes have been switched to other profiles while the gateway ran, and the file that keeps it.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::admin::changes::{Entry, Switch};

/// Changes that are remembered, the latest first.
const HISTORY_MAX: usize = 100;
/// Switches of one route that can be undone one after the other.
const DEPTH_MAX: usize = 20;
/// The file's name in the state folder.
const FILE: &str = "switches.json";

/// Everything that was switched and not undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// Of each route, the latest last.
    routes: BTreeMap<String, Vec<Switch>>,
    /// Of the environment, the latest last.
    environment: Vec<Switch>,
    history: VecDeque<Entry>,
}

impl Switches {
    /// Profiles by route, as switched.
    pub fn profiles(&self) -> BTreeMap<String, String> {
        let latest = self.routes.iter().filter_map(|(route, all)| Some((route, all.last()?.to.clone()?)));
        latest.map(|(route, profile)| (route.clone(), profile)).collect()
    }

    /// Routes with their latest switch.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &Switch)> {
        self.routes.iter().filter_map(|(route, all)| Some((route.as_str(), all.last()?)))
    }

    /// Routes that have another profile than their `own`, which is what the file gives them.
    pub fn over(&self, own: &BTreeMap<String, Option<String>>) -> impl Iterator<Item = &str> {
        let is_other = |(route, switch): &(&str, &Switch)| own.get(*route) != Some(&switch.to);
        self.routes().filter(is_other).map(|(route, _)| route)
    }

    /// The environment's latest switch.
    pub fn environment(&self) -> Option<&Switch> {
        self.environment.last()
    }

    /// What was done, the latest first.
    pub fn history(&self) -> impl Iterator<Item = &Entry> {
        self.history.iter()
    }

    /// The latest switch of `route`, or of the environment.
    pub fn latest(&self, route: Option<&str>) -> Option<&Switch> {
        match route {
            Some(route) => self.routes.get(route)?.last(),
            None => self.environment.last(),
        }
    }

    /// Adds a switch of `route`, or of the environment. What is done is to be noted.
    pub fn push(&mut self, route: Option<&str>, switch: Switch) {
        let all = match route {
            Some(route) => self.routes.entry(route.to_owned()).or_default(),
            None => &mut self.environment,
        };
        all.push(switch);
        if all.len() > DEPTH_MAX {
            // The row still begins where it began: the last undo goes there, and a restart asks for it.
            let oldest = all.remove(0);
            all.iter_mut().take(1).for_each(|next| next.from.clone_from(&oldest.from));
        }
    }

    /// Takes the latest switch away. What is done is to be noted.
    pub fn take(&mut self, route: Option<&str>) -> Option<Switch> {
        let all = match route {
            Some(route) => self.routes.get_mut(route)?,
            None => &mut self.environment,
        };
        let switch = all.pop()?;
        self.routes.retain(|_, all| !all.is_empty());
        Some(switch)
    }

    /// The same, unless the latest switch has time left: between the look for one whose time is over and this, somebody may
    /// have undone it or switched again.
    pub fn take_overdue(&mut self, route: Option<&str>, now: u64) -> Option<Switch> {
        let is_over = self.latest(route)?.until.is_some_and(|until| until <= now);
        if is_over { self.take(route) } else { None }
    }

    /// The latest switches one after the other as long as their time is over, the latest first.
    pub fn take_all_overdue(&mut self, route: Option<&str>, now: u64) -> Vec<Switch> {
        std::iter::from_fn(|| self.take_overdue(route, now)).collect()
    }

    /// The environment below all of its switches.
    pub fn first_environment(&self) -> Option<&str> {
        self.environment.first()?.from.as_deref()
    }

    /// Takes out the switches of routes to profiles that `is_known` does not know, wherever they are in their row:
    /// what was switched before them is good all the same. Routes whose latest switch is gone, with its profile.
    pub fn drop_unknown(&mut self, is_known: impl Fn(&str, &str) -> bool) -> Vec<(String, Option<String>)> {
        let mut lost = Vec::new();
        for (route, all) in &mut self.routes {
            let is_known = |switch: &Switch| switch.to.as_ref().is_none_or(|to| is_known(route, to));
            lost.extend(
                all.last().filter(|last| !is_known(last)).map(|last| (route.clone(), last.to.clone())),
            );
            let mut before = None;
            all.retain_mut(|switch| {
                let stays = is_known(switch);
                match (stays, before.take()) {
                    (true, Some(from)) => switch.from = from,
                    (true, None) => {}
                    // The next one follows on what this one has followed on.
                    (false, from) => before = from.or_else(|| Some(switch.from.take())),
                }
                stays
            });
        }
        self.routes.retain(|_, all| !all.is_empty());
        lost
    }

    /// As many of them as `is_possible`: the latest that is not goes, and the one before is tried. First the
    /// environment's without any route's, then those of each route.
    pub fn possible(&self, is_possible: impl Fn(&Self) -> bool) -> Self {
        let mut kept = Self { routes: BTreeMap::new(), ..self.clone() };
        while !is_possible(&kept) && kept.take(None).is_some() {}
        let all = Self { routes: self.routes.clone(), ..kept.clone() };
        if is_possible(&all) {
            return all;
        }
        for (route, row) in &self.routes {
            kept.routes.insert(route.clone(), row.clone());
            while !is_possible(&kept) && kept.take(Some(route)).is_some() {}
        }
        kept
    }

    /// Puts down what was done.
    pub fn note(&mut self, entry: Entry) {
        self.history.push_front(entry);
        self.history.truncate(HISTORY_MAX);
    }

    /// Routes, or `None` for the environment, whose latest switch has ended by `now`.
    pub fn expired(&self, now: u64) -> Vec<Option<String>> {
        let is_over = |switch: &Switch| switch.until.is_some_and(|until| until <= now);
        let routes = self.routes().filter(|(_, switch)| is_over(switch));
        let mut all: Vec<_> = routes.map(|(route, _)| Some(route.to_owned())).collect();
        all.extend(self.environment().filter(|switch| is_over(switch)).map(|_| None));
        all
    }
}

/// The file that keeps switches across restarts.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the state folder, and makes it if it is not there: for the gateway's user only.
    ///
    /// # Errors
    /// The system's.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file as it is; `None` when there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn bytes(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.folder.join(FILE)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What was kept. A file that cannot be read or understood is put aside, so that the next save does not
    /// destroy it.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(&self) -> io::Result<Switches> {
        let read = self.bytes().and_then(|bytes| match bytes {
            Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
            None => Ok(Switches::default()),
        });
        read.map_err(|error| {
            let aside = self.free("broken");
            io::Error::other(match fs::rename(self.folder.join(FILE), &aside) {
                Ok(()) => format!("{error} (the file was put aside as {})", aside.display()),
                Err(stays) => format!("{error} (and the file cannot be put aside: {stays})"),
            })
        })
    }

    /// Writes `bytes` into a file of their own beside the one for switches, and says where.
    ///
    /// # Errors
    /// The system's.
    pub fn put_aside(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let aside = self.free("former");
        write(&aside, bytes).map(|()| aside)
    }

    /// A name that no file has: what was put aside before stays.
    fn free(&self, word: &str) -> PathBuf {
        let first = self.folder.join(format!("{FILE}.{word}"));
        let more = (2_u32..).map(|n| self.folder.join(format!("{FILE}.{word}.{n}")));
        let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
        std::iter::once(first.clone()).chain(more).find(is_free).unwrap_or(first)
    }

    /// Keeps `switches`: after a crash at any moment the file holds the old state or the new one.
    ///
    /// # Errors
    /// The system's, for instance a full disk; the old state is kept then.
    pub fn save(&self, switches: &Switches) -> io::Result<()> {
        self.replace(&serde_json::to_vec_pretty(switches)?)
    }

    /// Makes the file what [`Store::bytes`] has said of it.
    ///
    /// # Errors
    /// The system's.
    pub fn restore(&self, bytes: Option<&[u8]>) -> io::Result<()> {
        let Some(bytes) = bytes else {
            return match fs::remove_file(self.folder.join(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        self.replace(bytes)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        // The new name has to reach the disk as well.
        self.replace_and(bytes, fs::File::sync_all)
    }

    /// Replaces the file and has its folder settled; a file that is not settled is the old one again. Whatever can
    /// fail before comes before.
    fn replace_and(&self, bytes: &[u8], settle: impl FnOnce(&fs::File) -> io::Result<()>) -> io::Result<()> {
        let folder = fs::File::open(&self.folder)?;
        let before = self.bytes()?;
        self.put(bytes)?;
        settle(&folder).inspect_err(|_| {
            let undone = match before {
                Some(before) => self.put(&before),
                None => fs::remove_file(self.folder.join(FILE)),
            };
            if let Err(error) = undone {
                tracing::warn!(folder = %self.folder.display(), %error, "a change that was refused stays in state_dir");
            }
        })
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let (path, new) = (self.folder.join(FILE), self.folder.join("switches.json.new"));
        let written = write(&new, bytes).and_then(|()| fs::rename(&new, &path));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(to: &str, from: &str, until: Option<u64>) -> Switch {
        Switch { to: Some(to.into()), from: Some(from.into()), at: 1, until, by: "test".into() }
    }

    /// What it took back then was what somebody had just switched to, or a switch below that has no end.
    #[test]
    fn the_end_of_a_switchs_time_takes_no_other_switch_back() {
        let mut switches = Switches::default();
        switches.push(Some("r"), switch("b", "a", None));
        switches.push(Some("r"), switch("c", "b", Some(10)));
        assert!(switches.take_overdue(Some("r"), 9).is_none(), "it has time left");
        assert_eq!(switches.take(Some("r")).unwrap().to.as_deref(), Some("c"), "undone meanwhile");
        assert!(switches.take_overdue(Some("r"), 10).is_none(), "the one below has no end");
        switches.push(Some("r"), switch("d", "b", Some(20)));
        assert!(switches.take_overdue(Some("r"), 10).is_none(), "switched again meanwhile");
        assert_eq!(switches.take_overdue(Some("r"), 20).unwrap().to.as_deref(), Some("d"));
        assert!(switches.take_overdue(None, 20).is_none());
    }

    #[test]
    fn undo_goes_back_one_switch_at_a_time() {
        let mut switches = Switches::default();
        switches.push(Some("orders"), switch("b", "a", None));
        switches.push(Some("orders"), switch("c", "b", None));
        assert_eq!(switches.profiles()["orders"], "c");
        switches.take(Some("orders"));
        assert_eq!(switches.profiles()["orders"], "b");
        switches.take(Some("orders"));
        assert!(switches.profiles().is_empty());
        assert!(switches.take(Some("orders")).is_none());
    }

    #[test]
    fn a_profile_that_is_gone_takes_only_its_own_switches_along() {
        let row = |known: &[&str]| {
            let mut switches = Switches::default();
            for (to, from) in [("b", "a"), ("c", "b"), ("d", "c")] {
                switches.push(Some("r"), switch(to, from, None));
            }
            let lost = switches.drop_unknown(|_, profile| known.contains(&profile));
            let lost: Vec<_> =
                lost.into_iter().map(|(route, to)| format!("{route} {}", to.unwrap())).collect();
            let left = std::iter::from_fn(|| switches.take(Some("r")));
            let left: Vec<_> = left.map(|s| format!("{}<{}", s.to.unwrap(), s.from.unwrap())).collect();
            (lost.join(" "), left.join(" "))
        };
        for (known, lost, left) in [
            (["b", "c", "d"].as_slice(), "", "d<c c<b b<a"),
            (&["b", "c"], "r d", "c<b b<a"),
            (&["b", "d"], "", "d<b b<a"),
            (&["d"], "", "d<a"),
            (&["c"], "r d", "c<a"),
            (&[], "r d", ""),
        ] {
            assert_eq!(row(known), (lost.to_owned(), left.to_owned()), "{known:?}");
        }
    }

    #[test]
    fn of_switches_that_are_not_possible_together_only_the_culprits_go() {
        let mut switches = Switches::default();
        switches.push(None, switch("staging", "production", None));
        switches.push(None, switch("gone", "staging", None));
        switches.push(Some("orders"), switch("b", "a", None));
        switches.push(Some("orders"), switch("wrong", "b", None));
        switches.push(Some("bills"), switch("b", "a", None));
        let kept = switches.possible(|some| {
            some.environment().is_none_or(|switch| switch.to.as_deref() != Some("gone"))
                && some.profiles().values().all(|profile| profile != "wrong")
        });
        assert_eq!(kept.environment().unwrap().to.as_deref(), Some("staging"));
        assert_eq!((kept.profiles()["orders"].as_str(), kept.profiles()["bills"].as_str()), ("b", "b"));
        assert_eq!(switches.possible(|_| true), switches);
    }

    #[test]
    fn a_row_that_is_cut_still_begins_where_it_began() {
        let mut switches = Switches::default();
        for n in 0..DEPTH_MAX + 5 {
            switches.push(Some("orders"), switch(&format!("p{}", n + 1), &format!("p{n}"), None));
        }
        let mut undone = Vec::new();
        while let Some(gone) = switches.take(Some("orders")) {
            undone.push(gone.from.unwrap());
        }
        assert_eq!(undone.len(), DEPTH_MAX);
        assert_eq!(undone[DEPTH_MAX - 2..], ["p6", "p0"]);
    }

    #[test]
    fn a_switch_for_a_while_ends_then() {
        let mut switches = Switches::default();
        switches.push(Some("orders"), switch("b", "a", Some(100)));
        switches.push(None, switch("staging", "production", Some(50)));
        assert!(switches.expired(49).is_empty());
        assert_eq!(switches.expired(50), [None]);
        assert_eq!(switches.expired(100), [Some("orders".into()), None]);
    }

    #[test]
    fn what_was_saved_is_there_again_and_a_broken_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        assert_eq!(store.load().unwrap(), Switches::default());
        let mut switches = Switches::default();
        switches.push(Some("orders"), switch("b", "a", None));
        store.save(&switches).unwrap();
        assert_eq!(store.load().unwrap(), switches);
        fs::write(folder.path().join("state/switches.json"), "{\"routes\":").unwrap();
        assert!(store.load().is_err());
        assert!(folder.path().join("state/switches.json.broken").exists());
        assert_eq!(store.load().unwrap(), Switches::default());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_put_aside_beside_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("switches.json.broken"), "of another time").unwrap();
        // Root may read every file, so permissions would prove nothing.
        fs::create_dir(path("switches.json")).unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("switches.json.broken.2)"), "{error}");
        assert!(path("switches.json.broken.2").is_dir());
        assert_eq!(fs::read_to_string(path("switches.json.broken")).unwrap(), "of another time");
        assert_eq!(store.load().unwrap(), Switches::default());
    }

    #[test]
    fn what_does_not_settle_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let fails = |_: &fs::File| Err(io::Error::from(io::ErrorKind::StorageFull));
        store.replace_and(b"new", fails).unwrap_err();
        assert_eq!(store.bytes().unwrap(), None);
        store.replace(b"old").unwrap();
        store.replace_and(b"new", fails).unwrap_err();
        assert_eq!(store.bytes().unwrap().as_deref(), Some(b"old".as_slice()));
    }
}
