//! Proof of possession (RFC 9449): a token that only the holder of a key can use, and the proofs of it.
//!
//! A profile has one key, made when it starts and never written down. Each request gets a proof of its own.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    digest,
    rand::{self, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::{clock, profile::answer::Reply, secret::Secret};

/// The field with a proof.
pub const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The field in which a server says what the next proof must hold.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// Nobody's nonce is longer.
const NONCE_BYTES_MAX: usize = 512;
/// A profile talks to one provider and a few upstreams. With more servers the nonces start anew.
const SERVERS_MAX: usize = 64;

/// A profile's key, with what the servers it talks to want to read in proofs.
pub struct Key {
    pair: EcdsaKeyPair,
    /// The first part of every proof: type, algorithm and public key.
    head: String,
    thumbprint: String,
    random: SystemRandom,
    /// The newest nonce of each server, by its origin.
    nonces: ArcSwap<HashMap<String, String>>,
}

/// A proof's wish for a nonce, or the whole of a request that a proof is for.
pub struct Subject<'a> {
    /// The request's method.
    pub method: &'a str,
    /// Scheme and authority of the server.
    pub origin: &'a str,
    /// The path as it is sent. Query and fragment are no part of a proof.
    pub path: &'a str,
    /// The digest of the token that goes with it, see [`digest_of`].
    pub token: Option<&'a str>,
}

impl Key {
    /// A new key.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = pair.expect("the system's random source works");
        // Uncompressed: a 4, then both coordinates.
        let point = pair.public_key().as_ref();
        let (x, y) =
            point.get(1..).and_then(|xy| xy.split_at_checked(32)).expect("a point of P-256 has 65 bytes");
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        // RFC 7638: exactly these members in this order.
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let head = format!(r#"{{"typ":"dpop+jwt","alg":"ES256","jwk":{jwk}}}"#);
        Self {
            head: BASE64_URL_SAFE_NO_PAD.encode(head),
            thumbprint: digest_of(&Secret::new(jwk)),
            pair,
            random: SystemRandom::new(),
            nonces: ArcSwap::default(),
        }
    }

    /// The key's name (RFC 7638), which a bound token carries in `cnf.jkt`.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// A proof for one request, made now. `None` when the system gives no random numbers.
    pub fn proof(&self, subject: &Subject<'_>) -> Option<HeaderValue> {
        let mut id = [0; 16];
        rand::fill(&mut id).ok()?;
        let since_epoch = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "jti": BASE64_URL_SAFE_NO_PAD.encode(id),
            "htm": subject.method,
            "htu": format!("{}{}", subject.origin, subject.path),
            "iat": since_epoch.as_secs(),
        });
        if let Some(members) = claims.as_object_mut() {
            members.extend(subject.token.map(|digest| ("ath".to_owned(), digest.into())));
            let nonces = self.nonces.load();
            members
                .extend(nonces.get(subject.origin).map(|nonce| ("nonce".to_owned(), nonce.as_str().into())));
        }
        let signed = format!("{}.{}", self.head, BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        let proof = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let mut value = HeaderValue::from_str(&proof).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Keeps the nonce that a server's answer holds, if it holds one; says whether it did.
    pub fn learn(&self, origin: &str, answer: &HeaderMap) -> bool {
        let mut given = answer.get_all(DPOP_NONCE).iter();
        let (Some(nonce), None) = (given.next(), given.next()) else { return false };
        // RFC 9449 §8.1: visible ASCII without quote and backslash.
        let is_legal = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        let Some(nonce) = nonce.to_str().ok().filter(|nonce| {
            !nonce.is_empty() && nonce.len() <= NONCE_BYTES_MAX && nonce.as_bytes().iter().all(is_legal)
        }) else {
            return false;
        };
        if self.nonces.load().get(origin).is_none_or(|known| known != nonce) {
            self.nonces.rcu(|known| {
                let mut nonces =
                    if known.len() < SERVERS_MAX { HashMap::clone(known) } else { HashMap::new() };
                nonces.insert(origin.to_owned(), nonce.to_owned());
                nonces
            });
        }
        true
    }
}

/// What a proof says of a token: base64url of its SHA-256.
pub fn digest_of(token: &Secret) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.expose().as_bytes()))
}

/// Whether a token endpoint asks for the same request once more, with its nonce in the proof.
pub(super) fn wants_nonce(reply: &Reply) -> bool {
    let error = serde_json::from_slice(&reply.body).ok().and_then(|json: Value| json.get("error").cloned());
    reply.status.is_client_error() && error.as_ref().and_then(Value::as_str) == Some("use_dpop_nonce")
}

/// A bound token ready for requests.
#[derive(Clone)]
pub struct Bound {
    /// `DPoP` and the token, marked sensitive.
    pub authorization: HeaderValue,
    /// See [`digest_of`].
    pub digest: Arc<str>,
    /// What proves that it is ours.
    pub key: Arc<Key>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.thumbprint)
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound({:?})", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(proof: &HeaderValue, index: usize) -> Value {
        let part = proof.to_str().unwrap().split('.').nth(index).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn subject<'a>(token: Option<&'a str>) -> Subject<'a> {
        Subject { method: "POST", origin: "https://a.example", path: "/token", token }
    }

    #[test]
    fn a_proof_verifies_with_the_key_in_it_and_says_what_it_is_for() {
        let key = Key::generate();
        let proof = key.proof(&subject(Some("digest"))).unwrap();
        let (head, claims) = (part(&proof, 0), part(&proof, 1));
        assert_eq!((&head["typ"], &head["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
        assert_eq!(head["jwk"].as_object().unwrap().len(), 4, "only the public key");
        assert_eq!((&claims["htm"], &claims["htu"]), (&json!("POST"), &json!("https://a.example/token")));
        assert_eq!((&claims["ath"], &claims["nonce"]), (&json!("digest"), &Value::Null));
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(head["jwk"].clone()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        jsonwebtoken::decode::<Value>(proof.to_str().unwrap(), &decoding, &rules).unwrap();
        assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), key.thumbprint());
    }

    #[test]
    fn no_two_proofs_are_the_same_and_none_shows_what_it_is_made_with() {
        let key = Key::generate();
        let one = key.proof(&subject(None)).unwrap();
        let other = key.proof(&subject(None)).unwrap();
        assert_ne!(part(&one, 1)["jti"], part(&other, 1)["jti"]);
        assert!(one.is_sensitive());
        assert_eq!(part(&one, 1)["ath"], Value::Null);
    }

    #[test]
    fn the_newest_nonce_of_each_server_goes_into_its_proofs() {
        let key = Key::generate();
        let answer =
            |nonce: &str| HeaderMap::from_iter([(DPOP_NONCE, HeaderValue::from_str(nonce).unwrap())]);
        assert!(key.learn("https://a.example", &answer("n1")));
        assert!(key.learn("https://a.example", &answer("n2")));
        assert!(key.learn("https://b.example", &answer("n3")));
        assert_eq!(part(&key.proof(&subject(None)).unwrap(), 1)["nonce"], "n2");
        for bad in ["", "a\"b", "a b", &"n".repeat(NONCE_BYTES_MAX + 1)] {
            assert!(!key.learn("https://a.example", &answer(bad)), "{bad}");
        }
        assert!(!key.learn("https://a.example", &HeaderMap::new()));
        assert_eq!(part(&key.proof(&subject(None)).unwrap(), 1)["nonce"], "n2");
        for server in 0..SERVERS_MAX * 2 {
            key.learn(&format!("https://{server}.example"), &answer("n"));
        }
        assert!(key.nonces.load().len() <= SERVERS_MAX);
    }
}
