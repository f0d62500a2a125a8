//! Judging the assertions by which accounts prove themselves: with a certificate that is registered for
//! them, or with the token of a workload that they trust.
//!
//! Like Entra it is lenient about form. Told to be strict, it is as strict as the RFCs let a server be.

use std::{collections::HashSet, sync::Mutex};

use aws_lc_rs::{
    digest,
    signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Account, issue::unix_ms, loopback::lock, refusal::Refusal};

/// RFC 7523 §2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The audience of workload tokens, as Entra documents it.
pub const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";
/// Clocks may be apart by this much.
const LEEWAY_SECONDS: f64 = 15.0;
/// Keycloak takes no older assertion of a client, whenever that ends, and allows for no clock that is apart.
const AGE_SECONDS_MAX: u64 = 60;
/// And so far ahead is the clock by which that is judged here.
const AHEAD_SECONDS: u64 = 2;

/// Whose workload tokens an account trusts: Entra's federated identity credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// `sub`, byte for byte.
    pub subject: String,
    /// The certificate (DER) whose key signs the tokens.
    pub certificate: Vec<u8>,
}

/// The `jti`s that were seen.
#[derive(Default)]
pub(super) struct Seen(Mutex<HashSet<String>>);

/// What arrived, and at which door.
pub(super) struct Presented<'a> {
    pub(super) assertion: &'a str,
    pub(super) kind: Option<&'a str>,
    pub(super) client_id: &'a str,
    pub(super) token_url: &'a str,
    pub(super) strict: bool,
}

struct Jwt<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl Presented<'_> {
    /// Whether the assertion proves `account`.
    pub(super) fn judge(&self, account: &Account, seen: &Seen) -> Result<(), Refusal> {
        if self.kind != Some(JWT_BEARER) {
            return Err(Refusal::malformed("The client_assertion_type is not supported."));
        }
        let jwt =
            Jwt::read(self.assertion).ok_or_else(|| refused(50_027, "JWT token is invalid or malformed."))?;
        let is_own = jwt.text("iss") == Some(self.client_id);
        let certificate = if is_own { self.registered(&jwt, account)? } else { trusted(&jwt, account)? };
        if !jwt.is_signed_by(certificate) {
            return Err(refused(
                700_027,
                "The certificate used to sign the client assertion is not registered on application, or the signature is invalid.",
            ));
        }
        let audience = if is_own { self.token_url } else { EXCHANGE_AUDIENCE };
        if jwt.text("aud") != Some(audience) {
            let code = if is_own { 700_023 } else { 700_212 };
            return Err(refused(code, "Client assertion audience claim does not match."));
        }
        let now = unix_ms() as f64 / 1000.0;
        let starts = jwt.number("nbf").unwrap_or(0.0);
        if jwt.number("exp").is_none_or(|end| end + LEEWAY_SECONDS < now) || starts - LEEWAY_SECONDS > now {
            return Err(refused(700_024, "Client assertion is not within its valid time range."));
        }
        if self.strict && is_own {
            jwt.check_form(unix_ms() / 1000 + AHEAD_SECONDS)?;
            let id = jwt.text("jti").unwrap_or_default().to_owned();
            if id.is_empty() || !lock(&seen.0).insert(id) {
                return Err(refused(50_012, "The client assertion was used before."));
            }
        }
        Ok(())
    }

    /// The certificate that the header names by its thumbprint.
    fn registered<'c>(&self, jwt: &Jwt<'_>, account: &'c Account) -> Result<&'c [u8], Refusal> {
        if jwt.text("sub") != Some(self.client_id) {
            return Err(refused(
                700_021,
                "Client assertion application identifier doesn't match 'client_id' parameter.",
            ));
        }
        let named = |name: &str, algorithm: &'static digest::Algorithm| {
            let print = self.decoded(jwt.header.get(name)?.as_str()?)?;
            let is_it = |der: &&Vec<u8>| digest::digest(algorithm, der).as_ref() == print;
            account.certificates.iter().find(is_it)
        };
        let found =
            named("x5t#S256", &digest::SHA256).or_else(|| named("x5t", &digest::SHA1_FOR_LEGACY_USE_ONLY));
        found.map(Vec::as_slice).ok_or_else(|| {
            refused(700_027, "The certificate with identifier used to sign the client assertion is not registered on application.")
        })
    }

    fn decoded(&self, text: &str) -> Option<Vec<u8>> {
        if self.strict {
            return decode(text);
        }
        // Clients are met that send standard base64 and padding here.
        decode(&text.trim_end_matches('=').replace('+', "-").replace('/', "_"))
    }
}

/// The certificate of the issuer that the account trusts.
fn trusted<'c>(jwt: &Jwt<'_>, account: &'c Account) -> Result<&'c [u8], Refusal> {
    let issuer = jwt.text("iss");
    let mut of_issuer = account.trusts.iter().filter(|trust| issuer == Some(&trust.issuer)).peekable();
    if of_issuer.peek().is_none() {
        return Err(refused(
            700_211,
            "No matching federated identity record found for presented assertion issuer.",
        ));
    }
    let found = of_issuer.find(|trust| jwt.text("sub") == Some(&trust.subject));
    found.map(|trust| trust.certificate.as_slice()).ok_or_else(|| {
        refused(700_213, "No matching federated identity record found for presented assertion subject.")
    })
}

impl<'a> Jwt<'a> {
    fn read(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| serde_json::from_slice(&decode(part)?).ok();
        Some(Self { header: object(header)?, claims: object(claims)?, signed, signature: decode(signature)? })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    fn number(&self, name: &str) -> Option<f64> {
        let value = self.claims.get(name)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    }

    fn is_signed_by(&self, certificate: &[u8]) -> bool {
        let parameters: &'static RsaParameters = match self.header.get("alg").and_then(Value::as_str) {
            Some("PS256") => &RSA_PSS_2048_8192_SHA256,
            Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let key = UnparsedPublicKey::new(parameters, &parsed.public_key().subject_public_key.data);
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }

    /// What a strict server may demand: whole numbers, a life of no more than five minutes, and little of it gone.
    fn check_form(&self, now: u64) -> Result<(), Refusal> {
        let whole = |name: &str| self.claims.get(name).and_then(Value::as_u64);
        match (whole("exp"), whole("iat"), whole("nbf")) {
            (_, Some(start), _) if now > start.saturating_add(AGE_SECONDS_MAX) => {
                Err(refused(700_024, "The client assertion was issued too far in the past."))
            }
            (Some(end), Some(start), Some(_)) if end.saturating_sub(start) <= 300 => Ok(()),
            _ => Err(refused(50_027, "JWT token is invalid or malformed.")),
        }
    }
}

fn refused(code: u32, words: &str) -> Refusal {
    Refusal::new(401, "invalid_client", code, words)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
