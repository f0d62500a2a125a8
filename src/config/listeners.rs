//! Listeners: from the file's words to what is bound.
//!
//! Certificates are loaded here as the gateway will load them, so that `check` says what is wrong with
//! them. What is missing on this machine counts only where the configuration will run.

use std::{path::PathBuf, time::Duration};

use super::{
    field::{Field, given},
    file,
    file_listeners::{ClientAuth, Listener, Pair, PemFile, Socket, Tls, TlsVersion},
    limits::SHORT,
    lower::Context,
    tree::Position,
};
use crate::{
    caller::{Network, TrustedProxies},
    listen::{
        self, Address, UnixSocket,
        certificate::{self, CertificateError},
        tls::{self, Clients, Version},
        unix,
    },
    source::Source,
};

/// A handshake takes milliseconds; a slow network with a slow device at its end, some seconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A group may connect, strangers may not.
const SOCKET_MODE: u32 = 0o660;
/// Without these the socket is nobody's: its own user could not even connect.
const OWNER_READ_WRITE: u32 = 0o600;
/// The word for peers on unix sockets in `trusted_proxies`.
const UNIX: &str = "unix";

/// The listeners that could be read.
pub(super) fn lower(file: &file::File, cx: &Context<'_>) -> Vec<listen::Settings> {
    let timeouts = given(&file.timeouts).map(|(_, timeouts)| timeouts);
    let handshake_max = timeouts.map_or(HANDSHAKE, |timeouts| {
        cx.duration("timeouts.tls_handshake", &timeouts.tls_handshake, SHORT, HANDSHAKE)
    });
    let Some((at, listeners)) = file.listeners.get() else { return Vec::new() };
    if listeners.0.is_empty() {
        cx.problem(
            at,
            "listeners: there must be at least one (for example `local: {address: 127.0.0.1:8080}`)",
        );
    }
    let mut out: Vec<listen::Settings> = Vec::new();
    for (at, name, field) in listeners.iter() {
        cx.name("listener", at, name);
        let Some(listener) = &field.value else { continue };
        let trip = Trip { cx, place: format!("listener {name:?}") };
        let tls = given(&listener.tls).map(|(_, tls)| trip.tls(tls, handshake_max));
        let trusted_proxies = trip.trusted_proxies(listener);
        let Some((at, address)) = trip.address(&listener.address, &listener.socket, &listener.tls) else {
            continue;
        };
        let reuse_port = trip.reuse_port(&listener.reuse_port, &address);
        trip.refuse_taken(at, &address, reuse_port, &out);
        let (name, tls) = (name.to_owned(), tls.flatten());
        out.push(listen::Settings { name, address, reuse_port, tls, trusted_proxies });
    }
    out
}

/// The admin listener, if there is one.
pub(super) fn admin(
    file: &file::File,
    listeners: &[listen::Settings],
    cx: &Context<'_>,
) -> Option<super::Admin> {
    let (_, admin) = given(&file.admin)?;
    let trip = Trip { cx, place: "admin".into() };
    let tls = given(&admin.tls).map(|(_, tls)| trip.tls(tls, HANDSHAKE));
    let token = given(&admin.token).and_then(|(at, token)| trip.token(at, token));
    let (at, address) = trip.address(&admin.address, &admin.socket, &admin.tls)?;
    let reuse_port = trip.reuse_port(&admin.reuse_port, &address);
    trip.refuse_taken(at, &address, reuse_port, listeners);
    if let Address::Ip(ip) = address
        && !ip.ip().is_loopback()
    {
        let why = "whoever reaches it can read what the gateway does";
        if admin.tls.is_none() {
            trip.problem(at, format!("address {ip} is not loopback, so it needs tls: {why}"));
        }
        if admin.token.is_none() && file.state_dir.is_none() {
            trip.problem(
                at,
                format!("address {ip} is not loopback, so it needs a token (set token, or state_dir)"),
            );
        }
    }
    let hosts = given(&admin.hosts).map(|(_, list)| trip.hosts(list)).unwrap_or_default();
    Some(super::Admin { address, reuse_port, tls: tls.flatten(), token, hosts })
}

/// One listener on its way.
struct Trip<'a> {
    cx: &'a Context<'a>,
    /// How problems begin.
    place: String,
}

