//! A failure in plain words: what it means, and what to do next.
//!
//! The one place that log, `keybearer token`, `keybearer doctor` and health checks take their words
//! from. It reads numbers and fixed words of an answer, never a provider's own text.

use std::fmt;

use crate::profile::{
    diagnosis::{
        codes::CODES,
        network::of_network,
        places::{of_proof, of_source},
    },
    discovery,
    refusal::{Class, ExchangeError},
};

pub mod codes;
pub mod network;
pub mod places;

/// Whose numbers they are: the same number means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AADSTS…`, of Microsoft Entra ID.
    Entra,
    /// `AADB2C…`, of the policies of Azure AD B2C.
    Policy,
}

impl Family {
    /// What stands in front of a number.
    pub fn prefix(self) -> &'static str {
        match self {
            Family::Entra => "AADSTS",
            Family::Policy => "AADB2C",
        }
    }
}

/// Error numbers that mean the same.
#[derive(Debug)]
pub struct Code {
    /// Whose numbers they are.
    pub family: Family,
    /// The numbers.
    pub numbers: &'static [u64],
    /// How the failure is likely to go away.
    pub class: Class,
    /// What it means.
    pub meaning: &'static str,
    /// What to do next.
    pub remedy: &'static str,
}

/// The words for a number, if it is known.
pub fn of_code(family: Family, number: u64) -> Option<&'static Code> {
    CODES.iter().find(|code| code.family == family && code.numbers.contains(&number))
}

/// A failure in plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What it means.
    pub meaning: &'static str,
    /// What to do next.
    pub remedy: &'static str,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; next: {}", self.meaning, self.remedy)
    }
}

const fn words(meaning: &'static str, remedy: &'static str) -> Diagnosis {
    Diagnosis { meaning, remedy }
}

/// The `error` members of RFC 6749 §5.2 and of those that extend it.
pub fn of_error(error: &str) -> Option<Diagnosis> {
    Some(match error {
        "invalid_client" => words(
            "the provider does not take the client's proof: wrong client_id, wrong or expired secret or key",
            "compare client_id, the secret in its source, and auth: with the client's registration",
        ),
        "unauthorized_client" => words(
            "the client may not use this grant",
            "allow client credentials (machine to machine) in the client's registration",
        ),
        "invalid_scope" => words(
            "the provider does not know the scope, or does not allow it to the client",
            "compare scope: with what the API defines and the client was granted",
        ),
        "invalid_grant" => words(
            "the provider does not take the assertion or the token that was sent: its time, audience or subject is wrong",
            "check the clock, the assertion's audience and its subject; a client registered for DPoP needs dpop: true",
        ),
        "invalid_target" => words(
            "the provider does not know the resource, or does not allow it to the client",
            "compare resource: and audience: with the API's identifier",
        ),
        "invalid_resource" => words(
            "the tenant does not know the API that the scope names",
            "compare the scope with the API's App ID URI, and see that the API is registered in this tenant",
        ),
        "unsupported_grant_type" => words(
            "the endpoint does not take client credentials",
            "check token_url: it may be another endpoint's",
        ),
        "invalid_request" => words(
            "the provider takes the request for malformed: a parameter is missing, doubled or unknown",
            "check auth:, scope:, audience: and extra: against the provider's documentation",
        ),
        "access_denied" => words(
            "the provider knows the client but grants it nothing here",
            "grant the client access to the API (audience) at the provider",
        ),
        "invalid_dpop_proof" | "use_dpop_nonce" => words(
            "the provider does not take the proof of possession (DPoP)",
            "check the clock; see that the provider's address is the one in token_url",
        ),
        "interaction_required" | "consent_required" => words(
            "the provider wants a person's consent",
            "let an administrator consent to the client's permissions",
        ),
        "temporarily_unavailable" | "server_error" => words(
            "the provider has a trouble of its own",
            "nothing: the gateway asks again; if it lasts, look at the provider's health page",
        ),
        "slow_down" => words(
            "the provider is asked too often",
            "the gateway waits; look for other users of this client_id",
        ),
        _ => return None,
    })
}

