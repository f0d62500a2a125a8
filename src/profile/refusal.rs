//! Why an exchange gave no token, in words, and how soon asking again makes sense.
//!
//! The `error` member decides, then the HTTP status; Entra's numbers are hints that refine (Microsoft
//! may change them). A provider's own text goes to the log, shortened and cleaned, never to a caller.

use std::{fmt, time::Duration};

use reqwest::StatusCode;
use serde_json::{Map, Value};
use url::Url;

use crate::{
    outbound::{self, RootsError},
    profile::{
        answer::Reply,
        authentication::ProofError,
        client_secret::Oddity,
        diagnosis::{self, Code, Diagnosis, Family},
        discovery, echo,
        managed_identity::Failure,
    },
    secret::Secret,
    source::SourceError,
};

/// How a failure is likely to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not until somebody changes something.
    Permanent,
    /// When the secret in its source is replaced.
    Credential,
    /// When the key in its source is replaced, or by itself, minutes after the provider was told of it.
    NewCredential,
    /// By itself, minutes after a change in the directory.
    Eventual,
    /// By itself, soon.
    Transient,
    /// When the provider's own waiting time is over.
    Throttled,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 6] = [
        Class::Permanent,
        Class::Credential,
        Class::NewCredential,
        Class::Eventual,
        Class::Transient,
        Class::Throttled,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Permanent => "permanent",
            Class::Credential => "credential",
            Class::NewCredential => "new_credential",
            Class::Eventual => "eventual",
            Class::Transient => "transient",
            Class::Throttled => "throttled",
        }
    }
}

