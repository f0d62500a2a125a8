//! What the configuration file may say about traces.
//!
//! As in `file`, the comments are the schema's descriptions and text is still text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    field::{Field, Named},
    file_profiles::Place,
    file_upstreams::PemFile,
};

/// Where traces go.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Otlp {
    /// The collector, as in `http://127.0.0.1:4318`. `/v1/traces` is added unless it ends with that.
    pub(super) endpoint: Field<String>,
    /// Header fields that it wants, such as a key, with where their values are kept. Default none.
    pub(super) headers: Option<Field<Named<Place>>>,
    /// Certificate authorities to trust instead of the system's.
    pub(super) ca: Option<Field<PemFile>>,
    /// How many of the traces that begin here are kept, from 0 to 1. A caller that has its own trace decides for
    /// its requests. Default 1.
    pub(super) sampling: Option<Field<Fraction>>,
    /// The gateway's name in traces. Default `keybearer`.
    pub(super) service_name: Option<Field<String>>,
}

/// A number from 0 to 1, as it was written.
#[derive(Debug, Deserialize)]
pub(super) struct Fraction(pub(super) String);

impl JsonSchema for Fraction {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Fraction".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}
