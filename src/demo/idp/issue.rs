//! Making and judging the demo's tokens: RS256 JWTs with the claims of Entra's version 2.
//!
//! One RSA key per process, made at first use. Revocation is a register of serial numbers, which
//! every token carries in its `uti`. Who may have a token is decided in `door`, not here.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest, rand,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::loopback::lock;
use crate::clock;

/// What a token says, after it was found good.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    /// For whom the token is: the audience GUID of the API.
    pub aud: String,
    /// Who issued it.
    pub iss: String,
    /// The account (client id) that it was issued to.
    pub azp: String,
    /// App roles. Empty on the policy door, which puts them into `scp`.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Roles of the policy door or scopes of the plain door, separated by spaces.
    #[serde(default)]
    pub scp: String,
    /// Unique for each token.
    pub uti: String,
    nbf: u64,
    /// `exp` has whole seconds; tests with short lifetimes need the exact end.
    demo_exp_ms: u64,
}

impl Claims {
    /// Whether the token carries the role, in `roles` or in `scp`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role) || self.scp.split(' ').any(|r| r == role)
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a JWT of this issuer's make.
    Malformed,
    /// The signature does not fit.
    Signature,
    /// Issued by somebody else.
    Issuer,
    /// Issued for another API.
    Audience,
    /// `nbf` lies in the future.
    NotYetValid,
    /// Its lifetime is over.
    Expired,
    /// Taken back.
    Revoked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Malformed => "The token is malformed",
            Reason::Signature => "The signature is invalid",
            Reason::Issuer => "The issuer is invalid",
            Reason::Audience => "The audience is invalid",
            Reason::NotYetValid => "The token is not yet valid",
            Reason::Expired => "The token is expired",
            Reason::Revoked => "The token is revoked",
        })
    }
}

/// What `door` decided about a token to make.
pub(super) struct Grant {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) client_id: String,
    pub(super) tenant_id: String,
    pub(super) lifetime: Duration,
    /// `roles` or `scp`, and on the policy door `tfp`.
    pub(super) rights: Vec<(&'static str, Value)>,
}

/// The register of one identity provider's tokens.
#[derive(Default)]
pub(super) struct Register {
    serial: AtomicU64,
    revoked: Mutex<Revoked>,
}

#[derive(Default)]
struct Revoked {
    /// Every token up to this serial number.
    up_to: u64,
    single: HashSet<u64>,
}

impl Register {
    /// Signs a token, different from every other.
    pub(super) fn issue(&self, grant: &Grant) -> String {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        let mut unique = serial.to_be_bytes().to_vec();
        unique.extend_from_slice(&random::<8>());
        let now = unix_ms();
        let end = now.saturating_add(u64::try_from(grant.lifetime.as_millis()).unwrap_or(u64::MAX));
        let subject = guid(sha256(grant.client_id.as_bytes()));
        let mut claims = json!({
            "aud": grant.audience, "iss": grant.issuer,
            "iat": now / 1000, "nbf": now / 1000, "exp": end.div_ceil(1000),
            "azp": grant.client_id, "azpacr": "1", "idtyp": "app",
            "oid": subject, "sub": subject, "tid": grant.tenant_id,
            "uti": URL_SAFE_NO_PAD.encode(unique), "ver": "2.0", "demo_exp_ms": end,
        });
        if let Some(members) = claims.as_object_mut() {
            members.extend(grant.rights.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        let mut token = format!("{}.{}", header(), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; key().public_modulus_len()];
        key()
            .sign(&RSA_PKCS1_SHA256, &rand::SystemRandom::new(), token.as_bytes(), &mut signature)
            .expect("the buffer has the length of the modulus");
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        token
    }

    /// Takes back every token issued until now.
    pub(super) fn revoke_all(&self) {
        lock(&self.revoked).up_to = self.serial.load(Ordering::SeqCst);
    }

    /// Takes one token back; text that is no token of ours is ignored.
    pub(super) fn revoke(&self, token: &str) {
        if let Ok(claims) = read(token) {
            lock(&self.revoked).single.extend(serial_of(&claims));
        }
    }

    /// Whether the token was taken back.
    pub(super) fn is_revoked(&self, token: &str) -> bool {
        read(token).is_ok_and(|claims| self.has_revoked(&claims))
    }

    /// Judges a token whose issuer must begin with `base`.
    pub(super) fn verify(&self, token: &str, base: &str, audience: &str) -> Result<Claims, Reason> {
        let claims = read(token)?;
        let now = unix_ms();
        let ours = claims.iss.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !ours {
            Err(Reason::Issuer)
        } else if claims.aud != audience {
            Err(Reason::Audience)
        } else if claims.nbf.saturating_mul(1000) > now {
            Err(Reason::NotYetValid)
        } else if claims.demo_exp_ms <= now {
            Err(Reason::Expired)
        } else if self.has_revoked(&claims) {
            Err(Reason::Revoked)
        } else {
            Ok(claims)
        }
    }

    fn has_revoked(&self, claims: &Claims) -> bool {
        let revoked = lock(&self.revoked);
        serial_of(claims).is_some_and(|serial| serial <= revoked.up_to || revoked.single.contains(&serial))
    }
}

/// The key set that verifies these tokens.
pub(super) fn key_set() -> Value {
    let public = key().public_key();
    json!({"keys": [{
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key_id(),
        "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
        "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
    }]})
}

/// Formats 16 bytes as Entra prints its identifiers.
pub(super) fn guid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let mut text = String::with_capacity(36);
    for (i, c) in hex.chars().enumerate() {
        if matches!(i, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(c);
    }
    text
}

/// Fresh bytes from the system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Signature and form only: who it is for and whether it still counts is `verify`.
fn read(token: &str) -> Result<Claims, Reason> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
    let (head, claims) = signed.split_once('.').ok_or(Reason::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Reason::Malformed)?;
    if head != header() {
        return Err(Reason::Malformed);
    }
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key().public_key())
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| Reason::Signature)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Reason::Malformed)?;
    serde_json::from_slice(&claims).map_err(|_| Reason::Malformed)
}

fn serial_of(claims: &Claims) -> Option<u64> {
    let unique = URL_SAFE_NO_PAD.decode(&claims.uti).ok()?;
    unique.first_chunk::<8>().map(|serial| u64::from_be_bytes(*serial))
}

fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).expect("the system can make an RSA key"))
}

fn key_id() -> String {
    URL_SAFE_NO_PAD.encode(sha256(key().public_key().as_ref()))
}

fn header() -> &'static str {
    static HEADER: OnceLock<String> = OnceLock::new();
    HEADER.get_or_init(|| {
        URL_SAFE_NO_PAD.encode(json!({"alg": "RS256", "kid": key_id(), "typ": "JWT"}).to_string())
    })
}

/// The first half of the digest: enough for an identifier.
fn sha256(text: &[u8]) -> [u8; 16] {
    let digest = digest::digest(&digest::SHA256, text);
    digest.as_ref().first_chunk::<16>().copied().unwrap_or_default()
}
