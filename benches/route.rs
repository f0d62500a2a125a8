//! What finding a route costs with 1, 100 and 10,000 routes, and how much the number of routes matters.
//!
//! The rounds of all table sizes are interleaved and the median is told, since machines are noisy.

#![expect(clippy::print_stdout, reason = "the numbers are the result")]

use std::hint::black_box;
use std::time::Instant;

use http::{HeaderMap, Method};
use keybearer::route::pattern::{HostPattern, PathPrefix};
use keybearer::route::{Entry, Head, Rule, Table};

const SIZES: [usize; 3] = [1, 100, 10_000];
const ROUNDS: usize = 41;
const FINDS: usize = 20_000;
/// As many routes as one busy gateway is likely to use at a time.
const HOT: usize = 64;

/// A kind of table and the requests that are put to it; the arguments are the number of the route.
struct Shape {
    name: &'static str,
    host: fn(usize) -> Option<String>,
    path: fn(usize) -> String,
    request: fn(usize) -> (String, String),
    is_hit: bool,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "exact host",
        host: |i| Some(format!("service-{i}.internal")),
        path: |_| "/v1".to_owned(),
        request: |i| (format!("service-{i}.internal"), "/v1/orders/7".to_owned()),
        is_hit: true,
    },
    Shape {
        name: "wildcard host",
        host: |i| Some(format!("*.zone-{i}.internal")),
        path: |_| "/v1".to_owned(),
        request: |i| (format!("a.b.zone-{i}.internal"), "/v1/orders/7".to_owned()),
        is_hit: true,
    },
    Shape {
        name: "path depth 4",
        host: |_| None,
        path: |i| format!("/api/v1/orders/{i}"),
        request: |i| ("orders.internal".to_owned(), format!("/api/v1/orders/{i}/lines/3")),
        is_hit: true,
    },
    Shape {
        name: "miss",
        host: |i| Some(format!("service-{i}.internal")),
        path: |i| format!("/api/v1/orders/{i}"),
        request: |i| (format!("service-{i}.internal"), format!("/api/v1/orders/x{i}/lines/3")),
        is_hit: false,
    },
    Shape {
        name: "16 KiB slashes",
        host: |i| Some(format!("service-{i}.internal")),
        path: |_| "/api/v1/orders".to_owned(),
        request: |i| (format!("service-{i}.internal"), "/".repeat(16 * 1024)),
        is_hit: false,
    },
];

fn main() {
    println!("{:<14} {:>10} {:>10} {:>10}   10,000:1", "ns per find", "1", "100", "10,000");
    for shape in &SHAPES {
        let medians = measure(shape);
        let [one, hundred, many] = medians;
        println!("{:<14} {one:>10.1} {hundred:>10.1} {many:>10.1} {:>10.2}", shape.name, many / one);
    }
}

fn measure(shape: &Shape) -> [f64; 3] {
    let tables = SIZES.map(|size| table(shape, size));
    let requests = SIZES.map(|size| requests(shape, size));
    let mut rounds = [(); SIZES.len()].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for ((table, requests), rounds) in tables.iter().zip(&requests).zip(&mut rounds) {
            rounds.push(time(table, requests, shape.is_hit));
        }
    }
    rounds.map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        rounds.get(ROUNDS / 2).copied().unwrap_or(f64::NAN)
    })
}

fn table(shape: &Shape, size: usize) -> Table<usize> {
    let entries = (0..size).map(|i| {
        let host =
            (shape.host)(i).map(|host| HostPattern::parse(&host).expect("the shapes have valid hosts"));
        let path = PathPrefix::parse(&(shape.path)(i)).expect("the shapes have valid paths");
        let rule = Rule { host, path, methods: Vec::new(), headers: Vec::new() };
        Entry { name: format!("route-{i}"), rule, target: i }
    });
    Table::build(entries.collect()).expect("the shapes have no conflicts")
}

fn requests(shape: &Shape, size: usize) -> Vec<(String, String)> {
    (0..HOT).map(|i| (shape.request)(i * size / HOT)).collect()
}

#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn time(table: &Table<usize>, requests: &[(String, String)], is_hit: bool) -> f64 {
    let headers = HeaderMap::new();
    let mut hits = 0;
    let start = Instant::now();
    for (host, path) in requests.iter().cycle().take(FINDS) {
        let head = Head { host, path, method: &Method::GET, headers: &headers };
        hits += usize::from(black_box(table.find(black_box(&head))).is_some());
    }
    let elapsed = start.elapsed();
    assert_eq!(hits, if is_hit { FINDS } else { 0 }, "the bench measures something else than it says");
    elapsed.as_secs_f64() * 1e9 / FINDS as f64
}
