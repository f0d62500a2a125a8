//! What `/metrics` shows of the admin listener itself.

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::{Encoded, gauge, one};
use crate::{admin::connections::Connections, telemetry::listeners::Certificates};

/// The numbers of the admin listener.
#[derive(Debug)]
pub(super) struct AdminSum {
    open: usize,
    refused: [(&'static str, u64); 2],
    ended: [(&'static str, u64); 4],
    paused: [(&'static str, u64); 2],
    expiries: Vec<(String, i64)>,
    reloads: [(&'static str, u64); 2],
}

impl AdminSum {
    pub(super) fn of(connections: &Connections, certificates: &Certificates) -> Self {
        let counted = connections.counted();
        let (renewed, failed) = certificates.reloads();
        Self {
            open: connections.open(),
            refused: [
                ("connection_limit", counted.refused_limit.read()),
                ("tls_handshake", counted.refused_tls.read()),
            ],
            ended: [
                ("idle", counted.ended_idle.read()),
                ("slow_head", counted.ended_slow_head.read()),
                ("slow_body", counted.ended_slow_body.read()),
                ("slow_reader", counted.ended_slow_reader.read()),
            ],
            paused: [("files", counted.paused_files.read()), ("system", counted.paused_system.read())],
            expiries: certificates.expiries(),
            reloads: [("ok", renewed), ("failed", failed)],
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Open connections of the admin listener";
        let open = encoder.encode_descriptor("admin_connections", help, None, MetricType::Gauge)?;
        ConstGauge::new(gauge(self.open)).encode(open)?;
        /// Name, help, and the numbers by reason.
        type Family<'a> = (&'static str, &'static str, &'a [(&'static str, u64)]);
        let counters: [Family<'_>; 3] = [
            (
                "admin_connections_refused",
                "Connections of the admin listener on which no request was served",
                &self.refused,
            ),
            (
                "admin_connections_ended",
                "Connections of the admin listener that the gateway ended, by why",
                &self.ended,
            ),
            (
                "admin_accept_pauses",
                "Times that the admin listener stopped accepting for a while",
                &self.paused,
            ),
        ];
        for (name, help, numbers) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (reason, number) in numbers {
                one(&mut family, &vec![("reason", reason)], &ConstCounter::new(*number))?;
            }
        }
        self.encode_certificates(encoder)
    }

    fn encode_certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let (name, help) =
            ("admin_certificate_reloads", "Changed certificate files of the admin listener, by result");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let is_shown = !self.expiries.is_empty();
        for (result, number) in self.reloads.iter().filter(|_| is_shown) {
            one(&mut family, &vec![("result", result)], &ConstCounter::new(*number))?;
        }
        let help = "When the admin listener's certificate expires, in seconds since 1970";
        let (name, unit) = ("admin_certificate_expiry", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (file, expires_at) in &self.expiries {
            one(&mut family, &vec![("file", file.as_str())], &ConstGauge::new(*expires_at))?;
        }
        Ok(())
    }
}
