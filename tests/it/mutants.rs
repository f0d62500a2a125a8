//! Thousands of requests that are one edit away from a right one, judged by RFC 9112 as it is written.
//!
//! What must be refused never reaches the upstream, and what reaches it says what was meant: the same body,
//! and the contract of everything that is forwarded.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    differential::{
        contract,
        exchange::{shortened, statuses, talk},
        recorder::{Recorded, Recorder, chunked},
    },
    mutants::rules::{Verdict, meant},
    stage::Plan,
};

mod requests; // makes them
mod rules; // judges them

/// Connections at once.
const CALLERS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_taken_for_another() {
    let upstream = Recorder::start().await;
    let route =
        format!("all: {{match: {{path: /v1}}, upstream: \"http://{}\", profile: account}}", upstream.address);
    let more = "workers: 1\ntimeouts: {header_read: 1s, body: 1s}";
    let stage = Plan::default().routes(&route).more(more).start().await;
    stage.ready().await;

    let cases = Arc::new(requests::all());
    let answers = send(stage.address(), &cases).await;
    let (forwarded, mut wrong) = by_case(upstream.take().await, &upstream.address.to_string());

    let mut met = BTreeMap::new();
    for (number, (case, answer)) in cases.iter().zip(&answers).enumerate() {
        let forwarded = forwarded.get(&number).map_or(&[][..], Vec::as_slice);
        let meant = meant(case);
        let status = first_status(answer, case.starts_with(b"HEAD "));
        *met.entry(kind(&meant, forwarded)).or_insert(0) += 1;
        if !is_right(&meant, status, forwarded) {
            let shown = shortened(&case.escape_ascii().to_string());
            wrong.push(format!("{shown}\n  got {status} and {} at the upstream: {meant:?}", forwarded.len()));
        }
    }
    let few: Vec<&String> = wrong.iter().take(20).collect();

    assert!(wrong.is_empty(), "{} of {} are wrong:\n{few:#?}", wrong.len(), cases.len());
    for kind in ["to be refused", "forwarded", "two forwarded", "incomplete"] {
        assert!(met.get(kind).is_some_and(|times| *times > 10), "{met:?}");
    }
    assert!(met.get("refused though right").is_none_or(|times| times * 20 < cases.len()), "{met:?}");
}

fn kind(meant: &[Verdict], forwarded: &[Recorded]) -> &'static str {
    match (meant, forwarded) {
        ([Verdict::Refuse(_), ..], _) => "to be refused",
        ([Verdict::Incomplete, ..], _) => "incomplete",
        (_, []) => "refused though right",
        (_, [_]) => "forwarded",
        (_, [_, _, ..]) => "two forwarded",
    }
}

/// The gateway's own rules may be stricter than the protocol's, but what it forwards is what was meant. Of
/// a request that turns out to be wrong in its body a part may have left.
fn is_right(meant: &[Verdict], status: u16, forwarded: &[Recorded]) -> bool {
    let mut expected = meant.iter();
    let all_meant = forwarded.iter().all(|one| {
        expected.any(|verdict| match verdict {
            Verdict::Forward { target, body } => {
                !one.is_cut && target_of(one).as_ref() == Some(target) && body_of(one).as_ref() == Some(body)
            }
            Verdict::Refuse(_) | Verdict::Incomplete => one.is_cut,
        })
    });
    let is_answered = match (meant, forwarded) {
        ([Verdict::Forward { .. }, ..], [_, ..]) => status == 200,
        _ => (400..=505).contains(&status),
    };
    all_meant && is_answered
}

fn body_of(request: &Recorded) -> Option<Vec<u8>> {
    let is_chunked = String::from_utf8_lossy(&request.head).contains("\r\ntransfer-encoding: chunked\r\n");
    if is_chunked { Some(chunked(&request.framed)?.0) } else { Some(request.framed.clone()) }
}

fn target_of(request: &Recorded) -> Option<String> {
    let text = String::from_utf8_lossy(&request.head);
    text.split(' ').nth(1).map(str::to_owned)
}

async fn send(address: std::net::SocketAddr, cases: &Arc<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let next = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (cases, next) = (Arc::clone(cases), Arc::clone(&next));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return answers };
                    answers.push((number, talk(address, case).await));
                }
            })
        })
        .collect();
    let mut answers = BTreeMap::new();
    for caller in callers {
        answers.extend(caller.await.unwrap());
    }
    answers.into_values().collect()
}

/// What reached the upstream, by the number that every request carries; and what is wrong with it.
fn by_case(recorded: Vec<Recorded>, host: &str) -> (BTreeMap<usize, Vec<Recorded>>, Vec<String>) {
    let (mut found, mut wrong) = (BTreeMap::<usize, Vec<Recorded>>::new(), Vec::new());
    for request in recorded {
        if request.head.starts_with(b"GET /v1/last ") {
            continue;
        }
        let text = String::from_utf8_lossy(&request.head).into_owned();
        let shown = shortened(&text);
        wrong.extend(contract::broken(&request, host).iter().map(|what| format!("{what}: {shown}")));
        let number = text.split("x-case: ").nth(1).and_then(|rest| rest.get(..5)?.parse().ok());
        match number {
            Some(number) => found.entry(number).or_default().push(request),
            None => wrong.push(format!("a request that nobody made: {shown}")),
        }
    }
    (found, wrong)
}

fn first_status(answer: &[u8], is_head: bool) -> u16 {
    statuses(answer, is_head).0.first().and_then(|status| status.parse().ok()).unwrap_or(0)
}
