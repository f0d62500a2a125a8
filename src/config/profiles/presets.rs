//! Providers that are known by name: what is known of each is filled in and checked.
//!
//! Nothing more: a key that is written wins over what would be filled in, and without `provider` every one
//! of these servers can be written out.

use url::Url;

use super::{
    super::{
        field::{Field, given},
        file_grants::{GrantWord, Provider},
        file_profiles::OAuth2,
        file_proofs::Auth,
        tree::Position,
        urls,
    },
    Account,
    proofs::place,
};
use crate::profile::key_file::Maker;

/// Where Google's service accounts get tokens.
pub(super) const GOOGLE: &str = "https://oauth2.googleapis.com/token";
/// Hosts that every Salesforce customer shares. They take assertions for all of them, and nothing else.
const SALESFORCE_SHARED: [&str; 2] = ["login.salesforce.com", "test.salesforce.com"];
/// PingOne's hosts, by the end of their name.
const PINGONE_REGIONS: [&str; 6] = ["com", "eu", "ca", "asia", "com.au", "sg"];

/// What a provider's name says.
#[derive(Default)]
pub(super) struct Preset {
    /// Where tokens are asked for.
    pub(super) token_url: Option<Url>,
    /// How clients usually prove themselves there.
    pub(super) auth: Option<Auth>,
    /// What is usually traded there.
    pub(super) grant: Option<GrantWord>,
    /// For whom assertions are made.
    pub(super) audience: Option<String>,
    /// Whose habits assertions follow that are traded.
    pub(super) maker: Option<Maker>,
}

/// A way of client authentication that a provider does not take.
struct Refusal {
    taken: &'static [Auth],
    words: &'static str,
}

