//! Routes: from the file's words to the entries of the routing table.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};

use super::{
    field::{Field, Named, given},
    file,
    limits::{LONG, SHORT, body_limit, replay_limit},
    lower::Context,
    names::quoted,
    profiles::NONE,
    tree::Position,
    units, upstreams,
};
use crate::{
    proxy::settings::{Forwarding, Http2Offers, Replay, RouteSettings, Underscores},
    route::{
        Entry, Rule, Table,
        path::Check,
        pattern::{HostPattern, PathPrefix},
    },
    upstream::{Origin, Scheme},
};

/// Fields of one connection (RFC 9110 §7.6.1), which HTTP/2 does not have.
const OF_THE_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// What holds for routes that say nothing else.
pub(super) struct Defaults {
    pub(super) replay: Replay,
    pub(super) body_bytes_max: u64,
    pub(super) forwarded: Forwarding,
    pub(super) expect_continue: Duration,
}

/// How upstreams are told where a request comes from, if the file says it.
pub(super) fn forwarded(field: &Option<Field<file::Forwarded>>) -> Option<Forwarding> {
    given(field).map(|(_, forwarded)| match forwarded {
        file::Forwarded::Off => Forwarding::Off,
        file::Forwarded::X => Forwarding::X,
        file::Forwarded::Rfc7239 => Forwarding::Rfc7239,
    })
}

/// The routes that could be read. Records conflicts between them.
pub(super) fn lower(file: &file::File, defaults: &Defaults, cx: &Context<'_>) -> Vec<Entry<RouteSettings>> {
    let Some((at, routes)) = file.routes.get() else { return Vec::new() };
    if routes.0.is_empty() {
        let example = "api: {upstream: https://api.example.com, profile: none}";
        cx.problem(at, format!("routes: there must be at least one (for example `{example}`)"));
    }
    let profiles: Vec<&str> = given(&file.profiles)
        .map(|(_, all)| all.iter().map(|(_, name, _)| name).collect())
        .unwrap_or_default();
    let mut out = Vec::new();
    for (at, name, field) in routes.iter() {
        cx.name("route", at, name);
        let Some(route) = &field.value else { continue };
        let trip = Trip { cx, name };
        let rule = trip.rule(route);
        let target = trip.target(route, defaults, &profiles);
        if let (Some(rule), Some(target)) = (rule, target) {
            out.push(Entry { name: name.to_owned(), rule, target });
        }
    }
    conflicts(&out, routes, cx);
    out
}

fn conflicts(entries: &[Entry<RouteSettings>], routes: &Named<file::Route>, cx: &Context<'_>) {
    let bare = |entry: &Entry<RouteSettings>| Entry {
        name: entry.name.clone(),
        rule: entry.rule.clone(),
        target: (),
    };
    let Err(conflicts) = Table::build(entries.iter().map(bare).collect()) else { return };
    for conflict in conflicts {
        let at = routes.iter().find(|(_, name, _)| *name == conflict.second).map(|(at, ..)| at);
        cx.problem(at.unwrap_or_default(), conflict.to_string());
    }
}

/// One route on its way.
pub(super) struct Trip<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) name: &'a str,
}

