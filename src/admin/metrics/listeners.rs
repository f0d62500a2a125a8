//! What `/metrics` shows of listeners: connections and certificates.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::{Encoded, gauge, one};
use crate::{
    caller::roster::Roster,
    telemetry::{
        listeners::{Certificates, ListenerShard},
        metrics::Count,
    },
};

/// What is known of one listener.
pub struct ListenerCount {
    /// The listener's name.
    pub name: String,
    /// Open connections, all workers together.
    pub open: Arc<AtomicUsize>,
    /// What each worker counts.
    pub shards: Vec<Arc<ListenerShard>>,
    /// Who is connected, by worker.
    pub rosters: Vec<Arc<Roster>>,
    /// Its certificates, if it has any.
    pub certificates: Arc<Certificates>,
}

/// One listener's numbers, all workers together.
#[derive(Debug)]
pub(super) struct ListenerSum {
    name: String,
    open: usize,
    accepted: u64,
    refused: [(&'static str, u64); 2],
    paused: [(&'static str, u64); 3],
    ended: [(&'static str, u64); 9],
    streams: [(&'static str, u64); 4],
    expiries: Vec<(String, i64)>,
    reloads: [(&'static str, u64); 2],
}

impl ListenerSum {
    pub(super) fn of(listener: &ListenerCount) -> Self {
        let sum =
            |of: fn(&ListenerShard) -> &Count| listener.shards.iter().map(|shard| of(shard).read()).sum();
        let (renewed, failed) = listener.certificates.reloads();
        Self {
            name: listener.name.clone(),
            open: listener.open.load(Ordering::Relaxed),
            accepted: sum(|shard| &shard.accepted),
            refused: [
                ("address_limit", sum(|shard| &shard.refused_address)),
                ("tls_handshake", sum(|shard| &shard.refused_tls)),
            ],
            paused: [
                ("connection_limit", sum(|shard| &shard.paused_limit)),
                ("files", sum(|shard| &shard.paused_files)),
                ("system", sum(|shard| &shard.paused_system)),
            ],
            ended: [
                ("idle", sum(|shard| &shard.ended_idle)),
                ("surplus", sum(|shard| &shard.ended_surplus)),
                ("slow_head", sum(|shard| &shard.ended_slow_head)),
                ("slow_reader", sum(|shard| &shard.ended_slow_reader)),
                ("silent_upstream", sum(|shard| &shard.ended_silence)),
                ("silent_tunnel", sum(|shard| &shard.ended_tunnel)),
                ("drain", sum(|shard| &shard.ended_drain)),
                ("flood", sum(|shard| &shard.ended_flood)),
                ("http2", sum(|shard| &shard.ended_http2)),
            ],
            streams: [
                ("stood_still", sum(|shard| &shard.lost_streams)),
                ("stream_limit", sum(|shard| &shard.refused_streams)),
                ("header_limit", sum(|shard| &shard.refused_lists)),
                ("window", sum(|shard| &shard.overrun_windows)),
            ],
            expiries: listener.certificates.expiries(),
            reloads: [("ok", renewed), ("failed", failed)],
        }
    }
}

pub(super) fn encode(listeners: &[ListenerSum], encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    let help = "Open connections of callers";
    let mut family = encoder.encode_descriptor("connections", help, None, MetricType::Gauge)?;
    for listener in listeners {
        one(&mut family, &vec![("listener", &listener.name)], &ConstGauge::new(gauge(listener.open)))?;
    }
    let help = "Connections of callers that were accepted";
    let mut family = encoder.encode_descriptor("connections_accepted", help, None, MetricType::Counter)?;
    for listener in listeners {
        one(&mut family, &vec![("listener", &listener.name)], &ConstCounter::new(listener.accepted))?;
    }
    type Family = (&'static str, &'static str, &'static str, Numbers);
    type Numbers = fn(&ListenerSum) -> &[(&'static str, u64)];
    let counters: [Family; 5] = [
        ("connections_refused", "Accepted connections on which no request was served", "reason", |l| {
            &l.refused
        }),
        ("connections_ended", "Connections that the gateway ended, by why", "reason", |l| &l.ended),
        ("streams_ended", "HTTP/2 streams that the gateway ended, by why", "reason", |l| &l.streams),
        ("accept_pauses", "Times that a worker stopped accepting for a while", "reason", |l| &l.paused),
        ("listener_certificate_reloads", "Changed certificate files by what became of them", "result", |l| {
            if l.expiries.is_empty() { &[] } else { &l.reloads }
        }),
    ];
    for (name, help, label, numbers) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for listener in listeners {
            for (value, number) in numbers(listener) {
                let labels = vec![("listener", listener.name.as_str()), (label, *value)];
                one(&mut family, &labels, &ConstCounter::new(*number))?;
            }
        }
    }
    let help = "When the listener's certificate expires, in seconds since 1970";
    let unit = Some(&Unit::Seconds);
    let mut family =
        encoder.encode_descriptor("listener_certificate_expiry", help, unit, MetricType::Gauge)?;
    for listener in listeners {
        for (file, expires_at) in &listener.expiries {
            let labels = vec![("listener", listener.name.as_str()), ("file", file.as_str())];
            one(&mut family, &labels, &ConstGauge::new(*expires_at))?;
        }
    }
    Ok(())
}
