//! What the configuration file may say, and nothing about what it means.
//!
//! The comments of this file are the descriptions that `keybearer schema` gives to editors. Text is
//! still text here: `lower` and its neighbours turn it into settings.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    field::{Field, Named},
    file_listeners::{Listener, Socket, Tls},
    file_profiles::{Hidden, Profile},
    file_telemetry::Otlp,
    file_upstreams::Upstream,
};

/// Keybearer's configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct File {
    /// Addresses where requests come in, by name. At least one.
    pub(super) listeners: Field<Named<Listener>>,
    /// The address for health checks and metrics. Absent: there is none.
    pub(super) admin: Option<Field<Admin>>,
    /// Service accounts, by name.
    pub(super) profiles: Option<Field<Named<Profile>>>,
    /// Which requests go where with which profile, by name. At least one.
    pub(super) routes: Field<Named<Route>>,
    /// Threads that carry requests: a number from 1 to 1024, or `auto` (default) for one per core.
    pub(super) workers: Option<Field<Workers>>,
    /// What the gateway tells about itself.
    pub(super) telemetry: Option<Field<Telemetry>>,
    /// Limits on what callers may send.
    pub(super) limits: Option<Field<Limits>>,
    /// Limits on how long things may take.
    pub(super) timeouts: Option<Field<Timeouts>>,
    /// Memory for request bodies that may have to be sent twice.
    pub(super) replay: Option<Field<Replay>>,
    /// A folder for what outlives the process: switches, and the token of the admin listener. Relative to the
    /// configuration file. Absent: nothing is kept.
    pub(super) state_dir: Option<Field<String>>,
    /// Whether a change of this file is put in force by itself. Default false.
    pub(super) watch: Option<Field<bool>>,
    /// How upstreams are told where a request comes from; a route may say otherwise. Default `off`.
    pub(super) forwarded: Option<Field<Forwarded>>,
}

/// Health checks, metrics, the API and the status page.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Admin {
    /// IP address and port, best on loopback: whoever reaches it can read what the gateway does. Or
    /// `unix:PATH`, relative to the configuration file. Elsewhere than on loopback it needs `tls` and a token.
    pub(super) address: Field<String>,
    /// Who may connect to a unix socket, and change things there. Only with `address: unix:PATH`.
    pub(super) socket: Option<Field<Socket>>,
    /// Whether another gateway of the same user may listen on the same address at the same time, so that a new
    /// one can take over from an old one. Default `false`: a second one is refused. Not for a unix socket.
    pub(super) reuse_port: Option<Field<bool>>,
    /// Certificates, for HTTPS. Absent: plain HTTP.
    pub(super) tls: Option<Field<Tls>>,
    /// The token that changes need. Default a file `admin-token` in `state_dir`, made at the first start;
    /// without `state_dir` nothing can be changed here.
    pub(super) token: Option<Field<Token>>,
    /// Host names by which it is called, besides addresses and `localhost`. Default none.
    pub(super) hosts: Option<Field<Vec<Field<String>>>>,
}

/// Where the admin listener's token is kept, or by mistake the token itself.
#[derive(Debug, Deserialize)]
#[serde(rename = "$shape")]
pub(super) enum Token {
    /// A secret in the file: refused, never kept.
    #[serde(rename = "text")]
    Inline(Hidden),
    /// Several, refused as well.
    #[serde(rename = "list")]
    Listed(Hidden),
    #[serde(rename = "map")]
    Kept(TokenFile),
}

impl JsonSchema for Token {
    fn schema_name() -> Cow<'static, str> {
        TokenFile::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        TokenFile::json_schema(generator)
    }
}

/// The file that holds the admin listener's token, relative to the configuration file.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct TokenFile {
    /// The file. One line break at its end is taken off.
    pub(super) file: Field<String>,
}

