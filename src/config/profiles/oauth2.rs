//! Profiles of kind `oauth2`.

use url::Url;

use super::{
    super::{
        field::{Field, Named, given},
        file_grants::GrantWord,
        file_profiles::{OAuth2, Resource},
        file_proofs::{Auth, BasicEncoding},
        tree::Position,
    },
    Account,
    presets::Preset,
    proofs::{CertificateKeys, place},
};
use crate::profile::{
    self,
    assertion::Audience,
    authentication::{self, ClientAuth},
    certificate,
    client_secret::Secrets,
    grant_type::GrantType,
    oauth2,
};

/// Parameters that have their own key, or that only the gateway may set.
const OWN_PARAMETERS: [&str; 12] = [
    "grant_type",
    "client_id",
    "client_secret",
    "scope",
    "resource",
    "audience",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
];

impl Account<'_> {
    pub(super) fn oauth2(&self, file: &OAuth2) -> Option<profile::Kind> {
        let preset = self.preset(file);
        let word = Self::grant_word(file, &preset);
        let method = Self::method(file, &preset, word);
        self.hold_against_provider(file, word);
        let grant = self.grant(file, &preset, word, method);
        let endpoint = match &grant {
            Some(grant) => self.endpoint(file, &preset, grant),
            None => None,
        };
        let signs_grant = word == GrantWord::JwtBearer;
        let auth = match method {
            Some(method) => self.auth(file, &preset, method, signs_grant),
            None => {
                self.refuse_keys_of_other_methods(file, Auth::None, signs_grant);
                Some(ClientAuth::Absent)
            }
        };
        let client_id = match (&file.client_id, &auth) {
            (Some(id), _) => self.visible("client_id", id.get()),
            (None, Some(ClientAuth::Absent)) => Some(String::new()),
            (None, _) => {
                self.problem(self.at, "the key \"client_id\" is missing");
                None
            }
        };
        let certificate = self.shown_certificate(file, signs_grant);
        if let (Some(_), Some(oauth2::Endpoint::TokenUrl(url)), Some(field)) =
            (&certificate, &endpoint, &file.token_url)
            && url.scheme() == "http"
        {
            let words = "the certificate is shown in a TLS handshake, and plain http has none (write https)";
            self.problem(field.at, format_args!("token_url: {words}"));
        }
        let scope = self.line("scope", &file.scope);
        let audience = self.line("audience", &file.audience);
        let resource =
            given(&file.resource).map(|(at, resource)| self.resource(at, resource)).unwrap_or_default();
        let extra = given(&file.extra).map(|(_, extra)| self.extra(extra)).unwrap_or_default();
        let token_field = self.token_field(file);
        Some(profile::Kind::OAuth2(oauth2::Settings {
            endpoint: endpoint?,
            grant: grant?,
            client_id: client_id?,
            auth: auth?,
            certificate,
            scope,
            audience,
            resource,
            extra,
            dpop: given(&file.dpop).is_some_and(|(_, on)| *on),
            token_field: token_field?,
            cae: false,
        }))
    }

    /// How the client proves itself; `None` when what is traded says who asks.
    fn method(file: &OAuth2, preset: &Preset, grant: GrantWord) -> Option<Auth> {
        let written = given(&file.auth).map(|(_, auth)| *auth);
        let is_anonymous = written == Some(Auth::None) && file.client_id.is_none();
        match grant {
            GrantWord::JwtBearer | GrantWord::TokenExchange if is_anonymous => None,
            GrantWord::JwtBearer => written,
            GrantWord::TokenExchange | GrantWord::ClientCredentials => {
                written.or(preset.auth).or(Some(Auth::ClientSecretBasic))
            }
        }
    }

    fn endpoint(&self, file: &OAuth2, preset: &Preset, grant: &GrantType) -> Option<oauth2::Endpoint> {
        match (&file.token_url, &file.issuer) {
            (None, None) if file.provider.is_some() => {
                preset.token_url.clone().map(oauth2::Endpoint::TokenUrl)
            }
            (None, None) => self.endpoint_of_key_file(grant).map(oauth2::Endpoint::TokenUrl),
            (Some(_), Some(issuer)) => {
                self.problem(issuer.at, "token_url and issuer exclude each other (keep one)");
                None
            }
            (Some(url), None) => {
                let (at, text) = url.get()?;
                self.url("token_url", at, text).map(oauth2::Endpoint::TokenUrl)
            }
            (None, Some(issuer)) => {
                let (at, text) = issuer.get()?;
                let url = self.url("issuer", at, text)?;
                if url.query().is_some() {
                    self.problem(at, "issuer: a query is not allowed (RFC 8414 §2)");
                    return None;
                }
                Some(oauth2::Endpoint::Issuer(text.clone()))
            }
        }
    }

    fn auth(&self, file: &OAuth2, preset: &Preset, auth: Auth, signs_grant: bool) -> Option<ClientAuth> {
        self.refuse_keys_of_other_methods(file, auth, signs_grant);
        match auth {
            Auth::ClientSecretBasic => {
                let encoding = match given(&file.basic_encoding) {
                    Some((_, BasicEncoding::Raw)) => authentication::BasicEncoding::Raw,
                    _ => authentication::BasicEncoding::Form,
                };
                Some(ClientAuth::SecretBasic { secret: self.client_secret(file)?, encoding })
            }
            Auth::ClientSecretPost => Some(ClientAuth::SecretPost(self.client_secret(file)?)),
            Auth::ClientSecretJwt => {
                let secret = self.client_secret(file);
                Some(ClientAuth::SecretJwt {
                    audience: self.assertion_audience(file, preset)?,
                    secret: secret?,
                })
            }
            Auth::PrivateKeyJwt => {
                let field = self.needed("private_key", &file.private_key, "private_key_jwt")?;
                let key = self.signing_key(field, &file.signing_alg);
                let key_id = self.line("key_id", &file.key_id);
                let audience = self.assertion_audience(file, preset)?;
                let (key, algorithm) = key?;
                Some(ClientAuth::KeyJwt { key, algorithm, key_id, audience })
            }
            Auth::ClientAssertion => {
                let field = self.needed("client_assertion", &file.client_assertion, "client_assertion")?;
                let source = self.secret("client_assertion", field)?;
                self.try_token("client_assertion", field.at, &source);
                Some(ClientAuth::Assertion(source))
            }
            Auth::TlsClient => {
                self.needed("certificate", &file.certificate, "tls_client_auth")?;
                Some(ClientAuth::TlsClientAuth)
            }
            Auth::SelfSignedTls => {
                self.needed("certificate", &file.certificate, "self_signed_tls_client_auth")?;
                Some(ClientAuth::SelfSignedTls)
            }
            Auth::None => Some(ClientAuth::None),
        }
    }

    fn client_secret(&self, file: &OAuth2) -> Option<Secrets> {
        let Some(secret) = &file.client_secret else {
            let words = "the key \"client_secret\" is missing (or auth: none, for a client without one)";
            self.problem(self.at, words);
            return None;
        };
        self.secrets("client_secret", secret, false)
    }

    fn needed<'f, T>(&self, key: &str, field: &'f Option<Field<T>>, auth: &str) -> Option<&'f Field<T>> {
        if field.is_none() {
            self.problem(self.at, format_args!("the key {key:?} is missing (auth {auth} needs it)"));
        }
        field.as_ref()
    }

    /// With `signs_grant`, the keys of assertions belong to what is traded.
    fn refuse_keys_of_other_methods(&self, file: &OAuth2, auth: Auth, signs_grant: bool) {
        if let Some(encoding) = file.basic_encoding.as_ref().filter(|_| auth != Auth::ClientSecretBasic) {
            self.problem(encoding.at, "basic_encoding is only for auth client_secret_basic (remove it)");
        }
        let with_secret =
            matches!(auth, Auth::ClientSecretBasic | Auth::ClientSecretPost | Auth::ClientSecretJwt);
        if let Some(secret) = file.client_secret.as_ref().filter(|_| !with_secret) {
            let this = if auth == Auth::None { "auth none" } else { "this auth" };
            let words = "sends no secret (remove client_secret, or choose another auth)";
            self.problem(secret.at, format_args!("{this} {words}"));
        }
        if auth != Auth::PrivateKeyJwt && !signs_grant {
            let own = [("key_id", place(&file.key_id)), ("signing_alg", place(&file.signing_alg))];
            self.refuse_stray(&own, "auth private_key_jwt");
            if file.certificate.is_none() {
                let key = [("private_key", place(&file.private_key))];
                self.refuse_stray(&key, "auth private_key_jwt, and beside certificate");
            }
        }
        if !matches!(auth, Auth::PrivateKeyJwt | Auth::ClientSecretJwt) && !signs_grant {
            let audience = [("assertion_audience", place(&file.assertion_audience))];
            self.refuse_stray(&audience, "auth private_key_jwt and client_secret_jwt");
        }
        if auth != Auth::ClientAssertion {
            let assertion = [("client_assertion", place(&file.client_assertion))];
            self.refuse_stray(&assertion, "auth client_assertion");
        }
        if file.certificate.is_none() {
            let password = [("certificate_password", place(&file.certificate_password))];
            self.refuse_stray(&password, "certificate");
        }
    }

    /// The certificate of TLS handshakes. With `private_key_jwt`, `private_key` is another key.
    fn shown_certificate(&self, file: &OAuth2, signs_grant: bool) -> Option<certificate::Place> {
        let is_key_of_assertions = signs_grant || matches!(given(&file.auth), Some((_, Auth::PrivateKeyJwt)));
        let private_key = if is_key_of_assertions { &None } else { &file.private_key };
        let keys = CertificateKeys {
            certificate: &file.certificate,
            private_key,
            password: &file.certificate_password,
        };
        self.certificate(&keys).map(|(place, _)| place)
    }

    /// For whom assertions are made: what is written, else what the provider wants, else the issuer.
    pub(super) fn assertion_audience(&self, file: &OAuth2, preset: &Preset) -> Option<Audience> {
        let issuer = given(&file.issuer).map(|(_, issuer)| Audience::Literal(issuer.clone()));
        let usual = preset.audience.clone().map(Audience::Literal).or(issuer.clone());
        match given(&file.assertion_audience) {
            None => Some(usual.unwrap_or(Audience::TokenEndpoint)),
            Some((_, text)) if text == "token_endpoint" => Some(Audience::TokenEndpoint),
            Some((at, text)) if text == "issuer" => {
                if issuer.is_none() {
                    let words = "there is no issuer (write issuer: URL, or its text here)";
                    self.problem(at, format_args!("assertion_audience: {words}"));
                }
                issuer
            }
            Some(field) => self.visible("assertion_audience", Some(field)).map(Audience::Literal),
        }
    }

    fn resource(&self, at: Position, resource: &Resource) -> Vec<String> {
        let all: Vec<(Position, &String)> = match resource {
            Resource::One(text) => vec![(at, text)],
            Resource::Many(list) => list.iter().filter_map(Field::get).collect(),
        };
        for (at, text) in &all {
            if !Url::parse(text).is_ok_and(|url| url.fragment().is_none())
                || !text.chars().all(|c| c.is_ascii_graphic())
            {
                self.problem(*at, "resource: expected an absolute URI without fragment (RFC 8707 §2)");
            }
        }
        all.into_iter().map(|(_, text)| text.clone()).collect()
    }

    fn extra(&self, extra: &Named<String>) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (at, name, field) in extra.iter() {
            let lower = name.to_ascii_lowercase();
            let own = lower.starts_with("client_assertion") || OWN_PARAMETERS.contains(&lower.as_str());
            if own {
                self.problem(
                    at,
                    format_args!(
                        "extra: {name:?} may not be set here (it has its own key, or the gateway sets it)"
                    ),
                );
            } else if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
                self.problem(at, format_args!("extra: {name:?} is not the name of a parameter"));
            }
            let Some((at, value)) = field.get() else { continue };
            if value.chars().any(char::is_control) {
                self.problem(at, format_args!("extra.{name}: control characters are not allowed"));
            }
            out.push((name.to_owned(), value.clone()));
        }
        out
    }
}