/// One exchange that gave no token.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The secret could not be read.
    #[error("the secret cannot be read: {0}")]
    Source(#[from] SourceError),
    /// The client cannot prove itself with what it has.
    #[error("{0}")]
    Proof(#[from] ProofError),
    /// The secret can be read and cannot go on a request.
    #[error("the secret cannot be used: {what}")]
    Unfit {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The certificate authorities of the profile cannot be used.
    #[error("the certificate authorities (ca) cannot be used: {0}")]
    Authorities(#[from] RootsError),
    /// No answer: DNS, TCP, TLS or a broken connection.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Scheme, host and port of the identity provider.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// No complete answer within the limit.
    #[error("no answer within {}", crate::profile::seconds::Seconds(*after))]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The provider said no.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// A success that holds no usable token.
    #[error("the answer (HTTP {status}) cannot be used: {what}")]
    Unusable {
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no way to ask at all.
    #[error("TLS towards identity providers cannot be set up: {what} (install the system's CA certificates)")]
    SetUp {
        /// What the TLS library says.
        what: String,
    },
    /// The machine's own endpoint gave none.
    #[error("{0}")]
    ManagedIdentity(Box<Failure>),
    /// More than the reader takes.
    #[error("the answer (HTTP {status}) is larger than 1 MiB")]
    TooLarge {
        /// HTTP status.
        status: u16,
    },
    /// The issuer's metadata cannot be used.
    #[error("discovery of issuer {issuer} failed: {what}")]
    Discovery {
        /// The configured issuer.
        issuer: String,
        /// What is wrong.
        what: String,
        /// The same, for what follows from it.
        flaw: discovery::Flaw,
    },
}

impl ExchangeError {
    /// A failure without an answer.
    pub fn unreachable(url: &Url, error: &reqwest::Error) -> Self {
        let what = if error.is_timeout() { "timed out".to_owned() } else { outbound::reason(error) };
        Self::Unreachable { endpoint: url.origin().ascii_serialization(), reason: what }
    }

    /// How the failure is likely to go away.
    pub fn class(&self) -> Class {
        match self {
            Self::Source(error) if error.is_transient() => Class::Transient,
            Self::Proof(error) if error.is_transient() => Class::Transient,
            Self::Source(_) | Self::Proof(_) | Self::Unfit { .. } | Self::Authorities(_) => Class::Credential,
            Self::SetUp { .. } => Class::Permanent,
            Self::Unreachable { .. } | Self::TimedOut { .. } => Class::Transient,
            Self::Rejected(rejection) => rejection.class(),
            Self::ManagedIdentity(failure) => failure.class,
            // Envoy never asked again after an empty 200: any nonsense may be a proxy's bad minute.
            Self::Unusable { .. } | Self::TooLarge { .. } => Class::Transient,
            Self::Discovery { flaw, .. } => flaw.class(),
        }
    }

    /// The waiting time that the provider gave, or that its answer implies. It holds whatever happens
    /// meanwhile: demand, a 401, a new secret.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after(),
            Self::ManagedIdentity(failure) => failure.retry_after,
            Self::Source(error) => error.retry_after(),
            Self::Proof(error) => error.retry_after(),
            Self::Discovery { flaw, .. } => flaw.retry_after(),
            _ => None,
        }
    }

    /// Whether the provider was not asked, as a secret, or what proves the account, could not be had.
    pub fn is_of_source(&self) -> bool {
        matches!(self, Self::Source(_) | Self::Proof(_))
    }

    /// What a caller may know: our words only, nothing of the provider's.
    pub fn public_words(&self) -> &'static str {
        match self {
            Self::Unfit { .. } => "the service account's secret cannot go on a request",
            Self::Source(_) => "the gateway cannot read the service account's secret",
            Self::Proof(_) => "the service account's key, certificate or token cannot be used",
            Self::Unreachable { .. } | Self::SetUp { .. } | Self::Authorities(_) => {
                "the identity provider cannot be reached"
            }
            Self::TimedOut { .. } => "the identity provider did not answer in time",
            Self::Rejected(rejection) => match rejection.class() {
                Class::Throttled => "the identity provider asks the gateway to wait",
                Class::Transient => "the identity provider is out of order",
                _ => "the identity provider refuses the service account",
            },
            Self::ManagedIdentity(failure) => failure.public,
            Self::Unusable { .. } | Self::TooLarge { .. } => "the identity provider's answer cannot be used",
            Self::Discovery { .. } => "the identity provider's metadata cannot be used",
        }
    }
}

/// An error answer of a token endpoint (RFC 6749 §5.2, and Entra's additions).
#[derive(Debug)]
pub struct Rejection {
    status: StatusCode,
    error: Option<String>,
    description: Option<String>,
    /// Whether the number is one of Azure AD B2C's, which has numbers of its own.
    is_policys: bool,
    codes: Vec<u64>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    retry_after: Option<Duration>,
    advice: Vec<String>,
    /// What repeats a part of a secret is not kept.
    repeats_secret: bool,
    /// What is odd about a secret that was sent.
    oddity: Option<Oddity>,
}

impl Rejection {
    /// Takes what an operator needs from an error answer; `secrets` never get into it.
    pub fn read(reply: &Reply, json: Option<&Map<String, Value>>, secrets: &[Secret]) -> Self {
        let mut repeats_secret = false;
        let mut text = |name: &str| {
            let shown = outbound::printable(json?.get(name)?.as_str()?);
            let is_told = echo::reveals(&shown, secrets);
            repeats_secret |= is_told;
            (!is_told).then_some(shown)
        };
        let codes = json.and_then(|m| m.get("error_codes")).and_then(Value::as_array);
        let mut codes: Vec<u64> = codes.into_iter().flatten().filter_map(Value::as_u64).take(8).collect();
        let (error, description) = (text("error"), text("error_description"));
        let (trace_id, correlation_id) = (text("trace_id"), text("correlation_id"));
        let words = description.as_deref().unwrap_or_default();
        // The policies of Azure AD B2C give their number nowhere else.
        if codes.is_empty() {
            codes.extend(number_after(words, "AADB2C").or_else(|| number_after(words, "AADSTS")));
        }
        Self {
            status: reply.status,
            is_policys: words.starts_with("AADB2C"),
            error,
            description,
            codes,
            trace_id,
            correlation_id,
            repeats_secret,
            retry_after: reply.retry_after,
            advice: Vec::new(),
            oddity: secrets.iter().find_map(|secret| Oddity::of(secret, true)),
        }
    }

    /// Whether another way of client authentication might have been taken.
    pub(super) fn may_be_about_the_client(&self) -> bool {
        let errors = ["invalid_client", "unauthorized_client", "invalid_request"];
        self.status == StatusCode::UNAUTHORIZED || self.error.as_deref().is_some_and(|e| errors.contains(&e))
    }

    /// Adds what is known besides the answer.
    pub(super) fn advise(&mut self, words: String) {
        self.advice.push(words);
    }

    /// Whether the number is an AADB2C number, not an AADSTS number.
    pub fn is_policys(&self) -> bool {
        self.is_policys
    }

    /// The first of Entra's AADSTS numbers, or the AADB2C number, if there is one.
    pub fn code(&self) -> Option<u64> {
        self.codes.first().copied()
    }

    /// Whether the provider refuses what the client proves itself with.
    pub(super) fn is_about_credential(&self) -> bool {
        matches!(self.class(), Class::Credential | Class::NewCredential)
    }

    fn class(&self) -> Class {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return Class::Throttled;
        }
        self.known_code()
            .map(|code| code.class)
            .or_else(|| self.error.as_deref().and_then(class_of_error))
            .unwrap_or_else(|| class_of_status(self.status))
    }

    fn family(&self) -> Family {
        if self.is_policys { Family::Policy } else { Family::Entra }
    }

    fn known_code(&self) -> Option<&'static Code> {
        self.codes.iter().find_map(|number| diagnosis::of_code(self.family(), *number))
    }

    /// The refusal in plain words.
    pub fn diagnosis(&self) -> Diagnosis {
        let is_throttled = self.status == StatusCode::TOO_MANY_REQUESTS;
        let known = self.known_code().filter(|_| !is_throttled);
        let of_code = known.map(|code| Diagnosis { meaning: code.meaning, remedy: code.remedy });
        let of_error = || self.error.as_deref().filter(|_| !is_throttled).and_then(diagnosis::of_error);
        of_code.or_else(of_error).unwrap_or_else(|| diagnosis::of_status(self.status.as_u16()))
    }

    /// Entra's word for a loop is taken as a wait: whoever goes on asking is locked out for longer.
    fn retry_after(&self) -> Option<Duration> {
        let is_loop = !self.is_policys && self.codes.contains(&LOOP_DETECTED);
        self.retry_after.max(is_loop.then_some(LOOP_PAUSE))
    }
}

