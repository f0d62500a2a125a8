//! Who may use the API: everybody on the listener reads, those with the token or on a unix socket change.
//!
//! A web page in an operator's browser can send requests to loopback. It can neither name this host
//! as its own (`Host` is checked against DNS rebinding), nor send JSON without being asked first, nor does
//! it know the token.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, header, request::Parts};

use crate::{
    admin::changes::Refusal,
    admin::socket::Peer,
    route::authority,
    secret::{Fingerprint, Secret},
};

/// What the API lets in.
pub struct Access {
    /// Names that a `Host` may have besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The token for changes; `None` allows them on unix sockets only.
    pub token: Option<Fingerprint>,
    /// Whether the listener has TLS: then a name that somebody else pointed here is not in the certificate.
    pub has_tls: bool,
}

impl Access {
    /// Judges a request to the API or the page.
    ///
    /// # Errors
    /// [`Refusal`] with the reason.
    pub(super) fn check(&self, head: &Parts, peer: &Peer) -> Result<(), Refusal> {
        self.check_host(head, peer)?;
        // Other methods do nothing anywhere, and are told so.
        if !matches!(head.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
            return Ok(());
        }
        if head.headers.contains_key(header::ORIGIN) && !is_same_origin(&head.headers) {
            let detail = "another web page may not change anything here";
            return Err(refuse(StatusCode::FORBIDDEN, "origin_refused", detail));
        }
        if !is_json(&head.headers) {
            let detail = "changes are asked for with Content-Type: application/json";
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        if matches!(peer, Peer::Unix { .. }) || self.has_token(&head.headers) {
            return Ok(());
        }
        let detail = match self.token {
            Some(_) => {
                "changes need the admin token (Authorization: Bearer …); it is in the file admin-token of state_dir, or \
                 where admin.token says"
            }
            None => "changes need an admin token (set state_dir or admin.token), or a unix socket",
        };
        Err(refuse(StatusCode::UNAUTHORIZED, "token_needed", detail))
    }

    /// Judges a request for metrics or readiness, which tell names and errors. Over TLS whoever is configured to ask by
    /// name may: a browser would not come so far.
    ///
    /// # Errors
    /// [`Refusal`] with the reason.
    pub(super) fn check_reader(&self, head: &Parts, peer: &Peer) -> Result<(), Refusal> {
        // A probe of HTTP/1.0 names no host; every browser does.
        let is_named = head.uri.authority().is_some() || head.headers.contains_key(header::HOST);
        if self.has_tls || !is_named { Ok(()) } else { self.check_host(head, peer) }
    }

    fn check_host(&self, head: &Parts, peer: &Peer) -> Result<(), Refusal> {
        if matches!(peer, Peer::Unix { .. }) || self.is_own_host(head) {
            return Ok(());
        }
        let detail = "the Host of the request is no address of this gateway (use its IP address or localhost, or \
                      list the name in admin.hosts)";
        Err(refuse(StatusCode::MISDIRECTED_REQUEST, "host_unknown", detail))
    }

    fn is_own_host(&self, head: &Parts) -> bool {
        let named = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let field = head.headers.get(header::HOST).map(|host| host.as_bytes());
        let Some(host) = named.or(field).and_then(|host| authority::parse(host).ok()) else { return false };
        let name = host.host.trim_start_matches('[').trim_end_matches(']');
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = self.token else { return false };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        // Digests of a keyed hash: comparing them tells nothing about the token.
        given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer")
                && Secret::new(token.trim().to_owned()).fingerprint() == expected
        })
    }
}

/// The page that asks was served by this very host.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next()).map(str::trim);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

fn refuse(status: StatusCode, code: &'static str, detail: &str) -> Refusal {
    Refusal { status, code, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: http::request::Builder, peer: Peer) -> Result<(), &'static str> {
        let access = Access {
            hosts: vec!["gateway.internal".into()],
            token: Some(Secret::new("t0ken".into()).fingerprint()),
            has_tls: false,
        };
        let (head, ()) = request.body(()).unwrap().into_parts();
        access.check(&head, &peer).map_err(|refusal| refusal.code)
    }

    fn local() -> Peer {
        Peer::Ip("127.0.0.1:5000".parse().unwrap())
    }

    fn get(host: &str) -> http::request::Builder {
        http::Request::get("/api/v1/routes").header("host", host)
    }

    fn post() -> http::request::Builder {
        let request = http::Request::post("/api/v1/reload").header("host", "127.0.0.1:9901");
        request.header("content-type", "application/json; charset=utf-8")
    }

    #[test]
    fn a_name_that_somebody_pointed_at_loopback_reads_nothing() {
        assert_eq!(check(get("evil.example:9901"), local()), Err("host_unknown"));
        for own in ["127.0.0.1:9901", "[::1]:9901", "localhost:9901", "gateway.internal"] {
            assert_eq!(check(get(own), local()), Ok(()), "{own}");
        }
        let unix = Peer::Unix { user: 1000 };
        assert_eq!(check(get("anything"), unix), Ok(()));
    }

    #[test]
    fn metrics_are_read_by_name_over_tls_and_else_by_the_own_names_only() {
        let read = |request: http::request::Builder, has_tls| {
            let access = Access { hosts: Vec::new(), token: None, has_tls };
            let (head, ()) = request.body(()).unwrap().into_parts();
            access.check_reader(&head, &local()).map_err(|refusal| refusal.code)
        };
        assert_eq!(read(get("evil.example"), false), Err("host_unknown"));
        assert_eq!(read(get("evil.example"), true), Ok(()));
        assert_eq!(read(get("localhost:9901"), false), Ok(()));
        assert_eq!(read(http::Request::get("/readyz"), false), Ok(()), "a probe of HTTP/1.0");
    }

    #[test]
    fn changes_need_the_token_json_and_no_other_page() {
        assert_eq!(check(post(), local()), Err("token_needed"));
        let with = |token: &str| post().header("authorization", format!("Bearer {token}"));
        assert_eq!(check(with("t0ken"), local()), Ok(()));
        assert_eq!(check(with("t0ke"), local()), Err("token_needed"));
        assert_eq!(check(with("t0ken").header("origin", "http://127.0.0.1:9901"), local()), Ok(()));
        assert_eq!(
            check(with("t0ken").header("origin", "http://evil.example"), local()),
            Err("origin_refused")
        );
        assert_eq!(check(with("t0ken").header("origin", "null"), local()), Err("origin_refused"));
        let plain = http::Request::post("/api/v1/reload").header("host", "localhost");
        assert_eq!(check(plain.header("authorization", "Bearer t0ken"), local()), Err("not_json"));
        assert_eq!(check(post(), Peer::Unix { user: 0 }), Ok(()));
    }
}
