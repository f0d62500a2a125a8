//! Profiles of kind `entra`: Microsoft Entra ID, also as the directory of an Azure AD B2C tenant.
//!
//! Entra is an OAuth 2.0 server with habits: one resource per token, `/.default` scopes, the secret
//! in the body, and error numbers that say more than the `error` member.

use url::Url;

use crate::profile::{
    answer,
    authentication::ClientAuth,
    grant_type::GrantType,
    oauth2::{self, Endpoint},
};

/// The global cloud's authority.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Microsoft's clouds: each has tenants, accounts and authorities of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Everywhere else.
    Global,
    /// For authorities of the United States.
    UsGovernment,
    /// Run by 21Vianet.
    China,
    /// Bleu, in France.
    BleuFrance,
    /// Delos, in Germany.
    DelosGermany,
    /// For the government of Singapore.
    SingaporeGovernment,
}

impl Cloud {
    /// The base URL of its authority.
    pub fn authority(self) -> &'static str {
        match self {
            Cloud::Global => AUTHORITY,
            Cloud::UsGovernment => "https://login.microsoftonline.us",
            Cloud::China => "https://login.partner.microsoftonline.cn",
            Cloud::BleuFrance => "https://login.sovcloud-identity.fr",
            Cloud::DelosGermany => "https://login.sovcloud-identity.de",
            Cloud::SingaporeGovernment => "https://login.sovcloud-identity.sg",
        }
    }
}

/// A service account that is an app registration in an Entra tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The authority's base URL without a path: [`AUTHORITY`], a sovereign cloud's, or a test's.
    pub authority: Url,
    /// Tenant id (GUID) or verified domain; never `common`, `organizations` or `consumers`.
    pub tenant: String,
    /// Application (client) id.
    pub client_id: String,
    /// How the account proves itself: a secret in the body, a certificate, or a token of the workload's.
    pub auth: ClientAuth,
    /// `<App ID URI>/.default`.
    pub scope: String,
    /// A user flow or custom policy of Azure AD B2C, whose own token endpoint is asked.
    pub policy: Option<String>,
    /// Whether the gateway declares that it handles claims challenges (continuous access evaluation).
    pub cae: bool,
}

impl Settings {
    /// The same account in the words of RFC 6749: v2 endpoint.
    pub fn as_oauth2(&self) -> oauth2::Settings {
        let mut token_url = self.authority.clone();
        let policy = self.policy.as_ref().map(|policy| format!("/{policy}")).unwrap_or_default();
        token_url.set_path(&format!("/{}{policy}/oauth2/v2.0/token", self.tenant));
        oauth2::Settings {
            endpoint: Endpoint::TokenUrl(token_url),
            grant: GrantType::ClientCredentials,
            client_id: self.client_id.clone(),
            auth: self.auth.clone(),
            certificate: None,
            scope: Some(self.scope.clone()),
            audience: None,
            resource: Vec::new(),
            extra: Vec::new(),
            dpop: false,
            token_field: answer::ACCESS_TOKEN.into(),
            cae: self.cae,
        }
    }
}
