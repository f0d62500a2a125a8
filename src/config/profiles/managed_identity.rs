//! Profiles of kind `managed_identity`.

use url::Url;

use super::{
    super::{
        field::{Field, given},
        file_azure::{IdentityEndpoint, ManagedIdentity},
    },
    Account,
    entra::is_guid,
};
use crate::profile::{self, managed_identity};

impl Account<'_> {
    pub(super) fn managed_identity(&self, file: &ManagedIdentity) -> Option<profile::Kind> {
        let resource = self.api(file);
        let account = self.chosen(file);
        let endpoint = match given(&file.endpoint).map(|(_, endpoint)| *endpoint) {
            None | Some(IdentityEndpoint::Auto) => managed_identity::Endpoint::Auto,
            Some(IdentityEndpoint::Imds) => managed_identity::Endpoint::Imds,
            Some(IdentityEndpoint::AppService) => managed_identity::Endpoint::AppService,
            Some(IdentityEndpoint::ServiceFabric) => managed_identity::Endpoint::ServiceFabric,
            Some(IdentityEndpoint::AzureMl) => managed_identity::Endpoint::AzureMl,
            Some(IdentityEndpoint::Arc) => managed_identity::Endpoint::Arc,
        };
        let account = account?;
        self.is_possible(file, &account, endpoint);
        Some(profile::Kind::ManagedIdentity(managed_identity::Settings {
            resource: resource?,
            account,
            endpoint,
        }))
    }

    /// The App ID URI, from either way of writing it.
    fn api(&self, file: &ManagedIdentity) -> Option<String> {
        let (at, uri) = match (&file.scope, &file.resource) {
            (Some(scope), None) => {
                let (at, scope) = scope.get()?;
                let scope = self.default_scope(at, scope)?;
                (at, scope.strip_suffix("/.default").unwrap_or_default().to_owned())
            }
            (None, Some(resource)) => {
                let (at, resource) = resource.get()?;
                if resource.ends_with("/.default") {
                    self.problem(at, "resource: leave out \"/.default\", or write it as scope");
                    return None;
                }
                (at, resource.clone())
            }
            (Some(_), Some(resource)) => {
                self.problem(resource.at, "scope and resource exclude each other (keep one)");
                return None;
            }
            (None, None) => {
                self.problem(self.at, "one of scope and resource is needed (the API that the token is for)");
                return None;
            }
        };
        if is_guid(&uri) || (Url::parse(&uri).is_ok() && uri.chars().all(|c| c.is_ascii_graphic())) {
            return Some(uri);
        }
        let key = if file.scope.is_some() { "scope" } else { "resource" };
        let words =
            "expected the API's App ID URI (as in https://contoso.onmicrosoft.com/orders-api) or client id";
        self.problem(at, format_args!("{key}: {words}"));
        None
    }

    fn chosen(&self, file: &ManagedIdentity) -> Option<managed_identity::Account> {
        let all = [&file.client_id, &file.object_id, &file.resource_id];
        let given: Vec<&Field<String>> = all.into_iter().flatten().collect();
        if let [_, second, ..] = given[..] {
            self.problem(second.at, "client_id, object_id and resource_id exclude each other (keep one)");
            return None;
        }
        let id = |key: &str, field: &Field<String>| {
            let (at, text) = field.get()?;
            if !is_guid(text) {
                self.problem(at, format_args!("{key}: {text:?} is not a GUID"));
                return None;
            }
            Some(text.clone())
        };
        if let Some(field) = &file.client_id {
            return id("client_id", field).map(managed_identity::Account::ClientId);
        }
        if let Some(field) = &file.object_id {
            return id("object_id", field).map(managed_identity::Account::ObjectId);
        }
        let Some(field) = &file.resource_id else { return Some(managed_identity::Account::System) };
        let (at, path) = field.get()?;
        let is_path = path.to_ascii_lowercase().starts_with("/subscriptions/")
            && path.chars().all(|c| c.is_ascii_graphic());
        if !is_path {
            let words = "expected a path (as in /subscriptions/…/userAssignedIdentities/NAME)";
            self.problem(at, format_args!("resource_id: {words}"));
            return None;
        }
        Some(managed_identity::Account::ResourceId(path.clone()))
    }

    /// Two endpoints do not offer every choice.
    fn is_possible(
        &self,
        file: &ManagedIdentity,
        account: &managed_identity::Account,
        endpoint: managed_identity::Endpoint,
    ) {
        use managed_identity::{Account, Endpoint};
        let words = match (endpoint, account) {
            (
                Endpoint::ServiceFabric,
                Account::ClientId(_) | Account::ObjectId(_) | Account::ResourceId(_),
            ) => "endpoint service_fabric has one identity, which the cluster chooses (leave the id out)",
            (Endpoint::AzureMl, Account::ObjectId(_) | Account::ResourceId(_)) => {
                "endpoint azure_ml knows identities by client_id only (use client_id)"
            }
            _ => return,
        };
        let at = [&file.client_id, &file.object_id, &file.resource_id].into_iter().flatten().next();
        self.problem(at.map_or(self.at, |field| field.at), words);
    }
}
