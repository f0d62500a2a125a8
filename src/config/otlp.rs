//! Traces: from the file's words to settings.

use http::HeaderName;
use url::Url;

use super::{
    field::{Field, Named, given},
    file,
    file_profiles::Place,
    file_telemetry::Otlp,
    lower::Context,
    profiles::Account,
    urls,
};
use crate::{export, outbound::Roots, source::Source, telemetry::trace::Share};

/// Where a collector takes traces (OTLP over HTTP).
const PATH: &str = "/v1/traces";

/// Where spans go, if the file says so.
pub(super) fn lower(file: &file::File, cx: &Context<'_>) -> Option<export::Settings> {
    let (_, telemetry) = given(&file.telemetry)?;
    let (_, otlp) = given(&telemetry.otlp)?;
    let headers = given(&otlp.headers).map(|(_, all)| headers(file, all, cx)).unwrap_or_default();
    let endpoint = endpoint(&otlp.endpoint, !headers.is_empty(), cx);
    Some(export::Settings {
        headers,
        ca: given(&otlp.ca).and_then(|(_, ca)| ca.file.get()).map(|(at, path)| {
            let path = cx.path(path);
            if let Err(error) = Roots::read(&path) {
                cx.missing(at, format!("telemetry.otlp.ca: {error}"));
            }
            path
        }),
        share: share(otlp, cx),
        service: service(otlp, cx),
        endpoint: endpoint?,
    })
}

fn endpoint(field: &Field<String>, has_secrets: bool, cx: &Context<'_>) -> Option<Url> {
    let (at, text) = field.get()?;
    if text.contains(['?', '@']) {
        // It may be a key or a password.
        cx.findings.hide(at, 0);
    }
    let read = if has_secrets { urls::secure(text) } else { urls::server(text) };
    let mut url = match read {
        Ok(url) => url,
        Err(words) => {
            cx.problem(at, format!("telemetry.otlp.endpoint: {words}"));
            return None;
        }
    };
    if url.query().is_some() {
        cx.problem(at, "telemetry.otlp.endpoint: leave out the query (a key belongs into `headers`)");
        return None;
    }
    if url.port() == Some(4317) {
        let words = "port 4317 is usually OTLP over gRPC; traces are sent over HTTP, usually to port 4318";
        cx.findings.warn(at, format!("telemetry.otlp.endpoint: {words}"));
    }
    if !url.path().ends_with(PATH) {
        let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Some(url)
}

fn headers(file: &file::File, all: &Named<Place>, cx: &Context<'_>) -> Vec<(HeaderName, Source)> {
    let none = Named(Vec::new());
    let profiles = given(&file.profiles).map_or(&none, |(_, profiles)| profiles);
    let mut out: Vec<(HeaderName, Source)> = Vec::new();
    for (at, name, place) in all.iter() {
        let Ok(header) = name.parse::<HeaderName>() else {
            cx.problem(at, format!("telemetry.otlp.headers: {name:?} is not a header name"));
            continue;
        };
        if out.iter().any(|(known, _)| *known == header) {
            cx.problem(at, format!("telemetry.otlp.headers: {name:?} is there twice (case does not matter)"));
        }
        let key = format!("headers.{name}");
        let source = Account::of_collector(profiles, at, cx).secret(&key, place);
        out.extend(source.map(|source| (header, source)));
    }
    out
}

fn share(otlp: &Otlp, cx: &Context<'_>) -> Share {
    let Some((at, text)) = given(&otlp.sampling) else { return Share::ALL };
    let share = text.0.parse().ok().and_then(Share::of);
    if share.is_none() {
        cx.problem(at, format!("telemetry.otlp.sampling: {:?} is not a number from 0 to 1", text.0));
    }
    share.unwrap_or(Share::ALL)
}

fn service(otlp: &Otlp, cx: &Context<'_>) -> String {
    let Some((at, name)) = given(&otlp.service_name) else { return "keybearer".into() };
    if name.trim().is_empty() {
        cx.problem(at, "telemetry.otlp.service_name: the name is empty (leave the key out for keybearer)");
    }
    name.clone()
}
