//! Whether a token is for the identity that was asked for.
//!
//! Old agents ignore the choice of a user-assigned identity and give the machine's own, with other
//! rights. The answer tells whose token it is; the token itself is not looked into, as its content is
//! the API's business.

use serde_json::{Map, Value};

use super::{Account, failure::Failure, host::Host};

/// Compares what was asked for with what the answer says.
///
/// # Errors
/// When the answer names another identity. Also when it names none, from a host that would.
pub(super) fn check(host: Host, account: &Account, body: &[u8]) -> Result<(), Failure> {
    let (names, wanted): (&[&str], &str) = match account {
        Account::System => return Ok(()),
        Account::ClientId(id) => (&["client_id"], id),
        Account::ObjectId(id) => (&["object_id", "principal_id"], id),
        Account::ResourceId(id) => (&["msi_res_id", "mi_res_id"], id),
    };
    let json: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let said = names.iter().find_map(|name| json.get(*name)?.as_str()).filter(|id| !id.is_empty());
    match said {
        // GUIDs and resource ids are compared without case everywhere in Azure.
        Some(id) if id.eq_ignore_ascii_case(wanted) => Ok(()),
        Some(_) => Err(Failure::another_identity(host, account)),
        // An agent that knows the choice repeats it. One that does not gives the machine's own identity.
        None if host == Host::Arc => Err(Failure::unnamed_identity(account)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_identity_than_the_one_asked_for_is_refused() {
        let client = Account::ClientId("aa-1".into());
        let check = |host, account: &Account, body: &str, expected| {
            assert_eq!(check(host, account, body.as_bytes()).is_ok(), expected, "{account} {body}");
        };
        check(Host::AppService, &client, r#"{"client_id":"AA-1"}"#, true);
        check(Host::AppService, &client, r#"{"client_id":"bb-2"}"#, false);
        check(Host::Imds, &client, r#"{"client_id":"bb-2"}"#, false);
        check(Host::Imds, &client, "{}", true);
        check(Host::Arc, &client, "{}", false);
        check(Host::Arc, &client, r#"{"client_id":""}"#, false);
        check(Host::Arc, &client, r#"{"client_id":"aa-1"}"#, true);
        check(Host::Arc, &Account::System, "{}", true);
        check(Host::Imds, &Account::System, r#"{"client_id":"bb-2"}"#, true);
        check(Host::Imds, &Account::ObjectId("o".into()), r#"{"client_id":"x","object_id":"p"}"#, false);
        check(Host::Imds, &Account::ResourceId("/s/A".into()), r#"{"msi_res_id":"/S/a"}"#, true);
    }
}
