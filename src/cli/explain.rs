//! `keybearer explain`: the decision about one request, without sending it.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};

use crate::{
    cli::{Configured, Failure},
    proxy::explain::{self, Decision, Forwarded, Question},
    route::Table,
};

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
    let question = Question { method: &method, uri: &uri, headers: &headers };
    let also = |name: &str| {
        let mut all = configured.loaded.settings.profiles.iter();
        all.find(|known| known.profile.name == name).map(|known| known.also.clone()).unwrap_or_default()
    };
    let decision = explain::decide(&table, &question, |entry| Some(&entry.target), also);
    let told = Told { request: format!("{method} {url}"), decision };
    Ok(if as_json { told.json().to_string() + "\n" } else { told.text() })
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

struct Told {
    request: String,
    decision: Decision,
}

fn profiles(forwarded: &Forwarded) -> String {
    let own = forwarded.profile.as_deref().unwrap_or("none (no credential)");
    if forwarded.also.is_empty() {
        own.to_owned()
    } else {
        format!("{own}, also {}", forwarded.also.join(", "))
    }
}

impl Told {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.request);
        // Writing to a string does not fail.
        let _ = match &self.decision.outcome {
            Ok(forwarded) => writeln!(
                out,
                "  route     {}\n  profile   {}\n  upstream  {}",
                forwarded.route,
                profiles(forwarded),
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
        if !self.decision.near.is_empty() {
            out.push_str("\nother routes, nearest first\n");
        }
        for miss in &self.decision.near {
            let _ = writeln!(out, "  {}: {}", miss.route, miss.reasons.join("; "));
        }
        if self.decision.more > 0 {
            let _ = writeln!(out, "  … {} more, farther away", self.decision.more);
        }
        out
    }

    fn json(&self) -> Value {
        let near: Vec<Value> =
            self.decision.near.iter().map(|m| json!({"route": m.route, "reasons": m.reasons})).collect();
        match &self.decision.outcome {
            Ok(f) => json!({
                "request": self.request,
                "route": f.route,
                "profile": f.profile,
                "also": f.also,
                "upstream": f.upstream,
                "fault": null,
                "near_misses": near,
                "more": self.decision.more,
            }),
            Err(r) => json!({
                "request": self.request,
                "route": r.route,
                "profile": null,
                "upstream": null,
                "fault": {"status": r.fault.status().as_u16(), "code": r.fault.code(), "detail": r.why},
                "near_misses": near,
                "more": self.decision.more,
            }),
        }
    }
}
