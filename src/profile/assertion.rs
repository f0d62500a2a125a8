//! Assertions: short signed statements by which a client proves who it is (RFC 7523, OpenID Connect
//! Core §9), or which it trades for a token.
//!
//! Each is made for one request: a server that checks for replay refuses a `jti` that it has seen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, rand};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{
    profile::key::{Algorithm, PrivateKey},
    secret::Secret,
};

/// The value of `client_assertion_type` for a JWT (RFC 7523 §2.2).
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// From `iat` to `exp`. Long enough for a slow network and a clock that is behind; Auth0 takes no more.
const LIFETIME: Duration = Duration::from_secs(300);
/// A gateway whose clock is a little ahead must not present what is not valid yet. But Keycloak takes nothing
/// that was issued more than a minute ago, and allows for no clock in that: most of the minute has to be left.
const BACK_DATED: Duration = Duration::from_secs(10);

/// For whom an assertion is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The URL that the request goes to.
    TokenEndpoint,
    /// The issuer identifier, or whatever else the server wants to be called.
    Literal(String),
}

/// What signs an assertion.
pub enum Signer<'a> {
    /// A private key.
    Key(&'a PrivateKey, Algorithm),
    /// A shared secret, for HS256 over its UTF-8 bytes.
    Secret(&'a Secret),
}

/// What an assertion says, beside the times and its unique id.
pub struct Statement<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `sub`, if there is one.
    pub subject: Option<&'a str>,
    /// `aud`: one value, never a list.
    pub audience: &'a str,
    /// `kid`, if the server knows the key by one: a wrong one makes it look for another key.
    pub key_id: Option<&'a str>,
    /// A certificate's thumbprint with the header's name for it, `x5t#S256` or `x5t`.
    pub thumbprint: Option<(&'static str, &'a str)>,
    /// Further claims.
    pub claims: Map<String, Value>,
}

impl Statement<'_> {
    /// The signed assertion, valid for five minutes, of which ten seconds are over at `now`.
    ///
    /// `None` when the key does not fit the algorithm, which reading the key has made sure of.
    pub fn sign(self, signer: &Signer<'_>, now: SystemTime) -> Option<Secret> {
        self.sign_for(LIFETIME, signer, now)
    }

    /// The same, valid for `lifetime`.
    pub fn sign_for(self, lifetime: Duration, signer: &Signer<'_>, now: SystemTime) -> Option<Secret> {
        let algorithm = match signer {
            Signer::Key(_, algorithm) => algorithm.name(),
            Signer::Secret(_) => "HS256",
        };
        let mut header = json!({"alg": algorithm, "typ": "JWT"});
        let mut claims = self.claims;
        if let Value::Object(header) = &mut header {
            header.extend(self.key_id.map(|id| ("kid".to_owned(), json!(id))));
            header.extend(self.thumbprint.map(|(name, print)| (name.to_owned(), json!(print))));
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = now.saturating_sub(BACK_DATED).as_secs();
        let end = start.saturating_add(lifetime.as_secs());
        claims.insert("iss".into(), json!(self.issuer));
        claims.extend(self.subject.map(|subject| ("sub".to_owned(), json!(subject))));
        claims.insert("aud".into(), json!(self.audience));
        claims.insert("jti".into(), json!(uuid()));
        // Whole numbers: not every server reads others.
        claims.insert("iat".into(), json!(start));
        claims.insert("nbf".into(), json!(start));
        claims.insert("exp".into(), json!(end));
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let mut text = format!("{}.{}", encode(&header), encode(&Value::Object(claims)));
        let signature = match signer {
            Signer::Key(key, algorithm) => key.sign(*algorithm, text.as_bytes())?,
            Signer::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
                hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
            }
        };
        text.push('.');
        text.push_str(&BASE64_URL_SAFE_NO_PAD.encode(signature));
        Some(Secret::new(text))
    }
}

/// A random UUID (RFC 9562 §5.4), from the system's random source: replicas must not meet.
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system's random source works");
    let n = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let (a, b, c) = ((n >> 96) as u32, (n >> 80) as u16, (n >> 64) as u16);
    let (d, e) = ((n >> 48) as u16, n as u64 & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}

