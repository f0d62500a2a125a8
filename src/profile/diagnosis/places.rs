//! Why a place gave no secret, in plain words.

use crate::{
    profile::{
        authentication::ProofError,
        certificate::CertificateError,
        diagnosis::{Diagnosis, network::of_network, words},
        key::KeyError,
    },
    source::{Source, SourceError, exec, key_vault, remote::RequestError, vault},
};

/// The words for a source that cannot be read, or holds no secret.
pub fn of_source(error: &SourceError) -> Diagnosis {
    match error {
        SourceError::NotSet(Source::Env(name)) if name.starts_with("AZURE_") => words(
            "Azure Workload Identity has not set the gateway's pod up",
            "label the pod azure.workload.identity/use: \"true\", annotate its service account, and see that the webhook runs",
        ),
        SourceError::NotSet(_) => words(
            "the gateway's environment has no such variable",
            "set it where the gateway is started (systemd: EnvironmentFile=), or keep the secret in a file",
        ),
        SourceError::Unreadable(..) | SourceError::NotNow(_) => words(
            "the gateway has no secret to prove the account with",
            "put the secret where the profile looks for it, readable by the gateway's user",
        ),
        SourceError::NoFile(_)
        | SourceError::Empty(_)
        | SourceError::TooLarge(_)
        | SourceError::ByteOrderMark(_)
        | SourceError::NotText(_)
        | SourceError::Control(..) => words(
            "what is kept there is no secret",
            "write the secret there as one line of UTF-8 text, and nothing else",
        ),
        SourceError::NoCredentials(_) => words(
            "systemd gives the gateway no credentials",
            "add LoadCredential=NAME:PATH to the unit and restart it",
        ),
        SourceError::Hanging(_) => words(
            "the file system that the secret is on does not answer",
            "see that its server can be reached and that it is mounted; the gateway reads it again by itself",
        ),
        SourceError::Slow(..) => words(
            "the place where the secret is kept hangs, or is too slow",
            "see that it answers; if it only takes its time, give the profile a longer token_timeout",
        ),
        SourceError::Exec(_, flaw) => of_exec(*flaw),
        SourceError::Vault(_, flaw) => of_vault(flaw),
        SourceError::KeyVault(_, flaw) => of_key_vault(flaw),
    }
}

fn of_exec(flaw: exec::Flaw) -> Diagnosis {
    match flaw {
        exec::Flaw::Absent | exec::Flaw::NotExecutable => words(
            "there is no program to run there",
            "write its path, or a name on the PATH of the gateway's environment, and let its user execute it",
        ),
        exec::Flaw::TimedOut(_) => words(
            "the command hangs, or is too slow",
            "run it by hand as the gateway's user, without a terminal: it may be waiting for one",
        ),
        exec::Flaw::System(_) | exec::Flaw::Failed(_) | exec::Flaw::Killed(_) => words(
            "the command has failed; what it said is not shown, as it may be the secret",
            "run it by hand as the gateway's user, and with its environment",
        ),
    }
}

fn of_vault(flaw: &vault::Flaw) -> Diagnosis {
    match flaw {
        vault::Flaw::Request(error) => of_request(error),
        vault::Flaw::LoginSource(_) => words(
            "the gateway has nothing to log in to Vault with",
            "put the token, the secret id or the service account's token where auth: looks for it, readable by the \
             gateway's user",
        ),
        vault::Flaw::LoginRefused(..) | vault::Flaw::LoginUnusable => words(
            "Vault does not let the gateway in",
            "compare auth: with the role in Vault; a secret id may have been used up or have expired",
        ),
        vault::Flaw::Denied => words(
            "the login is good and may not read this path",
            "allow \"read\" in the login's policy, and compare path and namespace with Vault",
        ),
        vault::Flaw::Absent(_) | vault::Flaw::NoSecret | vault::Flaw::NoField(_) => words(
            "Vault answers, and the secret is not where the profile looks for it",
            "compare path and field with what `vault kv get` shows",
        ),
        vault::Flaw::Sealed => words(
            "Vault runs and gives nothing away until somebody unseals it",
            "unseal it, or wait for whoever does; the gateway asks again by itself",
        ),
        vault::Flaw::Redirected => words(
            "this node of Vault sends its clients to another one",
            "write the address of the active node, or of what is in front of it",
        ),
        vault::Flaw::Status(..) => {
            words("Vault has a trouble of its own", "look into its log; the gateway asks again by itself")
        }
    }
}