/// Which requests go where, with which profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Route {
    /// Which requests this route takes; all conditions must hold. The most specific route wins. Default every request.
    #[serde(rename = "match")]
    pub(super) matching: Option<Field<Match>>,
    /// Where requests go: a base URL, or a map with `url` and how to connect.
    pub(super) upstream: Field<Upstream>,
    /// The profile whose token goes on the request, or `none`.
    pub(super) profile: Field<String>,
    /// Takes the matched path prefix off before forwarding. Default false.
    pub(super) strip_path: Option<Field<bool>>,
    /// Sends the caller's `Host` instead of the upstream's. Default false.
    pub(super) preserve_host: Option<Field<bool>>,
    /// Lets the caller's own `Authorization` through; only with `profile: none`. Default false.
    pub(super) pass_authorization: Option<Field<bool>>,
    /// How ambiguous a path may be. Default `strict`.
    pub(super) path_check: Option<Field<PathCheck>>,
    /// Allows a token over plain http to a host that is not loopback. Default false.
    pub(super) allow_plaintext: Option<Field<bool>>,
    /// This route's own replay limit.
    pub(super) replay: Option<Field<RouteReplay>>,
    /// Header names with an underscore, which some upstreams take for a hyphen. Default `refuse`.
    pub(super) underscores: Option<Field<Underscores>>,
    /// How the upstream is told where a request comes from. Default the top-level `forwarded`.
    pub(super) forwarded: Option<Field<Forwarded>>,
    /// Whether a connection may become a WebSocket. Default true.
    pub(super) websocket: Option<Field<bool>>,
    /// Offers to upgrade a connection to HTTP/2, which is never done. Default `refuse`.
    pub(super) h2c: Option<Field<H2c>>,
    /// From the request being sent to the upstream's response head, 10ms to 24h. Default `timeouts.response`.
    pub(super) response_timeout: Option<Field<DurationText>>,
    /// Bytes of a request body; a longer one is refused. Default `limits.body_bytes`.
    pub(super) body_bytes: Option<Field<SizeText>>,
    /// How long an upload over the replay limit waits for the upstream to want it, or `off`. Default `timeouts.expect_continue`.
    pub(super) expect_continue: Option<Field<DurationOrOff>>,
}

/// Header names with an underscore.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Underscores {
    /// Refused on routes with a profile.
    Refuse,
    /// Forwarded like any other.
    Allow,
}

/// Offers to upgrade a connection to HTTP/2.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum H2c {
    /// The request is refused.
    Refuse,
    /// The request is served over HTTP/1.1, as if there was no offer.
    Ignore,
}

/// How upstreams are told where a request comes from.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Forwarded {
    /// Not at all.
    Off,
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    X,
    /// `Forwarded`.
    Rfc7239,
}

/// Which requests a route takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Match {
    /// The host, exact or as `*.example.com`. Default every host.
    pub(super) host: Option<Field<String>>,
    /// A path prefix by whole segments. Default `/`.
    pub(super) path: Option<Field<String>>,
    /// Methods, in upper case. Default every method.
    pub(super) methods: Option<Field<Vec<Field<String>>>>,
    /// Headers with their exact values. Default none.
    pub(super) headers: Option<Field<Named<String>>>,
}

/// How ambiguous a path may be.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PathCheck {
    /// Not at all.
    Strict,
    /// `%2f` and `//` are allowed.
    Lenient,
}

/// A route's own replay limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct RouteReplay {
    /// Bytes of request body kept for a second attempt; 0 turns replay off. Default the global limit.
    pub(super) limit: Field<SizeText>,
}

/// What the gateway tells about itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Telemetry {
    /// The log, on stderr.
    pub(super) log: Option<Field<Log>>,
    /// Traces, sent to a collector by OTLP over HTTP. Absent: none are kept, and what callers say of theirs is
    /// passed on.
    pub(super) otlp: Option<Field<Otlp>>,
}

/// The log.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Log {
    /// The least level that is logged. Default `info`.
    pub(super) level: Option<Field<Level>>,
    /// How lines look. Default `auto`: human on a terminal, else json.
    pub(super) format: Option<Field<Format>>,
    /// Whether every request is logged. Default true.
    pub(super) access: Option<Field<bool>>,
}

