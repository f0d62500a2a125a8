//! Who a request is from, told to the upstream: `Forwarded` (RFC 7239) or the older `X-Forwarded-*`.
//!
//! What a caller says of that itself is dropped unless the listener trusts it: it would be believed.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::proxy::settings::Forwarding;

const X_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The other end of the caller's connection; `None` on a unix socket.
    pub address: Option<IpAddr>,
    /// What it says of those before it is believed.
    pub is_trusted: bool,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// The host that it asked for.
    pub host: Option<&'a HeaderValue>,
}

/// Whether a field speaks of where a request comes from.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-") || *name == FORWARDED || *name == X_REAL_IP
}

/// Drops what is not believed and tells what is wanted.
pub fn tell(headers: &mut HeaderMap, how: Forwarding, source: &Source<'_>) {
    if !source.is_trusted {
        let names: Vec<HeaderName> = headers.keys().filter(|name| is_forwarding(name)).cloned().collect();
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
    let scheme = if source.is_tls { "https" } else { "http" };
    match how {
        Forwarding::Off => {}
        Forwarding::X => {
            if let Some(address) = source.address {
                headers.append(X_FOR, text(&address.to_string()));
            }
            headers.entry(X_PROTO).or_insert(HeaderValue::from_static(scheme));
            if let Some(host) = source.host {
                headers.entry(X_HOST).or_insert(host.clone());
            }
        }
        Forwarding::Rfc7239 => {
            let by = match source.address {
                Some(IpAddr::V4(ip)) => format!("for={ip}"),
                Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
                // RFC 7239 §6.3: an obfuscated name.
                None => "for=_local".to_owned(),
            };
            let host = source.host.and_then(|host| host.to_str().ok());
            let host = host.map_or(String::new(), |host| format!(";host=\"{host}\""));
            headers.append(FORWARDED, text(&format!("{by}{host};proto={scheme}")));
        }
    }
}

/// Addresses, schemes and hosts that were judged before are legal in a header; what is not is left out.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(how: Forwarding, address: Option<&str>, is_trusted: bool, pairs: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let host = HeaderValue::from_static("orders.internal:8080");
        let address = address.map(|address| address.parse().unwrap());
        tell(&mut headers, how, &Source { address, is_trusted, is_tls: true, host: Some(&host) });
        let mut out: Vec<String> =
            headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        out.sort_by_key(|line| line.split(':').next().unwrap().to_owned());
        out
    }

    const SPOOFED: [(&str, &str); 4] = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x-forwarded-groups", "admins"),
    ];

    #[test]
    fn what_a_stranger_says_of_itself_is_dropped_in_every_mode() {
        assert!(told(Forwarding::Off, Some("10.0.0.1"), false, &SPOOFED).is_empty());
        assert_eq!(
            told(Forwarding::X, Some("10.0.0.1"), false, &SPOOFED),
            [
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: orders.internal:8080",
                "x-forwarded-proto: https"
            ]
        );
        assert_eq!(
            told(Forwarding::Rfc7239, Some("2001:db8::1"), false, &SPOOFED),
            ["forwarded: for=\"[2001:db8::1]\";host=\"orders.internal:8080\";proto=https"]
        );
    }

    #[test]
    fn a_trusted_callers_words_are_kept_and_added_to() {
        let before = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "http")];
        assert_eq!(
            told(Forwarding::X, Some("10.0.0.1"), true, &before),
            [
                "x-forwarded-for: 1.2.3.4",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: orders.internal:8080",
                "x-forwarded-proto: http"
            ]
        );
        assert_eq!(told(Forwarding::Off, None, true, &before).len(), 2);
        assert_eq!(
            told(Forwarding::Rfc7239, None, true, &[("forwarded", "for=1.2.3.4")]),
            ["forwarded: for=1.2.3.4", "forwarded: for=_local;host=\"orders.internal:8080\";proto=https"]
        );
    }
}
