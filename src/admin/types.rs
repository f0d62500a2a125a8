//! What the API answers. Times are seconds since 1970; nothing here is secret.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    admin::{
        changes::Switch,
        metrics::{CLASSES, RouteSum},
    },
    proxy::{explain::Decision, fault::CODE_NAMES, recent, recovery::OUTCOME_NAMES},
    telemetry::metrics::{BUCKETS_US, LatencySum},
};

/// The gateway as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The program's version.
    pub(super) version: &'static str,
    /// Whether it should get requests: every required profile has a token.
    pub(super) ready: bool,
    /// Whether it is about to stop.
    pub(super) stopping: bool,
    /// Seconds since it started.
    pub(super) uptime_seconds: u64,
    /// The configuration and its changes; absent when it was not started from a file.
    pub(super) configuration: Option<super::changes::Configuration>,
    /// Memory of request bodies that may have to be sent twice.
    pub(super) replay_bytes: usize,
    /// Log lines lost because their reader was too slow.
    pub(super) log_lines_dropped: Option<usize>,
}

/// A route and what it has counted since it was first configured.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Route {
    /// Its name.
    pub(super) name: String,
    /// The path prefix that it takes.
    pub(super) path: String,
    /// Where it forwards to.
    pub(super) upstream: String,
    /// The profile that serves it; absent for `none`.
    pub(super) profile: Option<String>,
    /// Its latest switch, if it has another profile than the file gives it.
    pub(super) switched: Option<Switch>,
    /// Requests by class of the answer; `none` for callers who left before.
    pub(super) requests: BTreeMap<&'static str, u64>,
    /// Requests that the gateway itself answered, by code.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// 401s of the upstream to the gateway's credential, by what became of them.
    pub(super) unauthorized: BTreeMap<&'static str, u64>,
    /// Requests being served now.
    pub(super) in_flight: i64,
    /// From the request's head to the answer's last byte.
    pub(super) duration: Distribution,
    /// From an attempt to the upstream's response head, all attempts together.
    pub(super) upstream_duration: Distribution,
}

impl Route {
    pub(super) fn count(&mut self, sum: &RouteSum) {
        self.requests = named(&CLASSES, &sum.answers);
        self.faults = named(&CODE_NAMES, &sum.faults);
        self.unauthorized = named(&OUTCOME_NAMES, &sum.recoveries);
        self.in_flight = sum.in_flight;
        self.duration = Distribution::of(&sum.total);
        self.upstream_duration = Distribution::of(&sum.upstream);
    }
}

fn named(names: &[&'static str], numbers: &[u64]) -> BTreeMap<&'static str, u64> {
    names.iter().copied().zip(numbers.iter().copied()).filter(|(_, n)| *n > 0).collect()
}

/// How long something took.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Distribution {
    /// Observations.
    pub(super) count: u64,
    /// Their sum, in seconds.
    pub(super) sum_seconds: f64,
    /// Half of them took no longer, in seconds; the upper end of a bucket.
    pub(super) p50_seconds: Option<f64>,
    /// 99 of a hundred took no longer, in seconds; the upper end of a bucket.
    pub(super) p99_seconds: Option<f64>,
}

impl Distribution {
    fn of(sum: &LatencySum) -> Self {
        let count = sum.count();
        let quantile = |part: f64| {
            let wanted = (count as f64 * part).ceil().max(1.0) as u64;
            let mut seen = 0;
            let mut bounds = sum.buckets.iter().zip(BUCKETS_US.iter());
            let found = bounds.find(|(bucket, _)| {
                seen += **bucket;
                seen >= wanted
            });
            found.filter(|_| count > 0).map(|(_, bound)| *bound as f64 / 1e6)
        };
        Self {
            count,
            sum_seconds: sum.sum_us as f64 / 1e6,
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
        }
    }
}

/// A profile and the health of its token. Never the token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Profile {
    /// Its name.
    pub(super) name: String,
    /// Whether readiness waits for it.
    pub(super) required: bool,
    /// Whether it can serve requests.
    pub(super) ready: bool,
    /// Counts its tokens from 1; 0 for none yet.
    pub(super) generation: u64,
    /// When the current token was obtained.
    pub(super) obtained_at: Option<u64>,
    /// When the next token request begins by itself; absent while one is under way.
    pub(super) next_request_at: Option<u64>,
    /// When the current token expires.
    pub(super) expires_at: Option<u64>,
    /// Token requests that gave a token.
    pub(super) requests_ok: u64,
    /// Token requests that failed.
    pub(super) requests_failed: u64,
    /// Why the last one failed, if it did.
    pub(super) error: Option<String>,
    /// What that means.
    pub(super) meaning: Option<&'static str>,
    /// What to do about it.
    pub(super) remedy: Option<&'static str>,
    /// Expected roles that the last token does not carry.
    pub(super) missing_roles: Vec<String>,
    /// Seconds that the identity provider's clock is ahead of this machine's, when known.
    pub(super) clock_skew_s: Option<i64>,
    /// Routes that it serves.
    pub(super) routes: Vec<String>,
}

/// A listener.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listener {
    /// Its name.
    pub(super) name: String,
    /// Open connections.
    pub(super) connections: usize,
    /// Connections accepted since it opened.
    pub(super) accepted: u64,
}