impl Trip<'_> {
    pub(super) fn problem(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.problem(at, format!("route {:?}: {message}", self.name));
    }

    fn rule(&self, route: &file::Route) -> Option<Rule> {
        let mut rule =
            Rule { host: None, path: PathPrefix::parse("/").ok()?, methods: Vec::new(), headers: Vec::new() };
        let Some(matching) = &route.matching else { return Some(rule) };
        let matching = matching.value.as_ref()?;
        let mut whole = true;
        if let Some((at, text)) = given(&matching.host) {
            rule.host =
                HostPattern::parse(text).map_err(|e| self.problem(at, format_args!("match.{e}"))).ok();
            whole = rule.host.is_some();
        }
        if let Some((at, text)) = given(&matching.path) {
            match PathPrefix::parse(text) {
                Ok(path) => {
                    self.warn_of_pattern(at, text);
                    rule.path = path;
                }
                Err(e) => {
                    self.problem(at, format_args!("match.{e}"));
                    whole = false;
                }
            }
        }
        if let Some((at, methods)) = given(&matching.methods) {
            rule.methods = self.methods(at, methods);
            whole &= !rule.methods.is_empty();
        }
        if let Some((_, headers)) = given(&matching.headers) {
            rule.headers = self.headers(headers);
            whole &= rule.headers.len() == headers.0.len();
        }
        whole.then_some(rule)
    }

    /// Some gateways have patterns here.
    fn warn_of_pattern(&self, at: Position, path: &str) {
        let Some((before, _)) = path.split_once(['*', '{']) else { return };
        let prefix = if before.len() > 1 { before.trim_end_matches('/') } else { "/" };
        let words =
            "is no pattern: it stands for these very characters, as a path is a prefix by whole segments";
        let text = format!(
            "route {:?}: match.path: {path:?} {words} ({prefix:?} takes all that is below it)",
            self.name
        );
        self.cx.findings.warn(at, text);
    }

    fn methods(&self, at: Position, methods: &[Field<String>]) -> Vec<Method> {
        if methods.is_empty() {
            self.problem(at, "match.methods: the list is empty (leave the key out for every method)");
        }
        let mut out = Vec::new();
        for (at, text) in methods.iter().filter_map(Field::get) {
            let upper = text.to_ascii_uppercase();
            match Method::from_bytes(text.as_bytes()) {
                Ok(_) if *text != upper => {
                    self.problem(
                        at,
                        format_args!("match.methods: {text:?} is not in upper case (write {upper})"),
                    );
                }
                Ok(Method::CONNECT | Method::TRACE) => {
                    self.problem(
                        at,
                        format_args!("match.methods: {text} is always refused, so no route can take it"),
                    );
                }
                Ok(method) if out.contains(&method) => {
                    self.problem(at, format_args!("match.methods: {text} is written twice"));
                }
                Ok(method) => out.push(method),
                Err(_) => self.problem(at, format_args!("match.methods: {text:?} is not a method")),
            }
        }
        out
    }

    fn headers(&self, headers: &Named<String>) -> Vec<(HeaderName, HeaderValue)> {
        let mut out: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (key_at, name, field) in headers.iter() {
            let Some((at, text)) = field.get() else { continue };
            let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else {
                self.problem(key_at, format_args!("match.headers: {name:?} is not the name of a header"));
                continue;
            };
            if out.iter().any(|(other, _)| *other == key) {
                self.problem(key_at, format_args!("match.headers: {name:?} is written twice"));
                continue;
            }
            if key == header::HOST {
                self.problem(key_at, "match.headers: the host is matched by match.host");
                continue;
            }
            if OF_THE_HOP.contains(&key.as_str()) {
                let words = "is between a caller and the gateway only, and not there over HTTP/2: no rule can go by it";
                self.problem(key_at, format_args!("match.headers: {name:?} {words}"));
                continue;
            }
            match HeaderValue::from_str(text) {
                Ok(value) if text.trim() == text => out.push((key, value)),
                _ => self.problem(at, format_args!("match.headers.{name}: no header can have this value")),
            }
        }
        out
    }

    fn target(&self, route: &file::Route, defaults: &Defaults, profiles: &[&str]) -> Option<RouteSettings> {
        let upstream = route.upstream.get().and_then(|(at, upstream)| upstreams::lower(self, at, upstream));
        let profile = route.profile.get().map(|(at, name)| self.profile(at, name, profiles));
        let flag = |field| given::<bool>(field).is_some_and(|(_, on)| *on);
        if let Some((at, true)) = given(&route.pass_authorization)
            && matches!(profile, Some(Some(_)))
        {
            let words = "is only for profile: none (the profile's token takes the place of the caller's)";
            self.problem(at, format_args!("pass_authorization {words}"));
        }
        let plain = |origin: &Origin| origin.scheme == Scheme::Http && !origin.is_loopback();
        if let Some((at, origin, _)) = &upstream
            && plain(origin)
            && matches!(profile, Some(Some(_)))
            && !flag(&route.allow_plaintext)
        {
            let words = "plain http would show the token to the network (write https, or allow_plaintext: true if nobody can listen)";
            self.problem(*at, format_args!("upstream: {words}"));
        }
        let place = format!("route {:?}: replay.limit", self.name);
        let limit = given(&route.replay).and_then(|(_, replay)| replay.limit.get());
        let limit = replay_limit(&place, limit, defaults.replay.limit_bytes, self.cx);
        let (_, upstream, base_path) = upstream?;
        Some(RouteSettings {
            upstream,
            base_path,
            profile: profile?,
            strip_path: flag(&route.strip_path),
            preserve_host: flag(&route.preserve_host),
            pass_authorization: flag(&route.pass_authorization),
            path_check: match given(&route.path_check) {
                Some((_, file::PathCheck::Lenient)) => Check::Lenient,
                _ => Check::Strict,
            },
            replay_limit_bytes: limit,
            body_bytes_max: body_limit(
                &format!("route {:?}: body_bytes", self.name),
                given(&route.body_bytes),
                defaults.body_bytes_max,
                self.cx,
            ),
            underscores: match given(&route.underscores) {
                Some((_, file::Underscores::Allow)) => Underscores::Allow,
                _ => Underscores::Refuse,
            },
            forwarded: forwarded(&route.forwarded).unwrap_or(defaults.forwarded),
            websocket: given(&route.websocket).is_none_or(|(_, on)| *on),
            http2_offers: match given(&route.h2c) {
                Some((_, file::H2c::Ignore)) => Http2Offers::Ignore,
                _ => Http2Offers::Refuse,
            },
            response_timeout: given(&route.response_timeout).and_then(|(at, text)| {
                units::duration(&text.0, LONG)
                    .map_err(|words| self.problem(at, format_args!("response_timeout: {words}")))
                    .ok()
            }),
            expect_continue: self.expect_continue(route, defaults),
        })
    }

    fn expect_continue(&self, route: &file::Route, defaults: &Defaults) -> Option<Duration> {
        let Some((at, text)) = given(&route.expect_continue) else { return Some(defaults.expect_continue) };
        if text.0 == "off" {
            return None;
        }
        units::duration(&text.0, SHORT)
            .map_err(|words| self.problem(at, format_args!("expect_continue: {words} (or off)")))
            .ok()
    }

    fn profile(&self, at: Position, name: &str, profiles: &[&str]) -> Option<String> {
        if name == NONE {
            return None;
        }
        if !profiles.contains(&name) {
            let defined = quoted(profiles.iter().copied());
            self.problem(at, format_args!("profile {name:?} is not defined (defined: {defined})"));
        }
        Some(name.to_owned())
    }
}