impl Trip<'_> {
    fn problem(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.problem(at, format!("{}: {message}", self.place));
    }

    fn missing(&self, at: Position, message: impl std::fmt::Display) {
        self.cx.missing(at, format!("{}: {message}", self.place));
    }

    /// Tells when another listener has the address. Where both may be shared, the system lets one have all of a
    /// port and the other one address of it.
    fn refuse_taken(&self, at: Position, address: &Address, reuse_port: bool, others: &[listen::Settings]) {
        let is_taken = |other: &&listen::Settings| {
            let may_both = reuse_port && other.reuse_port && other.address != *address;
            other.address.collides_with(address) && !may_both
        };
        let Some(other) = others.iter().find(is_taken) else { return };
        let why = match other.address.is_at(address) {
            true => String::new(),
            false => {
                let is_every = |at: &&Address| matches!(at, Address::Ip(ip) if ip.ip().is_unspecified());
                let every = [address, &other.address].into_iter().find(is_every).unwrap_or(address);
                format!(" ({every} is every address of this machine; choose another port)")
            }
        };
        self.problem(at, format!("address {address} is taken by listener {:?}{why}", other.name));
    }

    fn token(&self, at: Position, token: &file::Token) -> Option<Source> {
        let file::Token::Kept(token) = token else {
            self.cx.findings.hide(at, 0);
            self.problem(at, "token: a secret does not belong into this file (write {file: PATH})");
            return None;
        };
        let (at, path) = token.file.get()?;
        if path.is_empty() {
            self.problem(at, "token.file: the path is empty");
            return None;
        }
        let source = Source::File(self.cx.path(path));
        if let Err(error) = source.probe() {
            self.missing(at, format!("token: {error}"));
        }
        Some(source)
    }

    /// Names that a `Host` may have.
    fn hosts(&self, list: &[Field<String>]) -> Vec<String> {
        for (at, name) in list.iter().filter_map(Field::get) {
            let is_name = crate::route::authority::parse(name.as_bytes()).is_ok_and(|a| a.port.is_none());
            if !is_name {
                self.problem(at, format!("hosts: {name:?} is no host name (write it without port)"));
            }
        }
        list.iter().filter_map(|field| field.value.clone()).collect()
    }

    fn address(
        &self,
        address: &Field<String>,
        socket: &Option<Field<Socket>>,
        tls: &Option<Field<Tls>>,
    ) -> Option<(Position, Address)> {
        let (at, text) = address.get()?;
        let Some(path) = text.strip_prefix("unix:") else {
            if let Some(socket) = socket {
                self.problem(
                    socket.at,
                    "socket: only a unix socket has one (as in address: unix:/run/keybearer.sock)",
                );
            }
            let address = super::lower::address(&format!("{}: address", self.place), at, text, self.cx)?;
            return Some((at, Address::Ip(address)));
        };
        if let Some(tls) = tls {
            let why = "what goes through it does not leave this machine, and the kernel says who is at the other end";
            self.problem(tls.at, format!("tls: a unix socket needs no TLS: {why} (remove tls)"));
        }
        if path.is_empty() {
            self.problem(at, "address: unix: has no path (as in unix:/run/keybearer.sock)");
            return None;
        }
        let path = self.cx.path(path);
        if path.as_os_str().len() > unix::PATH_BYTES_MAX {
            let words = format!("is longer than a socket's path may be ({} bytes)", unix::PATH_BYTES_MAX);
            self.problem(at, format!("address: {} {words}", path.display()));
            return None;
        }
        Some((at, Address::Unix(self.socket(path, given(socket).map(|(_, socket)| socket)))))
    }

    fn reuse_port(&self, field: &Option<Field<bool>>, address: &Address) -> bool {
        let Some((at, reuse_port)) = given(field) else { return false };
        if *reuse_port && matches!(address, Address::Unix(_)) {
            let way = "let systemd hand the socket over, then it outlives the gateway";
            self.problem(
                at,
                format!("reuse_port: a unix socket has one process only (remove reuse_port; {way})"),
            );
        }
        *reuse_port
    }

    fn socket(&self, path: PathBuf, socket: Option<&Socket>) -> UnixSocket {
        let mut out = UnixSocket { path, mode: SOCKET_MODE, owner: None, group: None };
        let Some(socket) = socket else { return out };
        if let Some((at, text)) = given(&socket.mode) {
            match mode(text) {
                Ok(mode) => out.mode = mode,
                Err(words) => self.problem(at, format!("socket.mode: {text:?} {words}")),
            }
        }
        out.owner = self.account("user", "socket.owner", &socket.owner, unix::user_id);
        out.group = self.account("group", "socket.group", &socket.group, unix::group_id);
        out
    }

    fn account(
        &self,
        thing: &str,
        place: &str,
        field: &Option<Field<String>>,
        find: fn(&str) -> std::io::Result<u32>,
    ) -> Option<u32> {
        let (at, text) = given(field)?;
        let found = find(text);
        if found.is_err() {
            self.missing(at, format!("{place}: this machine has no {thing} {text:?}"));
        }
        found.ok()
    }

    fn trusted_proxies(&self, listener: &Listener) -> TrustedProxies {
        let mut out = TrustedProxies::default();
        let Some((_, list)) = given(&listener.trusted_proxies) else { return out };
        for (at, text) in list.iter().filter_map(Field::get) {
            if text == UNIX {
                out.unix = true;
                continue;
            }
            match Network::parse(text) {
                Ok(network) => out.networks.push(network),
                Err(error) => self.problem(at, format!("trusted_proxies: {text:?} {error}")),
            }
        }
        out
    }

    fn tls(&self, tls: &Tls, handshake_max: Duration) -> Option<tls::Settings> {
        let mut certificates = Vec::new();
        certificates.extend(self.pair("tls", &tls.certificate, &tls.key, false));
        let additional = given(&tls.additional).map(|(_, list)| list.as_slice()).unwrap_or_default();
        for (index, Field { value, .. }) in additional.iter().enumerate() {
            let Some(Pair { certificate, key }) = value else { continue };
            certificates.extend(self.pair(&format!("tls.additional[{index}]"), certificate, key, true));
        }
        let clients = self.clients(tls);
        let min_version = match given(&tls.min_version) {
            Some((_, TlsVersion::Tls13)) => Version::Tls13,
            Some((_, TlsVersion::Tls12)) | None => Version::Tls12,
        };
        Some(tls::Settings { certificates, clients: clients?, min_version, handshake_max })
    }

    fn clients(&self, tls: &Tls) -> Option<Clients> {
        let Some(field) = &tls.client_ca else {
            if let Some(auth) = &tls.client_auth {
                let words = "needs client_ca: the authorities whose certificates callers show";
                self.problem(auth.at, format!("tls.client_auth: {words}"));
            }
            return Some(Clients::NotAsked);
        };
        let (at, path) = self.path(field)?;
        if let Err(error) = certificate::authorities(&path) {
            self.missing(at, format!("tls.client_ca: {error}"));
        }
        match given(&tls.client_auth) {
            Some((_, ClientAuth::Optional)) => Some(Clients::Optional(path)),
            Some((_, ClientAuth::Required)) | None => Some(Clients::Required(path)),
        }
    }

    /// A certificate and its key, read as they will be.
    fn pair(
        &self,
        place: &str,
        certificate: &Field<PemFile>,
        key: &Field<PemFile>,
        is_additional: bool,
    ) -> Option<certificate::Pair> {
        let (certificate, key) = (self.path(certificate), self.path(key));
        let chain = certificate.as_ref().map(|(at, path)| (*at, certificate::chain(path)));
        let secret = key.as_ref().map(|(at, path)| (*at, certificate::key(path)));
        let (certificate_at, certificate) = certificate?;
        let (key_at, key) = key?;
        match (chain?.1, secret?.1) {
            (Ok(chain), Ok(secret)) => {
                let facts = chain.facts.clone();
                if let Err(error) = certificate::join(chain, secret, &key, &tls::provider()) {
                    let (key_name, at) = match error {
                        CertificateError::Damaged { .. } => ("certificate", certificate_at),
                        _ => ("key", key_at),
                    };
                    self.missing(at, format!("{place}.{key_name}: {error}"));
                }
                if is_additional && facts.dns_names.is_empty() {
                    let error = CertificateError::Nameless(certificate.clone());
                    self.missing(certificate_at, format!("{place}.certificate: {error}"));
                }
                if tls::has_expired(&facts) {
                    let words = format!("the certificate in {} has expired", certificate.display());
                    let words = format!("{}: {place}.certificate: {words} ({})", self.place, facts.expires);
                    self.cx.findings.warn(certificate_at, words);
                }
            }
            (chain, secret) => {
                for (at, key_name, error) in
                    [(certificate_at, "certificate", chain.err()), (key_at, "key", secret.err())]
                {
                    if let Some(error) = error {
                        self.missing(at, format!("{place}.{key_name}: {error}"));
                    }
                }
            }
        }
        Some(certificate::Pair { certificate, key })
    }

    fn path(&self, field: &Field<PemFile>) -> Option<(Position, PathBuf)> {
        let (at, text) = field.value.as_ref()?.file.get()?;
        Some((at, self.cx.path(text)))
    }
}

/// Permission bits for user, group and others; or what is wrong with them.
fn mode(text: &str) -> Result<u32, String> {
    let octal = u32::from_str_radix(text, 8).ok();
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match octal.filter(|mode| is_octal && *mode <= 0o777) {
        Some(mode) if mode & OWNER_READ_WRITE == OWNER_READ_WRITE => Ok(mode),
        // No mode for a socket that was turned into a decimal number passes for one in octal that is any use.
        found => Err(match (decimal(text), found) {
            (Some(mode), _) => {
                format!("is {mode:04o} as a decimal number: write \"{mode:04o}\", with the quotes")
            }
            (None, Some(_)) => {
                "keeps its own user from reading and writing (as in \"0660\" or \"0600\")".into()
            }
            (None, None) => "is no permission in octal (as in \"0660\" or \"0600\")".into(),
        }),
    }
}

/// What a tool meant that writes YAML 1.1, where 0660 without quotes is the number 432.
fn decimal(text: &str) -> Option<u32> {
    let mode = text.parse().ok().filter(|_| !text.starts_with('0'))?;
    (OWNER_READ_WRITE..=0o777).contains(&mode).then_some(mode)
}
