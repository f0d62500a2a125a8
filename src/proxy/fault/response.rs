//! What a fault looks like to a caller: a problem document, or a status of gRPC's own.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header};
use serde_json::json;

use crate::proxy::{fault::Fault, headers::REQUEST_ID};

/// What a fault happened to.
pub struct About<'a> {
    /// The route, when it is known.
    pub route: Option<&'a str>,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The request is a gRPC call, whose caller understands gRPC's statuses only.
    pub is_grpc: bool,
    /// The caller's protocol.
    pub version: Version,
}

impl Fault {
    /// The response.
    pub fn response(&self, about: &About<'_>) -> Response<Bytes> {
        let facts = self.facts();
        let mut response = if about.is_grpc { self.grpc(about) } else { self.problem(about) };
        let proxy_status = format!("keybearer; error={}; details=\"{}\"", facts.proxy_error, facts.code);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("proxy-status", text(&proxy_status));
        headers.insert(REQUEST_ID, about.request_id.clone());
        if let Some(span) = self.retry_after() {
            // Rounded up: a caller that comes back a moment early finds the same fault.
            let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        // HTTP/2 has no such field: one stream's trouble is not the connection's.
        if facts.closes && about.version != Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn problem(&self, about: &About<'_>) -> Response<Bytes> {
        let facts = self.facts();
        let problem = json!({
            "type": "about:blank",
            "title": facts.title,
            "status": facts.status.as_u16(),
            "code": facts.code,
            "detail": self.detail(about.route),
            "route": about.route,
            "request_id": about.request_id.to_str().unwrap_or_default(),
        });
        let mut response = Response::new(Bytes::from(problem.to_string() + "\n"));
        *response.status_mut() = facts.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self, Fault::MethodRefused(_) | Fault::LastHop) {
            let usual = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";
            headers.insert(header::ALLOW, HeaderValue::from_static(usual));
        }
        response
    }

    /// "Trailers-Only" of the gRPC protocol over HTTP/2: status 200, everything in the header.
    fn grpc(&self, about: &About<'_>) -> Response<Bytes> {
        let words = format!("{}: {}", self.code(), self.detail(about.route));
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", text(grpc_code(self.status())));
        headers.insert("grpc-message", text(&percent_encoded(&words)));
        response
    }
}

/// gRPC's own mapping of HTTP statuses to codes.
fn grpc_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 431 | 413 | 414 | 500 => "13",
        404 | 405 => "12",
        408 | 429 | 502..=504 => "14",
        _ => "2",
    }
}

/// As gRPC wants its messages: printable ASCII as it is, all else and the percent sign encoded.
fn percent_encoded(words: &str) -> String {
    let encode = |byte: u8| match byte {
        b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    words.bytes().map(encode).collect()
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("printable ASCII is legal in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_call_gets_a_grpc_status() {
        let about = About {
            route: Some("orders"),
            request_id: &HeaderValue::from_static("id"),
            is_grpc: true,
            version: Version::HTTP_2,
        };
        let response = Fault::UpstreamUnreachable.response(&about);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.headers()["grpc-message"].to_str().unwrap().starts_with("upstream_unreachable: "));
        assert!(response.body().is_empty());
        assert_eq!(Fault::NoRoute.response(&about).headers()["grpc-status"], "12");
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encoded("100 % schön"), "100 %25 sch%C3%B6n");
    }
}
