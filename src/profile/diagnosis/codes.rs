//! What Entra's and Azure AD B2C's error numbers mean, what to do next, and how soon asking again helps.
//!
//! Microsoft may change numbers and texts, so they are hints: where a number is not known, the OAuth
//! `error` member and the HTTP status decide. docs/diagnosis.md shows this table; a test compares them.

use crate::profile::{
    diagnosis::{Code, Family},
    refusal::Class,
};

const fn sts(numbers: &'static [u64], class: Class, meaning: &'static str, remedy: &'static str) -> Code {
    Code { family: Family::Entra, numbers, class, meaning, remedy }
}

const fn b2c(numbers: &'static [u64], class: Class, meaning: &'static str, remedy: &'static str) -> Code {
    Code { family: Family::Policy, numbers, class, meaning, remedy }
}

/// Every number that has words.
pub const CODES: &[Code] = &[
    sts(
        &[7000215],
        Class::Credential,
        "the secret is wrong: often the secret's id was pasted instead of its value, or it was cut",
        "put the secret's value into its source; it is shown only once, so make a new one if it is lost",
    ),
    sts(
        &[7000222],
        Class::Credential,
        "the secret has expired",
        "make a new secret in the app registration and put its value into the source",
    ),
    sts(
        &[7000218],
        Class::Permanent,
        "the request held neither a secret nor an assertion",
        "give the profile a client_secret, certificate or federated_token; look for a proxy that changes bodies",
    ),
    sts(
        &[700016, 700011],
        Class::Eventual,
        "the tenant does not know the client_id: wrong tenant, or registered a moment ago",
        "compare client_id and tenant with the app registration; a new one takes some minutes",
    ),
    sts(
        &[7000229],
        Class::Eventual,
        "the application has no service principal in the tenant",
        "make one (az ad sp create --id CLIENT_ID), or grant consent, which makes it",
    ),
    sts(
        &[7000112, 70001],
        Class::Permanent,
        "the application is disabled in the tenant",
        "enable its enterprise application (Properties, Enabled for users to sign in), or ask who disabled it",
    ),
    sts(
        &[700025],
        Class::Permanent,
        "the application is registered as a public client, which has no secret",
        "turn off \"Allow public client flows\" in the app registration, or use another one",
    ),
    sts(
        &[700027],
        Class::NewCredential,
        "the tenant does not know the certificate, or the assertion's signature is wrong",
        "upload this certificate to the app registration and compare thumbprints; a new one takes some minutes",
    ),
    sts(
        &[700030, 50012],
        Class::Permanent,
        "the certificate's subject or chain is not the one that the application allows",
        "use the certificate that the app registration trusts, or change what it trusts",
    ),
    sts(
        &[700024],
        Class::Credential,
        "the assertion is outside its time: this machine's clock is wrong, or the federated token is old",
        "set the clock (NTP) and compare the clock skew; see that the federated token's file is renewed",
    ),
    sts(
        &[70021, 700211, 700212, 700213],
        Class::Eventual,
        "no federated credential of the application matches the token's issuer, subject and audience",
        "compare all three byte for byte, a slash at the end too; a new federated credential takes some minutes",
    ),
    sts(
        &[7002138],
        Class::Eventual,
        "the federated credential matches but for upper and lower case",
        "write issuer and subject of the federated credential exactly as the token has them",
    ),
    sts(
        &[700229],
        Class::Permanent,
        "the federated token is a user's, but only an application's is taken",
        "use a token of a workload or an application",
    ),
    sts(
        &[90002],
        Class::Permanent,
        "the tenant does not exist",
        "check the tenant's name or id, and the cloud that it is in",
    ),
    sts(
        &[50059, 900023],
        Class::Permanent,
        "no tenant was named, or its name is malformed",
        "write the tenant's id (a GUID) or one of its verified domains",
    ),
    sts(
        &[90038, 900382, 900432],
        Class::Permanent,
        "the tenant is in another national cloud",
        "set cloud: to the tenant's own",
    ),
    sts(
        &[9001023, 50194, 90124, 90130],
        Class::Permanent,
        "service accounts cannot use common, organizations or consumers",
        "write the tenant's own id or domain",
    ),
    sts(
        &[500011, 50001],
        Class::Eventual,
        "the tenant does not know the scope's API, or it has no service principal there",
        "compare the scope with the API's App ID URI, and see that the API is registered in this tenant",
    ),
    sts(
        &[501051, 50105],
        Class::Eventual,
        "the service account has no role on the API, and the API demands one",
        "assign an app role of the API to the account and grant consent; that takes some minutes",
    ),
    sts(
        &[65001, 650056, 650057],
        Class::Eventual,
        "a permission or its consent is missing",
        "declare the API's application permission in the account's registration and grant admin consent",
    ),
    sts(
        &[70011, 1002012, 28002],
        Class::Permanent,
        "the scope is malformed: it must be one API and /.default",
        "write scope: <App ID URI>/.default, with two slashes where the URI ends in one",
    ),
    sts(
        &[700022, 700023],
        Class::Permanent,
        "the scope names two APIs",
        "make a profile for each API; one token serves one API",
    ),
    sts(
        &[901002],
        Class::Permanent,
        "a resource parameter was sent, which this endpoint does not take",
        "use scope: <App ID URI>/.default instead of resource",
    ),
    sts(
        &[53003, 530032],
        Class::Permanent,
        "Conditional Access for workload identities blocks the account",
        "ask the tenant's administrator; the sign-in log of the service principal names the policy",
    ),
    sts(
        &[50196],
        Class::Permanent,
        "Entra saw the same request too often and takes it for a loop",
        "look for what else uses this client_id; the gateway waits five minutes at least. If it is alone, report this",
    ),
    sts(
        &[90055],
        Class::Throttled,
        "the tenant or the application asks too often",
        "the gateway waits as long as it was told; look for other users of this client_id",
    ),
    sts(
        &[90033, 90006, 90012, 90024, 90090, 90091, 50033],
        Class::Transient,
        "Entra has a trouble of its own",
        "nothing: the gateway asks again; if it lasts, look at the service's health page",
    ),
    sts(
        &[90036, 90092],
        Class::Permanent,
        "Entra has a trouble that it does not expect to pass",
        "check tenant and scope; then give trace_id and correlation_id to Microsoft's support",
    ),
    sts(
        &[1002016],
        Class::Permanent,
        "the connection used a TLS version or cipher that Entra no longer takes",
        "something between breaks TLS open, as the gateway speaks TLS 1.2 and 1.3 only: look for an inspecting proxy",
    ),
    sts(
        &[900144, 90014, 9002313],
        Class::Permanent,
        "the request's body is malformed or lacks a parameter",
        "check tenant, client_id and scope; look for a proxy that changes bodies",
    ),
    sts(
        &[50034],
        Class::Permanent,
        "the directory does not know the user; a service account's request names none",
        "look at extra: parameters; something turns the request into a user's sign-in",
    ),
    b2c(
        &[90085],
        Class::Permanent,
        "the policy met an internal error; most often the scope is wrong",
        "write scope: https://TENANT.onmicrosoft.com/<API>/.default and check that the API grants the account a role",
    ),
    b2c(
        &[90086],
        Class::Permanent,
        "the policy does not take client credentials",
        "use the Entra door (leave policy: out), or a policy that supports the client-credentials grant",
    ),
    b2c(
        &[90079],
        Class::Permanent,
        "the request held no secret",
        "give the profile a client_secret; a policy takes nothing else",
    ),
    b2c(
        &[90081],
        Class::Credential,
        "the secret is wrong: often the secret's id was pasted instead of its value",
        "put the secret's value into its source, or make a new one",
    ),
    b2c(
        &[90084],
        Class::Permanent,
        "the application is registered as a public client, which has no secret",
        "register it as a web application, or use another one",
    ),
    b2c(
        &[90011, 90018],
        Class::Eventual,
        "the tenant does not know the client_id",
        "compare client_id and tenant with the app registration; a new one takes some minutes",
    ),
    b2c(&[90092], Class::Permanent, "the application is disabled in the tenant", "enable it in the tenant"),
    b2c(
        &[90010, 90012],
        Class::Permanent,
        "the scope is missing or not one of the API's",
        "write scope: https://TENANT.onmicrosoft.com/<API>/.default",
    ),
    b2c(
        &[90008, 90083],
        Class::Permanent,
        "the request lacks a parameter",
        "check client_id and scope; look for a proxy that changes bodies",
    ),
    b2c(&[90088], Class::Permanent, "what was sent was issued for another policy", "check policy:"),
];
