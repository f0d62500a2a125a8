//! What the configuration file may say about profiles, one struct for each kind.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    field::{Field, Named},
    file::DurationText,
    file_azure::{CloudName, Federated, ManagedIdentity},
    file_grants::{GrantWord, Provider},
    file_proofs::{Auth, BasicEncoding, SigningAlg},
    file_secrets::SecretPlace,
    file_static::Static,
    file_upstreams::PemFile,
};

/// A service account: how to get a token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$kind")]
#[schemars(rename = "Profile", untagged)]
pub(super) enum Profile {
    #[serde(rename = "entra")]
    Entra(Box<Entra>),
    #[serde(rename = "oauth2")]
    OAuth2(Box<OAuth2>),
    #[serde(rename = "static")]
    Static(Box<Static>),
    #[serde(rename = "managed_identity")]
    ManagedIdentity(Box<ManagedIdentity>),
}

/// An app registration in Microsoft Entra ID, also in the tenant of an Azure AD B2C directory.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Entra {
    /// Always `entra`.
    #[expect(dead_code, reason = "chose this struct already")]
    pub(super) kind: Field<EntraKind>,
    /// Directory (tenant) id or verified domain, such as `contoso.onmicrosoft.com`. Needed unless
    /// `federated_token` is `environment`.
    pub(super) tenant: Option<Field<String>>,
    /// Application (client) id. Needed unless `federated_token` is `environment`.
    pub(super) client_id: Option<Field<String>>,
    /// Where the client secret is kept. Exactly one of `client_secret`, `certificate` and `federated_token`.
    pub(super) client_secret: Option<Field<Places>>,
    /// The day on which the client secret expires, as in `2027-01-31`, or a time, as in
    /// `2027-01-31T12:00:00Z`. Default: what its place says, if it knows.
    pub(super) client_secret_expires: Option<Field<String>>,
    /// Where the certificate is kept: PEM with its key, or a PFX file.
    pub(super) certificate: Option<Field<Place>>,
    /// Where the certificate's key is kept, when it is not beside it. PEM.
    pub(super) private_key: Option<Field<Place>>,
    /// Where the password of the PFX file, or of an encrypted key, is kept. Default none.
    pub(super) certificate_password: Option<Field<Place>>,
    /// How the certificate's key signs: `PS256`, or `RS256` for ADFS. Default `PS256`.
    pub(super) signing_alg: Option<Field<SigningAlg>>,
    /// Where the workload's own token is kept, or `environment` for everything from the variables that
    /// Azure Workload Identity sets.
    pub(super) federated_token: Option<Field<Federated>>,
    /// `<App ID URI>/.default`.
    pub(super) scope: Field<String>,
    /// Which of Microsoft's clouds has the tenant. Default `global`.
    pub(super) cloud: Option<Field<CloudName>>,
    /// Base URL of the authority, for one that no cloud's name stands for, such as
    /// `https://contoso.ciamlogin.com`. Excludes `cloud`.
    pub(super) authority: Option<Field<String>>,
    /// User flow or custom policy of Azure AD B2C, such as `B2C_1_x`: tokens then come from `b2clogin.com`.
    /// Default none: they come from the directory.
    pub(super) policy: Option<Field<String>>,
    /// Whether the gateway declares that it handles claims challenges (continuous access evaluation).
    /// Default false.
    pub(super) cae: Option<Field<bool>>,
    /// App roles that tokens should carry; a warning tells when they do not. Default none.
    pub(super) expected_roles: Option<Field<Vec<Field<String>>>>,
    /// Whether readiness waits for this profile's token. Default true.
    pub(super) required: Option<Field<bool>>,
    /// How often a 401 may cause a new token.
    pub(super) recovery: Option<Field<Recovery>>,
    /// Lifetime of a token whose answer tells none, 1s to 24h. Default 5m.
    pub(super) default_ttl: Option<Field<DurationText>>,
    /// The longest that one token request may take, 100ms to 5m. Default 10s.
    pub(super) token_timeout: Option<Field<DurationText>>,
    /// Further profiles whose credentials go on the same requests. Default none.
    pub(super) also: Option<Field<Vec<Field<String>>>>,
    /// A proxy towards the identity provider, or `off` for none. Default what `HTTPS_PROXY` and `NO_PROXY` say.
    pub(super) proxy: Option<Field<String>>,
    /// Certificate authorities to trust instead of the system's when talking to the identity provider.
    pub(super) ca: Option<Field<PemFile>>,
}

/// The kind of an Entra profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntraKind {
    /// Microsoft Entra ID.
    Entra,
}

