//! What a request costs through the gateway: requests a second, processor time, latency.
//!
//! The same callers send the same requests to the same upstream, with the gateway between and without
//! it, in turns. What counts is the ratio: absolute numbers are those of the machine, on which callers,
//! gateway and upstream share the cores. The gateway is a process of its own with one worker, and writes no
//! access lines.
//! `BENCH_SECONDS` says how long all of it may take, about; 20 if absent.

#![expect(clippy::print_stdout, reason = "the numbers are the result")]

#[path = "gateway/load.rs"]
mod load;
#[path = "gateway/scene.rs"]
mod scene;

use std::{fs, time::Duration};

use load::{Caller, Tally};
use scene::Scene;

/// How a caller or an upstream speaks.
#[derive(Clone, Copy)]
pub(crate) struct Speech {
    is_tls: bool,
    is_http2: bool,
}

/// One line of the result.
struct Case {
    name: &'static str,
    caller: Speech,
    /// The gateway's route, which decides how it speaks to the upstream.
    path: &'static str,
}

const PLAIN_1: Speech = Speech { is_tls: false, is_http2: false };
const PLAIN_2: Speech = Speech { is_tls: false, is_http2: true };
const TLS_1: Speech = Speech { is_tls: true, is_http2: false };
const TLS_2: Speech = Speech { is_tls: true, is_http2: true };

const CASES: [Case; 4] = [
    Case { name: "HTTP/1.1 to HTTP/1.1", caller: PLAIN_1, path: "/plain" },
    Case { name: "HTTP/2 to HTTP/1.1", caller: PLAIN_2, path: "/plain" },
    Case { name: "TLS HTTP/1.1 to the same", caller: TLS_1, path: "/tls-1" },
    Case { name: "TLS HTTP/2 to the same", caller: TLS_2, path: "/tls-2" },
];

/// Each case is measured so often, with and without the gateway in turns; the median is told.
const ROUNDS: u32 = 3;
/// Of each round, so much passes before counting begins.
const WARM_UP: Duration = Duration::from_millis(150);

fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let rounds = u32::try_from(2 * CASES.len()).unwrap_or(u32::MAX) * ROUNDS;
    let span =
        (Duration::from_secs(seconds) / rounds).saturating_sub(WARM_UP).max(Duration::from_millis(100));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let scene = Scene::build();
    println!(
        "{:<26}{:>14}{:>14}{:>8}{:>16}{:>12}{:>12}",
        "", "direct req/s", "gateway req/s", "ratio", "CPU/request", "p50", "p99"
    );
    for case in &CASES {
        println!("{}", line(case, &runtime.block_on(measure(&scene, case, span))));
    }
}

/// The medians of a case.
struct Result {
    direct: f64,
    gateway: f64,
    cpu_us: f64,
    p50: Duration,
    p99: Duration,
}

async fn measure(scene: &Scene, case: &Case, span: Duration) -> Result {
    let (mut direct, mut gateway, mut cpu_us) = (Vec::new(), Vec::new(), Vec::new());
    let mut through = Tally::default();
    for _ in 0..ROUNDS {
        let straight = Caller::new(scene, case.caller, scene.upstream(case.caller.is_tls), case.path);
        direct.push(straight.run(WARM_UP, span, || ()).await.rate(span));
        let caller = Caller::new(scene, case.caller, scene.gateway(case.caller.is_tls), case.path);
        let mut before = Duration::ZERO;
        let tally = caller.run(WARM_UP, span, || before = cpu_of(scene.gateway_id())).await;
        let used = cpu_of(scene.gateway_id()).saturating_sub(before);
        gateway.push(tally.rate(span));
        cpu_us.push(used.as_secs_f64() * 1e6 / tally.count() as f64);
        through.add(tally);
    }
    Result {
        direct: median(direct),
        gateway: median(gateway),
        cpu_us: median(cpu_us),
        p50: through.percentile(0.50),
        p99: through.percentile(0.99),
    }
}

fn line(case: &Case, result: &Result) -> String {
    let Result { direct, gateway, cpu_us, p50, p99 } = result;
    let milliseconds = |time: &Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    format!(
        "{:<26}{direct:>14.0}{gateway:>14.0}{:>8.2}{:>16}{:>12}{:>12}",
        case.name,
        gateway / direct,
        format!("{cpu_us:.1} µs"),
        milliseconds(p50),
        milliseconds(p99),
    )
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time that a process has used, in the steps of a hundredth of a second that Linux tells.
fn cpu_of(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the gateway runs");
    // Behind the name, which may hold spaces: the 14th and 15th field of all.
    let (_, fields) = stat.rsplit_once(')').expect("the name ends");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
