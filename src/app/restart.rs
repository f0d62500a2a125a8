//! The configuration for the start, with what was switched before.
//!
//! A switch that was made stays: one whose secret is away has no token until that is back, and no other account is
//! used in its place. What the configuration does not allow any more is taken out, and nothing else.

use std::path::Path;

use crate::{
    app::{
        control::Origin,
        reading::{Own, Read, now, read},
        record::{Cause, Ended, Lost},
        switches::{Store, Switches},
    },
    config::{self, Loaded, Secrets, problem::Problems},
};

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
    let (store, before) = kept(&folder);
    let mut read = restore(origin, &text, before.clone())?;
    read.note_ended().iter().for_each(Ended::tell);
    let Read { loaded, own, switches, .. } = read;
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
        Ok(store) => match store.load() {
            Ok(switches) => (Some(store), switches),
            Err(error) => {
                tracing::error!(%shown, "the switches from before the restart cannot be read: {error}");
                // What is still there must not be overwritten.
                let is_away = matches!(store.bytes(), Ok(None));
                (is_away.then_some(store), Switches::default())
            }
        },
        Err(error) => {
            tracing::error!("state_dir {shown} cannot be used, switches will not be kept: {error}");
            (None, Switches::default())
        }
    }
}

/// The settings of `text` with as many of `switches` as are possible.
fn restore(origin: &Origin, text: &str, mut switches: Switches) -> Result<Read, Problems> {
    let mut lost: Vec<_> = drop_environment(origin, &mut switches).into_iter().collect();
    lost.extend(drop_ended(&mut switches));
    let mut read = match read(origin, text, switches.clone(), Secrets::Needed) {
        Ok(read) => read,
        Err(problems) => {
            let is_possible = |some: &Switches| read(origin, text, some.clone(), Secrets::Optional).is_ok();
            let kept = switches.possible(is_possible);
            let impossible = difference(&switches, &kept);
            match impossible.is_empty() {
                true => tracing::error!(
                    "what was switched before the restart stays, but not all that it needs can be used:\n{problems}"
                ),
                false => {
                    tracing::error!("not all switches from before the restart are possible:\n{problems}")
                }
            }
            lost.extend(impossible);
            read(origin, text, kept, Secrets::Optional)?
        }
    };
    lost.append(&mut read.lost);
    Ok(Read { lost, ..read })
}

/// Who starts the gateway for an environment wants that one.
fn drop_environment(origin: &Origin, switches: &mut Switches) -> Option<Lost> {
    let from = switches.environment()?.to.clone();
    if switches.first_environment() == origin.environment.as_deref() {
        return None;
    }
    while switches.take(None).is_some() {}
    Some(Lost { route: None, from, cause: Cause::OtherStart })
}

fn drop_ended(switches: &mut Switches) -> Vec<Lost> {
    let at = now();
    let mut lost = Vec::new();
    for route in switches.expired(at) {
        let ended = switches.take_all_overdue(route.as_deref(), at).into_iter();
        lost.extend(ended.map(|switch| Lost { route: route.clone(), from: switch.to, cause: Cause::Over }));
    }
    lost
}

/// What was switched and is not as it was in `kept`.
fn difference(switches: &Switches, kept: &Switches) -> Vec<Lost> {
    let routes = switches.routes().map(|(route, switch)| (Some(route.to_owned()), switch));
    let all = switches.environment().map(|switch| (None, switch)).into_iter().chain(routes);
    let gone = all.filter(|(route, switch)| kept.latest(route.as_deref()) != Some(*switch));
    gone.map(|(route, switch)| Lost { route, from: switch.to.clone(), cause: Cause::Impossible }).collect()
}
