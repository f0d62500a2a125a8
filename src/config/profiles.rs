//! Profiles: from the file's words to settings, and everything that could be wrong with an account.

use std::{ops::RangeInclusive, time::Duration};

use url::Url;

use super::{
    field::{Field, Named, given},
    file,
    file_profiles::{Profile, Recovery},
    lower::Context,
    tree::Position,
    urls,
};
use crate::{outbound, profile, token};

mod also;
mod connection;
mod door;
mod entra;
mod fixed;
mod grants;
mod managed_identity;
mod oauth2;
mod presets;
mod proofs;
mod secrets;
mod vaults;

/// Tokens live minutes to hours; a default beyond a day would outlive any server's mind.
const DEFAULT_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Callers wait for it on a cold start.
const TOKEN_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
/// Zero means no damping, for tests and very short tokens.
const RECOVERY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// The name by which a route says that it has no profile.
pub(super) const NONE: &str = "none";

/// The profiles that could be read.
pub(super) fn lower(file: &file::File, waiters_max: usize, cx: &Context<'_>) -> Vec<token::Settings> {
    let mut out = Vec::new();
    let Some((_, profiles)) = given(&file.profiles) else { return out };
    for (at, name, field) in profiles.iter() {
        cx.name("profile", at, name);
        if name == NONE {
            let words = "this name is taken (routes without a profile say `profile: none`); choose another";
            cx.problem(at, format!("profile {name:?}: {words}"));
        }
        let Some(value) = &field.value else { continue };
        let account = Account { cx, name, at, waiters_max, profiles, via: &[] };
        let settings = account.profile(value);
        out.extend(settings);
    }
    also::lower(profiles, &mut out, cx);
    out
}

/// The keys that profiles of every kind have.
type Common<'a> = (
    &'a Option<Field<Vec<Field<String>>>>,
    &'a Option<Field<bool>>,
    &'a Option<Field<Recovery>>,
    &'a Option<Field<file::DurationText>>,
    &'a Option<Field<file::DurationText>>,
);

/// One profile on its way, or another thing that has secrets.
pub(super) struct Account<'a> {
    cx: &'a Context<'a>,
    /// Empty for what is no profile.
    name: &'a str,
    at: Position,
    waiters_max: usize,
    /// All profiles of the file.
    profiles: &'a Named<Profile>,
    /// The profiles for whose secrets this one is needed.
    via: &'a [&'a str],
}

impl<'a> Account<'a> {
    /// The collector of traces, which stands at `at`.
    pub(super) fn of_collector(profiles: &'a Named<Profile>, at: Position, cx: &'a Context<'a>) -> Self {
        Self { cx, name: "", at, waiters_max: 0, profiles, via: &[] }
    }
}

impl Account<'_> {
    /// Whose problem it is.
    fn who(&self) -> String {
        if self.name.is_empty() { "telemetry.otlp".into() } else { format!("profile {:?}", self.name) }
    }

    fn profile(&self, value: &Profile) -> Option<token::Settings> {
        match value {
            Profile::Entra(f) => {
                let common = (&f.expected_roles, &f.required, &f.recovery, &f.default_ttl, &f.token_timeout);
                let mut settings = self.settings(self.entra(f), common);
                let connection = self.connection(&f.proxy, &f.ca);
                let expires = self.secret_expires(&f.client_secret_expires, f.client_secret.is_some());
                if let Some(settings) = &mut settings {
                    (settings.profile.connection, settings.profile.secret_expires) = (connection, expires);
                }
                settings
            }
            Profile::OAuth2(f) => {
                let common = (&f.expected_roles, &f.required, &f.recovery, &f.default_ttl, &f.token_timeout);
                let mut settings = self.settings(self.oauth2(f), common);
                let connection = self.connection(&f.proxy, &f.ca);
                let expires = self.secret_expires(&f.client_secret_expires, f.client_secret.is_some());
                if let Some(settings) = &mut settings {
                    (settings.profile.connection, settings.profile.secret_expires) = (connection, expires);
                }
                settings
            }
            Profile::Static(f) => {
                let common = (&None, &f.required, &f.recovery, &None, &f.token_timeout);
                self.settings(self.fixed(f), common)
            }
            Profile::ManagedIdentity(f) => {
                let common = (&f.expected_roles, &f.required, &f.recovery, &f.default_ttl, &f.token_timeout);
                self.settings(self.managed_identity(f), common)
            }
        }
    }

    fn problem(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.problem(at, format!("{}: {message}", self.who()));
    }

    fn settings(&self, kind: Option<profile::Kind>, common: Common<'_>) -> Option<token::Settings> {
        let (roles, required, recovery, default_ttl, timeout) = common;
        let place = |key: &str| format!("profile {:?}: {key}", self.name);
        let ttl =
            self.cx.duration(&place("default_ttl"), default_ttl, DEFAULT_TTL, profile::Settings::DEFAULT_TTL);
        let timeout =
            self.cx.duration(&place("token_timeout"), timeout, TOKEN_TIMEOUT, profile::Settings::TIMEOUT);
        let mut damping = match kind {
            Some(profile::Kind::Static(_)) => token::Recovery::STATIC,
            _ => token::Recovery::default(),
        };
        if let Some((_, recovery)) = given(recovery) {
            let (age, interval) = (damping.min_token_age, damping.min_interval);
            let key = place("recovery.min_token_age");
            damping.min_token_age = self.cx.duration(&key, &recovery.min_token_age, RECOVERY, age);
            let key = place("recovery.min_interval");
            damping.min_interval = self.cx.duration(&key, &recovery.min_interval, RECOVERY, interval);
        }
        let roles = given(roles).map(|(_, roles)| self.texts("expected_roles", roles)).unwrap_or_default();
        let name = self.name.to_owned();
        let profile = profile::Settings {
            name,
            kind: kind?,
            expected_roles: roles,
            default_ttl: ttl,
            timeout,
            connection: outbound::Settings::default(),
            secret_expires: None,
        };
        let required = given(required).is_none_or(|(_, required)| *required);
        let (waiters_max, also) = (self.waiters_max, Vec::new());
        Some(token::Settings { profile, required, recovery: damping, waiters_max, also })
    }

    fn url(&self, key: &str, at: Position, text: &str) -> Option<Url> {
        urls::secure(text).map_err(|words| self.problem(at, format_args!("{key}: {words}"))).ok()
    }

    /// Text that is sent as a parameter: printable ASCII, not empty.
    fn line(&self, key: &str, field: &Option<Field<String>>) -> Option<String> {
        let (at, text) = given(field)?;
        if text.trim().is_empty() || !text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            self.problem(
                at,
                format_args!("{key}: expected printable ASCII text (leave the key out for none)"),
            );
        }
        Some(text.clone())
    }

    /// RFC 6749 appendix A.1: visible ASCII, and spaces inside.
    fn visible(&self, key: &str, field: Option<(Position, &String)>) -> Option<String> {
        let (at, text) = field?;
        let is_legal = text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) && text.trim() == text;
        if text.is_empty() || !is_legal {
            self.problem(at, format_args!("{key}: expected visible ASCII characters, at least one"));
            return None;
        }
        Some(text.clone())
    }

    fn texts(&self, key: &str, list: &[Field<String>]) -> Vec<String> {
        for (at, text) in list.iter().filter_map(Field::get) {
            if text.trim().is_empty() {
                self.problem(at, format_args!("{key}: an empty name"));
            }
        }
        list.iter().filter_map(|field| field.value.clone()).collect()
    }
}
