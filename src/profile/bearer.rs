//! Tokens of a profile for the gateway's own use: to read secrets from Azure Key Vault.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::Mutex;

use crate::{
    clock::{self, Moment},
    profile::{Kind, Profile, Settings, entra, http::Http, managed_identity, refusal::Class},
    secret::Secret,
    source::key_vault::{Bearer, Refused},
};

/// The account of a profile with a scope of its own. The token is kept for most of its life, and a refusal as long
/// as the provider wants to be left alone: every secret that is read with the token asks for it.
pub struct Account {
    profile: Profile,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    token: Option<(Secret, Moment)>,
    refused: Option<(Refused, Moment)>,
}

impl Account {
    /// Nothing is sent yet. `None` when accounts of this kind cannot have tokens for `scope`.
    pub fn new(settings: &Settings, scope: &str) -> Option<Self> {
        let mut settings = settings.clone();
        settings.kind = settings.kind.for_scope(scope)?;
        Some(Self { profile: Profile::new(settings, Arc::new(Http::default())), kept: Mutex::default() })
    }

    async fn token(&self, anew: bool) -> Result<Secret, Refused> {
        let mut kept = self.kept.lock().await;
        let now = clock::now();
        if let Some((token, _)) = kept.token.as_ref().filter(|(_, until)| !anew && now < *until) {
            return Ok(token.clone());
        }
        if let Some((refused, until)) = kept.refused.as_ref().filter(|(_, until)| now < *until) {
            return Err(Refused { retry_after: Some(until.since(now)), ..refused.clone() });
        }
        let grant = match self.profile.exchange(None).await {
            Ok(grant) => grant,
            Err(error) => {
                let refused = Refused {
                    reason: error.to_string(),
                    is_transient: matches!(error.class(), Class::Transient | Class::Throttled),
                    retry_after: error.retry_after(),
                };
                kept.refused = refused.retry_after.map(|wait| (refused.clone(), clock::now().after(wait)));
                return Err(refused);
            }
        };
        let token = grant.credential.secret().clone();
        let until = grant.asked_at.after(grant.lifetime.mul_f64(0.8));
        *kept = Kept { token: Some((token.clone(), until)), refused: None };
        Ok(token)
    }
}

impl Bearer for Account {
    fn bearer(&self, anew: bool) -> Pin<Box<dyn Future<Output = Result<Secret, Refused>> + Send + '_>> {
        Box::pin(self.token(anew))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{outbound, profile::authentication::ClientAuth};

    /// Seven token requests were made in the time in which none was wanted.
    #[tokio::test]
    async fn a_provider_that_wants_to_be_left_alone_is_asked_once() {
        for (answer, wait, is_transient) in [
            ("429 Too Many Requests\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n", 120, true),
            ("400 Bad Request\r\ncontent-length: 23\r\n\r\n{\"error_codes\":[50196]}", 300, false),
        ] {
            let provider = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let account = account(&format!("http://{}", provider.local_addr().unwrap()));
            let answered = async {
                let (mut stream, _) = provider.accept().await.unwrap();
                let mut head = [0; 4096];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
                stream
            };
            let (refused, _stream) = tokio::join!(account.bearer(false), answered);
            let refused = refused.unwrap_err();
            assert_eq!(
                (refused.retry_after, refused.is_transient),
                (Some(Duration::from_secs(wait)), is_transient)
            );
            // Nobody answers a second time.
            for anew in [false, true] {
                let again = account.bearer(anew).await.unwrap_err();
                assert_eq!(again.reason, refused.reason);
                assert!(again.retry_after.unwrap() <= Duration::from_secs(wait));
            }
        }
    }

    fn account(authority: &str) -> Account {
        let account = entra::Settings {
            authority: authority.parse().unwrap(),
            tenant: "contoso.onmicrosoft.com".into(),
            client_id: "reader".into(),
            auth: ClientAuth::None,
            scope: String::new(),
            policy: None,
            cae: false,
        };
        let settings = Settings {
            name: "reader".into(),
            kind: Kind::Entra(account),
            expected_roles: Vec::new(),
            default_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(10),
            connection: outbound::Settings::default(),
            secret_expires: None,
        };
        Account::new(&settings, "https://vault.azure.net/.default").unwrap()
    }
}
