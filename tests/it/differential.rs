//! The same raw requests to Keybearer and to nginx, each in front of an upstream that records bytes.
//!
//! Whatever Keybearer forwards keeps its contract, and every difference from nginx is listed with its
//! reason in `differential/differences.txt`.

use std::collections::BTreeSet;

use crate::{
    differential::{
        differences::{Difference, List, NO_REASON},
        exchange::{Outcome, exchange},
        nginx::Nginx,
        recorder::Recorder,
        requests::{Case, cases},
    },
    stage::{Plan, Stage},
};

pub(crate) mod contract; // what Keybearer promises of what it forwards
mod differences; // the list
pub(crate) mod exchange; // sends one request, tells what became of it
mod nginx; // starts nginx
pub(crate) mod recorder; // the upstream
mod requests; // reads the raw requests

/// A gateway of one worker in front of `upstream`: what comes over a connection is told by the upstream.
async fn keybearer(upstream: &Recorder) -> Stage {
    let routes =
        format!("all: {{match: {{path: /v1}}, upstream: \"http://{}\", profile: account}}", upstream.address);
    let more = "workers: 1\ntimeouts: {header_read: 1s, body: 1s}";
    let stage = Plan::default().routes(&routes).more(more).start().await;
    stage.ready().await;
    stage
}

/// What became of every request, and what was broken on the way.
async fn keybearer_outcomes(cases: &[Case]) -> (Vec<Outcome>, Vec<String>) {
    let upstream = Recorder::start().await;
    let stage = keybearer(&upstream).await;
    let host = upstream.address.to_string();
    let (mut outcomes, mut broken) = (Vec::new(), Vec::new());
    for case in cases {
        let (outcome, recorded) = exchange(stage.address(), &upstream, &case.bytes).await;
        for request in &recorded {
            let what = contract::broken(request, &host);
            broken.extend(what.into_iter().map(|what| format!("{}: {what}: {outcome}", case.name)));
        }
        outcomes.push(outcome);
    }
    (outcomes, broken)
}

async fn nginx_outcomes(cases: &[Case]) -> (Vec<Outcome>, String) {
    let upstream = Recorder::start().await;
    let nginx = Nginx::start(upstream.address).await;
    let mut outcomes = Vec::new();
    for case in cases {
        outcomes.push(exchange(nginx.address, &upstream, &case.bytes).await.0);
    }
    (outcomes, nginx.version.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_from_nginx_is_listed_with_its_reason() {
    let cases = cases();
    let ((ours, broken), (theirs, version)) =
        tokio::join!(keybearer_outcomes(&cases), nginx_outcomes(&cases));
    assert!(broken.is_empty(), "Keybearer has forwarded what it must not:\n{}", broken.join("\n"));

    let mut list = differences::read();
    let found = differing(&cases, &ours, &theirs, &list);
    if std::env::var_os("KEYBEARER_BLESS").is_some() {
        list = List { nginx: version.clone(), differences: found.into_iter().collect() };
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        differences::write(&list, &names);
        return assert_reasons(&list);
    }
    let mut wrong = Vec::new();
    // Another nginx differs elsewhere; what Keybearer does is held to the list all the same.
    let is_same_nginx = series(&version) == series(&list.nginx);
    if !is_same_nginx {
        eprintln!("the list was made with nginx {}; nginx {version} is not compared with it", list.nginx);
    }
    for (name, difference) in &found {
        match list.differences.get(name) {
            None if is_same_nginx => wrong.push(format!(
                "{name} is not listed:\n  keybearer: {}\n  nginx: {}",
                difference.keybearer, difference.nginx
            )),
            Some(listed) if is_same_nginx && listed.nginx != difference.nginx => {
                wrong.push(format!("{name}: nginx\n  now:  {}\n  list: {}", difference.nginx, listed.nginx));
            }
            _ => {}
        }
    }
    for (name, listed) in &list.differences {
        let Some(at) = cases.iter().position(|case| case.name == *name) else {
            wrong.push(format!("{name} is listed but is no request"));
            continue;
        };
        let now = ours[at].to_string();
        if now != listed.keybearer {
            wrong.push(format!("{name}: keybearer\n  now:  {now}\n  list: {}", listed.keybearer));
        } else if is_same_nginx && !found.iter().any(|(other, _)| other == name) {
            wrong.push(format!("{name} is listed but is no difference any more: both {now}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "differences.txt does not say what is (KEYBEARER_BLESS=1 writes it anew):\n{}",
        wrong.join("\n")
    );
    assert_reasons(&list);
}

/// The requests that the two treat differently, with the reasons that the list has for them.
fn differing(cases: &[Case], ours: &[Outcome], theirs: &[Outcome], list: &List) -> Vec<(String, Difference)> {
    let all = cases.iter().zip(ours).zip(theirs);
    all.filter(|((_, ours), theirs)| !ours.resembles(theirs))
        .map(|((case, ours), theirs)| {
            let why =
                list.differences.get(&case.name).map_or_else(|| NO_REASON.to_owned(), |d| d.why.clone());
            (case.name.clone(), Difference { keybearer: ours.to_string(), nginx: theirs.to_string(), why })
        })
        .collect()
}

fn assert_reasons(list: &List) {
    let without: Vec<&String> =
        list.differences.iter().filter(|(_, d)| d.why == NO_REASON).map(|(name, _)| name).collect();
    assert!(without.is_empty(), "differences without a reason: {without:?}");
}

/// `1.22` of `1.22.1`.
fn series(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(series, _)| series)
}

#[test]
fn there_are_two_hundred_requests_and_each_has_a_name_of_its_own() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two requests have the same name");
    assert!(cases.len() >= 200);
}
