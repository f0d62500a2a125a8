//! What the configuration file may say about listeners; see `file`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::Field;

/// An address where requests come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Listener {
    /// IP address and port, such as `127.0.0.1:8080` or `[::1]:8080`, where port 0 takes any free one; or
    /// `unix:PATH`, relative to the configuration file.
    pub(super) address: Field<String>,
    /// What callers take the gateway for. Default `reverse`.
    #[expect(dead_code, reason = "there is one mode so far")]
    pub(super) mode: Option<Field<Mode>>,
    /// Who may connect to a unix socket. Only with `address: unix:PATH`.
    pub(super) socket: Option<Field<Socket>>,
    /// Whether another gateway of the same user may listen on the same address at the same time, so that a new
    /// one can take over from an old one. Default `false`: a second one is refused. Not for a unix socket.
    pub(super) reuse_port: Option<Field<bool>>,
    /// Certificates, for HTTPS. Absent: plain HTTP.
    pub(super) tls: Option<Field<Tls>>,
    /// Proxies in front of the gateway whose word is taken about who sent a request: addresses, networks
    /// such as `10.0.0.0/8`, or `unix` for every process on a unix socket. Default none.
    pub(super) trusted_proxies: Option<Field<Vec<Field<String>>>>,
}

/// What callers take the gateway for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// The server itself: its base URL points here.
    Reverse,
}

/// Who may connect to a unix socket.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Socket {
    /// Permissions in octal, in quotes; whoever may write may connect. Default `"0660"`.
    pub(super) mode: Option<Field<String>>,
    /// The file's user, by name or number. Default the gateway's.
    pub(super) owner: Option<Field<String>>,
    /// The file's group, by name or number. Default the gateway's.
    pub(super) group: Option<Field<String>>,
}

/// TLS of a listener. Files are followed: a changed certificate is used for new connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Tls {
    /// The certificate and its intermediates.
    pub(super) certificate: Field<PemFile>,
    /// The certificate's private key.
    pub(super) key: Field<PemFile>,
    /// Further certificates, chosen by the server name that a caller asks for (SNI). Default none.
    pub(super) additional: Option<Field<Vec<Field<Pair>>>>,
    /// Authorities whose certificates callers may show. Absent: callers are not asked for one.
    pub(super) client_ca: Option<Field<PemFile>>,
    /// Whether a caller must show a certificate. Default `required`; only with `client_ca`.
    pub(super) client_auth: Option<Field<ClientAuth>>,
    /// The least version of TLS. Default `"1.2"`.
    pub(super) min_version: Option<Field<TlsVersion>>,
}

/// A further certificate.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Pair {
    /// The certificate and its intermediates.
    pub(super) certificate: Field<PemFile>,
    /// The certificate's private key.
    pub(super) key: Field<PemFile>,
}

/// A file in PEM form.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct PemFile {
    /// Its path, relative to the configuration file.
    pub(super) file: Field<String>,
}

/// Whether a caller must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientAuth {
    /// Without a good one there is no connection.
    Required,
    /// Without one there is a connection; with a bad one there is none.
    Optional,
}

/// The least version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}
