//! What the configuration file may say about grants and about providers that are known by name.
//!
//! As in `file`, the comments are the schema's descriptions.

use schemars::JsonSchema;
use serde::Deserialize;

/// What a client trades for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Grant")]
pub(super) enum GrantWord {
    /// Nothing but its own proof (RFC 6749 §4.4).
    ClientCredentials,
    /// An assertion that is signed here (RFC 7523 §2.1), for key files of Google and Zitadel, and Salesforce.
    JwtBearer,
    /// A token of somebody else's (RFC 8693).
    TokenExchange,
}

/// Who runs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Provider {
    /// Auth0: `domain`.
    Auth0,
    /// Okta: `domain`, and `authorization_server` for any but the org server.
    Okta,
    /// Amazon Cognito: `domain`.
    Cognito,
    /// Google's service accounts.
    Google,
    /// Keycloak: `base_url` and `realm`.
    Keycloak,
    /// Zitadel: `domain`.
    Zitadel,
    /// Ory Hydra: `base_url`.
    Hydra,
    /// PingOne: `environment_id` and `region`.
    PingOne,
    /// PingFederate: `base_url`.
    PingFederate,
    /// Salesforce: `domain`.
    Salesforce,
    /// Not one of these: a kind of its own. Known only to say so.
    #[schemars(skip)]
    Entra,
}

impl Provider {
    /// The word of the file.
    pub(super) fn word(self) -> &'static str {
        match self {
            Provider::Auth0 => "auth0",
            Provider::Okta => "okta",
            Provider::Cognito => "cognito",
            Provider::Google => "google",
            Provider::Keycloak => "keycloak",
            Provider::Zitadel => "zitadel",
            Provider::Hydra => "hydra",
            Provider::PingOne => "pingone",
            Provider::PingFederate => "pingfederate",
            Provider::Salesforce => "salesforce",
            Provider::Entra => "entra",
        }
    }
}
