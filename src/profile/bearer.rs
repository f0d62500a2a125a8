//! Tokens of a profile for the gateway's own use: to read secrets from Azure Key Vault.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::Mutex;

use crate::{
    clock::{self, Moment},
    profile::{
        Kind, Profile, Settings, entra,
        http::Http,
        managed_identity,
        refusal::{Class, ExchangeError},
    },
    secret::Secret,
    source::key_vault::{Bearer, Refused},
};

/// The account of a profile with a scope of its own. The token is kept for most of its life.
pub struct Account {
    profile: Profile,
    kept: Mutex<Option<(Secret, Moment)>>,
}

impl Account {
    /// Nothing is sent yet. `None` when accounts of this kind cannot have tokens for `scope`.
    pub fn new(settings: &Settings, scope: &str) -> Option<Self> {
        let mut settings = settings.clone();
        settings.kind = settings.kind.for_scope(scope)?;
        Some(Self { profile: Profile::new(settings, Arc::new(Http::default())), kept: Mutex::default() })
    }

    async fn token(&self, anew: bool) -> Result<Secret, ExchangeError> {
        let mut kept = self.kept.lock().await;
        if let Some((token, _)) = kept.as_ref().filter(|(_, until)| !anew && clock::now() < *until) {
            return Ok(token.clone());
        }
        let grant = self.profile.exchange(None).await?;
        let token = grant.credential.secret().clone();
        *kept = Some((token.clone(), grant.asked_at.after(grant.lifetime.mul_f64(0.8))));
        Ok(token)
    }
}

impl Bearer for Account {
    fn bearer(&self, anew: bool) -> Pin<Box<dyn Future<Output = Result<Secret, Refused>> + Send + '_>> {
        Box::pin(async move {
            self.token(anew).await.map_err(|error| Refused {
                reason: error.to_string(),
                is_transient: matches!(error.class(), Class::Transient | Class::Throttled),
            })
        })
    }
}

impl Kind {
    /// The same account asking for another scope; `None` for kinds that Azure knows nothing of.
    fn for_scope(&self, scope: &str) -> Option<Self> {
        match self {
            Kind::Entra(entra) => {
                Some(Kind::Entra(entra::Settings { scope: scope.to_owned(), ..entra.clone() }))
            }
            Kind::ManagedIdentity(identity) => {
                let resource = scope.strip_suffix("/.default").unwrap_or(scope).to_owned();
                Some(Kind::ManagedIdentity(managed_identity::Settings { resource, ..identity.clone() }))
            }
            Kind::OAuth2(_) | Kind::Static(_) => None,
        }
    }
}
