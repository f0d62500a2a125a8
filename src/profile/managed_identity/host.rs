//! Azure's hosts of managed identities: how each is recognised, and how it wants to be asked.

use url::Url;

use super::{Account, Endpoint, Settings, failure::Failure, surroundings::Surroundings};
use crate::secret::Secret;

/// The Instance Metadata Service of every virtual machine in Azure.
const IMDS: &str = "http://169.254.169.254";
const IMDS_PATH: &str = "/metadata/identity/oauth2/token";
/// Where the Azure Arc agent listens, when the environment does not say it.
const ARC: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";

/// What gives the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Imds,
    AppService,
    ServiceFabric,
    AzureMl,
    Arc,
}

impl Host {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Host::Imds => "the Instance Metadata Service",
            Host::AppService => "the identity endpoint of App Service",
            Host::ServiceFabric => "the identity endpoint of Service Fabric",
            Host::AzureMl => "the identity endpoint of Azure ML",
            Host::Arc => "the Azure Arc agent",
        }
    }
}

/// A host at its place.
pub(super) struct Site {
    pub(super) host: Host,
    /// Without our parameters.
    pub(super) url: Url,
    /// What shows that the request comes from the machine itself.
    pub(super) headers: Vec<(&'static str, Secret)>,
    /// The only certificate that is accepted, as the hexadecimal SHA-1 that Service Fabric gives.
    pub(super) thumbprint: Option<String>,
    /// The client id that Azure ML wants for its default identity.
    default_client: Option<String>,
}

/// Finds who gives tokens here. The order is that of Microsoft's libraries: where several would fit,
/// a program that uses one of those must get the same identity.
pub(super) fn find(endpoint: Endpoint, around: &Surroundings) -> Result<Site, Failure> {
    let has = |name: &str| around.variable(name).is_some();
    let host = match endpoint {
        Endpoint::Imds => Host::Imds,
        Endpoint::AppService => Host::AppService,
        Endpoint::ServiceFabric => Host::ServiceFabric,
        Endpoint::AzureMl => Host::AzureMl,
        Endpoint::Arc => Host::Arc,
        Endpoint::Auto if has("IDENTITY_ENDPOINT") && has("IDENTITY_HEADER") => {
            if has("IDENTITY_SERVER_THUMBPRINT") { Host::ServiceFabric } else { Host::AppService }
        }
        Endpoint::Auto if has("MSI_ENDPOINT") && has("MSI_SECRET") => Host::AzureMl,
        Endpoint::Auto if has("MSI_ENDPOINT") => return Err(Failure::cloud_shell()),
        Endpoint::Auto if has("IDENTITY_ENDPOINT") && has("IMDS_ENDPOINT") => Host::Arc,
        Endpoint::Auto if around.has_arc_agent() => Host::Arc,
        Endpoint::Auto => Host::Imds,
    };
    Site::new(host, around)
}

impl Site {
    fn new(host: Host, around: &Surroundings) -> Result<Site, Failure> {
        let needed = |name: &'static str| around.variable(name).ok_or_else(|| Failure::variable(host, name));
        let metadata = || vec![("metadata", Secret::new("true".into()))];
        let (place, headers) = match host {
            Host::Imds => {
                let base = around.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
                let base = base.unwrap_or_else(|| IMDS.to_owned());
                (format!("{}{IMDS_PATH}", base.trim_end_matches('/')), metadata())
            }
            Host::AppService => (
                needed("IDENTITY_ENDPOINT")?,
                vec![("x-identity-header", Secret::new(needed("IDENTITY_HEADER")?))],
            ),
            Host::ServiceFabric => {
                (needed("IDENTITY_ENDPOINT")?, vec![("secret", Secret::new(needed("IDENTITY_HEADER")?))])
            }
            Host::AzureMl => (needed("MSI_ENDPOINT")?, vec![("secret", Secret::new(needed("MSI_SECRET")?))]),
            Host::Arc => (around.variable("IDENTITY_ENDPOINT").unwrap_or_else(|| ARC.to_owned()), metadata()),
        };
        let thumbprint = match host {
            Host::ServiceFabric => Some(needed("IDENTITY_SERVER_THUMBPRINT")?),
            _ => None,
        };
        let url = Url::parse(&place).ok().filter(|url| url.has_host() && is_web(url, host));
        let url = url.ok_or_else(|| Failure::bad_url(host))?;
        let default_client = around.variable("DEFAULT_IDENTITY_CLIENT_ID");
        Ok(Site { host, url, headers, thumbprint, default_client })
    }

