//! Why an exchange gave no token, in words, and how soon asking again makes sense.
//!
//! The `error` member decides, then the HTTP status; Entra's numbers are hints that refine (Microsoft
//! may change them). A provider's own text goes to the log, shortened and cleaned, never to a caller.

use std::{fmt, time::Duration};

use reqwest::StatusCode;
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

use crate::{
    profile::{answer::Reply, authentication::ProofError},
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
    /// By itself, minutes after a change in the directory.
    Eventual,
    /// By itself, soon.
    Transient,
    /// When the provider's own waiting time is over.
    Throttled,
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
    /// No answer: DNS, TCP, TLS or a broken connection.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Scheme, host and port of the identity provider.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// No complete answer within the limit.
    #[error("no answer within {}", crate::profile::refusal::Seconds(*after))]
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
        /// Whether the provider's answer was the cause, rather than the way to it.
        permanent: bool,
    },
}

impl ExchangeError {
    /// A failure without an answer.
    pub fn unreachable(url: &Url, error: &reqwest::Error) -> Self {
        let what = if error.is_timeout() { "timed out".to_owned() } else { innermost(error) };
        Self::Unreachable { endpoint: url.origin().ascii_serialization(), reason: what }
    }

    /// How the failure is likely to go away.
    pub fn class(&self) -> Class {
        match self {
            Self::Source(_) | Self::Proof(_) | Self::Unfit { .. } => Class::Credential,
            Self::SetUp { .. } => Class::Permanent,
            Self::Unreachable { .. } | Self::TimedOut { .. } => Class::Transient,
            Self::Rejected(rejection) => rejection.class(),
            // Envoy never asked again after an empty 200: any nonsense may be a proxy's bad minute.
            Self::Unusable { .. } | Self::TooLarge { .. } => Class::Transient,
            Self::Discovery { permanent, .. } => {
                if *permanent {
                    Class::Permanent
                } else {
                    Class::Transient
                }
            }
        }
    }

    /// The provider's own waiting time, if it gave one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after,
            _ => None,
        }
    }

    /// What a caller may know: our words only, nothing of the provider's.
    pub fn public_words(&self) -> &'static str {
        match self {
            Self::Unfit { .. } => "the service account's secret cannot go on a request",
            Self::Source(_) => "the gateway cannot read the service account's secret",
            Self::Proof(_) => "the service account's key, certificate or token cannot be used",
            Self::Unreachable { .. } | Self::SetUp { .. } => "the identity provider cannot be reached",
            Self::TimedOut { .. } => "the identity provider did not answer in time",
            Self::Rejected(rejection) => match rejection.class() {
                Class::Throttled => "the identity provider asks the gateway to wait",
                Class::Transient => "the identity provider is out of order",
                _ => "the identity provider refuses the service account",
            },
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
    codes: Vec<u64>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    retry_after: Option<Duration>,
    advice: Option<String>,
}

impl Rejection {
    /// Takes what an operator needs from an error answer; `secrets` never get into it.
    pub fn read(reply: &Reply, json: Option<&Map<String, Value>>, secrets: &[Secret]) -> Self {
        let text = |name: &str| {
            let value = json?.get(name)?.as_str()?;
            (!reveals(value, secrets)).then(|| printable(value))
        };
        let codes = json.and_then(|m| m.get("error_codes")).and_then(Value::as_array);
        Self {
            status: reply.status,
            error: text("error"),
            description: text("error_description"),
            codes: codes.into_iter().flatten().filter_map(Value::as_u64).take(8).collect(),
            trace_id: text("trace_id"),
            correlation_id: text("correlation_id"),
            retry_after: reply.retry_after,
            advice: None,
        }
    }

    /// Whether another way of client authentication might have been taken.
    pub(super) fn may_be_about_the_client(&self) -> bool {
        let errors = ["invalid_client", "unauthorized_client", "invalid_request"];
        self.status == StatusCode::UNAUTHORIZED || self.error.as_deref().is_some_and(|e| errors.contains(&e))
    }

    /// Adds what is known besides the answer.
    pub(super) fn advise(&mut self, words: String) {
        self.advice = Some(words);
    }

    /// The first of Entra's AADSTS numbers, if there is one.
    pub fn code(&self) -> Option<u64> {
        self.codes.first().copied()
    }

    fn class(&self) -> Class {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return Class::Throttled;
        }
        self.codes
            .iter()
            .find_map(|code| class_of_code(*code))
            .or_else(|| self.error.as_deref().and_then(class_of_error))
            .unwrap_or_else(|| class_of_status(self.status))
    }
}

