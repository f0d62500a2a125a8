//! `keybearer token`: one exchange, and what came of it.

use std::{fmt::Write as _, process::ExitCode, sync::Arc};

use anyhow::anyhow;

use crate::{
    cli::{Configured, Failure, print},
    clock,
    profile::{Grant, Profile, content::Content, diagnosis, http::Http, refusal::ExchangeError, skew},
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
    let profile = Profile::new(settings.profile.clone(), Arc::new(Http::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = clock::now();
    let outcome = runtime.block_on(profile.exchange(None));
    // A source that hangs holds a thread that nobody waits for.
    runtime.shutdown_background();
    let grant = match outcome {
        Ok(grant) => grant,
        Err(error) => return Err(refused(&profile, &error).into()),
    };
    if raw {
        return print(&format!("{}\n", grant.credential.secret().expose()));
    }
    let mut out = describe(&profile, &grant);
    let _ = writeln!(out, "took       {} ms", clock::now().since(begun).as_millis());
    out.push_str(&clock(&profile));
    print(&out)
}

/// The failure with its words, each on a line of its own.
fn refused(profile: &Profile, error: &ExchangeError) -> anyhow::Error {
    let words = error.diagnosis();
    anyhow!(
        "profile \"{}\" got no token: {error}\n  means  {}\n  next   {}\n{}",
        profile.settings().name,
        words.meaning,
        words.remedy,
        clock(profile)
    )
}

/// A line when the clocks are apart.
fn clock(profile: &Profile) -> String {
    let seconds = profile.clock_skew().unwrap_or(0);
    if seconds.unsigned_abs() <= skew::WARN.as_secs() {
        return String::new();
    }
    let words = diagnosis::of_clock_skew(seconds);
    format!("clock      {} by {} s ({})\n", words.meaning, seconds.unsigned_abs(), words.remedy)
}

fn describe(profile: &Profile, grant: &Grant) -> String {
    let settings = profile.settings();
    let mut out = format!("profile    {} ({})\n", settings.name, settings.kind.name());
    if let Some(method) = profile.proven_by() {
        let _ = writeln!(out, "proven by  {method}");
    }
    let lifetime = match grant.lifetime.as_secs() {
        0 => "0 s: for one use, it is not kept".to_owned(),
        _ if grant.lifetime >= Grant::FOR_EVER => "no end of its own".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let _ = writeln!(out, "lifetime   {lifetime}");
    let token = grant.credential.secret();
    let _ = writeln!(out, "size       {} bytes", token.expose().len());
    let Some(content) = Content::of(token) else {
        out.push_str("content    opaque: only its issuer can read it, so roles cannot be compared\n");
        return out;
    };
    let roles = Some(content.roles().join(", ")).filter(|roles| !roles.is_empty());
    for (label, value) in [
        ("issuer", content.issuer()),
        ("audience", content.audience()),
        ("client", content.client()),
        ("tenant", content.tenant()),
        ("roles", Some(roles.unwrap_or_else(|| "none".into()))),
        ("scope", content.scope()),
    ] {
        if let Some(value) = value {
            let _ = writeln!(out, "{label:10} {value}");
        }
    }
    let missing = content.missing(&settings.expected_roles);
    if !missing.is_empty() {
        let words = diagnosis::of_missing_roles(settings.kind.is_of_entra());
        let _ = writeln!(
            out,
            "missing    {}\n  means  {}\n  next   {}",
            missing.join(", "),
            words.meaning,
            words.remedy
        );
    }
    out
}
