//! Key files of service accounts: JSON documents that hold a private key and say whose it is.
//!
//! Google's and Zitadel's are known, told apart by their members. Nothing of what a file says is
//! repeated in an error: it is a secret as a whole.

use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    profile::key::{Algorithm, KeyError, PrivateKey},
    source::Source,
};

/// Why a document is no key file that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyFileError {
    /// It is something else.
    #[error(
        "{0} is no key file of a service account (expected the JSON file as it was downloaded from Google or Zitadel)"
    )]
    Unknown(Source),
    /// Members are missing.
    #[error("{0} is a key file without {1} (download it again)")]
    Incomplete(Source, &'static str),
    /// A key of an application, which proves a client and is not traded for tokens.
    #[error(
        "{0} is the key of a Zitadel application (make one for a service user, or take its key out and use auth: private_key_jwt)"
    )]
    Application(Source),
    /// Google's other kinds of file.
    #[error("{0} is a Google file of type {1:?}, which holds no key (expected \"service_account\")")]
    NoKeyInside(Source, &'static str),
    /// The key inside cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Who made a key file, and so how its assertions look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// Google: the scope stands in the assertion, and there is no subject unless one is named.
    Google,
    /// Zitadel: the account is its own subject.
    Zitadel,
}

/// What a key file holds.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Who made it.
    pub maker: Maker,
    /// The private key. Both makers sign with RS256.
    pub key: PrivateKey,
    /// By what the maker knows the key.
    pub key_id: String,
    /// The account: an e-mail address or a user's id.
    pub account: String,
    /// The token endpoint that a Google file names.
    pub token_uri: Option<String>,
}

/// All members that either maker writes and that matter.
#[derive(Deserialize)]
struct Members {
    r#type: Option<String>,
    private_key: Option<Wiped>,
    private_key_id: Option<String>,
    client_email: Option<String>,
    token_uri: Option<String>,
    key: Option<Wiped>,
    #[serde(rename = "keyId")]
    key_id: Option<String>,
    #[serde(rename = "userId")]
    user_id: Option<String>,
}

/// Text that is wiped when dropped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Wiped(String);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl KeyFile {
    /// Reads a key file as it was downloaded.
    ///
    /// # Errors
    /// [`KeyFileError`], which names `source`.
    pub fn read(bytes: &Zeroizing<Vec<u8>>, source: &Source) -> Result<Self, KeyFileError> {
        let members: Members =
            serde_json::from_slice(bytes).map_err(|_| KeyFileError::Unknown(source.clone()))?;
        match members.r#type.as_deref() {
            Some("service_account") => google(members, source),
            Some("serviceaccount") => zitadel(members, source),
            Some("application") if members.key.is_some() => Err(KeyFileError::Application(source.clone())),
            Some("authorized_user") => Err(KeyFileError::NoKeyInside(source.clone(), "authorized_user")),
            Some("external_account") => Err(KeyFileError::NoKeyInside(source.clone(), "external_account")),
            _ => Err(KeyFileError::Unknown(source.clone())),
        }
    }
}

fn google(members: Members, source: &Source) -> Result<KeyFile, KeyFileError> {
    Ok(KeyFile {
        maker: Maker::Google,
        key: signing_key(members.private_key, "private_key", source)?,
        key_id: member(members.private_key_id, "private_key_id", source)?,
        account: member(members.client_email, "client_email", source)?,
        token_uri: members.token_uri,
    })
}

fn zitadel(members: Members, source: &Source) -> Result<KeyFile, KeyFileError> {
    Ok(KeyFile {
        maker: Maker::Zitadel,
        key: signing_key(members.key, "key", source)?,
        key_id: member(members.key_id, "keyId", source)?,
        account: member(members.user_id, "userId", source)?,
        token_uri: None,
    })
}

fn signing_key(pem: Option<Wiped>, name: &'static str, source: &Source) -> Result<PrivateKey, KeyFileError> {
    let pem = pem.ok_or_else(|| KeyFileError::Incomplete(source.clone(), name))?;
    let key = PrivateKey::from_pem(pem.0.as_bytes(), source)?;
    key.fits(Algorithm::Rs256, source)?;
    Ok(key)
}

fn member(value: Option<String>, name: &'static str, source: &Source) -> Result<String, KeyFileError> {
    value.filter(|text| !text.is_empty()).ok_or_else(|| KeyFileError::Incomplete(source.clone(), name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: &serde_json::Value) -> Result<KeyFile, KeyFileError> {
        KeyFile::read(&Zeroizing::new(json.to_string().into_bytes()), &Source::Env("F".into()))
    }

    fn pem() -> String {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem()
    }

    #[test]
    fn googles_and_zitadels_files_are_told_apart_by_their_members() {
        let pem = pem();
        let google = read(&json!({
            "type": "service_account", "project_id": "p", "private_key_id": "k1", "private_key": pem,
            "client_email": "svc@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
        }))
        .unwrap();
        assert_eq!((google.maker, google.key_id.as_str()), (Maker::Google, "k1"));
        assert_eq!(google.account, "svc@p.iam.gserviceaccount.com");
        assert_eq!(google.token_uri.as_deref(), Some("https://oauth2.googleapis.com/token"));
        let zitadel =
            read(&json!({"type": "serviceaccount", "keyId": "k2", "key": pem, "userId": "u7"})).unwrap();
        assert_eq!((zitadel.maker, zitadel.key_id.as_str()), (Maker::Zitadel, "k2"));
        assert_eq!((zitadel.account.as_str(), zitadel.token_uri), ("u7", None));
    }

    #[test]
    fn files_that_are_something_else_are_told_without_repeating_them() {
        let pem = pem();
        let check = |json: &serde_json::Value, words: &str| {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        };
        check(&json!("canary"), "is no key file of a service account");
        check(&json!({"type": "canary"}), "is no key file of a service account");
        check(&json!({"type": "application", "key": "canary", "clientId": "c"}), "Zitadel application");
        check(&json!({"type": "authorized_user", "refresh_token": "canary"}), "holds no key");
        check(&json!({"type": "service_account", "private_key": "canary"}), "holds no private key");
        check(&json!({"type": "service_account", "client_email": "canary"}), "without private_key");
        check(&json!({"type": "serviceaccount", "key": pem, "userId": "u"}), "without keyId");
        let p256 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        check(&json!({"type": "serviceaccount", "key": p256, "keyId": "k", "userId": "u"}), "RS256 needs");
    }
}
