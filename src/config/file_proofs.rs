//! What the configuration file may say about how clients prove themselves.
//!
//! As in `file`, the comments are the schema's descriptions.

use schemars::JsonSchema;
use serde::Deserialize;

/// How a client proves who it is to the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Auth {
    /// Id and secret in a Basic header.
    ClientSecretBasic,
    /// Id and secret in the body.
    ClientSecretPost,
    /// An assertion under HS256, made with the secret.
    ClientSecretJwt,
    /// An assertion signed with a private key.
    PrivateKeyJwt,
    /// A certificate of a known authority in the TLS handshake.
    #[serde(rename = "tls_client_auth")]
    TlsClient,
    /// A certificate that the server knows itself in the TLS handshake.
    #[serde(rename = "self_signed_tls_client_auth")]
    SelfSignedTls,
    /// An assertion that others make, such as a workload's identity token.
    ClientAssertion,
    /// The id alone.
    None,
}

/// How assertions are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum SigningAlg {
    /// RSA, the older way.
    Rs256,
    /// RSA, the newer way.
    Ps256,
    /// P-256.
    Es256,
}

/// How id and secret are written into a Basic header.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BasicEncoding {
    /// Form-encoded first.
    Form,
    /// As they are.
    Raw,
}
