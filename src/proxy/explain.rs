//! The decision about one request, without sending it: which route, profile and upstream it would get.
//!
//! It knows no credential and shows none; near misses name no header value of the request.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, request};

use crate::{
    proxy::{
        credentials::Slots,
        fault::{BadRequest, Fault, RefusedMethod},
        forwarded::Source,
        headers::{self, Outgoing},
        notable::Notable,
        settings::{RouteSettings, Underscores},
        target, upgrade,
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
    /// Its header, as far as somebody cares to say it.
    pub headers: &'a HeaderMap,
}

/// What would become of a request.
pub struct Decision {
    /// Where it would go, or why it would not.
    pub outcome: Result<Forwarded, Refused>,
    /// The other routes, nearest first.
    pub near: Vec<NearMiss>,
    /// How many more there are.
    pub more: usize,
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
    let asked = asked(question);
    let host = headers::host(&asked, question.uri.scheme_str() == Some("https"));
    let head = Head {
        host: host.as_ref().copied().unwrap_or_default(),
        path: &reading.path,
        method: question.method,
        headers: question.headers,
    };
    let found = table.find(&head);
    let outcome = match (refused_at_once(question, host.as_ref().err()), found) {
        (Some(fault), _) => Err(refused(None, fault)),
        (None, Some(entry)) => match settings(entry) {
            Some(settings) => forward(entry, settings, question, &reading, &also),
            None => Err(refused(None, nowhere(&reading))),
        },
        (None, None) => Err(refused(None, nowhere(&reading))),
    };
    let near = table.explain(&head, NEAR_MISSES_MAX);
    let others = table.entries().len() - usize::from(found.is_some());
    let more = others.saturating_sub(near.len());
    Decision { outcome, near, more }
}

/// The question as a request. Of HTTP/1.0, which alone may have no `Host`.
fn asked(question: &Question<'_>) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = question.method.clone();
    head.uri = question.uri.clone();
    head.version = Version::HTTP_10;
    head.headers = question.headers.clone();
    head
}

/// What no route is asked about.
fn refused_at_once(question: &Question<'_>, host: Option<&BadRequest>) -> Option<Fault> {
    let path = question.uri.path();
    if matches!(*question.method, Method::TRACE | Method::CONNECT) {
        return Some(Fault::MethodRefused(RefusedMethod::Never(question.method.clone())));
    }
    if let Some(bad) = host {
        return Some(Fault::BadRequest(*bad));
    }
    if path == "*" && question.method == Method::OPTIONS {
        return Some(Fault::LastHop);
    }
    (!path.starts_with('/')).then_some(Fault::BadRequest(BadRequest::Target))
}

fn refused(route: Option<&str>, fault: Fault) -> Refused {
    let why = match &fault {
        Fault::MethodRefused(why) => why.to_string(),
        Fault::NoRoute => "no route matches".into(),
        fault => fault.detail(route),
    };
    Refused { route: route.map(str::to_owned), fault, why }
}

fn nowhere(reading: &path::Reading<'_>) -> Fault {
    match reading.refused_by(path::Check::Strict) {
        Some(flaw) => Fault::BadRequest(BadRequest::Path(flaw)),
        None => Fault::NoRoute,
    }
}

fn forward<T>(
    entry: &Entry<T>,
    settings: &RouteSettings,
    question: &Question<'_>,
    reading: &path::Reading<'_>,
    also: &impl Fn(&str) -> Vec<String>,
) -> Result<Forwarded, Refused> {
    let name = entry.name.as_str();
    if settings.profile.is_some()
        && let Some(flaw) = reading.refused_by(settings.path_check)
    {
        return Err(refused(Some(name), Fault::BadRequest(BadRequest::Path(flaw))));
    }
    if !target::is_usual(question.method) && !entry.rule.methods.contains(question.method) {
        let why = RefusedMethod::Unlisted(question.method.clone());
        return Err(refused(Some(name), Fault::MethodRefused(why)));
    }
    let target = target::upstream_target(settings, entry.rule.path.as_str(), question.uri)
        .and_then(|target| judge(question, settings).map(|()| target))
        .map_err(|fault| refused(Some(name), fault))?;
    Ok(Forwarded {
        route: entry.name.clone(),
        profile: settings.profile.clone(),
        also: settings.profile.as_deref().map(also).unwrap_or_default(),
        upstream: format!("{}{target}", settings.upstream),
    })
}

/// Whether the header may pass, by the proxy's own rules. Not told: that it names a credential's own field in
/// `Connection`, and that it has been here before.
fn judge(question: &Question<'_>, settings: &RouteSettings) -> Result<(), Fault> {
    let mut fields = question.headers.clone();
    let found = Notable::of(&fields);
    upgrade::decline_http2(&mut fields, found, settings.http2_offers)?;
    if question.method == Method::OPTIONS {
        headers::count_forwards(&mut fields)?;
    }
    let nothing = HeaderValue::from_static("-");
    let outgoing = Outgoing {
        found,
        host: &nothing,
        preserve_host: settings.preserve_host,
        pass_authorization: settings.pass_authorization,
        via: &nothing,
        // No value of a field can hold it.
        pseudonym: "\0",
        request_id: &nothing,
        version: Version::HTTP_11,
        underscores: settings.profile.as_ref().map_or(Underscores::Allow, |_| settings.underscores),
        forwarded: settings.forwarded,
        source: Source { address: None, is_trusted: false, is_tls: false, host: None },
        slots: &Slots::default(),
    };
    headers::prepare(&mut fields, &outgoing)
}
