//! The JSON Schema that editors complete from: made of the structs in `file`.
//!
//! Environments are no struct: they are laid over the file before it is read. Their part of the schema
//! is made here from the parts for routes and profiles.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    file::{File, Route},
    file_profiles::Profile,
};

const ID: &str = "https://keybearer.dev/schema/keybearer.json";

/// The JSON Schema (draft 2020-12) of the configuration file.
pub(super) fn schema() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let route = generator.subschema_for::<Route>().to_value();
    let profile = generator.subschema_for::<Profile>().to_value();
    let mut root = generator.root_schema_for::<File>().to_value();
    let definitions = root.get("$defs").cloned().unwrap_or_default();
    let environments = json!({
        "description": "Overlays by name, chosen with --environment. An overlay changes routes and profiles and may add profiles. Maps are merged; a key without a value takes the key away.",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "routes": {
                    "description": "Changes to routes, by their names.",
                    "type": "object",
                    "additionalProperties": patch(&route, &definitions),
                },
                "profiles": {
                    "description": "Changes to profiles, and new ones.",
                    "type": "object",
                    "additionalProperties": patch(&profile, &definitions),
                },
            },
            "additionalProperties": false,
        },
    });
    if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("environments".to_owned(), environments);
    }
    if let Some(object) = root.as_object_mut() {
        object.insert("$id".to_owned(), json!(ID));
        object.insert("title".to_owned(), json!("Keybearer configuration"));
    }
    if let Some(profile) = root.pointer_mut("/$defs/Profile").and_then(Value::as_object_mut)
        && let Some(kinds) = profile.remove("anyOf")
    {
        profile.insert("oneOf".to_owned(), kinds);
    }
    root
}

/// `schema` with every key optional and removable, references written out.
fn patch(schema: &Value, definitions: &Value) -> Value {
    let Value::Object(object) = schema else { return schema.clone() };
    if let Some(Value::String(reference)) = object.get("$ref") {
        let name = reference.trim_start_matches("#/$defs/");
        // A secret's place is replaced as a whole, so it stays as strict as it is.
        let whole = name == "SecretPlace" || name == "SecretPlaces" || name == "FullUpstream";
        return match definitions.get(name) {
            Some(target) if !whole => patch(target, definitions),
            _ => schema.clone(),
        };
    }
    let mut out = Map::new();
    for (key, value) in object {
        match (key.as_str(), value) {
            ("required", _) => {}
            ("properties", Value::Object(properties)) => {
                let removable = |(name, value): (&String, &Value)| {
                    (name.clone(), json!({ "anyOf": [patch(value, definitions), { "type": "null" }] }))
                };
                out.insert(key.clone(), Value::Object(properties.iter().map(removable).collect()));
            }
            ("anyOf" | "oneOf", Value::Array(options)) => {
                let options: Vec<Value> = options.iter().map(|option| patch(option, definitions)).collect();
                out.insert("anyOf".to_owned(), Value::Array(options));
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}
