//! Environments: overlays that are laid over the routes and profiles of the file.
//!
//! The merge works on trees, before anything is read, so that every value keeps the place where it
//! was written. It knows the few keys that must be replaced as a whole.

use std::collections::BTreeMap;

use super::{
    problem::Findings,
    tree::{Node, Position, Value},
};

/// Keys whose maps are one value: half of a secret's place, or half of an upstream, means nothing.
const WHOLE: [&str; 13] = [
    "client_secret",
    "certificate",
    "private_key",
    "certificate_password",
    "federated_token",
    "client_assertion",
    "service_account",
    "subject_token",
    "actor_token",
    "upstream",
    "bearer",
    "value",
    "password",
];

/// Keys of which a profile has one: the overlay's takes the place of the others.
const EITHER: [&[&str]; 2] = [&["token_url", "issuer"], &["bearer", "basic", "header", "query"]];

/// One environment of the file.
pub(super) struct Overlay<'a> {
    pub(super) name: &'a str,
    pub(super) at: Position,
    pub(super) node: &'a Node,
}

/// The environments of `root`; those that are no overlays are recorded as problems and left out.
pub(super) fn overlays<'a>(root: &'a Node, findings: &Findings<'_>) -> Vec<Overlay<'a>> {
    let Some(all) = root.find("environments") else { return Vec::new() };
    if !matches!(all.value, Value::Map(_)) {
        findings.add(all.at, "environments: expected a map of names to overlays");
    }
    let mut out = Vec::new();
    for (key, node) in all.entries() {
        let Some(name) = key.text() else { continue };
        let before = findings.count();
        if !super::names::is_name(name) {
            findings.add(key.at, super::names::not_a_name("environment", name));
        }
        if name == super::profiles::NONE {
            let words = "this name is taken (it is the word for no environment); choose another";
            findings.add(key.at, format!("environment {name:?}: {words}"));
        }
        check(name, node, root, findings);
        if findings.count() == before || matches!(node.value, Value::Map(_)) {
            out.push(Overlay { name, at: key.at, node });
        }
    }
    out
}

fn check(name: &str, node: &Node, root: &Node, findings: &Findings<'_>) {
    if !matches!(node.value, Value::Map(_)) {
        findings.add(node.at, format!("environment {name:?}: expected a map with routes and profiles"));
    }
    for (key, value) in node.entries() {
        let word = key.text().unwrap_or_default();
        if !matches!(word, "routes" | "profiles") {
            let text = format!("environment {name:?}: unknown key {word:?} (allowed: routes, profiles)");
            findings.add(key.at, text);
        } else if !matches!(value.value, Value::Map(_)) {
            findings.add(value.at, format!("environment {name:?}: {word}: expected a map of names"));
        }
    }
    let Some(routes) = node.find("routes") else { return };
    for (key, _) in routes.entries() {
        let route = key.text().unwrap_or_default();
        if root.find("routes").and_then(|base| base.find(route)).is_none() {
            let known = super::names::quoted(root.find("routes").map(keys).unwrap_or_default());
            let text = format!(
                "environment {name:?}: route {route:?} is not defined outside of it (an environment only changes routes; defined: {known})"
            );
            findings.add(key.at, text);
        }
    }
}

fn keys(node: &Node) -> Vec<&str> {
    node.entries().iter().filter_map(|(key, _)| key.text()).collect()
}

/// `root` as it is in `overlay`'s environment, or as it is in none.
pub(super) fn apply(root: &Node, overlay: Option<&Overlay<'_>>) -> Node {
    let Value::Map(old) = &root.value else { return root.clone() };
    let mut entries = Vec::new();
    for (key, value) in old {
        let patch = overlay.and_then(|overlay| overlay.node.find(key.text()?));
        match (key.text(), patch) {
            (Some("environments"), _) => {}
            (Some("routes"), Some(patch)) => entries.push((key.clone(), sections(value, patch, false))),
            (Some("profiles"), Some(patch)) => entries.push((key.clone(), sections(value, patch, true))),
            _ => entries.push((key.clone(), value.clone())),
        }
    }
    let added = overlay.map(|overlay| overlay.node.entries()).unwrap_or_default();
    for (key, value) in added {
        if key.text() == Some("profiles") && root.find("profiles").is_none() {
            entries.push((key.clone(), value.clone()));
        }
    }
    Node { at: root.at, value: Value::Map(entries) }
}

/// Sets the profiles of some routes, by route: what was switched while the gateway runs.
pub(super) fn switch(root: &mut Node, profiles: &BTreeMap<String, String>) {
    let Value::Map(sections) = &mut root.value else { return };
    let routes = sections.iter_mut().find(|(key, _)| key.text() == Some("routes"));
    let Some((_, Node { value: Value::Map(routes), .. })) = routes else { return };
    for (name, route) in routes {
        let (Some(profile), Value::Map(keys)) =
            (name.text().and_then(|name| profiles.get(name)), &mut route.value)
        else {
            continue;
        };
        let value = Value::Quoted(profile.clone());
        match keys.iter_mut().find(|(key, _)| key.text() == Some("profile")) {
            Some((_, node)) => node.value = value,
            None => {
                let key = Node { at: route.at, value: Value::Quoted("profile".into()) };
                keys.push((key, Node { at: route.at, value }));
            }
        }
    }
}

/// The map of all routes or of all profiles; only profiles may be new.
fn sections(base: &Node, patch: &Node, may_add: bool) -> Node {
    let (Value::Map(old), Value::Map(new)) = (&base.value, &patch.value) else { return base.clone() };
    let mut entries = old.clone();
    for (key, change) in new {
        match entries.iter_mut().find(|(k, _)| k.text() == key.text()) {
            Some((_, value)) => *value = section(value, change),
            None if may_add => entries.push((key.clone(), change.clone())),
            None => {}
        }
    }
    Node { at: base.at, value: Value::Map(entries) }
}

/// One route or one profile. Another kind makes it another profile.
fn section(base: &Node, patch: &Node) -> Node {
    let kind = |node: &Node| node.find("kind").and_then(Node::text).map(str::to_owned);
    if kind(patch).is_some() && kind(patch) != kind(base) {
        return patch.clone();
    }
    let mut base = base.clone();
    for group in EITHER {
        let given = group.iter().find(|key| patch.find(key).is_some());
        if let (Some(given), Value::Map(entries)) = (given, &mut base.value) {
            let is_other = |key: Option<&str>| key.is_some_and(|key| key != *given && group.contains(&key));
            entries.retain(|(key, _)| !is_other(key.text()));
        }
    }
    deep(&base, patch)
}

/// The patch wins; maps are merged; a key without a value takes the base's key away.
fn deep(base: &Node, patch: &Node) -> Node {
    let (Value::Map(old), Value::Map(new)) = (&base.value, &patch.value) else { return patch.clone() };
    let mut entries = old.clone();
    for (key, change) in new {
        let at = entries.iter().position(|(k, _)| k.text() == key.text());
        let merged = match at.and_then(|at| entries.get(at)) {
            Some((_, value)) if !key.text().is_some_and(|key| WHOLE.contains(&key)) => deep(value, change),
            _ => change.clone(),
        };
        entries.retain(|(k, _)| k.text() != key.text());
        if !(at.is_some() && matches!(change.value, Value::Null)) {
            entries.push((key.clone(), merged));
        }
    }
    Node { at: base.at, value: Value::Map(entries) }
}
