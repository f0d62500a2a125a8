//! What a profile keeps where: for `keybearer doctor`, which looks at each source by its name.

use crate::{
    profile::{
        Kind,
        authentication::ClientAuth,
        certificate,
        client_secret::Oddity,
        grant_type::{AssertionKey, GrantType},
        oauth2,
    },
    source::{Source, SourceError},
};

/// One source of a profile.
#[derive(Debug)]
pub struct Item {
    /// What is kept there, by its key in the configuration.
    pub what: &'static str,
    /// Where.
    pub source: Source,
    /// Whether it is a document of several lines or binary, not a secret in one line.
    pub is_document: bool,
}

impl Item {
    fn secret(what: &'static str, source: &Source) -> Self {
        Self { what, source: source.clone(), is_document: false }
    }

    fn document(what: &'static str, source: &Source) -> Self {
        Self { what, source: source.clone(), is_document: true }
    }

    /// Reads it and tells what is legal in it and seldom meant.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or holds what no secret holds.
    pub async fn oddity(&self, is_of_entra: bool) -> Result<Option<Oddity>, SourceError> {
        if self.is_document {
            return self.source.read_document().await.map(|_| None);
        }
        Ok(Oddity::of(&self.source.read().await?, is_of_entra && self.what == "client_secret"))
    }
}

impl Kind {
    /// Everything that the kind reads from a source.
    pub fn inventory(&self) -> Vec<Item> {
        match self {
            Kind::Entra(entra) => match &entra.auth {
                ClientAuth::Assertion(source) => vec![Item::document("federated_token", source)],
                _ => of_client(&entra.as_oauth2()),
            },
            Kind::OAuth2(client) => of_client(client),
            Kind::Static(fixed) => vec![Item::secret("its credential", fixed.source())],
            Kind::ManagedIdentity(_) => Vec::new(),
        }
    }
}

fn of_client(client: &oauth2::Settings) -> Vec<Item> {
    let mut items = match &client.auth {
        ClientAuth::SecretBasic { secret, .. }
        | ClientAuth::SecretPost(secret)
        | ClientAuth::SecretJwt { secret, .. } => {
            let sources = [Some(&secret.first), secret.second.as_ref()];
            sources.into_iter().flatten().map(|source| Item::secret("client_secret", source)).collect()
        }
        ClientAuth::KeyJwt { key, .. } => vec![Item::document("private_key", key)],
        ClientAuth::CertificateJwt { place, .. } => of_certificate(place),
        ClientAuth::Assertion(source) => vec![Item::document("client_assertion", source)],
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTls | ClientAuth::None | ClientAuth::Absent => {
            Vec::new()
        }
    };
    items.extend(client.certificate.iter().flat_map(of_certificate));
    items.extend(of_grant(&client.grant));
    items
}

fn of_grant(grant: &GrantType) -> Vec<Item> {
    match grant {
        GrantType::ClientCredentials => Vec::new(),
        GrantType::JwtBearer(settings) => match &settings.key {
            AssertionKey::File(source) => vec![Item::document("service_account", source)],
            AssertionKey::Own { key, .. } => vec![Item::document("private_key", key)],
        },
        GrantType::TokenExchange(settings) => {
            let actor = settings.actor.iter().map(|actor| Item::secret("actor_token", &actor.source));
            std::iter::once(Item::secret("subject_token", &settings.subject.source)).chain(actor).collect()
        }
    }
}

fn of_certificate(place: &certificate::Place) -> Vec<Item> {
    let mut items = vec![Item::document("certificate", &place.certificate)];
    items.extend(place.private_key.iter().map(|key| Item::document("private_key", key)));
    items.extend(place.password.iter().map(|password| Item::secret("certificate_password", password)));
    items
}
