//! Reading the configuration with what was switched: at the start, and for every change.

use std::{collections::BTreeMap, path::Path, time::UNIX_EPOCH};

use crate::{
    admin::changes::Action,
    app::{
        control::Origin,
        switches::{Store, Switches},
    },
    clock,
    config::{self, Loaded, Secrets, problem::Problems},
};

/// A configuration with switches.
pub(super) struct Read {
    pub(super) loaded: Loaded,
    pub(super) own: Own,
}

/// The profiles that the file itself gives to switched routes, by route; `None` for no profile.
pub(super) type Own = BTreeMap<String, Option<String>>;

/// A configuration read for the start, with the switches that were kept.
pub(super) struct Prepared {
    pub(super) loaded: Loaded,
    pub(super) own: Own,
    pub(super) text: String,
    pub(super) switches: Switches,
    pub(super) store: Option<Store>,
}

/// Reads the configuration of `origin` and what was switched before the restart.
pub(super) fn prepare(origin: &Origin) -> Result<Prepared, Problems> {
    let text = config::read_text(&origin.path)?;
    let mut plain = config::parse(&text, &origin.path, origin.environment.as_deref())?;
    (origin.overrides)(&mut plain.settings);
    let Some(folder) = plain.settings.state_dir.clone() else {
        let (own, switches) = (Own::new(), Switches::default());
        return Ok(Prepared { loaded: plain, own, text, switches, store: None });
    };
    let (store, mut switches) = kept(&folder);
    let before = switches.clone();
    if switches.environment().is_some() && first_environment(&switches) != origin.environment {
        let words =
            "the gateway was started for another environment than before: the environment's switch ends";
        tracing::warn!("{words}");
        while switches.pop(None, Action::Drop, now(), "restart").is_some() {}
    }
    drop_ended(&mut switches);
    let Read { loaded, own } = match read(origin, &text, &mut switches, Secrets::Needed) {
        Ok(read) => read,
        Err(problems) => {
            tracing::error!("the switches from before the restart are dropped:\n{problems}");
            switches = Switches::default();
            Read { loaded: plain, own: Own::new() }
        }
    };
    if let Some(store) = store.as_ref().filter(|_| before != switches)
        && let Err(error) = store.save(&switches)
    {
        tracing::warn!(%error, "the switches cannot be kept in state_dir");
    }
    Ok(Prepared { loaded, own, text, switches, store })
}

fn kept(folder: &Path) -> (Option<Store>, Switches) {
    let shown = folder.display();
    match Store::open(folder) {
        Ok(store) => {
            let switches = store.load().unwrap_or_else(|error| {
                tracing::error!(%shown, "the switches from before the restart cannot be read: {error}");
                Switches::default()
            });
            (Some(store), switches)
        }
        Err(error) => {
            tracing::error!("state_dir {shown} cannot be used, switches will not be kept: {error}");
            (None, Switches::default())
        }
    }
}

/// The environment below all switches.
fn first_environment(switches: &Switches) -> Option<String> {
    let mut rest = switches.clone();
    let mut first = None;
    while let Some(switch) = rest.pop(None, Action::Undo, 0, "") {
        first = switch.from;
    }
    first
}

fn drop_ended(switches: &mut Switches) {
    loop {
        let ended = switches.expired(now());
        if ended.is_empty() {
            return;
        }
        for route in ended {
            switches.pop(route.as_deref(), Action::Expire, now(), "its time was over");
        }
    }
}

/// The settings of `text` with `switches`; those that it knows nothing of are taken out. `secrets` says whether
/// files on this machine are judged.
pub(super) fn read(
    origin: &Origin,
    text: &str,
    switches: &mut Switches,
    secrets: Secrets,
) -> Result<Read, Problems> {
    let environment = environment(origin, switches);
    let parse = |switched: &BTreeMap<String, String>| {
        config::parse_switched(text, &origin.path, environment.as_deref(), switched, secrets)
    };
    let plain = parse(&BTreeMap::new())?;
    let is_known = |route: &str, profile: &str| {
        plain.settings.routes.iter().any(|r| r.name == route)
            && plain.settings.profiles.iter().any(|p| p.profile.name == profile)
    };
    let lost: Vec<_> = switches.profiles().into_iter().filter(|(r, p)| !is_known(r, p)).collect();
    for (route, profile) in lost {
        tracing::warn!(
            route,
            profile,
            "the switch is dropped: its route or profile is not configured any more"
        );
        while switches.pop(Some(&route), Action::Drop, now(), "configuration").is_some() {}
    }
    let switched = switches.profiles();
    let mut loaded = parse(&switched)?;
    (origin.overrides)(&mut loaded.settings);
    // What the file says is told, not what a switch has made of it: a profile that it replaces is used.
    loaded.warnings = plain.warnings;
    let routes = plain.settings.routes.into_iter().filter(|route| switched.contains_key(&route.name));
    let own = routes.map(|route| (route.name, route.target.profile)).collect();
    Ok(Read { loaded, own })
}

/// The environment in force.
pub(super) fn environment(origin: &Origin, switches: &Switches) -> Option<String> {
    switches.environment().map_or_else(|| origin.environment.clone(), |switch| switch.to.clone())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
