//! The `claims` parameter of a token request (OpenID Connect Core §5.5), as Entra uses it.
//!
//! Two parties have wishes: the gateway declares that it understands claims challenges (`cp1`), and an
//! upstream's challenge demands something for one token. Both go into one JSON object.

use serde_json::{Map, Value, json};

/// What a client declares that can handle claims challenges: tokens then live up to 28 hours and can be
/// taken back before.
fn capabilities() -> Map<String, Value> {
    let Value::Object(map) = json!({"access_token": {"xms_cc": {"values": ["cp1"]}}}) else {
        return Map::new();
    };
    map
}

/// The value of `claims` for a request: the declaration if `cae`, and what `challenge` demands.
pub(super) fn requested(cae: bool, challenge: Option<&str>) -> Option<String> {
    if !cae {
        return challenge.map(str::to_owned);
    }
    // Whatever is no object was not demanded by anyone who knows what claims are.
    let mut all: Map<String, Value> =
        challenge.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    merge(&mut all, capabilities());
    Some(Value::Object(all).to_string())
}

/// Lays `ours` over `all`, object by object. Ours wins: an upstream must not take the declaration away.
fn merge(all: &mut Map<String, Value>, ours: Map<String, Value>) {
    for (name, value) in ours {
        match (all.get_mut(&name), value) {
            (Some(Value::Object(theirs)), Value::Object(value)) => merge(theirs, value),
            (_, value) => {
                all.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CP1: &str = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;

    #[test]
    fn without_cae_only_the_challenge_is_sent_and_as_it_came() {
        assert_eq!(requested(false, None), None);
        let challenge = r#"{ "access_token": {"nbf": {"essential": true}} }"#;
        assert_eq!(requested(false, Some(challenge)).as_deref(), Some(challenge));
    }

    #[test]
    fn the_declaration_and_the_challenge_are_merged_deeply() {
        let merged = |challenge: &str| -> Value {
            serde_json::from_str(&requested(true, Some(challenge)).unwrap()).unwrap()
        };
        assert_eq!(requested(true, None).as_deref(), Some(CP1));
        assert_eq!(
            merged(
                r#"{"access_token":{"nbf":{"essential":true,"value":"1700000000"}},"userinfo":{"a":null}}"#
            ),
            json!({
                "access_token": {
                    "nbf": {"essential": true, "value": "1700000000"},
                    "xms_cc": {"values": ["cp1"]},
                },
                "userinfo": {"a": null},
            })
        );
        let plain: Value = serde_json::from_str(CP1).unwrap();
        for odd in [r#"{"access_token":null}"#, r#"{"access_token":{"xms_cc":{"values":[]}}}"#, "[]", "no"] {
            assert_eq!(merged(odd), plain, "{odd}");
        }
    }
}