/// What serves a route from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchRoute {
    /// The other profile.
    pub(super) profile: String,
    /// For how long, such as `30m`; until it is undone when absent. At most 366 days.
    #[serde(rename = "for")]
    #[schema(pattern = "^([1-9][0-9]{0,6}s|[1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h|([1-9][0-9]?|[12][0-9]{2})d)$")]
    pub(super) lasts: Option<String>,
    /// Only try whether it could be done; the token is obtained all the same.
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// The environment in force from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchEnvironment {
    /// The other environment; null for none.
    pub(super) environment: Option<String>,
    /// For how long, such as `30m`; until it is undone when absent. At most 366 days.
    #[serde(rename = "for")]
    #[schema(pattern = "^([1-9][0-9]{0,6}s|[1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h|([1-9][0-9]?|[12][0-9]{2})d)$")]
    pub(super) lasts: Option<String>,
    /// Only try whether it could be done.
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// A request that was not an ordinary one: a fault, or a 401 of an upstream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Happening {
    /// Counts them from 1 since the gateway started.
    pub(super) number: u64,
    /// When, in seconds since 1970.
    pub(super) at: u64,
    /// `fault` or `unauthorized`.
    pub(super) what: &'static str,
    /// The fault's code, or what became of the 401.
    pub(super) code: &'static str,
    /// The fault's status; absent for a 401.
    pub(super) status: Option<u16>,
    /// What happened, for people.
    pub(super) words: String,
    /// The route, if one took the request.
    pub(super) route: Option<String>,
    /// Its profile.
    pub(super) profile: Option<String>,
    /// The request's id, as in the access log.
    pub(super) request_id: String,
    /// Milliseconds from the request's head to here.
    pub(super) took_ms: f64,
}

impl From<recent::Happening> for Happening {
    fn from(happening: recent::Happening) -> Self {
        Self {
            number: happening.number,
            at: seconds(happening.at),
            what: match happening.what {
                recent::What::Fault => "fault",
                recent::What::Unauthorized => "unauthorized",
            },
            code: happening.code,
            status: happening.status,
            words: happening.words,
            route: happening.route,
            profile: happening.profile,
            request_id: happening.request_id,
            took_ms: (happening.took.as_secs_f64() * 1e6).round() / 1e3,
        }
    }
}

/// Something that happened, as the stream of events tells it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event {
    /// `fault`, `unauthorized`, `token`, `token_failed`, `switch`, `undo`, `expire`, `drop`, `reload` or
    /// `reload_refused`.
    pub(super) kind: &'static str,
    /// When, in seconds since 1970.
    pub(super) at: u64,
    /// The fault's code, or what became of the 401.
    pub(super) code: Option<&'static str>,
    /// What happened, for people.
    pub(super) words: String,
    /// The route that it is about.
    pub(super) route: Option<String>,
    /// The profile that it is about.
    pub(super) profile: Option<String>,
    /// The request's id, as in the access log.
    pub(super) request_id: Option<String>,
}

/// A time in seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The request that somebody asks about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// Its method; GET when absent.
    #[param(pattern = "^[A-Za-z]{1,20}$")]
    pub(super) method: Option<String>,
    /// Its URL, or its path.
    #[param(
        pattern = r"^(https?://[a-z0-9.-]+(:[0-9]{1,4})?(/[A-Za-z0-9/._~%?&=+,:;@!$'()*-]*)?|/[A-Za-z0-9/._~%?&=+,:;@!$'()*-]*)$"
    )]
    pub(super) url: String,
}

/// What would become of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// The route that takes it.
    pub(super) route: Option<String>,
    /// The profile whose token it gets.
    pub(super) profile: Option<String>,
    /// Profiles whose credentials it gets as well.
    pub(super) also: Vec<String>,
    /// The URL that is asked for upstream.
    pub(super) upstream: Option<String>,
    /// Why it is not forwarded.
    pub(super) fault: Option<Problem>,
    /// The other routes, nearest first.
    pub(super) near_misses: Vec<NearMiss>,
    /// How many more there are, which are farther away.
    pub(super) more: usize,
}

/// A route that does not take the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NearMiss {
    /// Its name.
    pub(super) route: String,
    /// Why not.
    pub(super) reasons: Vec<String>,
}

impl From<Decision> for Explanation {
    fn from(decision: Decision) -> Self {
        let (near, more) = (decision.near.into_iter(), decision.more);
        let near_misses = near.map(|miss| NearMiss { route: miss.route, reasons: miss.reasons }).collect();
        match decision.outcome {
            Ok(forwarded) => Self {
                route: Some(forwarded.route),
                profile: forwarded.profile,
                also: forwarded.also,
                upstream: Some(forwarded.upstream),
                fault: None,
                near_misses,
                more,
            },
            Err(refused) => Self {
                route: refused.route,
                profile: None,
                also: Vec::new(),
                upstream: None,
                fault: Some(Problem {
                    status: refused.fault.status().as_u16(),
                    code: refused.fault.code().to_owned(),
                    detail: refused.why,
                }),
                near_misses,
                more,
            },
        }
    }
}

/// Nothing more to say.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

/// How much is logged.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(pattern = "^(error|warn|info|debug|trace)$")]
    pub(super) level: String,
}

/// Something was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Always true.
    pub(super) done: bool,
}

/// Why something was not done (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// HTTP status.
    pub(super) status: u16,
    /// A stable word for programs.
    pub(super) code: String,
    /// What is wrong, and what to do.
    pub(super) detail: String,
}
