//! Switches of a running gateway: another account for a route, or another environment for all, and the way back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::PoisonError,
    time::Duration,
};

use crate::{
    admin::changes::{Action, Entry, Switch, Switched, Wish},
    app::{
        ReloadError,
        control::{ChangeError, Control, State},
        core::Files,
        reading::{Read, environment, now, read},
        record::{self, Cause, Ended, NONE, account, refused},
        switches::Switches,
        undefined::undefined,
    },
    config::{Secrets, Settings},
};

/// The longest that a switch for a while may last.
const SWITCH_MAX: Duration = Duration::from_secs(366 * 86_400);

impl Control {
    /// Serves a route with another profile, or everything in another environment. The tokens of profiles that
    /// are new to a route are obtained first. Blocks meanwhile.
    ///
    /// # Errors
    /// [`ChangeError`]; unless it was a dry run, it is logged.
    pub fn switch(&self, wish: &Wish, by: &str) -> Result<Switched, ChangeError> {
        let outcome = self.try_switch(wish, by);
        outcome.inspect_err(|error| {
            if !wish.is_dry_run {
                let to = wish.to.as_deref().unwrap_or(NONE);
                refused(Action::Switch, wish.route.as_deref(), Some(to), by, error);
            }
        })
    }

    fn try_switch(&self, wish: &Wish, by: &str) -> Result<Switched, ChangeError> {
        let mut state = self.state();
        if wish.lasts.is_some_and(|lasts| lasts < Duration::from_secs(1) || lasts > SWITCH_MAX) {
            return Err(ChangeError::Span);
        }
        let from = self.served(&state, wish)?;
        let at = now();
        let until = wish.lasts.map(|lasts| at + lasts.as_secs());
        let mut switches = state.switches.clone();
        let (route, to, by) = (wish.route.clone(), wish.to.clone(), by.to_owned());
        let switch = Switch { to: to.clone(), from: from.clone(), at, until, by: by.clone() };
        switches.push(route.as_deref(), switch);
        let read = self.again(&state.text, switches)?;
        let settings = &read.loaded.settings;
        let used = self.new_accounts(settings);
        self.core.owners.obtain(&settings.profiles, &used, wish.is_dry_run).map_err(no_token)?;
        let still_switched = still_switched(route.as_deref(), &read);
        let dropped = read.dropped();
        if !wish.is_dry_run {
            let (from, to) = (from.clone(), to.clone());
            let entry = Entry { at, action: Action::Switch, route, from, to, until, by };
            self.put_in_force(&mut state, read, &[entry])?;
        }
        Ok(Switched { from, to, until, is_kept: state.store.is_some(), still_switched, dropped })
    }

    /// Takes back the latest switch of `route`, or of the environment.
    ///
    /// # Errors
    /// [`ChangeError`]; it is logged.
    pub fn undo(&self, route: Option<&str>, by: &str) -> Result<Switched, ChangeError> {
        let outcome = self.is_there(route).and_then(|()| self.take_back(route, Action::Undo, by));
        outcome.inspect_err(|error| refused(Action::Undo, route, None, by, error))
    }

    /// A route that is not there is not one that is not switched.
    fn is_there(&self, route: Option<&str>) -> Result<(), ChangeError> {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let names = || serving.routes.iter().map(|entry| entry.name.as_str());
        match route.filter(|route| !names().any(|name| name == *route)) {
            Some(unknown) => Err(undefined("route", unknown, names())),
            None => Ok(()),
        }
    }

    pub(super) fn take_back(
        &self,
        route: Option<&str>,
        action: Action,
        by: &str,
    ) -> Result<Switched, ChangeError> {
        let mut state = self.state();
        let (at, mut switches) = (now(), state.switches.clone());
        let gone = match action {
            Action::Expire => switches.take_overdue(route, at),
            _ => switches.take(route),
        };
        let Some(gone) = gone else {
            let words = match route {
                Some(route) => format!("route \"{route}\" is not switched"),
                None => "the environment is not switched".to_owned(),
            };
            return Err(ChangeError::Already(words));
        };
        // The one below may have ended while it was covered.
        let over = switches.take_all_overdue(route, at);
        let read = self.again(&state.text, switches)?;
        // What was served before the switch may have changed since, in the file or with the environment.
        let to = match route {
            Some(route) => account(&read.loaded.settings, route),
            None => read.loaded.settings.environment.clone(),
        };
        let still_switched = still_switched(route, &read);
        let dropped = read.dropped();
        let entry = |action, from: &Option<String>, by: &str| {
            let (route, from, to) = (route.map(str::to_owned), from.clone(), to.clone());
            Entry { at, action, route, from, to, until: None, by: by.to_owned() }
        };
        let over = over.iter().map(|switch| entry(Action::Expire, &switch.to, Cause::Over.by()));
        let done: Vec<_> = over.chain([entry(action, &gone.to, by)]).collect();
        self.put_in_force(&mut state, read, &done)?;
        let from = gone.to;
        Ok(Switched { from, to, until: None, is_kept: state.store.is_some(), still_switched, dropped })
    }

