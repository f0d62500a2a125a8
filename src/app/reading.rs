//! Reading the configuration with what was switched, for every change of either.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use crate::{
    app::{
        control::Origin,
        record::{Cause, Ended, Lost},
        switches::Switches,
    },
    clock,
    config::{self, Asked, Loaded, Secrets, Settings, problem::Problems},
};

/// A configuration with switches.
pub(super) struct Read {
    pub(super) loaded: Loaded,
    pub(super) own: Own,
    /// Those that are possible with it.
    pub(super) switches: Switches,
    /// Those that are not. Whoever puts this in force puts them on record, see [`Read::note_ended`].
    pub(super) lost: Vec<Lost>,
}

impl Read {
    /// Notes what is lost in the history, to be told when this has come into force.
    pub(super) fn note_ended(&mut self) -> Vec<Ended> {
        let ended = |lost: Lost| lost.with(&self.loaded.settings, now());
        let all: Vec<_> = self.lost.drain(..).map(ended).collect();
        all.iter().for_each(|ended| self.switches.note(ended.entry.clone()));
        all
    }

    /// Routes whose switch the configuration does not have the profile for.
    pub(super) fn dropped(&self) -> Vec<String> {
        let dropped = self.lost.iter().filter(|lost| lost.cause == Cause::Unknown);
        dropped.filter_map(|lost| lost.route.clone()).collect()
    }
}

/// The profiles that the file itself gives to switched routes, by route; `None` for no profile.
pub(super) type Own = BTreeMap<String, Option<String>>;

/// The settings of `text` with `switches`, but for those that it knows nothing of. `secrets` says whether files on
/// this machine are judged.
pub(super) fn read(
    origin: &Origin,
    text: &str,
    mut switches: Switches,
    secrets: Secrets,
) -> Result<Read, Problems> {
    let (environment, is_switched_to) = (environment(origin, &switches), switches.environment().is_some());
    let parse = |switched: &BTreeMap<String, String>| {
        let asked = Asked { environment: environment.as_deref(), is_switched_to, secrets, switched };
        config::parse_switched(text, &origin.path, &asked)
    };
    let plain = parse(&BTreeMap::new())?;
    let lost = drop_unknown(&mut switches, &plain.settings);
    let switched = switches.profiles();
    let mut loaded = parse(&switched)?;
    (origin.overrides)(&mut loaded.settings);
    // What the file says is told, not what a switch has made of it: a profile that it replaces is used.
    loaded.warnings = plain.warnings;
    let routes = plain.settings.routes.into_iter().filter(|route| switched.contains_key(&route.name));
    let own = routes.map(|route| (route.name, route.target.profile)).collect();
    Ok(Read { loaded, own, switches, lost })
}

/// Takes out the switches whose route or profile `settings` do not have.
fn drop_unknown(switches: &mut Switches, settings: &Settings) -> Vec<Lost> {
    let has_route = |route: &str| settings.routes.iter().any(|known| known.name == route);
    let has_profile = |profile: &str| settings.profiles.iter().any(|known| known.profile.name == profile);
    let mut lost = Vec::new();
    for (route, from) in switches.drop_unknown(|route, profile| has_route(route) && has_profile(profile)) {
        // What comes to light below it may have ended meanwhile.
        let below = switches.take_all_overdue(Some(&route), now());
        lost.push(Lost { route: Some(route.clone()), from, cause: Cause::Unknown });
        let over = |from| Lost { route: Some(route.clone()), from, cause: Cause::Over };
        lost.extend(below.into_iter().map(|switch| over(switch.to)));
    }
    lost
}

/// The environment in force.
pub(super) fn environment(origin: &Origin, switches: &Switches) -> Option<String> {
    switches.environment().map_or_else(|| origin.environment.clone(), |switch| switch.to.clone())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
