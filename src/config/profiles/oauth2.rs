//! Profiles of kind `oauth2`.

use url::Url;

use super::{
    super::{
        field::{Field, Named, given},
        file_profiles::{Auth, BasicEncoding, OAuth2, Resource},
        tree::Position,
    },
    Account,
};
use crate::profile::{
    self,
    authentication::{self, ClientAuth},
    oauth2,
};

/// Parameters that have their own key, or that only the gateway may set.
const OWN_PARAMETERS: [&str; 6] =
    ["grant_type", "client_id", "client_secret", "scope", "resource", "audience"];

impl Account<'_> {
    pub(super) fn oauth2(&self, file: &OAuth2) -> Option<profile::Kind> {
        let endpoint = self.endpoint(file);
        let client_id = self.visible("client_id", file.client_id.get());
        let auth = self.auth(file);
        let scope = self.line("scope", &file.scope);
        let audience = self.line("audience", &file.audience);
        let resource =
            given(&file.resource).map(|(at, resource)| self.resource(at, resource)).unwrap_or_default();
        let extra = given(&file.extra).map(|(_, extra)| self.extra(extra)).unwrap_or_default();
        Some(profile::Kind::OAuth2(oauth2::Settings {
            endpoint: endpoint?,
            client_id: client_id?,
            auth: auth?,
            scope,
            audience,
            resource,
            extra,
        }))
    }

    fn endpoint(&self, file: &OAuth2) -> Option<oauth2::Endpoint> {
        match (&file.token_url, &file.issuer) {
            (None, None) => {
                self.problem(self.at, "one of token_url and issuer is needed");
                None
            }
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

    fn auth(&self, file: &OAuth2) -> Option<ClientAuth> {
        let auth = match &file.auth {
            Some(auth) => *auth.get()?.1,
            None => Auth::ClientSecretBasic,
        };
        if let Some(encoding) = file.basic_encoding.as_ref().filter(|_| auth != Auth::ClientSecretBasic) {
            self.problem(encoding.at, "basic_encoding is only for auth client_secret_basic (remove it)");
        }
        let secret = match (&file.client_secret, auth) {
            (Some(secret), Auth::None) => {
                self.problem(
                    secret.at,
                    "auth none sends no secret (remove client_secret, or choose another auth)",
                );
                return None;
            }
            (None, Auth::None) => return Some(ClientAuth::None),
            (None, _) => {
                self.problem(
                    self.at,
                    "the key \"client_secret\" is missing (or auth: none, for a client without one)",
                );
                return None;
            }
            (Some(secret), _) => self.secret("client_secret", secret)?,
        };
        let encoding = match given(&file.basic_encoding) {
            Some((_, BasicEncoding::Raw)) => authentication::BasicEncoding::Raw,
            _ => authentication::BasicEncoding::Form,
        };
        Some(match auth {
            Auth::ClientSecretPost => ClientAuth::SecretPost(secret),
            _ => ClientAuth::SecretBasic { secret, encoding },
        })
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
