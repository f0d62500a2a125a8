//! Who is connected now.

use std::cmp::Reverse;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Gateway;
use crate::{admin::types::seconds, caller::roster};

/// More rows nobody reads, and whoever opens connections from many addresses does not decide how long the answer is.
const ROWS_MAX: usize = 1000;

/// Who is connected now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Callers {
    /// Those with the most connections first; at most 1,000.
    callers: Vec<Caller>,
    /// How many more there are.
    more: usize,
}

/// A caller on a listener, with its open connections.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Caller {
    /// The listener's name.
    listener: String,
    /// The address at the other end, without the port; on a unix socket its user and process, `unix:uid=1000,pid=42`.
    caller: String,
    /// The subject of the certificate that it has shown, or the first name in it; absent when it has shown none.
    certificate: Option<String>,
    /// Its open connections.
    connections: usize,
    /// When the oldest of them was opened.
    since: u64,
    /// Requests that have come over them, up to a second ago.
    requests: u64,
}

/// Who is connected now, by listener and caller.
#[utoipa::path(get, path = "/api/v1/callers", responses((status = 200, body = Callers)))]
pub(super) async fn callers(State(shown): Gateway) -> Json<Callers> {
    let mut callers = Vec::new();
    for listener in shown.listeners.load().iter() {
        callers.extend(roster::present(&listener.rosters).into_iter().map(|present| Caller {
            listener: listener.name.clone(),
            caller: present.caller,
            certificate: present.certificate,
            connections: present.connections,
            since: seconds(present.since),
            requests: present.requests,
        }));
    }
    Json(ranked(callers))
}

fn ranked(mut callers: Vec<Caller>) -> Callers {
    // A fixed order, so that who looks again finds the same place.
    callers.sort_by(|one: &Caller, other: &Caller| {
        fn key(caller: &Caller) -> impl Ord {
            (Reverse(caller.connections), &caller.listener, &caller.caller, &caller.certificate)
        }
        key(one).cmp(&key(other))
    });
    let more = callers.len().saturating_sub(ROWS_MAX);
    callers.truncate(ROWS_MAX);
    Callers { callers, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_cut_behind_those_with_the_most_connections() {
        let caller = |number: usize| Caller {
            listener: "local".into(),
            caller: format!("10.0.{}.{}", number / 256, number % 256),
            certificate: None,
            connections: if number == 700 { 9 } else { 1 },
            since: 0,
            requests: 0,
        };
        let told = ranked((0..1003).map(caller).collect());
        assert_eq!((told.callers.len(), told.more), (1000, 3));
        assert_eq!((told.callers[0].caller.as_str(), told.callers[0].connections), ("10.0.2.188", 9));
        assert_eq!(told.callers[1].caller, "10.0.0.0");
        let few = ranked((0..3).map(caller).collect());
        assert_eq!((few.callers.len(), few.more), (3, 0));
    }
}