impl Account<'_> {
    /// What the provider's name says, after the keys were held against what is known of it.
    pub(super) fn preset(&self, file: &OAuth2) -> Preset {
        self.refuse_places_of_other_providers(file);
        let Some((at, provider)) = given(&file.provider) else { return Preset::default() };
        let at_host = |path: &str| self.at_domain(file, at, *provider, path);
        let at_base = |path: &str| self.at_base(file, at, *provider, path);
        match provider {
            Provider::Auth0 => {
                let token_url = at_host("oauth/token");
                Preset {
                    audience: host(file).map(|host| format!("https://{host}/")),
                    auth: Some(Auth::ClientSecretPost),
                    token_url,
                    ..Preset::default()
                }
            }
            Provider::Okta => self.okta(file, at),
            Provider::Cognito => Preset { token_url: at_host("oauth2/token"), ..Preset::default() },
            Provider::Google => Preset {
                token_url: Url::parse(GOOGLE).ok(),
                grant: Some(GrantWord::JwtBearer),
                maker: Some(Maker::Google),
                ..Preset::default()
            },
            Provider::Keycloak => self.keycloak(file, at),
            Provider::Zitadel => Preset {
                token_url: at_host("oauth/v2/token"),
                grant: file.service_account.as_ref().map(|_| GrantWord::JwtBearer),
                audience: host(file).map(|host| format!("https://{host}")),
                ..Preset::default()
            },
            Provider::Hydra => Preset { token_url: at_base("oauth2/token"), ..Preset::default() },
            Provider::PingOne => Preset { token_url: self.pingone(file, at), ..Preset::default() },
            Provider::PingFederate => Preset { token_url: at_base("as/token.oauth2"), ..Preset::default() },
            Provider::Salesforce => Preset {
                token_url: at_host("services/oauth2/token"),
                audience: host(file).map(salesforce_audience),
                ..Preset::default()
            },
            Provider::Entra => {
                self.problem(at, "provider: Entra is a kind of its own (write kind: entra)");
                Preset::default()
            }
        }
    }

    /// What is known of the provider, against what the profile is going to do there.
    pub(super) fn hold_against_provider(&self, file: &OAuth2, grant: GrantWord) {
        let Some((_, provider)) = given(&file.provider) else { return };
        match provider {
            Provider::Auth0 if grant == GrantWord::ClientCredentials && file.audience.is_none() => {
                self.problem(
                    self.at,
                    "provider auth0 needs audience, the API's identifier exactly as it stands there (without it the token is opaque and for /userinfo)",
                );
            }
            Provider::Okta if is_org_server(file) => self.okta_scope(file),
            Provider::Cognito => {
                if let Some(audience) = place(&file.audience) {
                    let words = "audience: Cognito's tokens have none (scopes say which API is meant)";
                    self.problem(audience, words);
                }
            }
            Provider::Google => self.google(file, grant),
            Provider::Keycloak if grant == GrantWord::ClientCredentials => {
                if let Some(audience) = place(&file.audience) {
                    let words = "audience: Keycloak takes it for token exchange only (add an audience mapper to a client scope)";
                    self.problem(audience, words);
                }
            }
            Provider::Zitadel => {
                let scope = given(&file.scope);
                if !scope.is_some_and(|(_, scope)| scope.split(' ').any(|s| s == "openid")) {
                    let at = scope.map_or(self.at, |(at, _)| at);
                    self.problem(at, "scope: Zitadel wants openid among the scopes");
                }
            }
            Provider::Salesforce => self.salesforce(file, grant),
            _ => {}
        }
        if let (Some((at, auth)), Some(refusal)) = (given(&file.auth), refusal(*provider, file))
            && !refusal.taken.contains(auth)
        {
            self.problem(at, format_args!("auth: {}", refusal.words));
        }
    }

    fn okta(&self, file: &OAuth2, at: Position) -> Preset {
        let path = match &file.authorization_server {
            None => Some("oauth2/v1/token".to_owned()),
            Some(server) => {
                self.segment("authorization_server", server).map(|id| format!("oauth2/{id}/v1/token"))
            }
        };
        let auth = is_org_server(file).then_some(Auth::PrivateKeyJwt);
        let token_url = path.and_then(|path| self.at_domain(file, at, Provider::Okta, &path));
        // Okta wants its token endpoint there, also where an issuer was written.
        let audience = token_url.as_ref().map(Url::to_string);
        Preset { token_url, auth, audience, ..Preset::default() }
    }

    fn okta_scope(&self, file: &OAuth2) {
        let scope = given(&file.scope);
        if !scope.is_some_and(|(_, scope)| scope.split(' ').all(|scope| scope.starts_with("okta."))) {
            let at = scope.map_or(self.at, |(at, _)| at);
            let words = "scope: Okta's org server gives okta.* scopes only (for an API of your own name an authorization_server)";
            self.problem(at, words);
        }
    }

    fn keycloak(&self, file: &OAuth2, at: Position) -> Preset {
        let Some(realm) = &file.realm else {
            self.needs(file, at, Provider::Keycloak, "realm");
            return Preset::default();
        };
        let Some(realm) = self.segment("realm", realm) else { return Preset::default() };
        let path = format!("realms/{realm}/protocol/openid-connect/token");
        let token_url = self.at_base(file, at, Provider::Keycloak, &path);
        // Keycloak 26.5 and later take nothing but the issuer; older ones take it too.
        let audience = token_url
            .as_ref()
            .map(|url| url.as_str().trim_end_matches("/protocol/openid-connect/token").to_owned());
        Preset { token_url, audience, ..Preset::default() }
    }

    fn google(&self, file: &OAuth2, grant: GrantWord) {
        if let Some(at) = place(&file.grant).filter(|_| grant == GrantWord::ClientCredentials) {
            self.problem(
                at,
                "grant: Google gives service accounts no client_credentials (remove it for jwt_bearer)",
            );
        }
        if let Some(at) = place(&file.audience) {
            self.problem(at, "audience: Google takes a scope or a target_audience instead (remove it)");
        }
        let is_assertion = grant == GrantWord::JwtBearer;
        if is_assertion && file.scope.is_none() && file.target_audience.is_none() {
            let words =
                "provider google needs scope (for an access token) or target_audience (for an ID token)";
            self.problem(self.at, words);
        }
    }

    fn salesforce(&self, file: &OAuth2, grant: GrantWord) {
        let shared = given(&file.domain).filter(|(_, host)| SALESFORCE_SHARED.contains(&host.as_str()));
        if let Some((at, _)) = shared.filter(|_| grant == GrantWord::ClientCredentials) {
            self.problem(at, "domain: Salesforce takes client_credentials at the My Domain host only (as in contoso.my.salesforce.com)");
        }
        if grant == GrantWord::JwtBearer && file.assertion_subject.is_none() {
            let words = "provider salesforce needs assertion_subject with jwt_bearer, the name of the user that the tokens are for";
            self.problem(self.at, words);
        }
    }

    fn pingone(&self, file: &OAuth2, at: Position) -> Option<Url> {
        let region = match given(&file.region) {
            None => "com",
            Some((_, region)) if PINGONE_REGIONS.contains(&region.as_str()) => region,
            Some((at, _)) => {
                let known = PINGONE_REGIONS.join(", ");
                self.problem(at, format_args!("region: expected one of {known} (or write token_url)"));
                return None;
            }
        };
        let Some(environment) = &file.environment_id else {
            self.needs(file, at, Provider::PingOne, "environment_id");
            return None;
        };
        let environment = self.segment("environment_id", environment)?;
        Url::parse(&format!("https://auth.pingone.{region}/{environment}/as/token")).ok()
    }

    /// `path` at the provider's `domain`.
    fn at_domain(&self, file: &OAuth2, at: Position, provider: Provider, path: &str) -> Option<Url> {
        let Some((domain_at, domain)) = given(&file.domain) else {
            if file.domain.is_none() {
                self.needs(file, at, provider, "domain");
            }
            return None;
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        let url = Url::parse(&format!("https://{domain}/{path}")).ok();
        if !domain.contains('.') || !domain.chars().all(is_host) || url.is_none() {
            self.problem(
                domain_at,
                "domain: expected a host name and nothing else (as in contoso.example.com)",
            );
            return None;
        }
        url
    }

    /// `path` below the provider's `base_url`.
    fn at_base(&self, file: &OAuth2, at: Position, provider: Provider, path: &str) -> Option<Url> {
        let Some((base_at, text)) = given(&file.base_url) else {
            if file.base_url.is_none() {
                self.needs(file, at, provider, "base_url");
            }
            return None;
        };
        match urls::secure(text) {
            Ok(base) if base.query().is_none() => {
                Url::parse(&format!("{}/{path}", base.as_str().trim_end_matches('/'))).ok()
            }
            Ok(_) => {
                self.problem(base_at, "base_url: leave out the query");
                None
            }
            Err(words) => {
                self.problem(base_at, format_args!("base_url: {words}"));
                None
            }
        }
    }

    /// A name that stands in a path.
    fn segment<'f>(&self, key: &str, field: &'f Field<String>) -> Option<&'f str> {
        let (at, text) = field.get()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~');
        if text.is_empty() || text.starts_with('.') || !text.chars().all(is_plain) {
            let words = "expected letters, digits and `-`, `_`, `.`, `~` (anything else: write token_url)";
            self.problem(at, format_args!("{key}: {words}"));
            return None;
        }
        Some(text)
    }

    fn needs(&self, file: &OAuth2, at: Position, provider: Provider, key: &str) {
        if file.token_url.is_none() && file.issuer.is_none() {
            self.problem(at, format_args!("provider {} needs {key} (or token_url)", provider.word()));
        }
    }

    fn refuse_places_of_other_providers(&self, file: &OAuth2) {
        use Provider::{Auth0, Cognito, Hydra, Keycloak, Okta, PingFederate, PingOne, Salesforce, Zitadel};
        let provider = given(&file.provider).map(|(_, provider)| *provider);
        let keys = [
            ("domain", place(&file.domain), &[Auth0, Okta, Cognito, Zitadel, Salesforce][..]),
            ("base_url", place(&file.base_url), &[Keycloak, Hydra, PingFederate]),
            ("realm", place(&file.realm), &[Keycloak]),
            ("authorization_server", place(&file.authorization_server), &[Okta]),
            ("environment_id", place(&file.environment_id), &[PingOne]),
            ("region", place(&file.region), &[PingOne]),
        ];
        for (key, at, whose) in keys {
            // A provider that could not be read was told already.
            let is_unread = file.provider.is_some() && provider.is_none();
            if !is_unread && !provider.is_some_and(|provider| whose.contains(&provider)) {
                let names: Vec<_> = whose.iter().map(|provider| provider.word()).collect();
                self.refuse_stray(&[(key, at)], &format!("provider {}", names.join(", ")));
            }
        }
    }
}

