//! The narrated tour of `keybearer demo`.
use std::process::ExitCode;
/// Runs the tour.
///
/// # Errors
/// When a server cannot be started.
pub fn run(_once: bool) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not yet")
}