fn of_key_vault(flaw: &key_vault::Flaw) -> Diagnosis {
    match flaw {
        key_vault::Flaw::Request(error) => of_request(error),
        key_vault::Flaw::NoToken(..) => words(
            "the profile that reads the secret has no token for Key Vault",
            "keybearer doctor --profile, with its name, says what is wrong with it",
        ),
        key_vault::Flaw::Unauthorized(_) => words(
            "the vault trusts another tenant than the one of the profile that reads it",
            "let a profile of the vault's own tenant read the secret",
        ),
        key_vault::Flaw::Denied(_) => words(
            "the profile that reads the secret may not do so, or the vault's firewall is in the way",
            "give it the role \"Key Vault Secrets User\" and wait some minutes; see that the secret is enabled",
        ),
        key_vault::Flaw::Absent | key_vault::Flaw::NoValue => words(
            "Key Vault answers, and does not have the secret",
            "compare vault, secret and version with what the portal shows",
        ),
        key_vault::Flaw::Redirected => {
            words("what answered is no Key Vault", "write the vault's URL as the portal shows it")
        }
        key_vault::Flaw::Status(..) => words(
            "Key Vault has a trouble of its own",
            "nothing: the gateway asks again; if it lasts, look at Azure's status page",
        ),
    }
}

fn of_request(error: &RequestError) -> Diagnosis {
    match error {
        RequestError::Unreachable(reason) => of_network(reason),
        RequestError::TooLarge => {
            words("what answered is no vault", "compare the address with that of the vault")
        }
        RequestError::Roots(_) => words(
            "the file with the authorities that the vault is checked by cannot be used",
            "put the PEM file of ca: right, or leave ca out to trust the system's authorities",
        ),
        RequestError::SetUp(_) => words(
            "the machine has no usable certificates of authorities",
            "install the system's CA certificates (package ca-certificates), or give the vault ca: {file: …}",
        ),
    }
}

/// The words for a key, a certificate or somebody else's token that cannot be used.
pub fn of_proof(error: &ProofError) -> Diagnosis {
    match error {
        ProofError::Certificate(CertificateError::Source(error)) => of_source(error),
        ProofError::CertificateExpired { .. } => words(
            "the certificate is past its end, so the provider would refuse it",
            "make a new one, make it known to the provider, and put it where the profile looks for it",
        ),
        ProofError::TokenExpired { .. } => words(
            "whoever renews the workload's token has stopped doing so",
            "look at the projected volume (Kubernetes) or the job that writes the file; the next good token is used at once",
        ),
        ProofError::NoToken(_) => words(
            "what is kept there is no token",
            "point the profile at the file that holds the workload's JWT, and nothing else",
        ),
        ProofError::Certificate(CertificateError::Mismatch { .. }) => words(
            "certificate and key are of two pairs: one of them was replaced alone",
            "put both files of one pair there",
        ),
        ProofError::Key(KeyError::Password(_))
        | ProofError::Certificate(CertificateError::Key(KeyError::Password(_))) => {
            words("the key is encrypted, and this password does not open it", "compare certificate_password")
        }
        ProofError::Key(_) | ProofError::KeyFile(_) | ProofError::Certificate(_) => words(
            "the key or the certificate that proves the account is damaged, or of another kind than is wanted",
            "put a good one where the profile looks for it, and make it known to the provider",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_place_says_what_to_do_next_about_its_own_failure() {
        let at = || Source::Env("NAME".into());
        let of_vault = |flaw| SourceError::Vault(at(), Box::new(flaw));
        let of_key_vault = |flaw| SourceError::KeyVault(at(), Box::new(flaw));
        let refused = || RequestError::Unreachable("Connection refused (os error 111)".into());
        for (error, sign) in [
            (SourceError::NotSet(at()), "EnvironmentFile="),
            (SourceError::Control(at(), 3), "one line of UTF-8 text"),
            (SourceError::NoCredentials(at()), "LoadCredential="),
            (SourceError::Exec(at(), exec::Flaw::TimedOut(Duration::ZERO)), "waiting for one"),
            (SourceError::Exec(at(), exec::Flaw::Failed(3)), "by hand"),
            (SourceError::Slow(at(), Duration::ZERO), "token_timeout"),
            (SourceError::Exec(at(), exec::Flaw::Absent), "PATH"),
            (of_vault(vault::Flaw::Sealed), "unseal it"),
            (of_vault(vault::Flaw::Denied), "policy"),
            (of_vault(vault::Flaw::Absent(false)), "vault kv get"),
            (of_vault(vault::Flaw::LoginRefused(400, None)), "secret id"),
            (of_vault(vault::Flaw::Request(refused())), "port"),
            (of_key_vault(key_vault::Flaw::Denied("reader".into())), "Key Vault Secrets User"),
            (of_key_vault(key_vault::Flaw::Absent), "the portal"),
        ] {
            let Diagnosis { meaning, remedy } = of_source(&error);
            assert!(remedy.contains(sign) || meaning.contains(sign), "{error}: {meaning}; {remedy}");
        }
        let expired = ProofError::TokenExpired { place: at(), at: "today".into() };
        assert!(of_proof(&expired).remedy.contains("projected volume"));
        let gone = CertificateError::Source(SourceError::NotSet(at()));
        assert!(of_proof(&ProofError::Certificate(gone)).remedy.contains("EnvironmentFile="));
    }
}
