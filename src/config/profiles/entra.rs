//! Profiles of kind `entra`.

use super::{
    super::{
        field::{Field, given},
        file_azure::{Everything, Federated},
        file_profiles::Entra,
        tree::Position,
    },
    Account,
    proofs::{CertificateKeys, Workload, place},
};
use crate::profile::{self, authentication::ClientAuth, entra};

impl Account<'_> {
    pub(super) fn entra(&self, file: &Entra) -> Option<profile::Kind> {
        let (auth, workload) = self.entra_auth(file).unzip();
        let workload = workload.flatten();
        let told = |field: &Option<Field<String>>, key, from: fn(&Workload) -> Option<String>| match field {
            Some(field) => field.get().map(|(at, text)| (at, text.clone())),
            None => {
                // What the environment does not say was told already.
                if !is_from_environment(file) {
                    self.problem(self.at, format_args!("the key {key:?} is missing"));
                }
                let text = from(workload.as_ref()?)?;
                Some((self.at, text))
            }
        };
        let tenant = told(&file.tenant, "tenant", |w| w.tenant.clone());
        let tenant = tenant.and_then(|(at, tenant)| self.tenant(at, &tenant));
        let authority = match workload.as_ref().and_then(|w| w.authority.clone()) {
            Some(authority) if file.authority.is_none() && file.cloud.is_none() => Some(authority),
            _ => self.authority(file, tenant.as_deref()),
        };
        let policy = self.policy(file);
        let client_id = told(&file.client_id, "client_id", |w| w.client_id.clone());
        let client_id = self.visible("client_id", client_id.as_ref().map(|(at, id)| (*at, id)));
        let scope = file.scope.get().and_then(|(at, scope)| self.default_scope(at, scope));
        Some(profile::Kind::Entra(entra::Settings {
            authority: authority?,
            tenant: tenant?,
            client_id: client_id?,
            auth: auth?,
            scope: scope?,
            policy,
            cae: given(&file.cae).is_some_and(|(_, cae)| *cae),
        }))
    }

    /// How the account proves itself, with what the environment says of it.
    fn entra_auth(&self, file: &Entra) -> Option<(ClientAuth, Option<Workload>)> {
        let given = [place(&file.client_secret), place(&file.certificate), place(&file.federated_token)];
        let mut given = given.into_iter().flatten();
        let Some(_) = given.next() else {
            self.problem(self.at, "one of client_secret, certificate and federated_token is needed");
            return None;
        };
        if let Some(second) = given.next() {
            let words = "client_secret, certificate and federated_token exclude each other (keep one)";
            self.problem(second, words);
            return None;
        }
        if file.certificate.is_none() {
            let stray = [
                ("private_key", place(&file.private_key)),
                ("certificate_password", place(&file.certificate_password)),
                ("signing_alg", place(&file.signing_alg)),
            ];
            self.refuse_stray(&stray, "certificate");
        }
        if let Some(secret) = &file.client_secret {
            return Some((ClientAuth::SecretPost(self.secrets("client_secret", secret, true)?), None));
        }
        if let Some(field) = &file.federated_token {
            let workload = self.federated(field)?;
            return Some((ClientAuth::Assertion(workload.token.clone()), Some(workload)));
        }
        let at = place(&file.certificate)?;
        let (place, probed) = self.certificate(&CertificateKeys {
            certificate: &file.certificate,
            private_key: &file.private_key,
            password: &file.certificate_password,
        })?;
        let algorithm = self.certificate_algorithm(&file.signing_alg, &place, (at, probed.as_ref()));
        Some((ClientAuth::CertificateJwt { place, algorithm }, None))
    }

    fn tenant(&self, at: Position, tenant: &str) -> Option<String> {
        if ["common", "organizations", "consumers"].iter().any(|word| tenant.eq_ignore_ascii_case(word)) {
            let words =
                "is for people who sign in; a service account's token needs one tenant (its id or domain)";
            self.problem(at, format_args!("tenant: {tenant:?} {words}"));
            return None;
        }
        if !is_guid(tenant) && !is_domain(tenant) {
            let words = "is neither a tenant id (GUID) nor a domain such as contoso.onmicrosoft.com";
            self.problem(at, format_args!("tenant: {tenant:?} {words}"));
            return None;
        }
        Some(tenant.to_owned())
    }

    pub(super) fn default_scope(&self, at: Position, scope: &str) -> Option<String> {
        let words = if scope.split_whitespace().count() > 1 {
            "Entra gives a service account one scope per token, <App ID URI>/.default (a second API needs a second profile)"
        } else if !scope.ends_with("/.default") || scope.len() == "/.default".len() {
            "must end with \"/.default\" (as in https://contoso.onmicrosoft.com/orders-api/.default): app roles come with it"
        } else if !scope.chars().all(|c| c.is_ascii_graphic()) {
            "has a character that no scope has"
        } else {
            return Some(scope.to_owned());
        };
        self.problem(at, format_args!("scope: {words}"));
        None
    }
}

fn is_from_environment(file: &Entra) -> bool {
    matches!(given(&file.federated_token), Some((_, Federated::Word(Everything::Environment))))
}

pub(super) fn is_guid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.contains('.') && text.len() <= 253 && text.split('.').all(label)
}
