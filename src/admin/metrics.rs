//! `/metrics`: the workers' shards added up, in OpenMetrics form.
//!
//! Label values are names from the configuration and words from fixed lists. A route appears when it
//! has had its first request, so ten thousand routes do not make ten thousand empty series.

use std::{sync::Arc, time::UNIX_EPOCH};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::{
    admin::Shown,
    proxy::{
        fault::CODE_NAMES,
        recovery::OUTCOME_NAMES,
        worker::{Gateway, Shard},
    },
    telemetry,
    telemetry::metrics::{BUCKETS_US, Count, LatencySum},
    token,
};

mod listeners;

pub use listeners::ListenerCount;
use listeners::ListenerSum;

/// Index is the class of [`Shard::answers`].
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn serve(shown: &Shown) -> Response<Body> {
    let mut registry = Registry::with_prefix("keybearer");
    registry.register_collector(Box::new(Scrape::take(shown)));
    let mut text = String::new();
    // Writing to a string fails only when an encoder is used against its own rules.
    let status = match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}

/// One route's numbers, all workers together.
#[derive(Debug)]
pub(super) struct RouteSum {
    route: String,
    profile: String,
    pub(super) answers: Vec<u64>,
    pub(super) faults: Vec<u64>,
    pub(super) recoveries: Vec<u64>,
    pub(super) total: LatencySum,
    pub(super) upstream: LatencySum,
    pub(super) in_flight: i64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl RouteSum {
    pub(super) fn of(route: &str, profile: &str, shards: &[Arc<Shard>]) -> Self {
        let each = |of: fn(&Shard) -> &[Count], n: usize| -> Vec<u64> {
            (0..n).map(|at| shards.iter().filter_map(|s| of(s).get(at)).map(Count::read).sum()).collect()
        };
        let sum = |of: fn(&Shard) -> &Count| shards.iter().map(|s| of(s).read()).fold(0, u64::wrapping_add);
        let (mut total, mut upstream) = (LatencySum::default(), LatencySum::default());
        for shard in shards {
            shard.total.add_to(&mut total);
            shard.upstream.add_to(&mut upstream);
        }
        Self {
            route: route.to_owned(),
            profile: profile.to_owned(),
            answers: each(|s| &s.answers, CLASSES.len()),
            faults: each(|s| &s.faults, CODE_NAMES.len()),
            recoveries: each(|s| &s.recoveries, OUTCOME_NAMES.len()),
            total,
            upstream,
            in_flight: sum(|s| &s.in_flight).cast_signed(),
            received_bytes: sum(|s| &s.received_bytes),
            sent_bytes: sum(|s| &s.sent_bytes),
        }
    }

    fn is_used(&self) -> bool {
        self.total.count() > 0 || self.in_flight != 0
    }
}

/// Everything that one scrape shows, read at one moment.
#[derive(Debug)]
struct Scrape {
    routes: Vec<RouteSum>,
    profiles: Vec<token::view::View>,
    listeners: Vec<ListenerSum>,
    replay_bytes: usize,
    dropped_lines: Option<usize>,
}

impl Scrape {
    fn take(shown: &Shown) -> Self {
        Self {
            routes: routes(&shown.gateway),
            profiles: shown.profiles.load().iter().map(token::Handle::view).collect(),
            listeners: shown.listeners.load().iter().map(ListenerSum::of).collect(),
            replay_bytes: shown.gateway.budget().used_bytes(),
            dropped_lines: shown.log.as_ref().map(telemetry::log::Handle::dropped_lines),
        }
    }
}

fn routes(gateway: &Gateway) -> Vec<RouteSum> {
    let snapshot = gateway.snapshot();
    let routed = snapshot.routes.iter().map(|route| {
        let profile = route.profile.as_ref().map_or("none", |profile| profile.name());
        RouteSum::of(&route.name, profile, &route.shards)
    });
    let unrouted = RouteSum::of("", "", gateway.unrouted());
    routed.chain([unrouted]).filter(RouteSum::is_used).collect()
}

type Labels<'a> = Vec<(&'a str, &'a str)>;
type Encoded = Result<(), std::fmt::Error>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        self.encode_requests(&mut encoder)?;
        self.encode_latencies(&mut encoder)?;
        self.encode_tokens(&mut encoder)?;
        listeners::encode(&self.listeners, &mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Scrape {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        /// Name, help, label, the label's values, and the numbers in their order.
        type Family = (&'static str, &'static str, &'static str, &'static [&'static str], Numbers);
        type Numbers = fn(&RouteSum) -> &[u64];
        let counters: [Family; 3] = [
            ("requests", "Requests by class of the answer", "class", &CLASSES, |r| &r.answers),
            ("faults", "Requests that the gateway itself answered", "code", &CODE_NAMES, |r| &r.faults),
            (
                "unauthorized",
                "401s of upstreams to the gateway's credential, by what became of them",
                "outcome",
                &OUTCOME_NAMES,
                |r| &r.recoveries,
            ),
        ];
        for (name, help, label, values, numbers) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for route in &self.routes {
                for (value, number) in values.iter().zip(numbers(route)).filter(|(_, n)| **n > 0) {
                    let labels: Labels<'_> =
                        vec![("route", &route.route), ("profile", &route.profile), (label, value)];
                    one(&mut family, &labels, &ConstCounter::new(*number))?;
                }
            }
        }
        type Bytes = (&'static str, &'static str, fn(&RouteSum) -> u64);
        let bytes: [Bytes; 2] = [
            ("received", "Bytes of request bodies", |r| r.received_bytes),
            ("sent", "Bytes of answer bodies", |r| r.sent_bytes),
        ];
        for (name, help, number) in bytes {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?;
            for route in &self.routes {
                one(&mut family, &route_labels(route), &ConstCounter::new(number(route)))?;
            }
        }
        let mut family =
            encoder.encode_descriptor("in_flight", "Requests being served", None, MetricType::Gauge)?;
        for route in &self.routes {
            one(&mut family, &route_labels(route), &ConstGauge::new(route.in_flight))?;
        }
        Ok(())
    }

    fn encode_latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        type Family = (&'static str, &'static str, fn(&RouteSum) -> &LatencySum);
        let latencies: [Family; 2] = [
            ("request_duration", "From the request's head to the answer's last byte", |r| &r.total),
            ("upstream_duration", "From the first attempt to the upstream's response head", |r| &r.upstream),
        ];
        for (name, help, latency) in latencies {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for route in &self.routes {
                let sum = latency(route);
                let bounds = BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
                family.encode_family(&route_labels(route))?.encode_histogram::<Labels<'_>>(
                    sum.sum_us as f64 / 1e6,
                    sum.count(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn encode_tokens(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let mut family = encoder.encode_descriptor(
            "token_ready",
            "Whether the profile can serve requests",
            None,
            MetricType::Gauge,
        )?;
        for view in &self.profiles {
            one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(i64::from(view.ready)))?;
        }
        let mut family = encoder.encode_descriptor(
            "token_expires_in",
            "Life left in the profile's token, 0 for none",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for view in &self.profiles {
            let left = view.expires_in.map_or(0.0, |left| left.as_secs_f64());
            one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(left))?;
        }
        self.encode_notes(encoder)?;
        let mut family = encoder.encode_descriptor(
            "secret_expires",
            "When what the profile proves itself with expires, in seconds since 1970",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for view in &self.profiles {
            for expiry in &view.expiries {
                let seconds = expiry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                let labels = vec![("profile", view.name.as_str()), ("what", expiry.what)];
                one(&mut family, &labels, &ConstGauge::new(seconds))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "token_requests",
            "Token requests by result",
            None,
            MetricType::Counter,
        )?;
        for view in &self.profiles {
            for (result, number) in [("ok", view.refreshed), ("failed", view.failed)] {
                let labels = vec![("profile", view.name.as_str()), ("result", result)];
                one(&mut family, &labels, &ConstCounter::new(number))?;
            }
        }
        Ok(())
    }

    fn encode_notes(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let mut family = encoder.encode_descriptor(
            "token_roles_missing",
            "Expected roles that the profile's token does not carry",
            None,
            MetricType::Gauge,
        )?;
        for view in self.profiles.iter().filter(|view| view.expects_roles) {
            let missing = ConstGauge::new(gauge(view.notes.missing_roles.len()));
            one(&mut family, &vec![("profile", &view.name)], &missing)?;
        }
        let mut family = encoder.encode_descriptor(
            "token_size",
            "Size of the profile's last token",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?;
        for view in self.profiles.iter().filter(|view| view.notes.token_bytes > 0) {
            let size = ConstGauge::new(gauge(view.notes.token_bytes));
            one(&mut family, &vec![("profile", &view.name)], &size)?;
        }
        let mut family = encoder.encode_descriptor(
            "identity_provider_clock_skew",
            "How far the provider's clock is ahead of this machine's, negative when behind",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for view in &self.profiles {
            if let Some(seconds) = view.notes.clock_skew {
                one(&mut family, &vec![("profile", &view.name)], &ConstGauge::new(seconds))?;
            }
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let memory = ConstGauge::new(gauge(self.replay_bytes));
        memory.encode(encoder.encode_descriptor(
            "replay",
            "Memory of recorded request bodies",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        if let Some(lines) = self.dropped_lines {
            let dropped = ConstCounter::new(lines as u64);
            dropped.encode(encoder.encode_descriptor(
                "log_lines_dropped",
                "Log lines lost because their reader was too slow",
                None,
                MetricType::Counter,
            )?)?;
        }
        let mut family =
            encoder.encode_descriptor("build", "The program's version", None, MetricType::Gauge)?;
        one(&mut family, &vec![("version", env!("CARGO_PKG_VERSION"))], &ConstGauge::new(1i64))
    }
}

fn route_labels(route: &RouteSum) -> Labels<'_> {
    vec![("route", &route.route), ("profile", &route.profile)]
}

fn one(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: &impl EncodeMetric) -> Encoded {
    value.encode(family.encode_family(labels)?)
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
