//! What the configuration file may say about where secrets are kept.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{field::Field, file::DurationText, file_profiles::Place, file_upstreams::PemFile};

/// Where a secret is kept. Exactly one key.
#[derive(Debug, Deserialize)]
pub(super) struct SecretPlace {
    /// An environment variable of the gateway.
    pub(super) env: Option<Field<String>>,
    /// A file, relative to the configuration file.
    pub(super) file: Option<Field<String>>,
    /// A credential that systemd gives to the unit.
    pub(super) credential: Option<Field<String>>,
    /// A command that writes it to its standard output.
    pub(super) exec: Option<Field<Exec>>,
    /// HashiCorp Vault.
    pub(super) vault: Option<Field<Box<Vault>>>,
    /// Azure Key Vault.
    pub(super) azure_key_vault: Option<Field<KeyVault>>,
}

impl JsonSchema for SecretPlace {
    fn schema_name() -> Cow<'static, str> {
        "SecretPlace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a secret is kept. Exactly one key. Never the secret itself.",
            "type": "object",
            "properties": {
                "env": {
                    "description": "An environment variable of the gateway.",
                    "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"
                },
                "file": {
                    "description": "A file, relative to the configuration file. One line break at its end is taken off.",
                    "type": "string", "minLength": 1
                },
                "credential": {
                    "description": "A credential that systemd gives to the unit (LoadCredential=), by its name.",
                    "type": "string", "pattern": "^[^/]+$"
                },
                "exec": generator.subschema_for::<Exec>(),
                "vault": generator.subschema_for::<Vault>(),
                "azure_key_vault": generator.subschema_for::<KeyVault>(),
            },
            "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
        })
    }
}

/// A command that writes a secret to its standard output: program and arguments, which no shell reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(rename = "Exec", untagged)]
pub(super) enum Exec {
    #[serde(rename = "list")]
    Command(Vec<Field<String>>),
    #[serde(rename = "map")]
    Full(FullExec),
}

/// A command with a time limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct FullExec {
    /// Program and arguments. A program without `/` is looked for on `PATH`, any other path is relative to
    /// the configuration file.
    pub(super) command: Field<Vec<Field<String>>>,
    /// How long it may take, 100ms to 1m. Default 5s.
    pub(super) timeout: Option<Field<DurationText>>,
}

/// A field of a secret in HashiCorp Vault.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Vault {
    /// Scheme, host and port, as in `https://vault.example:8200`.
    pub(super) address: Field<String>,
    /// Where the secret is. Version 2 of the key-value engine wants `data` behind the mount:
    /// `secret/data/app`.
    pub(super) path: Field<String>,
    /// The field of the secret.
    pub(super) field: Field<String>,
    /// Certificate authorities to trust instead of the system's.
    pub(super) ca: Option<Field<PemFile>>,
    /// The namespace (Vault Enterprise). Default none.
    pub(super) namespace: Option<Field<String>>,
    /// How the gateway logs in.
    pub(super) auth: Field<VaultAuth>,
}

/// How the gateway logs in to Vault. Exactly one key.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct VaultAuth {
    /// A file with a token that somebody else renews, such as Vault's agent.
    pub(super) token_file: Option<Field<String>>,
    /// An AppRole.
    pub(super) approle: Option<Field<AppRole>>,
    /// The service account of the pod.
    pub(super) kubernetes: Option<Field<Kubernetes>>,
}

/// An AppRole.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct AppRole {
    /// The role's id.
    pub(super) role_id: Field<String>,
    /// Where its secret id is kept.
    pub(super) secret_id: Field<Place>,
    /// Where the method is mounted. Default `approle`.
    pub(super) mount: Option<Field<String>>,
}

/// The service account of the pod.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Kubernetes {
    /// The role.
    pub(super) role: Field<String>,
    /// Where the method is mounted. Default `kubernetes`.
    pub(super) mount: Option<Field<String>>,
    /// The service account's token. Default `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    pub(super) token_file: Option<Field<String>>,
}

/// A secret in Azure Key Vault.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct KeyVault {
    /// The vault's URL, as in `https://contoso.vault.azure.net`.
    pub(super) vault: Field<String>,
    /// The secret's name.
    pub(super) secret: Field<String>,
    /// One of its versions. Default the newest.
    pub(super) version: Option<Field<String>>,
    /// The profile whose account may read it, of kind `entra` or `managed_identity`.
    pub(super) profile: Field<String>,
}
