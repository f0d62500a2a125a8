//! What the configuration file may say about Azure: managed identities, workloads, the names of clouds.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{field::Field, file::DurationText, file_profiles::Recovery, file_secrets::SecretPlace};

/// The account that Azure gives to a machine or an application; it has no secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ManagedIdentity {
    /// Always `managed_identity`.
    #[expect(dead_code, reason = "chose this struct already")]
    pub(super) kind: Field<ManagedIdentityKind>,
    /// `<App ID URI>/.default`. Exactly one of `scope` and `resource`.
    pub(super) scope: Option<Field<String>>,
    /// The App ID URI of the API. Exactly one of `scope` and `resource`.
    pub(super) resource: Option<Field<String>>,
    /// Client id of a user-assigned identity. Default the machine's own identity.
    pub(super) client_id: Option<Field<String>>,
    /// Object id of a user-assigned identity's service principal. Excludes `client_id`.
    pub(super) object_id: Option<Field<String>>,
    /// Path of a user-assigned identity in Azure Resource Manager. Excludes `client_id`.
    pub(super) resource_id: Option<Field<String>>,
    /// Which of Azure's endpoints gives the tokens. Default `auto`: what the surroundings tell.
    pub(super) endpoint: Option<Field<IdentityEndpoint>>,
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
}

/// The kind of a managed identity's profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ManagedIdentityKind {
    /// A managed identity.
    ManagedIdentity,
}

/// Which of Azure's endpoints gives a managed identity's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum IdentityEndpoint {
    /// What the environment's variables and the Azure Arc agent's files tell.
    Auto,
    /// A virtual machine, a scale set or a node of Kubernetes.
    Imds,
    /// App Service, Functions or Container Apps.
    AppService,
    /// A Service Fabric cluster.
    ServiceFabric,
    /// Azure Machine Learning.
    AzureMl,
    /// A machine elsewhere with the Azure Arc agent.
    Arc,
}

/// One of Microsoft's clouds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum CloudName {
    /// `login.microsoftonline.com`.
    Global,
    /// `login.microsoftonline.us`.
    UsGovernment,
    /// `login.partner.microsoftonline.cn`.
    China,
    /// `login.sovcloud-identity.fr`.
    BleuFrance,
    /// `login.sovcloud-identity.de`.
    DelosGermany,
    /// `login.sovcloud-identity.sg`.
    SingaporeGovernment,
}

/// Where the workload's token comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(rename = "FederatedToken", untagged)]
pub(super) enum Federated {
    #[serde(rename = "text")]
    Word(Everything),
    #[serde(rename = "map")]
    Kept(Box<SecretPlace>),
}

/// Everything from variables.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Everything {
    /// From `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and `AZURE_AUTHORITY_HOST`.
    Environment,
}
