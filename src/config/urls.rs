//! URLs of servers that a secret or a token is sent to.
//!
//! Messages never repeat the URL: what is wrong with it may be a password.

use url::{Host, Url};

/// Reads an absolute http or https URL without user name, password and fragment.
pub(super) fn server(text: &str) -> Result<Url, String> {
    let example = "(as in https://host.example/path)";
    if !text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '\\' | '"' | '<' | '>')) {
        return Err(format!("a URL has only visible ASCII characters and no backslash {example}"));
    }
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err(format!("expected an http or https URL {example}"));
    }
    let url = Url::parse(text).map_err(|e| format!("not a URL: {e} {example}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a user name or password in the URL is not allowed (a profile carries the credential)".into()
        );
    }
    if url.fragment().is_some() {
        return Err("a fragment (`#…`) is not allowed".into());
    }
    Ok(url)
}

/// Reads a URL that secrets are sent to: https, or http to this machine.
pub(super) fn secure(text: &str) -> Result<Url, String> {
    let url = server(text)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(
            "plain http would show the secret to the network (write https; http is for loopback only)".into(),
        );
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The path of a URL as it was written, without query.
pub(super) fn raw_path(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = rest.get(..end).unwrap_or_default();
    rest.find('/').and_then(|start| rest.get(start..)).unwrap_or_default()
}