    /// Profiles that routes of `settings` have and did not have before.
    fn new_accounts(&self, settings: &Settings) -> BTreeSet<String> {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let before: HashMap<_, _> =
            serving.routes.iter().map(|route| (&route.name, &route.target.profile)).collect();
        let changed =
            settings.routes.iter().filter(|route| before.get(&route.name) != Some(&&route.target.profile));
        changed.filter_map(|route| route.target.profile.clone()).collect()
    }

    /// The settings of the text in force with other switches. Files are not judged again: one that somebody is
    /// about to write, of a listener perhaps, must not keep an account in force. Those of parts that change are
    /// read when these are put in force.
    fn again(&self, text: &str, switches: Switches) -> Result<Read, ChangeError> {
        read(&self.origin, text, switches, Secrets::Optional).map_err(ChangeError::Problems)
    }

    /// Serves what was read, and puts on record what was `done`.
    fn put_in_force(&self, state: &mut State, mut read: Read, done: &[Entry]) -> Result<(), ChangeError> {
        done.iter().for_each(|entry| read.switches.note(entry.clone()));
        let ended = read.note_ended();
        // Kept first: what cannot be kept is not done.
        if let Some(store) = &state.store {
            store.save(&read.switches).map_err(ChangeError::NotKept)?;
        }
        if let Err(error) = self.core.reload(&read.loaded.settings, Files::AsTheyWere) {
            state.keep(&state.switches);
            return Err(no_token(error));
        }
        done.iter().for_each(record::changed);
        ended.iter().for_each(Ended::tell);
        state.switches = read.switches;
        state.own = read.own;
        self.show(state);
        Ok(())
    }

    /// What is served before a switch, after a look at whether the switch makes sense.
    fn served(&self, state: &State, wish: &Wish) -> Result<Option<String>, ChangeError> {
        let serving = self.core.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = &wish.route else {
            let from = environment(&self.origin, &state.switches);
            if let Some(name) = wish.to.as_ref().filter(|name| !state.environments.contains(name)) {
                return Err(undefined("environment", name, state.environments.iter().map(String::as_str)));
            }
            return match from == wish.to {
                true => Err(ChangeError::Already("this environment is in force already".into())),
                false => Ok(from),
            };
        };
        let Some(entry) = serving.routes.iter().find(|entry| entry.name == *route) else {
            return Err(undefined("route", route, serving.routes.iter().map(|entry| entry.name.as_str())));
        };
        let profiles = || serving.profiles.iter().map(|profile| profile.profile.name.as_str());
        let profile = wish.to.as_deref().unwrap_or(NONE);
        if profile == NONE {
            return Err(ChangeError::NoAccount);
        }
        if !profiles().any(|name| name == profile) {
            return Err(undefined("profile", profile, profiles()));
        }
        if entry.target.profile.as_deref() == Some(profile) {
            let words = format!("route \"{route}\" is served with profile \"{profile}\" already");
            return Err(ChangeError::Already(words));
        }
        Ok(account(&serving, route))
    }
}

/// Routes that an environment does not reach, as they have a switch of their own.
fn still_switched(route: Option<&str>, read: &Read) -> Vec<String> {
    match route {
        Some(_) => Vec::new(),
        None => read.switches.over(&read.own).map(str::to_owned).collect(),
    }
}

fn no_token(error: ReloadError) -> ChangeError {
    match error {
        ReloadError::Profile(profile, why) => ChangeError::NoToken(profile, why),
        other => other.into(),
    }
}