/// A client of any OAuth 2.0 server.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct OAuth2 {
    /// Always `oauth2`.
    #[expect(dead_code, reason = "chose this struct already")]
    pub(super) kind: Field<OAuth2Kind>,
    /// Who runs the server: what is known of it is filled in and checked. Keys that are written win. Default
    /// any server.
    pub(super) provider: Option<Field<Provider>>,
    /// The host of an Auth0, Okta, Cognito, Zitadel or Salesforce tenant.
    pub(super) domain: Option<Field<String>>,
    /// Where Keycloak, Ory Hydra or PingFederate is, as in `https://sso.example.com`.
    pub(super) base_url: Option<Field<String>>,
    /// The realm of a Keycloak server.
    pub(super) realm: Option<Field<String>>,
    /// The id of Okta's custom authorization server, such as `default`. Default the org server.
    pub(super) authorization_server: Option<Field<String>>,
    /// The id of a PingOne environment.
    pub(super) environment_id: Option<Field<String>>,
    /// The end of PingOne's host name: `com`, `eu`, `ca`, `asia`, `com.au` or `sg`. Default `com`.
    pub(super) region: Option<Field<String>>,
    /// What is traded for the token. Default `client_credentials`.
    pub(super) grant: Option<Field<GrantWord>>,
    /// The token endpoint. Exactly one of `token_url` and `issuer`, unless `provider` says it.
    pub(super) token_url: Option<Field<String>>,
    /// The issuer, whose metadata names the token endpoint. Exactly one of `token_url` and `issuer`.
    pub(super) issuer: Option<Field<String>>,
    /// How the client proves who it is. Default `client_secret_basic`, and nothing at all with grant
    /// `jwt_bearer`.
    pub(super) auth: Option<Field<Auth>>,
    /// Whether id and secret are form-encoded before they go into the Basic header (RFC 6749 §2.3.1) or
    /// sent as they are, which some servers expect. Default `form`.
    pub(super) basic_encoding: Option<Field<BasicEncoding>>,
    /// Client id. Not needed where what is traded says who asks.
    pub(super) client_id: Option<Field<String>>,
    /// Where the client secret is kept. Needed for the methods that are named after it.
    pub(super) client_secret: Option<Field<Places>>,
    /// The day on which the client secret expires, as in `2027-01-31`, or a time, as in
    /// `2027-01-31T12:00:00Z`. Default: what its place says, if it knows.
    pub(super) client_secret_expires: Option<Field<String>>,
    /// Where the private key is kept, PEM: the one that signs for `private_key_jwt`, otherwise the
    /// certificate's when that is not beside it.
    pub(super) private_key: Option<Field<Place>>,
    /// The name by which the server knows the key (`kid`). Default none.
    pub(super) key_id: Option<Field<String>>,
    /// How the key signs: `RS256`, `PS256` or `ES256`. Default `RS256`.
    pub(super) signing_alg: Option<Field<SigningAlg>>,
    /// For whom assertions are made: `token_endpoint`, `issuer`, or any text. Default the issuer when there
    /// is one, else the token endpoint.
    pub(super) assertion_audience: Option<Field<String>>,
    /// Where the certificate for TLS is kept: PEM with its key, or a PFX file. Needed for `tls_client_auth`
    /// and `self_signed_tls_client_auth`; beside another method it is what tokens are bound to.
    pub(super) certificate: Option<Field<Place>>,
    /// Where the password of the PFX file, or of an encrypted key, is kept. Default none.
    pub(super) certificate_password: Option<Field<Place>>,
    /// Where an assertion that others make and renew is kept, for `client_assertion`.
    pub(super) client_assertion: Option<Field<Place>>,
    /// Where the key file of a Google or Zitadel service account is kept (JSON), for grant `jwt_bearer`. Or
    /// `private_key` with `key_id`.
    pub(super) service_account: Option<Field<Place>>,
    /// Whom an assertion that is traded comes from (`iss`), with `private_key`. Default `client_id`.
    pub(super) assertion_issuer: Option<Field<String>>,
    /// For whom an assertion that is traded speaks (`sub`). Default the account itself.
    pub(super) assertion_subject: Option<Field<String>>,
    /// For whom Google makes an ID token, instead of an access token with a scope.
    pub(super) target_audience: Option<Field<String>>,
    /// Where the token is kept that is exchanged; read for every token request.
    pub(super) subject_token: Option<Field<Place>>,
    /// Its type: `access_token`, `id_token`, `jwt`, `refresh_token`, `saml1`, `saml2`, or a URI.
    pub(super) subject_token_type: Option<Field<String>>,
    /// Where the token is kept of who acts for the subject. Default none.
    pub(super) actor_token: Option<Field<Place>>,
    /// Its type, as for `subject_token_type`.
    pub(super) actor_token_type: Option<Field<String>>,
    /// The type of token to get, as for `subject_token_type`. Default the server's choice.
    pub(super) requested_token_type: Option<Field<String>>,
    /// The member of the answer that holds the token. Default `access_token`, and `id_token` with
    /// `target_audience`.
    pub(super) token_field: Option<Field<String>>,
    /// Scopes, separated by spaces. Default none.
    pub(super) scope: Option<Field<String>>,
    /// The `audience` parameter that some servers want. Default none.
    pub(super) audience: Option<Field<String>>,
    /// Resource indicators (RFC 8707): one absolute URI, or a list of them. Default none.
    pub(super) resource: Option<Field<Resource>>,
    /// More parameters of the token request, by name. Not for secrets. Default none.
    pub(super) extra: Option<Field<Named<String>>>,
    /// Whether tokens are bound to a key that only this gateway has (RFC 9449). Default false.
    pub(super) dpop: Option<Field<bool>>,
    /// Roles that tokens should carry; a warning tells when they do not. Default none.
    pub(super) expected_roles: Option<Field<Vec<Field<String>>>>,
    /// Whether readiness waits for this profile's token. Default true.
    pub(super) required: Option<Field<bool>>,
    /// How often a 401 may cause a new token.
    pub(super) recovery: Option<Field<Recovery>>,
    /// Lifetime of a token whose answer tells none, 1s to 24h. Default 5m.
    pub(super) default_ttl: Option<Field<DurationText>>,
    /// The longest that one token request may take, 100ms to 5m. Default 10s.
    pub(super) token_timeout: Option<Field<DurationText>>,
    /// Further profiles whose credentials go on the same requests. Default none.
    pub(super) also: Option<Field<Vec<Field<String>>>>,
    /// A proxy towards the identity provider, or `off` for none. Default what `HTTPS_PROXY` and `NO_PROXY` say.
    pub(super) proxy: Option<Field<String>>,
    /// Certificate authorities to trust instead of the system's when talking to the identity provider.
    pub(super) ca: Option<Field<PemFile>>,
}

