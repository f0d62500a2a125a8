//! `keybearer explain`: the decision about one request, without sending it.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};

use crate::{
    cli::{Configured, Failure},
    proxy::{fault::Fault, settings::RouteSettings, target},
    route::{Entry, Head, Table, explain::NearMiss, path},
    token,
};

/// Near misses that are shown.
const NEAR_MISSES_MAX: usize = 10;

pub(super) fn explain(
    configured: &Configured,
    method: &str,
    url: &str,
    fields: &[String],
    as_json: bool,
) -> Result<String, Failure> {
    let method: Method =
        method.parse().map_err(|_| bad(format!("{method:?} is no method (write for instance GET)")))?;
    let uri: Uri = url.parse().map_err(|_| bad(format!("{url:?} is no URL and no path")))?;
    let headers = headers(fields)?;
    let table = Table::build(configured.loaded.settings.routes.clone())
        .map_err(|_| bad("the routes are in conflict".into()))?;
    let host = uri.host().unwrap_or_default();
    let reading = path::read(uri.path());
    let head = Head { host, path: &reading.path, method: &method, headers: &headers };
    let decision = Decision {
        request: format!("{method} {url}"),
        outcome: decide(&table, &head, &uri, &reading, &configured.loaded.settings.profiles),
        near: table.explain(&head, NEAR_MISSES_MAX),
    };
    Ok(if as_json { decision.json().to_string() + "\n" } else { decision.text() })
}

fn bad(text: String) -> Failure {
    Failure::Bad(format!("keybearer: {text}\n"))
}

fn headers(fields: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let parsed = field.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let value: HeaderValue = value.trim().parse().ok()?;
            Some((name, value))
        });
        let Some((name, value)) = parsed else {
            return Err(bad("a header is written as -H \"name: value\"".into()));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

struct Decision {
    request: String,
    outcome: Result<Forwarded, Refused>,
    near: Vec<NearMiss>,
}

struct Forwarded {
    route: String,
    profile: Option<String>,
    /// Profiles whose credentials go with its own.
    also: Vec<String>,
    upstream: String,
}

impl Forwarded {
    fn profiles(&self) -> String {
        let own = self.profile.as_deref().unwrap_or("none (no credential)");
        if self.also.is_empty() { own.to_owned() } else { format!("{own}, also {}", self.also.join(", ")) }
    }
}

struct Refused {
    route: Option<String>,
    fault: Fault,
    why: String,
}

fn decide(
    table: &Table<RouteSettings>,
    head: &Head<'_>,
    uri: &Uri,
    reading: &path::Reading<'_>,
    profiles: &[token::Settings],
) -> Result<Forwarded, Refused> {
    use crate::proxy::fault::BadRequest;
    let refuse = |route: Option<&Entry<RouteSettings>>, fault: Fault, why: String| Refused {
        route: route.map(|entry| entry.name.clone()),
        fault,
        why,
    };
    if matches!(*head.method, Method::TRACE | Method::CONNECT) {
        return Err(refuse(None, Fault::MethodRefused, format!("{} is never forwarded", head.method)));
    }
    let Some(entry) = table.find(head) else {
        return Err(match reading.refused_by(path::Check::Strict) {
            Some(flaw) => ambiguous(None, flaw),
            None => refuse(None, Fault::NoRoute, "no route matches".into()),
        });
    };
    let settings = &entry.target;
    if settings.profile.is_some()
        && let Some(flaw) = reading.refused_by(settings.path_check)
    {
        return Err(ambiguous(Some(entry.name.clone()), flaw));
    }
    if !target::is_usual(head.method) && !entry.rule.methods.contains(head.method) {
        let why = format!("{} is not usual, so the route must list it in methods", head.method);
        return Err(refuse(Some(entry), Fault::MethodRefused, why));
    }
    let target = target::upstream_target(settings, entry.rule.path.as_str(), uri).map_err(|_| {
        refuse(Some(entry), Fault::BadRequest(BadRequest::Target), BadRequest::Target.to_string())
    })?;
    let profile = profiles.iter().find(|known| Some(&known.profile.name) == settings.profile.as_ref());
    Ok(Forwarded {
        route: entry.name.clone(),
        profile: settings.profile.clone(),
        also: profile.map(|profile| profile.also.clone()).unwrap_or_default(),
        upstream: format!("{}{target}", settings.upstream),
    })
}

fn ambiguous(route: Option<String>, flaw: path::Flaw) -> Refused {
    let bad = crate::proxy::fault::BadRequest::Path(flaw);
    Refused { route, why: bad.to_string(), fault: Fault::BadRequest(bad) }
}

impl Decision {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.request);
        // Writing to a string does not fail.
        let _ = match &self.outcome {
            Ok(forwarded) => writeln!(
                out,
                "  route     {}\n  profile   {}\n  upstream  {}",
                forwarded.route,
                forwarded.profiles(),
                forwarded.upstream
            ),
            Err(refused) => writeln!(
                out,
                "  {} {}: {}{}",
                refused.fault.status().as_u16(),
                refused.fault.code(),
                refused.why,
                refused.route.as_ref().map_or(String::new(), |route| format!(" (route \"{route}\")"))
            ),
        };
        if !self.near.is_empty() {
            out.push_str("\nother routes, nearest first\n");
        }
        for miss in &self.near {
            let _ = writeln!(out, "  {}: {}", miss.route, miss.reasons.join("; "));
        }
        out
    }

    fn json(&self) -> Value {
        let near: Vec<Value> =
            self.near.iter().map(|m| json!({"route": m.route, "reasons": m.reasons})).collect();
        match &self.outcome {
            Ok(f) => json!({
                "request": self.request,
                "route": f.route,
                "profile": f.profile,
                "also": f.also,
                "upstream": f.upstream,
                "fault": null,
                "near_misses": near,
            }),
            Err(r) => json!({
                "request": self.request,
                "route": r.route,
                "profile": null,
                "upstream": null,
                "fault": {"status": r.fault.status().as_u16(), "code": r.fault.code(), "detail": r.why},
                "near_misses": near,
            }),
        }
    }
}
