//! Keys, certificates and tokens of others, with which accounts prove themselves.
//!
//! What can be read here is read and tried, so that `check` finds a wrong key before a provider does.

use super::{
    super::{
        field::{Field, given},
        file_azure::{Everything, Federated},
        file_profiles::Place,
        file_proofs::SigningAlg,
        tree::Position,
        urls,
    },
    Account,
};
use crate::{
    profile::{
        authentication::probe_token,
        certificate::{self, Certificate, CertificateError},
        expiry::Expiry,
        key::{Algorithm, KeyError, PrivateKey},
    },
    source::Source,
};

/// The keys that say where a certificate is.
pub(super) struct CertificateKeys<'a> {
    pub(super) certificate: &'a Option<Field<Place>>,
    pub(super) private_key: &'a Option<Field<Place>>,
    pub(super) password: &'a Option<Field<Place>>,
}

/// In the place of an id that the environment does not tell.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// What Azure Workload Identity has told the process.
pub(super) struct Workload {
    pub(super) token: Source,
    pub(super) client_id: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) authority: Option<url::Url>,
}

impl Account<'_> {
    /// Where a certificate is kept, with what it is if it can be read here and now.
    pub(super) fn certificate(
        &self,
        keys: &CertificateKeys<'_>,
    ) -> Option<(certificate::Place, Option<Certificate>)> {
        let field = keys.certificate.as_ref()?;
        let private_key = keys.private_key.as_ref().map(|field| self.secret("private_key", field));
        let password = keys.password.as_ref().map(|field| self.text("certificate_password", field));
        let certificate = self.secret("certificate", field)?;
        let place = certificate::Place {
            certificate,
            private_key: private_key.map_or(Some(None), |source| source.map(Some))?,
            password: password.map_or(Some(None), |source| source.map(Some))?,
        };
        let probed = place.probe().unwrap_or_else(|error| {
            // What cannot be read was told already.
            if !matches!(error, CertificateError::Source(_)) {
                self.missing(field.at, format_args!("certificate: {error}"));
            }
            None
        });
        if let Some(certificate) = &probed {
            self.warn_of(field.at, &Expiry { what: "certificate", at: certificate.expires() });
        }
        Some((place, probed))
    }

    /// The private key that signs assertions, tried with the algorithm.
    pub(super) fn signing_key(
        &self,
        field: &Field<Place>,
        algorithm: &Option<Field<SigningAlg>>,
    ) -> Option<(Source, Algorithm)> {
        let (given_at, chosen) = match given(algorithm) {
            Some((at, algorithm)) => (Some(at), lowered(*algorithm)),
            None => (None, Algorithm::Rs256),
        };
        let source = self.secret("private_key", field)?;
        if source.is_cheap()
            && let Ok(pem) = source.document_now()
        {
            let key = PrivateKey::from_pem(&pem, &source);
            match key.and_then(|key| key.fits(chosen, &source)) {
                Ok(()) => {}
                Err(error @ KeyError::Mismatch { .. }) => {
                    let remedy = "choose another signing_alg, or another key";
                    let at = given_at.unwrap_or(field.at);
                    self.missing(at, format_args!("signing_alg: {error} ({remedy})"));
                }
                Err(error) => self.missing(field.at, format_args!("private_key: {error}")),
            }
        }
        Some((source, chosen))
    }

    /// How Entra's certificates sign; only RSA keys are known there.
    pub(super) fn certificate_algorithm(
        &self,
        field: &Option<Field<SigningAlg>>,
        place: &certificate::Place,
        (at, certificate): (Position, Option<&Certificate>),
    ) -> Algorithm {
        let algorithm = match given(field) {
            Some((at, SigningAlg::Es256)) => {
                self.problem(at, "signing_alg: Entra takes PS256, and ADFS RS256 (remove it for PS256)");
                Algorithm::Ps256
            }
            Some((_, algorithm)) => lowered(*algorithm),
            None => Algorithm::Ps256,
        };
        let source = place.private_key.as_ref().unwrap_or(&place.certificate);
        if let Some(Err(error)) = certificate.map(|c| c.signing_key(algorithm, source).map(|_| ())) {
            let words = "Entra takes certificates with RSA keys only";
            self.missing(at, format_args!("certificate: {error} ({words})"));
        }
        algorithm
    }

    /// Keys that are given and do nothing with what was chosen.
    pub(super) fn refuse_stray(&self, keys: &[(&str, Option<Position>)], only_for: &str) {
        for (name, at) in keys {
            if let Some(at) = at {
                self.problem(*at, format_args!("{name} is only for {only_for} (remove it)"));
            }
        }
    }

    /// The token of a workload, from a place of its own or with everything else from variables.
    pub(super) fn federated(&self, field: &Field<Federated>) -> Option<Workload> {
        let (at, federated) = field.get()?;
        let workload = match federated {
            Federated::Kept(place) => {
                let token = self.kept("federated_token", at, place)?;
                Workload { token, client_id: None, tenant: None, authority: None }
            }
            Federated::Word(Everything::Environment) => self.workload(at),
        };
        self.try_token("federated_token", at, &workload.token);
        Some(workload)
    }

    /// A token of somebody else's, as far as it can be looked at here.
    pub(super) fn try_token(&self, key: &str, at: Position, source: &Source) {
        if source.is_cheap()
            && let Ok(bytes) = source.document_now()
            && let Err(error) = probe_token(&bytes, source)
        {
            self.missing(at, format_args!("{key}: {error}"));
        }
    }

    fn workload(&self, at: Position) -> Workload {
        let variable = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            if value.is_none() {
                let words = "is not set (Azure Workload Identity sets it in pods with the label azure.workload.identity/use: \"true\")";
                self.missing(at, format_args!("federated_token: environment variable {name} {words}"));
            }
            value
        };
        let names = ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"];
        let told = names.map(variable);
        // The doctor looks at an account that is not complete here, and sends nothing of it.
        let missing = names.iter().zip(&told).find(|(_, value)| value.is_none()).map(|(name, _)| *name);
        let [path, client_id, tenant] = told.map(|value| value.unwrap_or_else(|| NOBODY.to_owned()));
        let authority = std::env::var("AZURE_AUTHORITY_HOST").ok().filter(|value| !value.is_empty());
        let authority = match authority.map(|text| urls::secure(&text)) {
            Some(Ok(url)) => Some(url),
            Some(Err(words)) => {
                self.missing(at, format_args!("federated_token: AZURE_AUTHORITY_HOST: {words}"));
                None
            }
            None => None,
        };
        let token = match missing {
            Some(name) => Source::Env(name.to_owned()),
            None => Source::File(self.cx.path(&path)),
        };
        if missing.is_none()
            && let Err(error) = token.probe()
        {
            self.missing(at, format_args!("federated_token: {error}"));
        }
        Workload { token, client_id: Some(client_id), tenant: Some(tenant), authority }
    }

    fn missing(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.missing(at, format!("profile {:?}: {message}", self.name));
    }
}

fn lowered(algorithm: SigningAlg) -> Algorithm {
    match algorithm {
        SigningAlg::Rs256 => Algorithm::Rs256,
        SigningAlg::Ps256 => Algorithm::Ps256,
        SigningAlg::Es256 => Algorithm::Es256,
    }
}

/// Where a key of the file is, if it is there.
pub(super) fn place<T>(field: &Option<Field<T>>) -> Option<Position> {
    field.as_ref().map(|field| field.at)
}
