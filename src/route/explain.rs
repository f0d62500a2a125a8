//! Why the other routes do not take a request, in words for a person.
//!
//! It never shows a header value of the request, which may be a secret.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::route::pattern::fold;
use crate::route::{Head, Rule, Table};

/// A route that does not take a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The route's name.
    pub route: String,
    /// One sentence for each criterion that failed.
    pub reasons: Vec<String>,
}

impl<T> Table<T> {
    /// The `limit` routes that come nearest to taking the request without doing so: first those which
    /// match but are less specific, then those that fail the fewest criteria.
    pub fn explain(&self, head: &Head<'_>, limit: usize) -> Vec<NearMiss> {
        let host = fold(head.host);
        let winner = self.find(head);
        let is_winner = |name: &str| winner.is_some_and(|winner| winner.name == name);
        let mut others: Vec<_> = self.entries().iter().filter(|entry| !is_winner(&entry.name)).collect();
        others.sort_by_cached_key(|entry| distance(&entry.rule, head, &host));
        let explained = others.into_iter().take(limit).map(|entry| {
            let mut reasons = reasons(&entry.rule, head, &host);
            if let (Some(winner), true) = (winner, reasons.is_empty()) {
                reasons.push(format!("matches too, but route {:?} is more specific", winner.name));
            }
            NearMiss { route: entry.name.clone(), reasons }
        });
        explained.collect()
    }
}

/// How far a request is from a rule: by the number of failed criteria, then a wrong host or path is
/// farther than a wrong method or header, since it is more rarely what the reader asks about.
fn distance(rule: &Rule, head: &Head<'_>, host: &str) -> (usize, bool, bool) {
    let wrong_host = !has_host(rule, host);
    let wrong_path = !rule.path.is_match(head.path);
    let wrong_method = !rule.has_method(head.method);
    let wrong_headers = rule
        .headers
        .iter()
        .filter(|(name, value)| header_reason(head.headers, name, value).is_some())
        .count();
    let failed =
        usize::from(wrong_host) + usize::from(wrong_path) + usize::from(wrong_method) + wrong_headers;
    (failed, wrong_host, wrong_path)
}

fn reasons(rule: &Rule, head: &Head<'_>, host: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if let (Some(pattern), false) = (&rule.host, has_host(rule, host)) {
        reasons.push(format!("host is {host:?}, the route wants \"{pattern}\""));
    }
    if !rule.path.is_match(head.path) {
        reasons.push(format!("path {:?} is not under \"{}\"", head.path, rule.path));
    }
    if !rule.has_method(head.method) {
        let wanted: Vec<_> = rule.methods.iter().map(http::Method::as_str).collect();
        reasons.push(format!("method {} is not one of {}", head.method, wanted.join(", ")));
    }
    reasons.extend(rule.headers.iter().filter_map(|(name, value)| {
        let what = header_reason(head.headers, name, value)?;
        Some(format!("header {name} {what}, the route wants \"{}\"", value.as_bytes().escape_ascii()))
    }));
    reasons
}

fn has_host(rule: &Rule, host: &str) -> bool {
    rule.host.as_ref().is_none_or(|pattern| pattern.is_match(host))
}

fn header_reason(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> Option<&'static str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Some("is missing"),
        (Some(_), Some(_)) => Some("is there more than once"),
        (Some(found), None) => (found != value).then_some("is different"),
    }
}
