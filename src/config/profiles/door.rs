//! Where an `entra` profile asks: the cloud or another authority, and a policy of Azure AD B2C.

use url::Url;

use super::{
    super::{
        field::{Field, given},
        file_azure::CloudName,
        file_profiles::Entra,
        tree::Position,
        urls,
    },
    Account,
    proofs::place,
};
use crate::profile::entra::{AUTHORITY, Cloud};

/// What the directory of a tenant is called after, when nothing else was registered.
const DIRECTORY: &str = ".onmicrosoft.com";

impl Account<'_> {
    /// The authority, given or following from cloud and policy. `tenant` is known to be well formed.
    pub(super) fn authority(&self, file: &Entra, tenant: Option<&str>) -> Option<Url> {
        if let (Some(cloud), Some(_)) = (&file.cloud, &file.authority) {
            self.problem(cloud.at, "cloud and authority exclude each other (keep one)");
            return None;
        }
        if let (Some(cloud), Some(_)) = (&file.cloud, &file.policy) {
            let words = "cloud and policy exclude each other (a policy's endpoint is the tenant's own on b2clogin.com)";
            self.problem(cloud.at, words);
            return None;
        }
        let policy = file.policy.as_ref();
        match (&file.authority, policy) {
            (Some(authority), _) => self.written_authority(authority, policy.is_some()),
            (None, Some(_)) => self.b2c_authority(place(&file.tenant).unwrap_or(self.at), tenant?),
            (None, None) => {
                let cloud = match given(&file.cloud).map(|(_, cloud)| *cloud) {
                    None if file.cloud.is_some() => return None,
                    None | Some(CloudName::Global) => Cloud::Global,
                    Some(CloudName::UsGovernment) => Cloud::UsGovernment,
                    Some(CloudName::China) => Cloud::China,
                    Some(CloudName::BleuFrance) => Cloud::BleuFrance,
                    Some(CloudName::DelosGermany) => Cloud::DelosGermany,
                    Some(CloudName::SingaporeGovernment) => Cloud::SingaporeGovernment,
                };
                Url::parse(cloud.authority()).ok()
            }
        }
    }

    fn written_authority(&self, field: &Field<String>, has_policy: bool) -> Option<Url> {
        let (at, text) = field.get()?;
        let url = match urls::secure(text) {
            Ok(url) if matches!(url.path(), "" | "/") && url.query().is_none() => url,
            Ok(_) => {
                self.problem(at, format_args!("authority: leave out path and query (as in {AUTHORITY})"));
                return None;
            }
            Err(words) => {
                self.problem(at, format_args!("authority: {words}"));
                return None;
            }
        };
        let host = url.host_str().unwrap_or_default();
        let words = if host.ends_with(".b2clogin.com") && !has_policy {
            "b2clogin.com gives tokens for policies only (add policy, or leave authority out: service accounts do \
             best with the directory's own endpoint)"
        } else if host.ends_with(".ciamlogin.com") && has_policy {
            "ciamlogin.com is Entra External ID, which has no policies (remove policy)"
        } else {
            return Some(url);
        };
        self.problem(at, format_args!("authority: {words}"));
        None
    }

    /// `contoso.onmicrosoft.com` has its policies at `contoso.b2clogin.com`.
    fn b2c_authority(&self, at: Position, tenant: &str) -> Option<Url> {
        let lower = tenant.to_ascii_lowercase();
        let name = lower.strip_suffix(DIRECTORY).filter(|name| !name.contains('.'));
        let Some(name) = name else {
            let words = "with policy write NAME.onmicrosoft.com, which tells the host NAME.b2clogin.com (or say authority)";
            self.problem(at, format_args!("tenant: {words}"));
            return None;
        };
        Url::parse(&format!("https://{name}.b2clogin.com")).ok()
    }

    /// The policy's name, which becomes a part of a path.
    pub(super) fn policy(&self, file: &Entra) -> Option<String> {
        let (at, policy) = given(&file.policy)?;
        for key in [place(&file.certificate), place(&file.federated_token)].into_iter().flatten() {
            self.problem(key, "policy: a policy of Azure AD B2C takes client_secret only");
        }
        let is_legal = policy.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            && policy.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("b2c_"));
        if !is_legal {
            let words =
                "expected the name of a user flow or custom policy (as in B2C_1_service or B2C_1A_SERVICE)";
            self.problem(at, format_args!("policy: {words}"));
            return None;
        }
        Some(policy.clone())
    }
}
