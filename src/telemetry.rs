//! Logs and metrics. Knows names, numbers and durations; nothing of what it measures.

pub mod listeners;
pub mod log;
pub mod metrics;
