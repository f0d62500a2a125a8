//! Why a machine gave no token, in words, and how soon asking again makes sense.
//!
//! The HTTP status decides. Each host words its errors in its own way, and none of the words is a
//! promise.

use std::{fmt, time::Duration};

use reqwest::StatusCode;
use serde_json::{Map, Value};
use url::Url;

use super::{Account, Endpoint, host::Host};
use crate::{
    outbound,
    profile::{
        answer::{self, Accepted, Reply, Scheme},
        diagnosis::Diagnosis,
        echo::reveals,
        refusal::{Class, ExchangeError},
    },
    secret::Secret,
};

/// No token from a managed identity.
#[derive(Debug)]
pub struct Failure {
    words: String,
    pub(in crate::profile) class: Class,
    pub(in crate::profile) retry_after: Option<Duration>,
    pub(in crate::profile) diagnosis: Diagnosis,
    /// What a caller may know.
    pub(in crate::profile) public: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for ExchangeError {
    fn from(failure: Failure) -> Self {
        ExchangeError::ManagedIdentity(Box::new(failure))
    }
}

const REFUSED: &str = "the machine's identity endpoint refuses the service account";
const NOT_THERE: &str = "the machine's identity endpoint cannot be reached";
const NOT_SET_UP: &str = "the gateway's surroundings do not say where its managed identity is";

const fn next(meaning: &'static str, remedy: &'static str) -> Diagnosis {
    Diagnosis { meaning, remedy }
}

impl Failure {
    fn new(class: Class, public: &'static str, words: String, diagnosis: Diagnosis) -> Self {
        Self { words, class, retry_after: None, diagnosis, public }
    }

    /// Nobody answered. It may be a machine that is just starting, so it is asked again soon.
    pub(super) fn absent(host: Host, url: &Url, reason: &str, endpoint: Endpoint) -> Self {
        let place = url.origin().ascii_serialization();
        let diagnosis = match (host, endpoint) {
            (Host::Imds, Endpoint::Auto) => next(
                "this machine is no Azure VM, or something blocks the address; no variable of App Service, Container \
                 Apps, Service Fabric, Azure ML or Azure Arc is set",
                "run the gateway where the managed identity is, or let the address through",
            ),
            (Host::Imds, _) => next(
                "this machine is no Azure VM, or something blocks the address",
                "leave endpoint out if it is another host of Azure's, or let the address through",
            ),
            (Host::Arc, _) => {
                next("the Azure Arc agent does not run", "try `azcmagent show` and `systemctl status himdsd`")
            }
            _ => next(
                "nobody listens where the gateway's environment says",
                "restart the application, so that it gets the variables anew",
            ),
        };
        let words = format!("{} at {place} cannot be reached: {reason}", host.name());
        Self::new(Class::Transient, NOT_THERE, words, diagnosis)
    }

    /// The endpoint was named in the configuration, and its variable is not there.
    pub(super) fn variable(host: Host, name: &str) -> Self {
        let words = format!("{} needs the environment variable {name}, which is not set", host.name());
        let diagnosis = next(
            "no managed identity is switched on here, or the gateway was started without the host's variables",
            "switch it on, choose another endpoint, or leave endpoint out",
        );
        Self::new(Class::Permanent, NOT_SET_UP, words, diagnosis)
    }

    pub(super) fn bad_url(host: Host) -> Self {
        let scheme = if host == Host::ServiceFabric { "https" } else { "http or https" };
        let words = format!("the environment variable that names {} holds no {scheme} URL", host.name());
        let diagnosis =
            next("somebody has set it by hand, or for another program", "leave it to the host to set it");
        Self::new(Class::Permanent, NOT_SET_UP, words, diagnosis)
    }

    pub(super) fn cloud_shell() -> Self {
        let words = "this is Azure Cloud Shell, whose tokens are not used".into();
        let diagnosis =
            next("they belong to the person who opened it", "run the gateway where a managed identity is");
        Self::new(Class::Permanent, NOT_SET_UP, words, diagnosis)
    }

    pub(super) fn no_choice(host: Host, account: &Account) -> Self {
        let words = format!("{} cannot be asked for {account}", host.name());
        let diagnosis =
            next("it knows no such choice", "leave the id out, or use client_id where that is known");
        Self::new(Class::Permanent, REFUSED, words, diagnosis)
    }

    pub(super) fn another_identity(host: Host, account: &Account) -> Self {
        let words =
            format!("{} gave a token of another identity than {account}; it is not used", host.name());
        let diagnosis = next(
            "the identity is not assigned to this machine, and another one was given in its place",
            "assign the identity to the machine",
        );
        Self::new(Class::Permanent, REFUSED, words, diagnosis)
    }

    pub(super) fn unnamed_identity(account: &Account) -> Self {
        let words = format!(
            "the Azure Arc agent does not say whose token it gave, instead of {account} perhaps the machine's own; \
             it is not used"
        );
        let diagnosis =
            next("old agents ignore the choice of an identity", "update the agent, or leave the id out");
        Self::new(Class::Permanent, REFUSED, words, diagnosis)
    }

    pub(super) fn arc(what: &str) -> Self {
        let words = format!("the Azure Arc agent cannot be used: {what}");
        let diagnosis = next(
            "the agent proves its callers by a file that only its group may read",
            "add the gateway's user to the group himds; if the file is none of the agent's, see who listens on its port",
        );
        Self::new(Class::Permanent, REFUSED, words, diagnosis)
    }

