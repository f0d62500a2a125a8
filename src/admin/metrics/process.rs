//! What `/metrics` shows of the gateway as a whole: its configuration, its memory, its log, its process.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::UNIX_EPOCH,
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use rustix::process::{Resource, getrlimit};

use super::{Encoded, Shown, gauge, one};
use crate::{
    admin::changes::{Control, Glance},
    clock, telemetry,
    telemetry::trace::Counts,
};

/// The numbers of the gateway as a whole.
#[derive(Debug)]
pub(super) struct Whole {
    configuration: Glance,
    replay_bytes: usize,
    replay_limit_bytes: usize,
    dropped_lines: Option<usize>,
    spans: Arc<Counts>,
}

impl Whole {
    pub(super) fn of(shown: &Shown) -> Self {
        let budget = shown.gateway.budget();
        let glance = shown.control.get().map(|control| Control::glance(control.as_ref()));
        Self {
            configuration: glance.map(|glance| Glance::clone(&glance)).unwrap_or_default(),
            replay_bytes: budget.used_bytes(),
            replay_limit_bytes: budget.total_bytes(),
            spans: Arc::clone(shown.gateway.traces().counts()),
            dropped_lines: shown.log.as_ref().map(telemetry::log::Handle::dropped_lines),
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        self.encode_configuration(encoder)?;
        let bytes = Some(&Unit::Bytes);
        let help = "Memory of recorded request bodies";
        let memory = encoder.encode_descriptor("replay", help, bytes, MetricType::Gauge)?;
        ConstGauge::new(gauge(self.replay_bytes)).encode(memory)?;
        let help = "Memory that recorded request bodies may take";
        let limit = encoder.encode_descriptor("replay_limit", help, bytes, MetricType::Gauge)?;
        ConstGauge::new(gauge(self.replay_limit_bytes)).encode(limit)?;
        let help = "Log lines lost because their reader was too slow";
        let dropped = encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?;
        ConstCounter::new(self.dropped_lines.unwrap_or_default() as u64).encode(dropped)?;
        self.encode_spans(encoder)?;
        let mut family =
            encoder.encode_descriptor("build", "The program's version", None, MetricType::Gauge)?;
        one(&mut family, &vec![("version", env!("CARGO_PKG_VERSION"))], &ConstGauge::new(1i64))
    }

    fn encode_spans(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Spans that the collector has taken";
        let exported = encoder.encode_descriptor("spans_exported", help, None, MetricType::Counter)?;
        ConstCounter::new(self.spans.exported.load(Ordering::Relaxed)).encode(exported)?;
        let help = "Spans that were lost, by why";
        let mut family = encoder.encode_descriptor("spans_lost", help, None, MetricType::Counter)?;
        let reasons = [
            ("overflow", &self.spans.overflowed),
            ("unreachable", &self.spans.unreachable),
            ("refused", &self.spans.refused),
        ];
        for (reason, number) in reasons {
            let number = ConstCounter::new(number.load(Ordering::Relaxed));
            one(&mut family, &vec![("reason", reason)], &number)?;
        }
        Ok(())
    }

    fn encode_configuration(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let Glance { is_valid, done, failed, switched, has_other_environment } = &self.configuration;
        let help = "Whether the configuration file, as it was last read, is in force";
        let valid = encoder.encode_descriptor("configuration_valid", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(*is_valid)).encode(valid)?;
        let help = "Reloads of the configuration by result";
        let mut family =
            encoder.encode_descriptor("configuration_reloads", help, None, MetricType::Counter)?;
        for (result, number) in [("ok", *done), ("failed", *failed)] {
            one(&mut family, &vec![("result", result)], &ConstCounter::new(number))?;
        }
        let help = "1 for a route with another profile than the file's; an empty route is the environment";
        let mut family = encoder.encode_descriptor("switched", help, None, MetricType::Gauge)?;
        let environment = has_other_environment.then_some("");
        for route in switched.iter().map(String::as_str).chain(environment) {
            one(&mut family, &vec![("route", route)], &ConstGauge::new(1i64))?;
        }
        Ok(())
    }
}

/// The process, in the names that all exporters of Prometheus use.
#[derive(Debug)]
pub(super) struct Process {
    started: f64,
    open_files: Option<u64>,
    max_files: Option<u64>,
    resident_bytes: Option<u64>,
}

impl Process {
    pub(super) fn of(shown: &Shown) -> Self {
        let started = clock::wall().checked_sub(clock::now().since(shown.started));
        let since_1970 = started.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Self {
            started: since_1970.unwrap_or_default().as_secs_f64(),
            open_files: open_files(),
            max_files: getrlimit(Resource::Nofile).current,
            resident_bytes: resident_bytes(),
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "When the gateway started, in seconds since 1970";
        let unit = Some(&Unit::Seconds);
        let started = encoder.encode_descriptor("process_start_time", help, unit, MetricType::Gauge)?;
        ConstGauge::new(self.started).encode(started)?;
        let gauges = [
            ("process_open_fds", "Open file descriptors", None, self.open_files),
            ("process_max_fds", "File descriptors that may be open", None, self.max_files),
            ("process_resident_memory", "Memory in use", Some(&Unit::Bytes), self.resident_bytes),
        ];
        for (name, help, unit, number) in gauges {
            let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            if let Some(number) = number {
                ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX)).encode(family)?;
            }
        }
        Ok(())
    }
}

/// Since Linux 6.2 the folder's size is the number of open files; before, they are counted.
fn open_files() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        open => Some(open),
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
