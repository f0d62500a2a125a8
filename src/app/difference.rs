//! What a reload has changed, in names that stand in the file. What is switched is told as the file has it.

use std::collections::BTreeMap;

use crate::{admin::changes::Reloaded, app::reading::Own, config::Settings};

/// A file as it was put in force: the settings without what was switched, and the environments that it defines.
pub(super) struct Known {
    settings: Settings,
    environments: Vec<String>,
}

impl Known {
    pub(super) fn of(mut settings: Settings, own: &Own, environments: &[String]) -> Self {
        for route in &mut settings.routes {
            if let Some(profile) = own.get(&route.name) {
                route.target.profile.clone_from(profile);
            }
        }
        Self { settings, environments: environments.to_vec() }
    }
}

/// What `after` has otherwise than `before`.
pub(super) fn between(before: &Known, after: &Known) -> Reloaded {
    let mut told = Reloaded::default();
    named(
        "environment",
        before.environments.iter().map(|name| (name.as_str(), name)).collect(),
        after.environments.iter().map(|name| (name.as_str(), name)).collect(),
        &mut told,
    );
    let (before, after) = (&before.settings, &after.settings);
    named(
        "listener",
        before.listeners.iter().map(|listener| (listener.name.as_str(), listener)).collect(),
        after.listeners.iter().map(|listener| (listener.name.as_str(), listener)).collect(),
        &mut told,
    );
    named(
        "profile",
        before.profiles.iter().map(|profile| (profile.profile.name.as_str(), profile)).collect(),
        after.profiles.iter().map(|profile| (profile.profile.name.as_str(), profile)).collect(),
        &mut told,
    );
    named(
        "route",
        before.routes.iter().map(|route| (route.name.as_str(), route)).collect(),
        after.routes.iter().map(|route| (route.name.as_str(), route)).collect(),
        &mut told,
    );
    let parts = [
        ("admin", before.admin == after.admin),
        ("telemetry.log", before.log == after.log),
        ("telemetry.otlp", before.otlp == after.otlp),
        ("limits", before.limits == after.limits),
        ("timeouts", before.timeouts == after.timeouts && before.connections == after.connections),
        ("replay", before.replay == after.replay),
        ("state_dir", before.state_dir == after.state_dir),
        ("watch", before.watch == after.watch),
    ];
    let others = parts.into_iter().filter(|(_, is_same)| !is_same);
    told.changed.extend(others.map(|(name, _)| name.to_owned()));
    told
}

fn named<T: PartialEq>(
    what: &str,
    before: BTreeMap<&str, &T>,
    after: BTreeMap<&str, &T>,
    told: &mut Reloaded,
) {
    for (name, new) in &after {
        match before.get(name) {
            None => told.added.push(format!("{what} \"{name}\"")),
            Some(old) if old != new => told.changed.push(format!("{what} \"{name}\"")),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    told.removed.extend(gone.map(|name| format!("{what} \"{name}\"")));
}