    pub(super) fn illegal_key() -> Self {
        let words = "the key for the machine's identity endpoint holds characters that no header holds";
        let diagnosis = next("the variable or file was changed by hand", "leave it to the host to set it");
        Self::new(Class::Permanent, NOT_SET_UP, words.into(), diagnosis)
    }

    fn refused(host: Host, reply: &Reply, secrets: &[Secret]) -> Self {
        let status = reply.status.as_u16();
        let mut words = format!("{} refused with HTTP {status}", host.name());
        let spoken = spoken(&reply.body);
        let mut told =
            spoken.iter().map(|text| outbound::printable(text)).filter(|text| !reveals(text, secrets));
        if let Some(code) = told.next() {
            words += &format!(" {code}");
        }
        for text in told {
            words += &format!(": {text}");
        }
        let class = class(reply.status, reply.retry_after);
        let public = match class {
            Class::Transient | Class::Throttled => "the machine's identity endpoint is out of order",
            _ => REFUSED,
        };
        Self { words, class, retry_after: reply.retry_after, diagnosis: of_status(status), public }
    }
}

/// Microsoft's guidance names 404, 410, 429 and 5xx as worth another try, and nothing else.
fn class(status: StatusCode, retry_after: Option<Duration>) -> Class {
    match status.as_u16() {
        // The identity is being made or assigned; that takes minutes.
        404 => Class::Eventual,
        // Without a waiting time it means "not so fast", not "in a minute".
        429 if retry_after.is_some() => Class::Throttled,
        // 410: the service is being updated, for at most 70 seconds.
        408 | 410 | 429 | 500..=599 => Class::Transient,
        _ => Class::Permanent,
    }
}

fn of_status(status: u16) -> Diagnosis {
    match status {
        400 => next(
            "the identity is not assigned to this machine, or the tenant does not know the API",
            "assign the identity, and compare the scope with the API's App ID URI",
        ),
        401 | 403 => next(
            "the host does not take the gateway for one of its own programs",
            "see that the gateway was started by the host, with its variables",
        ),
        404 => next("the identity may just have been made or assigned", "wait some minutes"),
        410 => next("the service is being updated, which takes about a minute", "wait: it is asked again"),
        429 => next("this machine asks too often", "see which other programs on it ask for tokens"),
        500..=599 => next("the host has a trouble of its own", "wait: it is asked again"),
        _ => next("what answered is no identity endpoint", "see who listens at that address"),
    }
}

/// What the body says, in any of the hosts' shapes.
fn spoken(body: &[u8]) -> Vec<String> {
    let json: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |map: &Map<String, Value>, name: &str| Some(map.get(name)?.as_str()?.to_owned());
    let nested = json.get("error").and_then(Value::as_object);
    let inner = nested.unwrap_or(&json);
    let code = text(inner, "error").or_else(|| text(inner, "code"));
    let message = ["error_description", "message", "Message", "ExceptionMessage"];
    let message = message.iter().find_map(|name| text(inner, name));
    [code, message].into_iter().flatten().collect()
}

/// Reads the answer of `host`.
///
/// # Errors
/// As [`answer::read`], with a refusal in the words of managed identities.
pub(super) fn read(
    host: Host,
    reply: &Reply,
    default_ttl: Duration,
    secrets: &[Secret],
) -> Result<Accepted, ExchangeError> {
    match answer::read(reply, Scheme::Bearer, default_ttl, secrets) {
        // Some hosts put an error into a 200: it says as little about when to ask again as any 200.
        Err(ExchangeError::Rejected(_)) => Err(Failure::refused(host, reply, secrets).into()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<u64>, body: &str) -> Failure {
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
            body: body.as_bytes().to_vec(),
        };
        Failure::refused(Host::Imds, &reply, &[Secret::new("canary".into())])
    }

    #[test]
    fn the_status_decides_when_to_ask_again_as_microsofts_guidance_says() {
        for (status, class) in [
            (404, Class::Eventual),
            (408, Class::Transient),
            (410, Class::Transient),
            (429, Class::Transient),
            (500, Class::Transient),
            (503, Class::Transient),
            (400, Class::Permanent),
            (401, Class::Permanent),
            (403, Class::Permanent),
            (302, Class::Permanent),
        ] {
            // The words of the body decide nothing.
            let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215"}"#;
            assert_eq!(refused(status, None, body).class, class, "{status}");
        }
        let throttled = refused(429, Some(7), "");
        assert_eq!(
            (throttled.class, throttled.retry_after),
            (Class::Throttled, Some(Duration::from_secs(7)))
        );
    }

    #[test]
    fn the_words_of_every_host_are_repeated_and_never_its_key() {
        for body in [
            r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
            r#"{"error":{"code":"invalid_request","message":"Identity not found"}}"#,
            r#"{"code":"invalid_request","Message":"Identity not found"}"#,
        ] {
            assert_eq!(
                refused(400, None, body).to_string(),
                "the Instance Metadata Service refused with HTTP 400 invalid_request: Identity not found"
            );
        }
        let echoed = refused(500, None, r#"{"message":"wrong header canary"}"#);
        assert!(!echoed.to_string().contains("canary"), "{echoed}");
        assert_eq!(
            refused(500, None, "<html>").to_string(),
            "the Instance Metadata Service refused with HTTP 500"
        );
    }
}
