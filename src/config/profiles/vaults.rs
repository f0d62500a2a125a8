//! Secrets that other programs keep: commands, HashiCorp Vault, Azure Key Vault.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    super::{
        field::{Field, given},
        file_profiles::Profile,
        file_secrets::{AppRole, Exec, KeyVault, Kubernetes, Vault, VaultAuth},
        names::quoted,
        tree::Position,
    },
    Account,
};
use crate::{
    profile::bearer,
    source::{Source, exec, key_vault, vault},
};

/// A secret is needed for every token request, which has a limit of its own.
const EXEC_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Half of the usual limit of a token request.
const EXEC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Where Kubernetes puts a pod's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

impl Account<'_> {
    pub(super) fn exec(&self, key: &str, at: Position, exec: &Exec) -> Option<Source> {
        let (command, timeout) = match exec {
            Exec::Command(command) => (command, &None),
            Exec::Full(full) => (full.command.get()?.1, &full.timeout),
        };
        let place = format!("{}: {key}.exec.timeout", self.who());
        let timeout = self.cx.duration(&place, timeout, EXEC_TIMEOUT, EXEC_TIMEOUT_DEFAULT);
        let words: Option<Vec<&String>> = command.iter().map(|field| Some(field.get()?.1)).collect();
        let words = words?;
        let Some((program, arguments)) = words.split_first().filter(|(program, _)| !program.is_empty())
        else {
            self.problem(
                at,
                format_args!("{key}.exec: the program is missing (write [PROGRAM, ARGUMENT, …])"),
            );
            return None;
        };
        if words.iter().any(|word| word.contains('\0')) {
            self.problem(at, format_args!("{key}.exec: a NUL character is not allowed"));
            return None;
        }
        // A bare name is looked for on `PATH`, as a shell does.
        let program = if program.contains('/') { self.cx.path(program) } else { program.into() };
        let arguments = arguments.iter().map(|word| (*word).clone()).collect();
        Some(Source::Exec(Box::new(exec::Command { program, arguments, timeout })))
    }

    pub(super) fn vault(&self, key: &str, at: Position, file: &Vault) -> Option<Source> {
        let address = file.address.get().and_then(|(at, text)| {
            let url = self.url(&format!("{key}.vault.address"), at, text)?;
            if url.query().is_some() {
                self.problem(at, format_args!("{key}.vault.address: leave out the query"));
            }
            Some(url)
        });
        let path = self.vault_path(key, &file.path);
        let field = self.part(&format!("{key}.vault.field"), &file.field);
        let namespace = self.line(&format!("{key}.vault.namespace"), &file.namespace);
        let login = file.auth.get().and_then(|(at, auth)| self.login(key, at, auth));
        let ca = given(&file.ca).and_then(|(_, ca)| ca.file.get());
        let ca = ca.map(|(at, path)| self.authorities(&format!("{key}.vault.ca"), at, path));
        let settings =
            vault::Settings { address: address?, path: path?, field: field?, ca, namespace, login: login? };
        if settings.ca.is_some() && settings.address.scheme() == "http" {
            self.problem(at, format_args!("{key}.vault.ca: plain http has no certificates (remove it)"));
        }
        Some(Source::Vault(Arc::new(vault::Vault::new(settings))))
    }

    fn vault_path(&self, key: &str, field: &Field<String>) -> Option<String> {
        let (at, path) = field.get()?;
        let trimmed = path.trim_matches('/');
        let is_plain = trimmed.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\'));
        let words = if trimmed.is_empty() || !is_plain {
            "expected a path as in secret/data/app"
        } else if trimmed.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            "empty segments, `.` and `..` are not allowed"
        } else if trimmed.starts_with("v1/") {
            "leave out v1/, the gateway puts it in front"
        } else {
            return Some(trimmed.to_owned());
        };
        self.problem(at, format_args!("{key}.vault.path: {words}"));
        None
    }

    fn login(&self, key: &str, at: Position, auth: &VaultAuth) -> Option<vault::Login> {
        let key = format!("{key}.vault.auth");
        match (&auth.token_file, &auth.approle, &auth.kubernetes) {
            (Some(path), None, None) => {
                let (at, path) = path.get()?;
                self.login_file(&format!("{key}.token_file"), at, path).map(vault::Login::Token)
            }
            (None, Some(approle), None) => {
                let AppRole { role_id, secret_id, mount } = approle.get()?.1;
                let mount = self.mount(&key, mount, "approle");
                let secret_id = self.secret(&format!("{key}.approle.secret_id"), secret_id);
                let role_id = self.part(&format!("{key}.approle.role_id"), role_id)?;
                Some(vault::Login::AppRole { role_id, secret_id: secret_id?, mount: mount? })
            }
            (None, None, Some(kubernetes)) => {
                let (at, Kubernetes { role, mount, token_file }) = kubernetes.get()?;
                let mount = self.mount(&key, mount, "kubernetes");
                let standard = SERVICE_ACCOUNT.to_owned();
                let (at, path) = given(token_file).unwrap_or((at, &standard));
                let token = self.login_file(&format!("{key}.kubernetes.token_file"), at, path);
                let role = self.part(&format!("{key}.kubernetes.role"), role)?;
                Some(vault::Login::Kubernetes { role, token: token?, mount: mount? })
            }
            _ => {
                self.problem(
                    at,
                    format_args!("{key}: expected exactly one of token_file, approle and kubernetes"),
                );
                None
            }
        }
    }

    fn login_file(&self, key: &str, at: Position, path: &str) -> Option<Source> {
        if path.is_empty() {
            self.problem(at, format_args!("{key}: the path is empty"));
            return None;
        }
        let source = Source::File(self.cx.path(path));
        self.try_source(key, at, &source);
        Some(source)
    }

    fn mount(&self, key: &str, field: &Option<Field<String>>, default: &str) -> Option<String> {
        let Some(field) = field else { return Some(default.to_owned()) };
        let (at, text) = field.get()?;
        let trimmed = text.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
        if trimmed.is_empty() || trimmed.contains("..") || !trimmed.chars().all(is_plain) {
            self.problem(at, format_args!("{key}: mount: expected a path as in {default}"));
            return None;
        }
        Some(trimmed.to_owned())
    }

    /// Text that is there and is printable ASCII.
    fn part(&self, key: &str, field: &Field<String>) -> Option<String> {
        self.visible(key, field.get())
    }

    pub(super) fn key_vault(&self, key: &str, file: &KeyVault) -> Option<Source> {
        let place = format!("{key}.azure_key_vault");
        let vault = file.vault.get().and_then(|(at, text)| {
            let url = self.url(&format!("{place}.vault"), at, text)?;
            if matches!(url.path(), "" | "/") && url.query().is_none() {
                return Some(url);
            }
            let words = "leave out path and query (as in https://contoso.vault.azure.net)";
            self.problem(at, format_args!("{place}.vault: {words}"));
            None
        });
        let secret = file.secret.get();
        let secret = secret.and_then(|(at, name)| self.word(&format!("{place}.secret"), at, name));
        let version = given(&file.version);
        let version = version.and_then(|(at, name)| self.word(&format!("{place}.version"), at, name));
        let account = file.profile.get().and_then(|(at, name)| self.reader(&place, at, name));
        let (vault, secret, account) = (vault?, secret?, account?);
        let scope = key_vault::scope(&vault);
        let bearer = bearer::Account::new(&account, &scope)?;
        let settings = key_vault::Settings {
            vault,
            secret,
            version,
            profile: account.name.clone(),
            account: format!("{account:?}"),
            connection: account.connection,
        };
        Some(Source::KeyVault(Arc::new(key_vault::KeyVault::new(settings, Arc::new(bearer)))))
    }

    /// What Key Vault allows in names.
    fn word(&self, key: &str, at: Position, text: &str) -> Option<String> {
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Some(text.to_owned());
        }
        self.problem(at, format_args!("{key}: expected letters, digits and `-`"));
        None
    }

    /// The profile whose account reads a secret of this one.
    fn reader(&self, place: &str, at: Position, name: &str) -> Option<crate::profile::Settings> {
        let key = format!("{place}.profile");
        if name == self.name || self.via.contains(&name) {
            let mut way: Vec<&str> = self.via.to_vec();
            way.extend([self.name, name]);
            let way = way.join(" → ");
            let words = "goes round in a circle: to read a secret, the secret itself would be needed";
            self.problem(at, format_args!("{key}: {way} {words}"));
            return None;
        }
        let Some((reader_at, _, field)) = self.profiles.iter().find(|(_, known, _)| *known == name) else {
            let defined = quoted(self.profiles.iter().map(|(_, name, _)| name));
            self.problem(at, format_args!("{key}: profile {name:?} is not defined (defined: {defined})"));
            return None;
        };
        let profile = field.value.as_ref()?;
        if !is_of_azure(profile) {
            let words = "is of another kind (Key Vault takes tokens of kind entra or managed_identity)";
            self.problem(at, format_args!("{key}: profile {name:?} {words}"));
            return None;
        }
        let mut via = self.via.to_vec();
        via.push(self.name);
        let reader = Account { name, at: reader_at, via: &via, ..*self };
        reader.profile(profile).map(|settings| settings.profile)
    }
}

fn is_of_azure(profile: &Profile) -> bool {
    match profile {
        Profile::Entra(_) | Profile::ManagedIdentity(_) => true,
        Profile::OAuth2(_) | Profile::Static(_) => false,
    }
}
