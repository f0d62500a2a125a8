//! Profiles: from the file's words to settings, and everything that could be wrong with an account.

use std::{ops::RangeInclusive, time::Duration};

use url::Url;

use super::{
    field::{Field, Named, given},
    file,
    file_profiles::{Auth, BasicEncoding, Entra, OAuth2, Place, Profile, Recovery, Resource, SecretPlace},
    lower::Context,
    problem::is_variable,
    tree::Position,
    urls,
};
use crate::{
    profile::{self, entra, oauth2},
    source::Source,
    token,
};

/// Tokens live minutes to hours; a default beyond a day would outlive any server's mind.
const DEFAULT_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Callers wait for it on a cold start.
const TOKEN_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
/// Zero means no damping, for tests and very short tokens.
const RECOVERY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// The name by which a route says that it has no profile.
pub(super) const NONE: &str = "none";

/// How to say where a secret is.
const KEEP: &str = "write {env: NAME} or {file: PATH}";

/// Parameters that have their own key, or that only the gateway may set.
const OWN_PARAMETERS: [&str; 6] =
    ["grant_type", "client_id", "client_secret", "scope", "resource", "audience"];

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
        let account = Account { cx, name, at, waiters_max };
        let settings = match value {
            Profile::Entra(f) => {
                let common = (&f.expected_roles, &f.required, &f.recovery, &f.default_ttl, &f.token_timeout);
                account.settings(account.entra(f), common)
            }
            Profile::OAuth2(f) => {
                let common = (&f.expected_roles, &f.required, &f.recovery, &f.default_ttl, &f.token_timeout);
                account.settings(account.oauth2(f), common)
            }
        };
        out.extend(settings);
    }
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

/// One profile on its way.
struct Account<'a> {
    cx: &'a Context<'a>,
    name: &'a str,
    at: Position,
    waiters_max: usize,
}

