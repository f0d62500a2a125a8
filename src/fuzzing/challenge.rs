//! `WWW-Authenticate` of a hostile upstream: it may ask for a refresh or for claims that are an object.

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};

use crate::proxy::challenge::{Demand, demand};

/// Each line of the input is one field.
pub(super) fn target(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|b| *b == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let asked = demand(&headers, false);
    assert_ne!(asked, Demand::Nonce, "a nonce for a token that is bound to nothing");
    demand(&headers, true);
    assert_eq!(demand(&headers, false), asked, "the same challenge asks for two things");
    if headers.is_empty() {
        assert_eq!(asked, Demand::Refresh);
    }
    if let Demand::Claims(claims) = asked {
        let json: serde_json::Value = serde_json::from_str(&claims).expect("claims are JSON");
        assert!(json.is_object(), "claims are no object: {claims}");
    }
}
