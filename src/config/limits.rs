//! Limits and time limits, with the ranges that make sense.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    field::given,
    file::{self, SizeText},
    lower::Context,
    tree::Position,
};
use crate::{listen, proxy, token, upstream};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;

/// Below, no browser's request fits; above, a head is an attack.
const HEADER_BYTES: RangeInclusive<usize> = KIB..=MIB;
const HEADERS: RangeInclusive<usize> = 1..=1000;
/// The HTTP library knows no longer one, and would refuse it without our words.
const URI_BYTES: RangeInclusive<usize> = 256..=65_534;
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
/// 0 closes every connection after its requests.
const IDLE_CONNECTIONS: RangeInclusive<usize> = 0..=100_000;
/// Zero would lock every caller out; HTTP/2 itself knows no more.
const HTTP2_STREAMS: RangeInclusive<usize> = 1..=10_000;
/// One full frame at least (RFC 9113 §6.5.2).
const HTTP2_STREAM_WINDOW: RangeInclusive<usize> = 16 * KIB..=16 * MIB;
/// HTTP/2 begins with 64 KiB less one byte and has no way to make it smaller.
const HTTP2_CONNECTION_WINDOW: RangeInclusive<usize> = 64 * KIB..=64 * MIB;
const WAITERS: RangeInclusive<usize> = 1..=1_000_000;
/// Zero bytes would refuse every body, which `methods` says better.
const BODY_BYTES: RangeInclusive<usize> = 1..=1024 * GIB;
/// A body is held in memory: more than this is not a body but a file.
const REPLAY_LIMIT: RangeInclusive<usize> = 0..=GIB;
const REPLAY_TOTAL: RangeInclusive<usize> = 0..=64 * GIB;
/// What a person waits for, in milliseconds upwards.
pub(super) const SHORT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
/// What a long poll or a batch may take.
pub(super) const LONG: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);

pub(super) fn limits(file: &file::File, cx: &Context<'_>) -> listen::Limits {
    let default = listen::Limits::default();
    let Some((_, limits)) = given(&file.limits) else { return default };
    let size = |place, field, range, default| cx.size(place, given(field), range, default);
    let connections = cx.number("limits.connections", &limits.connections, CONNECTIONS, default.connections);
    listen::Limits {
        header_bytes: size("limits.header_bytes", &limits.header_bytes, HEADER_BYTES, default.header_bytes),
        headers: cx.number("limits.headers", &limits.headers, HEADERS, default.headers),
        uri_bytes: size("limits.uri_bytes", &limits.uri_bytes, URI_BYTES, default.uri_bytes),
        connections,
        // As many as there may be at all: off.
        connections_per_address: cx.number(
            "limits.connections_per_address",
            &limits.connections_per_address,
            CONNECTIONS,
            connections,
        ),
        http2_idle_connections: cx.number(
            "limits.http2_idle_connections",
            &limits.http2_idle_connections,
            CONNECTIONS,
            default.http2_idle_connections,
        ),
        http2_streams: small(cx.number(
            "limits.http2_streams",
            &limits.http2_streams,
            HTTP2_STREAMS,
            default.http2_streams as usize,
        )),
        http2_stream_window: small(size(
            "limits.http2_stream_window",
            &limits.http2_stream_window,
            HTTP2_STREAM_WINDOW,
            default.http2_stream_window as usize,
        )),
        http2_connection_window: small(size(
            "limits.http2_connection_window",
            &limits.http2_connection_window,
            HTTP2_CONNECTION_WINDOW,
            default.http2_connection_window as usize,
        )),
        http2_header_bytes: small(size(
            "limits.http2_header_bytes",
            &limits.http2_header_bytes,
            HEADER_BYTES,
            default.http2_header_bytes as usize,
        )),
    }
}