impl Account<'_> {
    fn problem(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.problem(at, format!("profile {:?}: {message}", self.name));
    }

    fn settings(&self, kind: Option<profile::Kind>, common: Common<'_>) -> Option<token::Settings> {
        let (roles, required, recovery, default_ttl, timeout) = common;
        let place = |key: &str| format!("profile {:?}: {key}", self.name);
        let ttl =
            self.cx.duration(&place("default_ttl"), default_ttl, DEFAULT_TTL, profile::Settings::DEFAULT_TTL);
        let timeout =
            self.cx.duration(&place("token_timeout"), timeout, TOKEN_TIMEOUT, profile::Settings::TIMEOUT);
        let mut damping = token::Recovery::default();
        if let Some((_, recovery)) = given(recovery) {
            let (age, interval) = (damping.min_token_age, damping.min_interval);
            let key = place("recovery.min_token_age");
            damping.min_token_age = self.cx.duration(&key, &recovery.min_token_age, RECOVERY, age);
            let key = place("recovery.min_interval");
            damping.min_interval = self.cx.duration(&key, &recovery.min_interval, RECOVERY, interval);
        }
        let roles = given(roles).map(|(_, roles)| self.texts("expected_roles", roles)).unwrap_or_default();
        let name = self.name.to_owned();
        let profile =
            profile::Settings { name, kind: kind?, expected_roles: roles, default_ttl: ttl, timeout };
        let required = given(required).is_none_or(|(_, required)| *required);
        Some(token::Settings { profile, required, recovery: damping, waiters_max: self.waiters_max })
    }

    fn entra(&self, file: &Entra) -> Option<profile::Kind> {
        let authority = self.authority(&file.authority);
        let tenant = file.tenant.get().and_then(|(at, tenant)| self.tenant(at, tenant));
        let client_id = self.visible("client_id", file.client_id.get());
        let client_secret = self.secret(&file.client_secret);
        let scope = file.scope.get().and_then(|(at, scope)| self.default_scope(at, scope));
        Some(profile::Kind::Entra(entra::Settings {
            authority: authority?,
            tenant: tenant?,
            client_id: client_id?,
            client_secret: client_secret?,
            scope: scope?,
        }))
    }

    fn authority(&self, field: &Option<Field<String>>) -> Option<Url> {
        let Some(field) = field else { return Url::parse(entra::AUTHORITY).ok() };
        let (at, text) = field.get()?;
        match urls::secure(text) {
            Ok(url) if matches!(url.path(), "" | "/") && url.query().is_none() => return Some(url),
            Ok(_) => self.problem(
                at,
                format_args!("authority: leave out path and query (as in {})", entra::AUTHORITY),
            ),
            Err(words) => self.problem(at, format_args!("authority: {words}")),
        }
        None
    }

    fn tenant(&self, at: Position, tenant: &str) -> Option<String> {
        if ["common", "organizations", "consumers"].iter().any(|word| tenant.eq_ignore_ascii_case(word)) {
            let words =
                "is for people who sign in; a service account's token needs one tenant (its id or domain)";
            self.problem(at, format_args!("tenant: {tenant:?} {words}"));
            return None;
        }
        if !is_guid(tenant) && !is_domain(tenant) {
            let words = "is neither a tenant id (GUID) nor a domain such as contoso.onmicrosoft.com";
            self.problem(at, format_args!("tenant: {tenant:?} {words}"));
            return None;
        }
        Some(tenant.to_owned())
    }

    fn default_scope(&self, at: Position, scope: &str) -> Option<String> {
        let words = if scope.split_whitespace().count() > 1 {
            "Entra gives a service account one scope per token, <App ID URI>/.default (a second API needs a second profile)"
        } else if !scope.ends_with("/.default") || scope.len() == "/.default".len() {
            "must end with \"/.default\" (as in https://contoso.onmicrosoft.com/orders-api/.default): app roles come with it"
        } else if !scope.chars().all(|c| c.is_ascii_graphic()) {
            "has a character that no scope has"
        } else {
            return Some(scope.to_owned());
        };
        self.problem(at, format_args!("scope: {words}"));
        None
    }

    fn oauth2(&self, file: &OAuth2) -> Option<profile::Kind> {
        let endpoint = self.endpoint(file);
        let client_id = self.visible("client_id", file.client_id.get());
        let auth = self.auth(file);
        let scope = self.line("scope", &file.scope);
        let audience = self.line("audience", &file.audience);
        let resource =
            given(&file.resource).map(|(at, resource)| self.resource(at, resource)).unwrap_or_default();
        let extra = given(&file.extra).map(|(_, extra)| self.extra(extra)).unwrap_or_default();
        Some(profile::Kind::OAuth2(oauth2::Settings {
            endpoint: endpoint?,
            client_id: client_id?,
            auth: auth?,
            scope,
            audience,
            resource,
            extra,
        }))
    }

    fn endpoint(&self, file: &OAuth2) -> Option<oauth2::Endpoint> {
        match (&file.token_url, &file.issuer) {
            (None, None) => {
                self.problem(self.at, "one of token_url and issuer is needed");
                None
            }
            (Some(_), Some(issuer)) => {
                self.problem(issuer.at, "token_url and issuer exclude each other (keep one)");
                None
            }
            (Some(url), None) => {
                let (at, text) = url.get()?;
                self.url("token_url", at, text).map(oauth2::Endpoint::TokenUrl)
            }
            (None, Some(issuer)) => {
                let (at, text) = issuer.get()?;
                let url = self.url("issuer", at, text)?;
                if url.query().is_some() {
                    self.problem(at, "issuer: a query is not allowed (RFC 8414 §2)");
                    return None;
                }
                Some(oauth2::Endpoint::Issuer(text.clone()))
            }
        }
    }

    fn url(&self, key: &str, at: Position, text: &str) -> Option<Url> {
        urls::secure(text).map_err(|words| self.problem(at, format_args!("{key}: {words}"))).ok()
    }

    fn auth(&self, file: &OAuth2) -> Option<oauth2::ClientAuth> {
        let auth = match &file.auth {
            Some(auth) => *auth.get()?.1,
            None => Auth::ClientSecretBasic,
        };
        if let Some(encoding) = file.basic_encoding.as_ref().filter(|_| auth != Auth::ClientSecretBasic) {
            self.problem(encoding.at, "basic_encoding is only for auth client_secret_basic (remove it)");
        }
        let secret = match (&file.client_secret, auth) {
            (Some(secret), Auth::None) => {
                self.problem(
                    secret.at,
                    "auth none sends no secret (remove client_secret, or choose another auth)",
                );
                return None;
            }
            (None, Auth::None) => return Some(oauth2::ClientAuth::None),
            (None, _) => {
                self.problem(
                    self.at,
                    "the key \"client_secret\" is missing (or auth: none, for a client without one)",
                );
                return None;
            }
            (Some(secret), _) => self.secret(secret)?,
        };
        let encoding = match given(&file.basic_encoding) {
            Some((_, BasicEncoding::Raw)) => oauth2::BasicEncoding::Raw,
            _ => oauth2::BasicEncoding::Form,
        };
        Some(match auth {
            Auth::ClientSecretPost => oauth2::ClientAuth::SecretPost(secret),
            _ => oauth2::ClientAuth::SecretBasic { secret, encoding },
        })
    }

    fn resource(&self, at: Position, resource: &Resource) -> Vec<String> {
        let all: Vec<(Position, &String)> = match resource {
            Resource::One(text) => vec![(at, text)],
            Resource::Many(list) => list.iter().filter_map(Field::get).collect(),
        };
        for (at, text) in &all {
            if !Url::parse(text).is_ok_and(|url| url.fragment().is_none())
                || !text.chars().all(|c| c.is_ascii_graphic())
            {
                self.problem(*at, "resource: expected an absolute URI without fragment (RFC 8707 §2)");
            }
        }
        all.into_iter().map(|(_, text)| text.clone()).collect()
    }

    fn extra(&self, extra: &Named<String>) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (at, name, field) in extra.iter() {
            let lower = name.to_ascii_lowercase();
            let own = lower.starts_with("client_assertion") || OWN_PARAMETERS.contains(&lower.as_str());
            if own {
                self.problem(
                    at,
                    format_args!(
                        "extra: {name:?} may not be set here (it has its own key, or the gateway sets it)"
                    ),
                );
            } else if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
                self.problem(at, format_args!("extra: {name:?} is not the name of a parameter"));
            }
            let Some((at, value)) = field.get() else { continue };
            if value.chars().any(char::is_control) {
                self.problem(at, format_args!("extra.{name}: control characters are not allowed"));
            }
            out.push((name.to_owned(), value.clone()));
        }
        out
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

    /// Where the secret is kept; tries whether it can be read from there.
    fn secret(&self, field: &Field<Place>) -> Option<Source> {
        let (at, place) = field.get()?;
        let place = match place {
            Place::Kept(place) => place,
            Place::Inline(_) | Place::Listed(_) => {
                let words = format_args!("client_secret: a secret does not belong into this file ({KEEP})");
                self.cx.findings.hide(at, 0);
                self.problem(at, words);
                return None;
            }
        };
        let (at, source) = self.source(at, place)?;
        if let Err(error) = source.read() {
            self.cx.missing(at, format!("profile {:?}: client_secret: {error}", self.name));
        }
        Some(source)
    }

    fn source(&self, at: Position, place: &SecretPlace) -> Option<(Position, Source)> {
        match (&place.env, &place.file) {
            (Some(env), None) => {
                let (at, name) = env.get()?;
                if is_variable(name) {
                    return Some((at, Source::Env(name.clone())));
                }
                // It may be the secret itself.
                self.cx.findings.hide(at, 0);
                self.problem(
                    at,
                    "client_secret.env: not the name of an environment variable (letters, digits and `_`)",
                );
            }
            (None, Some(file)) => {
                let (at, path) = file.get()?;
                if !path.is_empty() {
                    return Some((at, Source::File(self.cx.path(path))));
                }
                self.problem(at, "client_secret.file: the path is empty");
            }
            _ => {
                self.problem(at, format_args!("client_secret: expected exactly one of env and file ({KEEP})"))
            }
        }
        None
    }
}

fn is_guid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.contains('.') && text.len() <= 253 && text.split('.').all(label)
}
