//! Profiles of kind `entra`.

use url::Url;

use super::{
    super::{field::Field, file_profiles::Entra, tree::Position, urls},
    Account,
};
use crate::profile::{self, entra};

impl Account<'_> {
    pub(super) fn entra(&self, file: &Entra) -> Option<profile::Kind> {
        let authority = self.authority(&file.authority);
        let tenant = file.tenant.get().and_then(|(at, tenant)| self.tenant(at, tenant));
        let client_id = self.visible("client_id", file.client_id.get());
        let client_secret = self.secret("client_secret", &file.client_secret);
        let scope = file.scope.get().and_then(|(at, scope)| self.default_scope(at, scope));
        Some(profile::Kind::Entra(entra::Settings {
            authority: authority?,
            tenant: tenant?,
            client_id: client_id?,
            client_secret: client_secret?,
            scope: scope?,
        }))
    }

    fn authority(&self, field: &Option<Field<String>>) -> Option<Url> {
        let Some(field) = field else { return Url::parse(entra::AUTHORITY).ok() };
        let (at, text) = field.get()?;
        match urls::secure(text) {
            Ok(url) if matches!(url.path(), "" | "/") && url.query().is_none() => return Some(url),
            Ok(_) => self.problem(
                at,
                format_args!("authority: leave out path and query (as in {})", entra::AUTHORITY),
            ),
            Err(words) => self.problem(at, format_args!("authority: {words}")),
        }
        None
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

    fn default_scope(&self, at: Position, scope: &str) -> Option<String> {
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

fn is_guid(text: &str) -> bool {
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
