//! What has become of the requests, and of the memory.

use std::{
    fmt, fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Memory may grow by so much after the first third: buffers, tables and the allocator's own rest.
const GROWTH_MAX_KIB: u64 = 16 * 1024;
/// Problems that are told; there may be thousands.
const TOLD_MAX: usize = 20;

/// What has become of the requests.
#[derive(Default)]
pub(crate) struct Tally {
    answered: AtomicU64,
    faults: AtomicU64,
    cut: AtomicU64,
    left: AtomicU64,
    lost: AtomicU64,
    words: Mutex<Vec<String>>,
}

impl Tally {
    /// The API's whole answer.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// A fault where one is in order.
    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer that was cut where one may be.
    pub(crate) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// The caller has hung up.
    pub(crate) fn left(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// What must not have happened.
    pub(crate) fn lost(&self, what: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut words = self.words.lock().unwrap();
        if words.len() < TOLD_MAX {
            println!("         {what}");
            words.push(what);
        }
    }

    pub(crate) fn cut_or_faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed) + self.cut.load(Ordering::Relaxed)
    }

    /// Everything that must not have happened, or that shows that nothing has.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.words.lock().unwrap().clone();
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            problems.insert(0, format!("{lost} requests were lost or answered wrongly; the first of them:"));
        }
        if self.answered.load(Ordering::Relaxed) < 100 {
            problems.push(format!("too little has happened to say anything: {self}"));
        }
        problems
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [answered, faults, cut, left, lost] =
            [&self.answered, &self.faults, &self.cut, &self.left, &self.lost]
                .map(|n| n.load(Ordering::Relaxed));
        write!(f, "{lost} lost, {answered} answered, {faults} faults, {cut} cut answers, {left} callers left")
    }
}

/// The memory of this process over time.
#[derive(Default)]
pub(crate) struct Memory(Vec<u64>);

impl Memory {
    /// Notes how much it is now.
    pub(crate) fn look(&mut self) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        self.0.push(line.split_whitespace().nth(1).unwrap().parse().unwrap());
    }

    /// How the last third differs from the one before. In the first one everything fills up: histories,
    /// pools, buffers.
    pub(crate) fn problem(&self, span: Duration) -> Option<String> {
        let third = self.0.len() / 3;
        let median = |part: &[u64]| {
            let mut part = part.to_vec();
            part.sort_unstable();
            part[part.len() / 2]
        };
        let (before, after) = (median(&self.0[third..2 * third]), median(&self.0[2 * third..]));
        let grown = after.saturating_sub(before);
        (grown > GROWTH_MAX_KIB)
            .then(|| format!("memory has grown from {before} to {after} KiB in a third of {span:?}"))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.last().copied().unwrap_or_default() / 1024)
    }
}
