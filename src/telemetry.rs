//! Logs, metrics and traces. Knows names, numbers and durations; nothing of what it measures.

pub mod colour;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod trace;