    /// The whole URL of a token request.
    pub(super) fn request(&self, settings: &Settings) -> Result<Url, Failure> {
        let version = match self.host {
            Host::Imds => "2018-02-01",
            Host::AppService => "2019-08-01",
            Host::ServiceFabric => "2019-07-01-preview",
            Host::AzureMl => "2017-09-01",
            Host::Arc => "2020-06-01",
        };
        let chosen = match (&settings.account, self.host) {
            (Account::System, Host::AzureMl) => self.default_client.as_deref().map(|id| ("clientid", id)),
            (Account::System, _) => None,
            (account, Host::ServiceFabric) => return Err(Failure::no_choice(self.host, account)),
            (Account::ClientId(id), Host::AzureMl) => Some(("clientid", id.as_str())),
            (account, Host::AzureMl) => return Err(Failure::no_choice(self.host, account)),
            (Account::ClientId(id), _) => Some(("client_id", id.as_str())),
            (Account::ObjectId(id), _) => Some(("object_id", id.as_str())),
            (Account::ResourceId(id), Host::AppService) => Some(("mi_res_id", id.as_str())),
            (Account::ResourceId(id), _) => Some(("msi_res_id", id.as_str())),
        };
        let mut url = self.url.clone();
        let mut query = url.query_pairs_mut();
        query.append_pair("api-version", version).append_pair("resource", &settings.resource);
        if let Some((name, id)) = chosen {
            query.append_pair(name, id);
        }
        drop(query);
        Ok(url)
    }

    /// What is sent and must not come back in an error.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let is_key = |name: &&str| *name != "metadata";
        self.headers.iter().filter(|(name, _)| is_key(name)).map(|(_, value)| value.clone()).collect()
    }
}

