//! The request target that an upstream gets, from the route's settings and the caller's target.

use std::borrow::Cow;

use http::{Method, Uri, uri::PathAndQuery};

use crate::{
    proxy::{
        fault::{BadRequest, Fault},
        settings::RouteSettings,
    },
    route::path,
};

/// Methods that every route takes. Any other, such as PROPFIND, must be named in `methods`.
pub fn is_usual(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::OPTIONS
            | Method::PATCH
    )
}

/// The upstream's base path, then the canonical path without the stripped `prefix`, then the query as
/// it came. Never a scheme or an authority.
///
/// # Errors
/// [`BadRequest::Target`] when the result is no request target.
pub fn upstream_target(settings: &RouteSettings, prefix: &str, uri: &Uri) -> Result<Uri, Fault> {
    let reading = path::read(uri.path());
    if matches!(reading.path, Cow::Borrowed(_))
        && settings.base_path.is_none()
        && !settings.strip_path
        && let Some(target) = uri.path_and_query()
    {
        let target = Uri::from(target.clone());
        if begins_with_slash(&target) {
            return Ok(target);
        }
    }
    let mut path = reading.path.as_ref();
    if settings.strip_path {
        path = path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or(path);
        // A lenient route may have let `//` through: what is left must not look like `//host`.
        while path.starts_with("//") {
            path = path.strip_prefix('/').unwrap_or(path);
        }
    }
    let base = settings.base_path.as_ref().map_or("", |base| base.path().trim_end_matches('/'));
    let slash = if path.is_empty() && base.is_empty() { "/" } else { "" };
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let target: PathAndQuery =
        format!("{base}{slash}{path}{query}").parse().map_err(|_| Fault::BadRequest(BadRequest::Target))?;
    let target = Uri::from(target);
    if begins_with_slash(&target) { Ok(target) } else { Err(Fault::BadRequest(BadRequest::Target)) }
}

/// Whether `target`, which has no authority, is written with a path (RFC 9112 §3.2.1). The library knows some
/// without one: of `http://host?x` there is only the query, of `#x` nothing, and neither would be a target.
fn begins_with_slash(target: &Uri) -> bool {
    let written = target.path_and_query().map_or("", PathAndQuery::as_str);
    target.path().starts_with('/') && written.starts_with('/')
}

/// Whether a target of HTTP/2 is a path with perhaps a query, of visible ASCII, or `*`: what a request line
/// can hold. The library takes more, and cuts off what stands behind a `#`.
pub fn is_written_in_full(target: &PathAndQuery) -> bool {
    // The library shows one of nothing as `/`, and yet knows it from one.
    let is_empty = target.as_str() == "/" && *target != PathAndQuery::from_static("/");
    let written = target.as_str();
    !is_empty
        && (written.starts_with('/') || written == "*")
        && written.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Origin, Scheme};

    fn check(base: Option<&str>, strip: Option<&str>, asked: &str, expected: &str) {
        let settings = RouteSettings {
            upstream: Origin::new(Scheme::Http, "up".into(), 80),
            base_path: base.map(|base| base.parse().unwrap()),
            profile: None,
            strip_path: strip.is_some(),
            preserve_host: false,
            pass_authorization: false,
            path_check: path::Check::Strict,
            replay_limit_bytes: 0,
            body_bytes_max: u64::MAX,
            underscores: Default::default(),
            forwarded: Default::default(),
            websocket: true,
            http2_offers: Default::default(),
            response_timeout: None,
            expect_continue: None,
        };
        let target = upstream_target(&settings, strip.unwrap_or("/"), &asked.parse().unwrap()).unwrap();
        assert_eq!(target.to_string(), expected, "{base:?} {strip:?} {asked}");
        // What HTTP/2 sends.
        assert_eq!(target.path_and_query().unwrap().as_str(), expected, "{base:?} {strip:?} {asked}");
    }

    #[test]
    fn the_target_is_base_path_then_path_then_query() {
        check(None, None, "/v1/orders?a=b&c=%2F", "/v1/orders?a=b&c=%2F");
        check(None, None, "http://host/v1?x", "/v1?x");
        check(Some("/api"), None, "/v1/orders", "/api/v1/orders");
        check(Some("/api"), None, "/", "/api/");
        check(None, None, "/%6frders", "/orders");
    }

    #[test]
    fn a_target_without_a_path_gets_one() {
        for (target, expected) in [("?x", "/?x"), ("?", "/?"), ("#", "/"), ("#x", "/"), ("/", "/")] {
            check(None, None, &format!("http://host{target}"), expected);
        }
        for (base, strip) in [(Some("/api"), None), (None, Some("/"))] {
            let slash = if base.is_some() { "/api/" } else { "/" };
            check(base, strip, "http://host#x", slash);
            check(base, strip, "http://host?x", &format!("{slash}?x"));
        }
    }

    #[test]
    fn a_target_of_http_2_is_a_path_of_visible_ascii() {
        for (target, is_sound) in [
            ("/", true),
            ("/v1?a=b", true),
            ("*", true),
            ("#", false),
            ("#x", false),
            ("?x", false),
            ("?", false),
            ("/v1?\u{e9}", false),
            ("/\u{e9}", false),
        ] {
            assert_eq!(is_written_in_full(&target.parse().unwrap()), is_sound, "{target}");
        }
    }

    #[test]
    fn the_matched_prefix_is_taken_off_and_never_leaves_a_host() {
        check(None, Some("/v1"), "/v1/orders?q", "/orders?q");
        check(None, Some("/v1"), "/v1", "/");
        check(None, Some("/v1"), "/v1/", "/");
        check(Some("/api"), Some("/v1"), "/v1/orders", "/api/orders");
        check(Some("/api"), Some("/v1"), "/v1?q", "/api?q");
        check(None, Some("/"), "/v1", "/v1");
        check(None, Some("/v1"), "/v1//evil.example/x", "/evil.example/x");
        check(None, Some("/v1"), "/v1////evil.example", "/evil.example");
    }
}
