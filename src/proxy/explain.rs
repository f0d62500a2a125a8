//! The decision about one request, without sending it: which route, profile and upstream it would get.
//!
//! It knows no credential and shows none; near misses name no header value of the request.

use http::{HeaderMap, Method, Uri};

use crate::{
    proxy::{
        fault::{BadRequest, Fault, RefusedMethod},
        settings::RouteSettings,
        target,
    },
    route::{Entry, Head, Table, explain::NearMiss, path},
};

/// Near misses that are told.
const NEAR_MISSES_MAX: usize = 10;

/// A request that somebody asks about.
pub struct Question<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its URL, or its path alone.
    pub uri: &'a Uri,
    /// Its header, as far as routes match by it.
    pub headers: &'a HeaderMap,
}

/// What would become of a request.
pub struct Decision {
    /// Where it would go, or why it would not.
    pub outcome: Result<Forwarded, Refused>,
    /// The other routes, nearest first.
    pub near: Vec<NearMiss>,
}

/// Where a request would go.
pub struct Forwarded {
    /// The route's name.
    pub route: String,
    /// Its profile; `None` for no credential.
    pub profile: Option<String>,
    /// Profiles whose credentials go with its own.
    pub also: Vec<String>,
    /// The URL that is asked for upstream.
    pub upstream: String,
}

/// Why a request would not be forwarded.
pub struct Refused {
    /// The route that took it, if one did.
    pub route: Option<String>,
    /// What the caller would get.
    pub fault: Fault,
    /// In words.
    pub why: String,
}

/// Decides as the proxy would. `settings` finds those of a route in the table, `also` the further profiles
/// of one.
pub fn decide<'t, T>(
    table: &'t Table<T>,
    question: &Question<'_>,
    settings: impl Fn(&'t Entry<T>) -> Option<&'t RouteSettings>,
    also: impl Fn(&str) -> Vec<String>,
) -> Decision {
    let reading = path::read(question.uri.path());
    let head = Head {
        host: question.uri.host().unwrap_or_default(),
        path: &reading.path,
        method: question.method,
        headers: question.headers,
    };
    let found = table.find(&head).and_then(|entry| Some((entry, settings(entry)?)));
    let outcome = match found {
        Some((entry, settings)) => forward(entry, settings, question, &reading, &also),
        None => Err(nowhere(question.method, &reading)),
    };
    Decision { outcome, near: table.explain(&head, NEAR_MISSES_MAX) }
}

fn nowhere(method: &Method, reading: &path::Reading<'_>) -> Refused {
    if is_never_forwarded(method) {
        return never(method);
    }
    match reading.refused_by(path::Check::Strict) {
        Some(flaw) => ambiguous(None, flaw),
        None => Refused { route: None, fault: Fault::NoRoute, why: "no route matches".into() },
    }
}

fn is_never_forwarded(method: &Method) -> bool {
    matches!(*method, Method::TRACE | Method::CONNECT)
}

fn never(method: &Method) -> Refused {
    let why = RefusedMethod::Never(method.clone());
    Refused { route: None, why: why.to_string(), fault: Fault::MethodRefused(why) }
}

fn forward<T>(
    entry: &Entry<T>,
    settings: &RouteSettings,
    question: &Question<'_>,
    reading: &path::Reading<'_>,
    also: &impl Fn(&str) -> Vec<String>,
) -> Result<Forwarded, Refused> {
    if is_never_forwarded(question.method) {
        return Err(never(question.method));
    }
    let refuse = |fault: Fault, why: String| Refused { route: Some(entry.name.clone()), fault, why };
    if settings.profile.is_some()
        && let Some(flaw) = reading.refused_by(settings.path_check)
    {
        return Err(ambiguous(Some(entry.name.clone()), flaw));
    }
    if !target::is_usual(question.method) && !entry.rule.methods.contains(question.method) {
        let why = RefusedMethod::Unlisted(question.method.clone());
        return Err(refuse(Fault::MethodRefused(why.clone()), why.to_string()));
    }
    let target = target::upstream_target(settings, entry.rule.path.as_str(), question.uri)
        .map_err(|_| refuse(Fault::BadRequest(BadRequest::Target), BadRequest::Target.to_string()))?;
    Ok(Forwarded {
        route: entry.name.clone(),
        profile: settings.profile.clone(),
        also: settings.profile.as_deref().map(also).unwrap_or_default(),
        upstream: format!("{}{target}", settings.upstream),
    })
}

fn ambiguous(route: Option<String>, flaw: path::Flaw) -> Refused {
    let bad = BadRequest::Path(flaw);
    Refused { route, why: bad.to_string(), fault: Fault::BadRequest(bad) }
}