/// The number right behind `prefix` at the start of `text`.
fn number_after(text: &str, prefix: &str) -> Option<u64> {
    let rest = text.strip_prefix(prefix)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

/// AADSTS7000215, and AADB2C90081: the secret is not the one of the registration.
const WRONG_SECRET: [u64; 2] = [7000215, 90081];
/// AADSTS50196: a client that asked for the same too often.
const LOOP_DETECTED: u64 = 50196;
/// What Entra wants to see after it.
const LOOP_PAUSE: Duration = Duration::from_secs(300);

fn class_of_error(error: &str) -> Option<Class> {
    Some(match error {
        "invalid_client" => Class::Credential,
        // The nonce was the newest there was; the next one may be in time.
        "temporarily_unavailable" | "server_error" | "use_dpop_nonce" => Class::Transient,
        "slow_down" => Class::Throttled,
        // Entra uses `invalid_grant` for Conditional Access, others for a bad assertion.
        "invalid_request"
        | "invalid_grant"
        | "access_denied"
        | "unauthorized_client"
        | "unsupported_grant_type"
        | "invalid_scope"
        | "invalid_dpop_proof"
        | "invalid_target"
        | "invalid_resource" => Class::Permanent,
        _ => return None,
    })
}

fn class_of_status(status: StatusCode) -> Class {
    match status.as_u16() {
        401 => Class::Credential,
        408 => Class::Transient,
        500..=599 | 200..=299 => Class::Transient,
        _ => Class::Permanent,
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with HTTP {}", self.status.as_u16())?;
        if let Some(error) = &self.error {
            write!(f, " {error}")?;
        }
        // Entra's descriptions begin with it.
        let prefix = self.family().prefix();
        let told = self.description.as_deref().and_then(|words| number_after(words, prefix));
        if let Some(code) = self.code().filter(|code| told != Some(*code)) {
            write!(f, " {prefix}{code}")?;
        }
        if let Some(description) = &self.description {
            write!(f, ": {description}")?;
        }
        for (name, id) in [("trace_id", &self.trace_id), ("correlation_id", &self.correlation_id)] {
            if let Some(id) = id {
                write!(f, " {name}={id}")?;
            }
        }
        for advice in &self.advice {
            write!(f, "; {advice}")?;
        }
        if self.repeats_secret {
            f.write_str(" [the provider's words repeat what was sent, so they are left out]")?;
        }
        let class = self.class();
        let is_about_secret = |number| self.codes.contains(&number) && class == Class::Credential;
        match self.oddity {
            Some(Oddity::Spaced) if class != Class::Throttled => f.write_str(
                " [the secret that was sent begins or ends with a space, which is legal but seldom meant]",
            ),
            Some(Oddity::Guid) if WRONG_SECRET.into_iter().any(is_about_secret) => {
                f.write_str(" [the secret that was sent has the form of an id: it is probably not the value]")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::answer;

    fn rejected(status: u16, body: &str) -> ExchangeError {
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        };
        let secret = Secret::new("s3cret/value".into());
        answer::read(&reply, answer::Scheme::Bearer, Duration::from_secs(300), &[secret]).err().unwrap()
    }

    #[test]
    fn the_error_member_and_entras_numbers_decide_and_the_status_only_without_them() {
        let check =
            |status, body, class| assert_eq!(rejected(status, body).class(), class, "{status} {body}");
        check(401, r#"{"error":"invalid_client","error_codes":[7000215]}"#, Class::Credential);
        check(400, r#"{"error":"invalid_client"}"#, Class::Credential);
        check(400, r#"{"error":"unauthorized_client","error_codes":[700016]}"#, Class::Eventual);
        check(400, r#"{"error":"invalid_scope","error_codes":[70011]}"#, Class::Permanent);
        check(400, r#"{"error":"temporarily_unavailable"}"#, Class::Transient);
        check(429, r#"{"error":"invalid_client"}"#, Class::Throttled);
        check(500, "<html>", Class::Transient);
        check(503, "", Class::Transient);
        check(403, "", Class::Permanent);
        check(302, "", Class::Permanent);
    }

    #[test]
    fn the_operator_reads_the_number_its_meaning_and_the_ids_for_support() {
        let error = rejected(
            401,
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret.\r\nTrace ID: x","error_codes":[7000215],"trace_id":"t-1","correlation_id":"c-1"}"#,
        );
        assert_eq!(
            error.explained().to_string(),
            "refused with HTTP 401 invalid_client: AADSTS7000215: Invalid client secret. \
             trace_id=t-1 correlation_id=c-1 (the secret is wrong: often the secret's id was pasted instead of \
             its value, or it was cut; next: put the secret's value into its source; it is shown only once, so \
             make a new one if it is lost)"
        );
        assert_eq!(error.public_words(), "the identity provider refuses the service account");
    }

    #[test]
    fn the_number_is_told_once_and_never_lost() {
        let shown = |description: &str| {
            let body =
                format!(r#"{{"error":"x","error_codes":[70011],"error_description":"{description}"}}"#);
            rejected(400, &body).to_string()
        };
        assert_eq!(shown("AADSTS70011: y"), "refused with HTTP 400 x: AADSTS70011: y");
        assert_eq!(shown("AADSTS700112: y"), "refused with HTTP 400 x AADSTS70011: AADSTS700112: y");
        assert_eq!(shown("y AADSTS70011"), "refused with HTTP 400 x AADSTS70011: y AADSTS70011");
    }

    #[test]
    fn a_policys_number_is_read_from_its_description() {
        let body = r#"{"error":"invalid_scope","error_description":"AADB2C90085: The service has encountered an error."}"#;
        let ExchangeError::Rejected(rejection) = rejected(400, body) else { panic!("not rejected") };
        assert_eq!((rejection.code(), rejection.is_policys()), (Some(90085), true));
        let shown = rejection.to_string();
        assert!(shown.contains(" AADB2C90085") && !shown.contains("AADSTS"), "{shown}");
        for description in ["AADB2C", "AADB2Cx", "AADB2C99999999999999999999999"] {
            let body = format!(r#"{{"error":"invalid_scope","error_description":"{description}"}}"#);
            let ExchangeError::Rejected(rejection) = rejected(400, &body) else { panic!("not rejected") };
            assert_eq!(rejection.code(), None, "{description}");
        }
    }

    #[test]
    fn the_same_number_means_another_thing_at_the_other_door() {
        let of = |prefix| {
            let body = format!(r#"{{"error":"x","error_description":"{prefix}90092: y"}}"#);
            rejected(400, &body).diagnosis().meaning
        };
        assert!(of("AADB2C").contains("disabled") && of("AADSTS").contains("does not expect to pass"));
    }

    #[test]
    fn a_space_at_the_end_of_the_secret_that_was_refused_is_pointed_out() {
        let body = br#"{"error":"invalid_client"}"#.to_vec();
        let reply = Reply { status: StatusCode::UNAUTHORIZED, retry_after: None, body };
        let shown = |secret: &str| Rejection::read(&reply, None, &[Secret::new(secret.into())]).to_string();
        assert!(shown("s3cret ").contains("begins or ends with a space"));
        assert!(!shown("s3 cret").contains("space"));
    }

    #[test]
    fn a_secrets_id_in_the_place_of_its_value_is_pointed_out() {
        let shown = |secret: &str, number: u64| {
            let body = format!(r#"{{"error":"invalid_client","error_codes":[{number}]}}"#);
            let reply = Reply { status: StatusCode::UNAUTHORIZED, retry_after: None, body: body.into() };
            let secret = Secret::new(secret.into());
            answer::read(&reply, answer::Scheme::Bearer, Duration::from_secs(300), &[secret])
                .err()
                .unwrap()
                .to_string()
        };
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert!(shown(id, 7000215).contains("has the form of an id"));
        assert!(!shown(id, 7000222).contains("form of an id"), "an old secret may be a GUID");
        for value in [
            "Q~x8Q~abcdefghijklmnopqrstuvwxyz0123",
            id.get(..35).unwrap(),
            &format!("{id}-1"),
            &id.replace('a', "g"),
        ] {
            assert!(!shown(value, 7000215).contains("form of an id"), "{value}");
        }
    }

    #[test]
    fn a_server_that_echoes_the_secret_does_not_get_it_into_the_log() {
        for echo in ["bad secret s3cret/value", "client_secret=s3cret%2Fvalue", "Basic aWQ6czNjcmV0L3ZhbHVl"]
        {
            let body = format!(r#"{{"error":"invalid_client","error_description":"{echo}"}}"#);
            let shown = format!("{0} {0:?}", rejected(401, &body));
            assert!(!shown.contains("s3cret") && !shown.contains("czNjcmV0"), "{shown}");
            assert!(shown.contains("so they are left out"), "{shown}");
        }
    }

    #[test]
    fn a_hostile_description_stays_one_short_line() {
        let body = format!(r#"{{"error":"x\u001b[31m","error_description":"{}"}}"#, "a".repeat(5000));
        let shown = rejected(400, &body).to_string();
        assert!(shown.len() < 400 && !shown.contains('\u{1b}'), "{shown}");
    }
}
