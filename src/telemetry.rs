//! Logs and metrics. Knows names, numbers and durations; nothing of what it measures.

pub mod log;
pub mod metrics;
