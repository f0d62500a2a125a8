//! `/metrics`: the workers' shards added up, in OpenMetrics form.
//!
//! Label values are names from the configuration and words from fixed lists. A route appears when it
//! has had its first request, so ten thousand routes do not make ten thousand empty series.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeMetric, MetricEncoder,
        text::{encode_eof, encode_registry},
    },
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
    telemetry::metrics::{BUCKETS_US, Count, LatencySum},
    token,
};

mod admin;
mod listeners;
mod process;
mod tokens;
mod upstreams;

pub use listeners::ListenerCount;
use listeners::ListenerSum;
use upstreams::UpstreamSum;

/// Index is the class of [`Shard::answers`].
pub(super) const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn serve(shown: &Shown) -> Response<Body> {
    // Writing to a string fails only when an encoder is used against its own rules.
    let mut text = String::new();
    let status = match encode(shown, &mut text) {
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

fn encode(shown: &Shown, text: &mut String) -> Encoded {
    let mut own = Registry::with_prefix("keybearer");
    own.register_collector(Box::new(Scrape::take(shown)));
    encode_registry(text, &own)?;
    // Dashboards of others know these names, so they have no prefix of ours.
    let mut process = Registry::default();
    process.register_collector(Box::new(process::Process::of(shown)));
    encode_registry(text, &process)?;
    encode_eof(text)
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
    overhead: LatencySum,
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
        let [mut total, mut upstream, mut overhead] = <[LatencySum; 3]>::default();
        for shard in shards {
            shard.total.add_to(&mut total);
            shard.upstream.add_to(&mut upstream);
            shard.overhead.add_to(&mut overhead);
        }
        Self {
            route: route.to_owned(),
            profile: profile.to_owned(),
            answers: each(|s| &s.answers, CLASSES.len()),
            faults: each(|s| &s.faults, CODE_NAMES.len()),
            recoveries: each(|s| &s.recoveries, OUTCOME_NAMES.len()),
            total,
            upstream,
            overhead,
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
    upstreams: Vec<UpstreamSum>,
    admin: admin::AdminSum,
    whole: process::Whole,
}

impl Scrape {
    fn take(shown: &Shown) -> Self {
        Self {
            routes: routes(&shown.gateway),
            profiles: shown.profiles.load().iter().map(token::Handle::view).collect(),
            listeners: shown.listeners.load().iter().map(ListenerSum::of).collect(),
            upstreams: upstreams::sums(&shown.gateway),
            admin: admin::AdminSum::of(&shown.connections, &shown.certificates),
            whole: process::Whole::of(shown),
        }
    }
}

fn routes(gateway: &Gateway) -> Vec<RouteSum> {
    let snapshot = gateway.snapshot();
    let routed = snapshot.routes.iter().flat_map(|route| {
        let sum = |profile: &Option<String>, shards: &[Arc<Shard>]| {
            RouteSum::of(&route.name, profile.as_deref().unwrap_or("none"), shards)
        };
        let former = route.former.iter().map(move |former| sum(&former.profile, &former.shards));
        [sum(&route.settings.profile, &route.shards)].into_iter().chain(former)
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
        tokens::encode(&self.profiles, &mut encoder)?;
        listeners::encode(&self.listeners, &mut encoder)?;
        upstreams::encode(&self.upstreams, &mut encoder)?;
        self.admin.encode(&mut encoder)?;
        self.whole.encode(&mut encoder)
    }
}

impl Collector for process::Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        Self::encode(self, &mut encoder)
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
        let latencies: [Family; 3] = [
            ("request_duration", "From the request's head to the answer's last byte", |r| &r.total),
            ("upstream_duration", "From an attempt to its response head, all attempts together", |r| {
                &r.upstream
            }),
            ("overhead_duration", "Before and between the attempts, waiting for tokens among it", |r| {
                &r.overhead
            }),
        ];
        for (name, help, latency) in latencies {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for route in &self.routes {
                histogram(&mut family, &route_labels(route), latency(route))?;
            }
        }
        Ok(())
    }
}

fn route_labels(route: &RouteSum) -> Labels<'_> {
    vec![("route", &route.route), ("profile", &route.profile)]
}

fn one(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: &impl EncodeMetric) -> Encoded {
    value.encode(family.encode_family(labels)?)
}

fn histogram(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, sum: &LatencySum) -> Encoded {
    let bounds = BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
    let seconds = sum.sum_us as f64 / 1e6;
    family.encode_family(labels)?.encode_histogram::<Labels<'_>>(seconds, sum.count(), &buckets, None)
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