/// The claims of a JWT, unverified: for what is only shown or compared, never for a decision to trust.
pub fn unverified_claims(token: &str) -> Option<Map<String, Value>> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    };

    use super::*;
    use crate::source::Source;

    fn statement() -> Statement<'static> {
        Statement {
            issuer: "client",
            subject: Some("client"),
            audience: "https://id.example.com/token",
            key_id: None,
            thumbprint: Some(("x5t#S256", "abc")),
            claims: Map::new(),
        }
    }

    fn parts(token: &Secret) -> (Map<String, Value>, Map<String, Value>) {
        let header = token.expose().split('.').next().unwrap();
        let header = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        (header, unverified_claims(token.expose()).unwrap())
    }

    #[test]
    fn an_assertion_says_who_to_whom_and_when_in_whole_seconds() {
        let secret = Secret::new("shared".into());
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_750);
        let token = statement().sign(&Signer::Secret(&secret), now).unwrap();
        let (header, claims) = parts(&token);
        assert_eq!(Value::Object(header), json!({"alg": "HS256", "typ": "JWT", "x5t#S256": "abc"}));
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("client"), Some("client")));
        assert_eq!(claims["aud"], "https://id.example.com/token");
        assert_eq!(claims["nbf"].as_u64(), Some(1_799_999_990));
        assert_eq!(claims["iat"], claims["nbf"]);
        assert_eq!(claims["exp"].as_u64(), Some(1_800_000_290));
    }

    /// Keycloak refuses what was issued more than a minute ago by its own clock, Auth0 what lives for more than
    /// five minutes.
    #[test]
    fn an_assertion_is_young_and_does_not_live_long() {
        let secret = Secret::new("shared".into());
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_750);
        for lifetime in [LIFETIME, Duration::from_secs(120)] {
            let token = statement().sign_for(lifetime, &Signer::Secret(&secret), now).unwrap();
            let claims = parts(&token).1;
            let (start, end) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
            assert!(end - start <= lifetime.as_secs(), "{start} {end}");
            assert!((1_799_999_990..=1_800_000_000).contains(&start), "{start}");
        }
    }

    #[test]
    fn no_two_assertions_have_one_jti() {
        let secret = Secret::new("shared".into());
        let mint = || statement().sign(&Signer::Secret(&secret), UNIX_EPOCH).unwrap();
        let ids: HashSet<String> = (0..100).map(|_| parts(&mint()).1["jti"].to_string()).collect();
        assert_eq!(ids.len(), 100);
        let id = uuid();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!("89ab".contains(char::from(id.as_bytes()[19])), "{id}");
    }

    #[test]
    fn every_algorithm_makes_signatures_that_its_verifier_takes() {
        let read = |pair: rcgen::KeyPair| {
            PrivateKey::from_pem(pair.serialize_pem().as_bytes(), &Source::Env("K".into())).unwrap()
        };
        let rsa = read(rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
        let p256 = read(rcgen::KeyPair::generate().unwrap());
        let check = |key: &PrivateKey, algorithm, verify: &dyn Fn(&[u8], &[u8]) -> bool| {
            let token = statement().sign(&Signer::Key(key, algorithm), UNIX_EPOCH).unwrap();
            let (signed, signature) = token.expose().rsplit_once('.').unwrap();
            assert_eq!(parts(&token).0["alg"], algorithm.name());
            assert!(verify(signed.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap()));
        };
        let verify_rsa = |params| {
            move |key: &[u8], m: &[u8], s: &[u8]| UnparsedPublicKey::new(params, key).verify(m, s).is_ok()
        };
        check(&rsa, Algorithm::Rs256, &|m, s| verify_rsa(&RSA_PKCS1_2048_8192_SHA256)(rsa.public(), m, s));
        check(&rsa, Algorithm::Ps256, &|m, s| verify_rsa(&RSA_PSS_2048_8192_SHA256)(rsa.public(), m, s));
        check(&p256, Algorithm::Es256, &|m, s| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, p256.public()).verify(m, s).is_ok()
        });
        assert!(statement().sign(&Signer::Key(&p256, Algorithm::Rs256), UNIX_EPOCH).is_none());
    }
}