/// `facts`: what Entra's numbers mean for asking again.
fn class_of_code(code: u64) -> Option<Class> {
    Some(match code {
        7000215 | 7000222 => Class::Credential,
        700016 | 700011 | 7000229 | 500011 | 50001 | 501051 | 50105 | 65001 | 650056 | 650057 | 70021
        | 700211 | 700213 | 7002138 => Class::Eventual,
        700027 => Class::Credential,
        90055 => Class::Throttled,
        90033 | 90006 | 90012 | 90024 | 90090 | 90091 | 50033 | 700024 => Class::Transient,
        7000218 | 7000112 | 70001 | 700025 | 700030 | 50012 | 700229 | 90002 | 50059 | 900023 | 90038
        | 900382 | 900432 | 9001023 | 50194 | 90124 | 90130 | 70011 | 1002012 | 28002 | 700022 | 700023
        | 901002 | 53003 | 530032 | 50196 | 90036 | 90092 | 1002016 | 900144 | 90014 | 9002313 => {
            Class::Permanent
        }
        _ => return None,
    })
}

fn class_of_error(error: &str) -> Option<Class> {
    Some(match error {
        "invalid_client" => Class::Credential,
        // The nonce was the newest there was; the next one may be in time.
        "temporarily_unavailable" | "server_error" | "use_dpop_nonce" => Class::Transient,
        "invalid_request"
        | "invalid_grant"
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

/// What the number most often means, for those that an operator meets.
fn remedy(code: u64) -> Option<&'static str> {
    Some(match code {
        7000215 => "the secret is wrong: often the secret's id was pasted instead of its value",
        7000222 => "the secret has expired: make a new one in the app registration",
        700016 => "the tenant does not know the client_id: wrong tenant, or registered a moment ago",
        90002 => "the tenant does not exist: check its name, and the cloud",
        500011 => "the tenant does not know the scope's App ID URI",
        501051 | 50105 => "the account has no app role on the API: assign one and grant consent",
        1002012 | 70011 => "the scope must be the API's App ID URI followed by /.default",
        7000112 => "the application is disabled in the tenant",
        53003 => "Conditional Access for workload identities blocks the account",
        _ => return None,
    })
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with HTTP {}", self.status.as_u16())?;
        if self.status.is_redirection() {
            write!(f, ", a redirect, which is not followed: the token endpoint's URL is wrong")?;
        }
        if let Some(error) = &self.error {
            write!(f, " {error}")?;
        }
        if let Some(code) = self.code() {
            write!(f, " AADSTS{code}")?;
            if let Some(words) = remedy(code) {
                write!(f, " ({words})")?;
            }
        }
        if let Some(description) = &self.description {
            write!(f, ": {description}")?;
        }
        for (name, id) in [("trace_id", &self.trace_id), ("correlation_id", &self.correlation_id)] {
            if let Some(id) = id {
                write!(f, " {name}={id}")?;
            }
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

/// The last cause of `error`, in one line: the ones around it only say that something failed.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    printable(&cause.to_string())
}

/// Whether `text` repeats a secret, plain or form-encoded.
fn reveals(text: &str, secrets: &[Secret]) -> bool {
    secrets.iter().any(|secret| {
        let plain = secret.expose();
        let encoded: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
        text.contains(plain) || text.contains(&encoded)
    })
}

/// One line of at most 240 characters without control characters.
fn printable(text: &str) -> String {
    const SHOWN_MAX: usize = 240;
    let line = text.lines().next().unwrap_or_default();
    let mut out: String = line.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if line.chars().nth(SHOWN_MAX).is_some() {
        out.push('…');
    }
    out
}

/// A span as `10 s` or `500 ms`.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{} s", self.0.as_secs())
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
            error.to_string(),
            "refused with HTTP 401 invalid_client AADSTS7000215 (the secret is wrong: often the secret's id was \
             pasted instead of its value): AADSTS7000215: Invalid client secret. trace_id=t-1 correlation_id=c-1"
        );
        assert_eq!(error.public_words(), "the identity provider refuses the service account");
    }

    #[test]
    fn a_server_that_echoes_the_secret_does_not_get_it_into_the_log() {
        for echo in ["bad secret s3cret/value", "client_secret=s3cret%2Fvalue"] {
            let body = format!(r#"{{"error":"invalid_client","error_description":"{echo}"}}"#);
            let shown = format!("{0} {0:?}", rejected(401, &body));
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn a_hostile_description_stays_one_short_line() {
        let body = format!(r#"{{"error":"x\u001b[31m","error_description":"{}"}}"#, "a".repeat(5000));
        let shown = rejected(400, &body).to_string();
        assert!(shown.len() < 400 && !shown.contains('\u{1b}'), "{shown}");
    }
}
