//! What the configuration file may say about profiles of kind `static`.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    field::Field,
    file::DurationText,
    file_profiles::{Place, Recovery},
};

/// A token, a password or a key that is put on requests as it is. Exactly one of `bearer`, `basic`, `header`
/// and `query`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Static {
    /// Always `static`.
    #[expect(dead_code, reason = "chose this struct already")]
    pub(super) kind: Field<StaticKind>,
    /// Where the token is kept that goes into `Authorization: Bearer`.
    pub(super) bearer: Option<Field<Place>>,
    /// A user's name and password for `Authorization: Basic`.
    pub(super) basic: Option<Field<Basic>>,
    /// A key in a header field of its own.
    pub(super) header: Option<Field<HeaderKey>>,
    /// A key in a parameter of the query.
    pub(super) query: Option<Field<QueryKey>>,
    /// Whether readiness waits until the secret could be read. Default true.
    pub(super) required: Option<Field<bool>>,
    /// How often a 401 may cause another look at the secret. Default 0s and 1s.
    pub(super) recovery: Option<Field<Recovery>>,
    /// The longest that reading the secret may take, 100ms to 5m. Default 10s.
    pub(super) token_timeout: Option<Field<DurationText>>,
    /// Further profiles whose credentials go on the same requests. Default none.
    pub(super) also: Option<Field<Vec<Field<String>>>>,
}

/// The kind of a static profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StaticKind {
    /// Nobody is asked: the credential lies in its place.
    Static,
}

/// HTTP Basic authentication (RFC 7617).
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Basic {
    /// The user's name, without a colon.
    pub(super) username: Field<String>,
    /// Where the password is kept.
    pub(super) password: Field<Place>,
}

/// A key in a header field.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct HeaderKey {
    /// The field, such as `X-Api-Key`. A caller's own field of this name is never forwarded.
    pub(super) name: Field<String>,
    /// Where the key is kept.
    pub(super) value: Field<Place>,
    /// What stands in front of the key, such as `"ApiKey "`. Default nothing.
    pub(super) prefix: Option<Field<String>>,
}

/// A key in the query.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct QueryKey {
    /// The parameter, such as `api_key`. A caller's own parameter of this name is never forwarded.
    pub(super) name: Field<String>,
    /// Where the key is kept.
    pub(super) value: Field<Place>,
}
