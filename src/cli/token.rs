//! `keybearer token`: one exchange, and what came of it.

use std::{fmt::Write as _, process::ExitCode, sync::Arc};

use anyhow::{Context, anyhow};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    cli::{Configured, Failure, print},
    profile::{self, Grant, Kind, Profile, http::Http},
};

pub(super) fn token(configured: &Configured, name: &str, raw: bool) -> Result<ExitCode, Failure> {
    let profiles = &configured.loaded.settings.profiles;
    let Some(settings) = profiles.iter().find(|settings| settings.profile.name == name) else {
        let defined: Vec<_> = profiles.iter().map(|s| format!("\"{}\"", s.profile.name)).collect();
        let defined = if defined.is_empty() { "none".into() } else { defined.join(", ") };
        return Err(Failure::Bad(format!(
            "keybearer: profile \"{name}\" is not defined (defined: {defined})\n"
        )));
    };
    let settings = settings.profile.clone();
    let profile = Profile::new(settings.clone(), Arc::new(Http::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let grant = runtime
        .block_on(profile.exchange(None))
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("profile \"{name}\" got no token"))?;
    if raw {
        return print(&format!("{}\n", grant.credential.secret().expose()));
    }
    print(&describe(&settings, &grant))
}

fn describe(settings: &profile::Settings, grant: &Grant) -> String {
    let kind = match settings.kind {
        Kind::Entra(_) => "entra",
        Kind::OAuth2(_) => "oauth2",
        Kind::Static(_) => "static",
    };
    let mut out = format!("profile    {} ({kind})\n", settings.name);
    let lifetime = match grant.lifetime.as_secs() {
        0 => "0 s: for one use, it is not kept".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let _ = writeln!(out, "lifetime   {lifetime}");
    let Some(claims) = claims(grant.credential.secret().expose()) else {
        out.push_str("content    opaque: only its issuer can read it\n");
        return out;
    };
    for (label, names) in [
        ("issuer", &["iss"][..]),
        ("audience", &["aud"]),
        ("client", &["azp", "appid", "client_id"]),
        ("roles", &["roles"]),
        ("scope", &["scp", "scope"]),
    ] {
        if let Some(value) = names.iter().find_map(|name| claims.get(*name)) {
            let _ = writeln!(out, "{label:10} {}", shown(value));
        }
    }
    let missing = missing_roles(&settings.expected_roles, &claims);
    if !missing.is_empty() {
        let _ = writeln!(
            out,
            "missing    {} (assign the app role to the service account and grant consent)",
            missing.join(", ")
        );
    }
    out
}

/// The claims of a JWT, unverified: they are shown, nothing depends on them.
fn claims(token: &str) -> Option<Map<String, Value>> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn missing_roles(expected: &[String], claims: &Map<String, Value>) -> Vec<String> {
    let has = |role: &str| {
        let listed = claims.get("roles").and_then(Value::as_array);
        let spaced = claims.get("scp").and_then(Value::as_str);
        listed.is_some_and(|roles| roles.iter().any(|r| r.as_str() == Some(role)))
            || spaced.is_some_and(|scopes| scopes.split(' ').any(|s| s == role))
    };
    expected.iter().filter(|role| !has(role)).cloned().collect()
}
