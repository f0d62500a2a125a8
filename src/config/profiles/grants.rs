//! What a profile trades for its tokens.

use url::Url;

use super::{
    super::{
        field::{Field, given},
        file_grants::GrantWord,
        file_profiles::{OAuth2, Place},
        file_proofs::Auth,
        urls,
    },
    Account,
    presets::{self, Preset},
    proofs::place,
};
use crate::{
    profile::{
        answer,
        assertion::Audience,
        grant_type::{AssertionKey, ForeignToken, GrantType, JwtBearer, TokenExchange},
        key_file::{KeyFile, KeyFileError},
    },
    source::Source,
};

/// RFC 8693 §3: the short names of token types.
const TOKEN_TYPES: [&str; 6] = ["access_token", "id_token", "jwt", "refresh_token", "saml1", "saml2"];

impl Account<'_> {
    /// Which grant it is.
    pub(super) fn grant_word(file: &OAuth2, preset: &Preset) -> GrantWord {
        let written = given(&file.grant).map(|(_, grant)| *grant);
        written.or(preset.grant).unwrap_or(GrantWord::ClientCredentials)
    }

    /// What is traded. `auth` is `None` when the client proves itself by that alone.
    pub(super) fn grant(
        &self,
        file: &OAuth2,
        preset: &Preset,
        word: GrantWord,
        auth: Option<Auth>,
    ) -> Option<GrantType> {
        if word != GrantWord::JwtBearer {
            let own = [
                ("service_account", place(&file.service_account)),
                ("assertion_issuer", place(&file.assertion_issuer)),
                ("assertion_subject", place(&file.assertion_subject)),
                ("target_audience", place(&file.target_audience)),
            ];
            self.refuse_stray(&own, "grant jwt_bearer");
        }
        if word != GrantWord::TokenExchange {
            let own = [
                ("subject_token", place(&file.subject_token)),
                ("subject_token_type", place(&file.subject_token_type)),
                ("actor_token", place(&file.actor_token)),
                ("actor_token_type", place(&file.actor_token_type)),
                ("requested_token_type", place(&file.requested_token_type)),
            ];
            self.refuse_stray(&own, "grant token_exchange");
        }
        match word {
            GrantWord::ClientCredentials => Some(GrantType::ClientCredentials),
            GrantWord::JwtBearer => self.jwt_bearer(file, preset, auth),
            GrantWord::TokenExchange => self.token_exchange(file),
        }
    }

    fn jwt_bearer(&self, file: &OAuth2, preset: &Preset, auth: Option<Auth>) -> Option<GrantType> {
        let may_stand_beside =
            matches!(auth, None | Some(Auth::None | Auth::ClientSecretBasic | Auth::ClientSecretPost));
        if let Some(at) = place(&file.auth).filter(|_| !may_stand_beside) {
            let words = "auth: beside grant jwt_bearer it is client_secret_basic, client_secret_post or none (or nothing)";
            self.problem(at, words);
        }
        if let (Some(scope), Some(_)) = (place(&file.scope), &file.target_audience) {
            let words = "scope and target_audience exclude each other (an access token, or an ID token)";
            self.problem(scope, words);
        }
        let subject = self.line("assertion_subject", &file.assertion_subject);
        let target_audience = self.line("target_audience", &file.target_audience);
        let audience = match (&file.assertion_audience, &preset.audience) {
            (Some(_), _) => self.assertion_audience(file, preset),
            (None, Some(literal)) => Some(Audience::Literal(literal.clone())),
            (None, None) => given(&file.issuer).map(|(_, issuer)| Audience::Literal(issuer.clone())),
        };
        let key = match (&file.service_account, &file.private_key) {
            (Some(field), None) => self.key_file(file, field, auth)?,
            (None, Some(field)) => self.own_key(file, preset, field)?,
            (Some(_), Some(key)) => {
                self.problem(key.at, "service_account and private_key exclude each other (keep one)");
                return None;
            }
            (None, None) => {
                self.problem(self.at, "grant jwt_bearer needs service_account (or private_key)");
                return None;
            }
        };
        Some(GrantType::JwtBearer(Box::new(JwtBearer { key, subject, audience, target_audience })))
    }

    fn key_file(&self, file: &OAuth2, field: &Field<Place>, auth: Option<Auth>) -> Option<AssertionKey> {
        let told = [
            ("key_id", place(&file.key_id)),
            ("signing_alg", place(&file.signing_alg)),
            ("assertion_issuer", place(&file.assertion_issuer)),
            ("client_id", place(&file.client_id).filter(|_| auth.is_none())),
        ];
        self.refuse_stray(&told, "accounts without a key file, which says it");
        let source = self.secret("service_account", field)?;
        if let Some(Err(error)) = key_file_now(&source) {
            self.cx.missing(field.at, format!("profile {:?}: service_account: {error}", self.name));
        }
        Some(AssertionKey::File(source))
    }

    fn own_key(&self, file: &OAuth2, preset: &Preset, field: &Field<Place>) -> Option<AssertionKey> {
        let key = self.signing_key(field, &file.signing_alg);
        let key_id = self.line("key_id", &file.key_id);
        let issuer = match (&file.assertion_issuer, &file.client_id) {
            (Some(issuer), _) => self.visible("assertion_issuer", issuer.get()),
            (None, Some(client)) => self.visible("client_id", client.get()),
            (None, None) => {
                let words = "grant jwt_bearer with private_key needs assertion_issuer (or client_id)";
                self.problem(self.at, words);
                None
            }
        };
        let (key, algorithm) = key?;
        Some(AssertionKey::Own { key, algorithm, key_id, issuer: issuer?, maker: preset.maker })
    }

    fn token_exchange(&self, file: &OAuth2) -> Option<GrantType> {
        let subject = match (&file.subject_token, &file.subject_token_type) {
            (Some(token), kind) => self.foreign("subject_token", token, kind),
            (None, _) => {
                self.problem(self.at, "grant token_exchange needs subject_token and subject_token_type");
                None
            }
        };
        let actor = match (&file.actor_token, &file.actor_token_type) {
            (Some(token), kind) => Some(self.foreign("actor_token", token, kind)?),
            (None, Some(kind)) => {
                self.problem(kind.at, "actor_token_type is only for actor_token (RFC 8693 §2.1)");
                None
            }
            (None, None) => None,
        };
        let requested = match &file.requested_token_type {
            Some(field) => Some(self.token_type("requested_token_type", field)?),
            None => None,
        };
        if requested.as_deref() == Some(&uri("refresh_token")) {
            let at = place(&file.requested_token_type).unwrap_or(self.at);
            self.problem(at, "requested_token_type: no API takes a refresh token (choose another)");
        }
        Some(GrantType::TokenExchange(Box::new(TokenExchange { subject: subject?, actor, requested })))
    }

    fn foreign(&self, key: &str, token: &Field<Place>, kind: &Option<Field<String>>) -> Option<ForeignToken> {
        let source = self.secret(key, token);
        let Some(kind) = kind else {
            let known = TOKEN_TYPES.join(", ");
            self.problem(token.at, format_args!("{key} needs {key}_type ({known}, or a URI)"));
            return None;
        };
        let kind = self.token_type(&format!("{key}_type"), kind)?;
        Some(ForeignToken { source: source?, kind })
    }

    fn token_type(&self, key: &str, field: &Field<String>) -> Option<String> {
        let (at, text) = field.get()?;
        if TOKEN_TYPES.contains(&text.as_str()) {
            return Some(uri(text));
        }
        let is_uri = Url::parse(text).is_ok() && text.chars().all(|c| c.is_ascii_graphic());
        if !is_uri {
            let known = TOKEN_TYPES.join(", ");
            self.problem(at, format_args!("{key}: expected one of {known}, or a URI (RFC 8693 §3)"));
            return None;
        }
        Some(text.clone())
    }

    /// The member of the answer that holds the token.
    pub(super) fn token_field(&self, file: &OAuth2) -> Option<String> {
        let Some(field) = &file.token_field else {
            let default =
                if file.target_audience.is_some() { answer::ID_TOKEN } else { answer::ACCESS_TOKEN };
            return Some(default.to_owned());
        };
        let (at, text) = field.get()?;
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        {
            self.problem(at, "token_field: expected access_token, id_token, or the name of a member");
            return None;
        }
        if matches!(text.as_str(), "refresh_token" | "error") {
            self.problem(at, format_args!("token_field: no API takes what stands in {text}"));
            return None;
        }
        Some(text.clone())
    }

    /// The token endpoint where nothing in the configuration names one: that of the key file.
    pub(super) fn endpoint_of_key_file(&self, grant: &GrantType) -> Option<Url> {
        let source = match grant {
            GrantType::JwtBearer(settings) => match &settings.key {
                AssertionKey::File(source) => Some(source),
                AssertionKey::Own { .. } => None,
            },
            GrantType::ClientCredentials | GrantType::TokenExchange(_) => None,
        };
        let told = match source.map(key_file_now) {
            Some(Some(Ok(KeyFile { token_uri: Some(uri), .. }))) => uri,
            // It cannot be read here, which was told already.
            Some(Some(Err(_))) => return Url::parse(presets::GOOGLE).ok(),
            Some(None) if source.is_some_and(Source::is_cheap) => return Url::parse(presets::GOOGLE).ok(),
            _ => {
                self.problem(self.at, "one of token_url, issuer and provider is needed");
                return None;
            }
        };
        urls::secure(&told)
            .map_err(|words| self.problem(self.at, format_args!("service_account: token_uri: {words}")))
            .ok()
    }
}

fn uri(name: &str) -> String {
    format!("urn:ietf:params:oauth:token-type:{name}")
}

/// The key file as it is now, if that costs little.
fn key_file_now(source: &Source) -> Option<Result<KeyFile, KeyFileError>> {
    let bytes = source.is_cheap().then(|| source.document_now())?.ok()?;
    Some(KeyFile::read(&bytes, source))
}