/// A log level.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// Human on a terminal, else json.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Limits on what callers may send.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limits {
    /// Bytes of a request's head, 1KiB to 1MiB. Default 32KiB.
    pub(super) header_bytes: Option<Field<SizeText>>,
    /// Header fields of a request, 1 to 1000. Default 100.
    pub(super) headers: Option<Field<u64>>,
    /// Bytes of a request's URI, 256B to 65534B. Default 16KiB.
    pub(super) uri_bytes: Option<Field<SizeText>>,
    /// Connections of a listener at a time, 1 to 1000000. Default 10000.
    pub(super) connections: Option<Field<u64>>,
    /// Connections of one caller address on a listener at a time, 1 to 1000000. Default as many as `connections`.
    pub(super) connections_per_address: Option<Field<u64>>,
    /// Idle connections kept per upstream and worker, 0 to 100000. Default 256. More are closed after a second; with 0
    /// each is closed after its requests.
    pub(super) upstream_idle_connections: Option<Field<u64>>,
    /// Bytes of a request body, up to 1TiB; a longer one is refused. Default no limit.
    pub(super) body_bytes: Option<Field<SizeText>>,
    /// Requests that may wait for one profile's token, 1 to 1000000. Default 10000.
    pub(super) waiters: Option<Field<u64>>,
    /// Idle HTTP/2 connections that are kept, of all callers, 1 to 1000000. Default 3000. Of more, those that have been
    /// idle longest, and for five seconds, are told to go.
    pub(super) http2_idle_connections: Option<Field<u64>>,
    /// Requests at a time on one HTTP/2 connection, 1 to 10000. Default 100.
    pub(super) http2_streams: Option<Field<u64>>,
    /// Bytes that an HTTP/2 caller may send ahead on one stream, 16KiB to 16MiB. Default 64KiB.
    pub(super) http2_stream_window: Option<Field<SizeText>>,
    /// Bytes that an HTTP/2 caller may send ahead on one connection, 64KiB to 64MiB. Default 1MiB.
    pub(super) http2_connection_window: Option<Field<SizeText>>,
    /// Bytes of a request's HTTP/2 header list, 1KiB to 1MiB. Default 16KiB.
    pub(super) http2_header_bytes: Option<Field<SizeText>>,
}

/// Limits on how long things may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// From the first byte of a request to the end of its head, 10ms to 10m. Default 10s.
    pub(super) header_read: Option<Field<DurationText>>,
    /// From an accepted connection to the end of its TLS handshake, 10ms to 10m. Default 10s.
    pub(super) tls_handshake: Option<Field<DurationText>>,
    /// DNS, TCP and TLS towards the upstream, 10ms to 10m. Default 5s.
    pub(super) connect: Option<Field<DurationText>>,
    /// From the request being sent to the upstream's response head, 10ms to 24h. Default 60s.
    pub(super) response: Option<Field<DurationText>>,
    /// A connection to an upstream without a request, 10ms to 24h. Default 60s.
    pub(super) upstream_idle: Option<Field<DurationText>>,
    /// A caller's connection without a request, or with an answer that the caller does not take, 10ms to 24h. Default 75s.
    pub(super) idle: Option<Field<DurationText>>,
    /// A request body brings at least one byte for every second of each such span, 10ms to 24h. Default 30s.
    pub(super) body: Option<Field<DurationText>>,
    /// An answer for which the upstream sends nothing, or a WebSocket on which nothing moves, 10ms to 24h. Default 1h.
    pub(super) stream: Option<Field<DurationText>>,
    /// How long an upload over the replay limit waits for the upstream to want it, 10ms to 10m. Default 1s.
    pub(super) expect_continue: Option<Field<DurationText>>,
    /// From the stop signal to giving up on requests in flight, 10ms to 24h. Default 30s.
    pub(super) drain: Option<Field<DurationText>>,
}

/// Memory for request bodies that may have to be sent twice.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Replay {
    /// Bytes per request, up to 1GiB; 0 turns replay off. Default 1MiB.
    pub(super) limit: Option<Field<SizeText>>,
    /// Bytes for the whole process, up to 64GiB. Default 256MiB.
    pub(super) total: Option<Field<SizeText>>,
}

/// A duration as it was written.
#[derive(Debug, Deserialize)]
pub(super) struct DurationText(pub(super) String);

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
    }
}

/// A duration as it was written, or `off`.
#[derive(Debug, Deserialize)]
pub(super) struct DurationOrOff(pub(super) String);

impl JsonSchema for DurationOrOff {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DurationOrOff".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(off|[0-9]+(ms|s|m|h))$" })
    }
}

/// A size as it was written.
#[derive(Debug, Deserialize)]
pub(super) struct SizeText(pub(super) String);

impl JsonSchema for SizeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" }, { "const": 0 }] })
    }
}

/// `auto` or a number, as it was written.
#[derive(Debug, Deserialize)]
pub(super) struct Workers(pub(super) String);

impl JsonSchema for Workers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }] })
    }
}