pub(super) fn timeouts(file: &file::File, cx: &Context<'_>) -> proxy::settings::Timeouts {
    let default = proxy::settings::Timeouts::default();
    let Some((_, timeouts)) = given(&file.timeouts) else { return default };
    proxy::settings::Timeouts {
        header_read: cx.duration("timeouts.header_read", &timeouts.header_read, SHORT, default.header_read),
        response: cx.duration("timeouts.response", &timeouts.response, LONG, default.response),
        idle: cx.duration("timeouts.idle", &timeouts.idle, LONG, default.idle),
        body: cx.duration("timeouts.body", &timeouts.body, LONG, default.body),
        stream: cx.duration("timeouts.stream", &timeouts.stream, LONG, default.stream),
        drain: cx.duration("timeouts.drain", &timeouts.drain, LONG, default.drain),
    }
}

pub(super) fn connections(file: &file::File, cx: &Context<'_>) -> upstream::pool::Settings {
    let mut out = upstream::pool::Settings::default();
    if let Some((_, timeouts)) = given(&file.timeouts) {
        out.connect = cx.duration("timeouts.connect", &timeouts.connect, SHORT, out.connect);
        out.idle = cx.duration("timeouts.upstream_idle", &timeouts.upstream_idle, LONG, out.idle);
    }
    if let Some((_, limits)) = given(&file.limits) {
        let place = "limits.upstream_idle_connections";
        let field = &limits.upstream_idle_connections;
        out.idle_connections = cx.number(place, field, IDLE_CONNECTIONS, out.idle_connections);
    }
    out
}

pub(super) fn replay(file: &file::File, cx: &Context<'_>) -> proxy::settings::Replay {
    let default = proxy::settings::Replay::default();
    let Some((_, replay)) = given(&file.replay) else { return default };
    let limit = given(&replay.limit);
    let out = proxy::settings::Replay {
        limit_bytes: replay_limit("replay.limit", limit, default.limit_bytes, cx),
        total_bytes: cx.size("replay.total", given(&replay.total), REPLAY_TOTAL, default.total_bytes),
    };
    let at = limit.map(|(at, _)| at).or_else(|| Some(given(&replay.total)?.0));
    if let Some(at) = at.filter(|_| out.limit_bytes > out.total_bytes) {
        cx.problem(at, "replay: limit is larger than total, so no request could use it");
    }
    out
}

/// A limit on what one request may keep for a second attempt.
pub(super) fn replay_limit(
    place: &str,
    field: Option<(Position, &SizeText)>,
    default: usize,
    cx: &Context<'_>,
) -> usize {
    cx.size(place, field, REPLAY_LIMIT, default)
}

/// The most that a request body may hold.
pub(super) fn body_bytes(file: &file::File, cx: &Context<'_>) -> u64 {
    let limit = given(&file.limits).and_then(|(_, limits)| given(&limits.body_bytes));
    body_limit("limits.body_bytes", limit, u64::MAX, cx)
}

/// A limit on a request body.
pub(super) fn body_limit(
    place: &str,
    field: Option<(Position, &SizeText)>,
    default: u64,
    cx: &Context<'_>,
) -> u64 {
    match field {
        Some(_) => cx.size(place, field, BODY_BYTES, GIB) as u64,
        None => default,
    }
}

/// How many requests may wait for one profile's token.
pub(super) fn waiters(file: &file::File, cx: &Context<'_>) -> usize {
    let limits = given(&file.limits).map(|(_, limits)| limits);
    limits.map_or(token::WAITERS_MAX, |limits| {
        cx.number("limits.waiters", &limits.waiters, WAITERS, token::WAITERS_MAX)
    })
}

/// How long an upload over the replay limit waits for the upstream to want it.
pub(super) fn expect_continue(file: &file::File, cx: &Context<'_>) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(1);
    given(&file.timeouts).map_or(DEFAULT, |(_, timeouts)| {
        cx.duration("timeouts.expect_continue", &timeouts.expect_continue, SHORT, DEFAULT)
    })
}

/// A number whose range fits.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