/// The kind of an OAuth 2.0 profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OAuth2Kind {
    /// Any OAuth 2.0 server.
    OAuth2,
}

/// Where a secret is kept, or by mistake the secret itself.
#[derive(Debug, Deserialize)]
#[serde(rename = "$shape")]
pub(super) enum Place {
    /// A secret in the file: refused, never kept.
    #[serde(rename = "text")]
    Inline(Hidden),
    /// Several, refused as well.
    #[serde(rename = "list")]
    Listed(Hidden),
    #[serde(rename = "map")]
    Kept(Box<SecretPlace>),
}

/// Text that was dropped as soon as it was read.
#[derive(Debug)]
pub(super) struct Hidden;

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

/// Where a secret is kept, or where two are of which one works.
#[derive(Debug, Deserialize)]
#[serde(rename = "$shape")]
pub(super) enum Places {
    /// A secret in the file: refused, never kept.
    #[serde(rename = "text")]
    Inline(Hidden),
    #[serde(rename = "list")]
    Several(Vec<Field<Place>>),
    #[serde(rename = "map")]
    Kept(Box<SecretPlace>),
}

impl JsonSchema for Places {
    fn schema_name() -> Cow<'static, str> {
        "SecretPlaces".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<SecretPlace>().to_value();
        json_schema!({
            "description": "Where a secret is kept, or two places: the second is tried when the provider refuses the first.",
            "anyOf": [one, { "type": "array", "items": one, "minItems": 2, "maxItems": 2 }],
        })
    }
}

impl JsonSchema for Place {
    fn schema_name() -> Cow<'static, str> {
        "SecretPlace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SecretPlace::json_schema(generator)
    }
}

/// One URI, or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(rename = "Resource", untagged)]
pub(super) enum Resource {
    #[serde(rename = "text")]
    One(String),
    #[serde(rename = "list")]
    Many(Vec<Field<String>>),
}

/// How often a 401 may cause a new token.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Recovery {
    /// A token younger than this is not replaced because of a 401, 0s to 1h. Default 5s.
    pub(super) min_token_age: Option<Field<DurationText>>,
    /// The least time between two tokens fetched because of 401s, 0s to 1h. Default 30s.
    pub(super) min_interval: Option<Field<DurationText>>,
}
