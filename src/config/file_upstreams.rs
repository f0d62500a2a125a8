//! What the configuration file may say about upstreams.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{field::Field, file::DurationText};

/// A base URL, alone or with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(rename = "Upstream", untagged)]
pub(super) enum Upstream {
    #[serde(rename = "text")]
    Url(String),
    #[serde(rename = "map")]
    Full(Box<FullUpstream>),
}

/// An upstream with its own way to connect.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct FullUpstream {
    /// Base URL; its path goes in front of every request's path.
    pub(super) url: Field<String>,
    /// Certificate authorities to trust instead of the system's.
    pub(super) ca: Option<Field<PemFile>>,
    /// The certificate to show when the upstream asks for one, with those above it. Needs `key`.
    pub(super) certificate: Option<Field<PemFile>>,
    /// The private key of `certificate`, without a password.
    pub(super) key: Option<Field<PemFile>>,
    /// The name that the upstream's certificate must have. Default the host in `url`.
    pub(super) server_name: Option<Field<String>>,
    /// The least version of TLS. Default `"1.2"`.
    pub(super) min_tls: Option<Field<TlsVersion>>,
    /// When HTTP/2 is spoken. Default `auto`.
    pub(super) http2: Option<Field<Http2>>,
    /// How long a connection takes new requests, a tenth more or less; 1s to 24h. Default 10m.
    pub(super) max_age: Option<Field<DurationText>>,
}

/// A file in PEM form.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct PemFile {
    /// Its path, relative to the configuration file.
    pub(super) file: Field<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// When HTTP/2 is spoken.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Http2 {
    /// On https, when the upstream agrees to it.
    Auto,
    /// Never.
    Off,
    /// Always, over plain http, without asking.
    PriorKnowledge,
}
