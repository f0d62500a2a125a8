//! What the identity provider knows and how it is told to behave.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Account, Behaviour, TENANT, TENANT_ID, assertion,
    issue::{Grant, Register},
    loopback::lock,
    recorded::Recorded,
};

/// Within Entra's default range of 60 to 90 minutes; the tests set their own.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What the knobs change and the doors read.
pub(super) struct Inner {
    pub(super) base: String,
    pub(super) register: Register,
    pub(super) requests: watch::Sender<u64>,
    pub(super) issued: watch::Sender<u64>,
    pub(super) knobs: Mutex<Knobs>,
    pub(super) seen: assertion::Seen,
}

pub(super) struct Knobs {
    pub(super) accounts: HashMap<String, Account>,
    pub(super) apis: Vec<(String, String)>,
    pub(super) lifetime: Duration,
    pub(super) refresh_in: Option<Duration>,
    pub(super) strict: bool,
    pub(super) delay: Duration,
    pub(super) standing: Behaviour,
    pub(super) next: VecDeque<Behaviour>,
    pub(super) last: Option<Recorded>,
    /// Whose tokens the machine's own endpoints give.
    pub(super) machine: Option<String>,
}

/// How one request is to be treated, decided when it arrives.
pub(super) struct Plan {
    pub(super) behaviour: Behaviour,
    pub(super) delay: Duration,
}

impl Inner {
    pub(super) fn new(base: String) -> Inner {
        let knobs = Knobs {
            accounts: HashMap::new(),
            apis: Vec::new(),
            lifetime: LIFETIME,
            refresh_in: None,
            strict: false,
            delay: Duration::ZERO,
            standing: Behaviour::Normal,
            next: VecDeque::new(),
            last: None,
            machine: None,
        };
        Inner {
            base,
            register: Register::default(),
            requests: watch::Sender::new(0),
            issued: watch::Sender::new(0),
            knobs: Mutex::new(knobs),
            seen: assertion::Seen::default(),
        }
    }

    pub(super) fn record(&self, request: Recorded) -> Plan {
        let plan = {
            let mut knobs = lock(&self.knobs);
            knobs.last = Some(request);
            let behaviour = knobs.next.pop_front().unwrap_or_else(|| knobs.standing.clone());
            Plan { behaviour, delay: knobs.delay }
        };
        self.requests.send_modify(|count| *count += 1);
        plan
    }

    /// Holds a request that hangs until the standing behaviour is another one.
    pub(super) async fn after_hanging(&self, mut behaviour: Behaviour) -> Behaviour {
        while matches!(behaviour, Behaviour::Hang) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            behaviour = lock(&self.knobs).standing.clone();
        }
        behaviour
    }

    pub(super) fn issue(&self, grant: &Grant) -> String {
        let token = self.register.issue(grant);
        self.issued.send_modify(|count| *count += 1);
        token
    }

    pub(super) fn tenant_id(&self, name: &str) -> Option<String> {
        let known = name.eq_ignore_ascii_case(TENANT) || name.eq_ignore_ascii_case(TENANT_ID);
        known.then(|| TENANT_ID.to_owned())
    }

    pub(super) fn account(&self, client_id: &str) -> Option<Account> {
        lock(&self.knobs).accounts.get(client_id).cloned()
    }

    /// An API answers to its App ID URI and to its GUID.
    pub(super) fn audience(&self, resource: &str) -> Option<String> {
        let knobs = lock(&self.knobs);
        let api = knobs.apis.iter().find(|(uri, audience)| uri == resource || audience == resource)?;
        Some(api.1.clone())
    }

    pub(super) fn machine(&self) -> Option<String> {
        lock(&self.knobs).machine.clone()
    }

    pub(super) fn first_audience(&self) -> String {
        lock(&self.knobs).apis.first().map(|(_, audience)| audience.clone()).unwrap_or_default()
    }

    pub(super) fn is_strict(&self) -> bool {
        lock(&self.knobs).strict
    }

    pub(super) fn lifetime(&self) -> (Duration, Option<Duration>) {
        let knobs = lock(&self.knobs);
        (knobs.lifetime, knobs.refresh_in)
    }
}