/// The words for a bare HTTP status.
pub fn of_status(status: u16) -> Diagnosis {
    match status {
        300..=399 => words(
            "the token endpoint redirects, which is not followed: a secret must not go elsewhere",
            "put the endpoint's final URL into token_url or issuer",
        ),
        401 => words(
            "the provider does not take the client's proof",
            "compare client_id, the secret in its source, and auth: with the client's registration",
        ),
        403 => words(
            "the provider, or a firewall in front of it, forbids the request",
            "see whether the gateway's address is allowed there",
        ),
        404 | 405 | 410 => {
            words("there is no token endpoint at this URL", "check token_url, issuer or tenant")
        }
        407 => words(
            "an outbound proxy wants a login of its own",
            "put user and password into HTTPS_PROXY of the gateway's environment, or let its address through",
        ),
        426 => words(
            "the connection used a TLS version that the provider no longer takes",
            "something between breaks TLS open: look for an inspecting proxy",
        ),
        429 => words(
            "the provider is asked too often",
            "the gateway waits as long as it was told; look for other users of this client_id",
        ),
        408 | 500..=599 => words(
            "the provider, or a proxy in front of it, is out of order",
            "nothing: the gateway asks again; if it lasts, look at the provider's health page",
        ),
        _ => words(
            "the provider refuses, and does not say why in words that are known here",
            "look for the status and the text in the provider's documentation",
        ),
    }
}

/// A token without the roles that were expected.
pub fn of_missing_roles(is_of_entra: bool) -> Diagnosis {
    if is_of_entra {
        words(
            "the account was not assigned the app role, and the API lets tokens without one be issued",
            "assign the app role to the account and grant consent; turn on \"Assignment required\" for the API; the \
             next token has the role",
        )
    } else {
        words(
            "the provider did not grant the account the role or scope",
            "grant it at the provider, and ask for it where the provider wants that (scope:); the next token has it",
        )
    }
}

/// Clocks that are `seconds` apart, positive when the provider's is ahead.
pub fn of_clock_skew(seconds: i64) -> Diagnosis {
    let remedy = "set this machine's clock (NTP): tokens and assertions are judged by it";
    if seconds > 0 {
        words("this machine's clock is behind the identity provider's", remedy)
    } else {
        words("this machine's clock is ahead of the identity provider's", remedy)
    }
}

impl ExchangeError {
    /// The failure in plain words.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Source(error) => of_source(error),
            Self::Proof(error) => of_proof(error),
            Self::Authorities(_) => words(
                "the file with the authorities that this profile trusts cannot be used",
                "put the PEM file of ca: right, or leave ca out to trust the system's authorities",
            ),
            Self::Unfit { .. } => words(
                "what the source holds cannot stand in a header field or a parameter",
                "put the token, password or key there as one line of visible characters",
            ),
            Self::Unreachable { reason, .. } => of_network(reason),
            Self::TimedOut { .. } => words(
                "the provider is too slow, or packets are lost on the way",
                "try again; a firewall that drops packets looks like this, so does a proxy that hangs",
            ),
            Self::Rejected(rejection) => rejection.diagnosis(),
            Self::ManagedIdentity(failure) => failure.diagnosis,
            Self::Unusable { what, .. } if !what.contains("body") => words(
                "the provider gives something else than this profile asks for",
                "compare grant, dpop, token_field and requested_token_type with what the provider says that it issues",
            ),
            Self::Unusable { .. } | Self::TooLarge { .. } => words(
                "what answered is no token endpoint, or a proxy has answered in its place",
                "open the endpoint's URL from this machine and see who answers",
            ),
            Self::SetUp { .. } => words(
                "the machine has no usable certificates of authorities",
                "install the system's CA certificates (package ca-certificates), or give the profile ca: {file: …}",
            ),
            Self::Discovery { flaw: discovery::Flaw::Failing { status: None, .. }, what, .. } => {
                of_network(what)
            }
            Self::Discovery { flaw: discovery::Flaw::Failing { status: Some(200), .. }, .. } => words(
                "what answered is no issuer, or a proxy has answered in its place",
                "open the URL from this machine and see who answers",
            ),
            Self::Discovery { flaw: discovery::Flaw::Failing { status: Some(status), .. }, .. } => {
                of_status(*status)
            }
            Self::Discovery { flaw: discovery::Flaw::Absent, .. } => words(
                "the issuer has its metadata at neither of the two places where they can be",
                "compare issuer with the provider's documentation, its path too, or write token_url instead",
            ),
            Self::Discovery { flaw: discovery::Flaw::Unfit, .. } => words(
                "the issuer's metadata does not fit the issuer that is configured",
                "write issuer exactly as its metadata has it, or token_url instead",
            ),
        }
    }

    /// The failure and its words in one line, for the log and the command line.
    pub fn explained(&self) -> Explained<'_> {
        Explained(self)
    }
}

/// See [`ExchangeError::explained`].
pub struct Explained<'a>(&'a ExchangeError);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.0.diagnosis())
    }
}

#[cfg(test)]
mod tests;