/// The pinned certificate of Service Fabric is worth nothing without TLS.
fn is_web(url: &Url, host: Host) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && host != Host::ServiceFabric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(variables: &[(&str, &str)]) -> Surroundings {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let find = move |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        Surroundings {
            variables: Box::new(find),
            arc_agent: "/nowhere/himds".into(),
            arc_tokens: "/nowhere/tokens".into(),
        }
    }

    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "https://127.0.0.1:2377/msi/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "canary");
    const THUMBPRINT: (&str, &str) = ("IDENTITY_SERVER_THUMBPRINT", "00ff");
    const IMDS_ENDPOINT: (&str, &str) = ("IMDS_ENDPOINT", "http://127.0.0.1:40342");
    const MSI: (&str, &str) = ("MSI_ENDPOINT", "http://127.0.0.1:46808/msi/token");
    const MSI_SECRET: (&str, &str) = ("MSI_SECRET", "canary");

    #[test]
    fn hosts_are_found_in_the_order_of_microsofts_libraries() {
        let check = |variables: &[(&str, &str)], host| {
            let found = find(Endpoint::Auto, &around(variables)).map(|site| site.host);
            assert_eq!(found.unwrap_or_else(|e| panic!("{variables:?}: {e}")), host, "{variables:?}");
        };
        check(&[ENDPOINT, HEADER, THUMBPRINT, MSI, MSI_SECRET], Host::ServiceFabric);
        check(&[ENDPOINT, HEADER, IMDS_ENDPOINT], Host::AppService);
        check(&[MSI, MSI_SECRET, ENDPOINT, IMDS_ENDPOINT], Host::AzureMl);
        check(&[ENDPOINT, IMDS_ENDPOINT], Host::Arc);
        check(&[], Host::Imds);
        check(&[ENDPOINT], Host::Imds);
        check(&[("IDENTITY_ENDPOINT", ""), HEADER], Host::Imds);
        let mut with_agent = around(&[]);
        with_agent.arc_agent = "/".into();
        assert_eq!(find(Endpoint::Auto, &with_agent).map(|site| site.host).ok(), Some(Host::Arc));
    }

    #[test]
    fn the_tokens_of_cloud_shell_are_a_persons_and_refused() {
        let error = find(Endpoint::Auto, &around(&[MSI])).err().unwrap();
        assert!(error.to_string().contains("Cloud Shell"), "{error}");
    }

    #[test]
    fn an_endpoint_that_was_named_says_what_it_misses() {
        let words = |endpoint, variables: &[(&str, &str)]| {
            find(endpoint, &around(variables)).err().unwrap().to_string()
        };
        assert!(words(Endpoint::AppService, &[ENDPOINT]).contains("IDENTITY_HEADER"));
        assert!(words(Endpoint::ServiceFabric, &[ENDPOINT, HEADER]).contains("IDENTITY_SERVER_THUMBPRINT"));
        assert!(words(Endpoint::AzureMl, &[]).contains("MSI_ENDPOINT"));
        let plain = ("IDENTITY_ENDPOINT", "http://127.0.0.1/");
        assert!(words(Endpoint::ServiceFabric, &[plain, HEADER, THUMBPRINT]).contains("https"));
    }

    #[test]
    fn each_host_is_asked_in_its_own_words() {
        let id = |kind: fn(String) -> Account| kind("1-2".into());
        let asked = |endpoint, account: Account, variables: &[(&str, &str)]| {
            let site = find(endpoint, &around(variables)).unwrap();
            let resource = "https://contoso.example/api".into();
            site.request(&Settings { resource, account, endpoint }).map(|url| url.to_string())
        };
        let resource = "resource=https%3A%2F%2Fcontoso.example%2Fapi";
        for (endpoint, account, variables, expected) in [
            (
                Endpoint::Imds,
                Account::System,
                &[][..],
                format!(
                    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}"
                ),
            ),
            (
                Endpoint::Imds,
                id(Account::ResourceId),
                &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9/")],
                format!(
                    "http://127.0.0.1:9/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}&msi_res_id=1-2"
                ),
            ),
            (
                Endpoint::AppService,
                id(Account::ResourceId),
                &[ENDPOINT, HEADER],
                format!("https://127.0.0.1:2377/msi/token?api-version=2019-08-01&{resource}&mi_res_id=1-2"),
            ),
            (
                Endpoint::AppService,
                id(Account::ObjectId),
                &[ENDPOINT, HEADER],
                format!("https://127.0.0.1:2377/msi/token?api-version=2019-08-01&{resource}&object_id=1-2"),
            ),
            (
                Endpoint::AzureMl,
                Account::System,
                &[MSI, MSI_SECRET, ("DEFAULT_IDENTITY_CLIENT_ID", "7")],
                format!("http://127.0.0.1:46808/msi/token?api-version=2017-09-01&{resource}&clientid=7"),
            ),
            (
                Endpoint::ServiceFabric,
                Account::System,
                &[ENDPOINT, HEADER, THUMBPRINT],
                format!("https://127.0.0.1:2377/msi/token?api-version=2019-07-01-preview&{resource}"),
            ),
            (
                Endpoint::Arc,
                id(Account::ClientId),
                &[],
                format!(
                    "http://127.0.0.1:40342/metadata/identity/oauth2/token?api-version=2020-06-01&{resource}&client_id=1-2"
                ),
            ),
        ] {
            assert_eq!(asked(endpoint, account, variables).unwrap(), expected);
        }
        let fabric = [ENDPOINT, HEADER, THUMBPRINT];
        assert!(asked(Endpoint::ServiceFabric, id(Account::ClientId), &fabric).is_err());
        assert!(asked(Endpoint::AzureMl, id(Account::ObjectId), &[MSI, MSI_SECRET]).is_err());
    }
}