fn host(file: &OAuth2) -> Option<&str> {
    given(&file.domain).map(|(_, domain)| domain.as_str())
}

/// Whether it is Okta's own server, which gives tokens for Okta's API. An endpoint that is written may be any.
fn is_org_server(file: &OAuth2) -> bool {
    file.authorization_server.is_none() && file.token_url.is_none() && file.issuer.is_none()
}

/// Assertions are for the host where users log in, not for the customer's own.
fn salesforce_audience(domain: &str) -> String {
    let is_sandbox = domain == "test.salesforce.com" || domain.contains(".sandbox.");
    format!("https://{}.salesforce.com", if is_sandbox { "test" } else { "login" })
}

fn refusal(provider: Provider, file: &OAuth2) -> Option<Refusal> {
    const SECRET: &[Auth] = &[Auth::ClientSecretBasic, Auth::ClientSecretPost];
    const SECRET_OR_KEY: &[Auth] = &[Auth::ClientSecretBasic, Auth::ClientSecretPost, Auth::PrivateKeyJwt];
    let (taken, words) = match provider {
        Provider::Okta if is_org_server(file) => (
            &[Auth::PrivateKeyJwt][..],
            "Okta's org server takes private_key_jwt only (for a custom server name an authorization_server)",
        ),
        Provider::Cognito => (SECRET, "Cognito takes client_secret_basic and client_secret_post only"),
        Provider::Auth0 => {
            (SECRET_OR_KEY, "Auth0 takes client_secret_post, client_secret_basic and private_key_jwt only")
        }
        Provider::Google => {
            (&[][..], "Google's service accounts prove themselves by what they sign (remove auth)")
        }
        _ => return None,
    };
    Some(Refusal { taken, words })
}
