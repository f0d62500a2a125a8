//! Setting up the log: one writer to standard error that never makes a request wait.

use std::{
    io::{self, IsTerminal},
    str::FromStr as _,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Registry, filter::Directive, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::telemetry::colour;

/// The target of access lines, for filters: `access=off` silences them.
pub const ACCESS: &str = "access";

/// The target of lines that say who has changed what.
const AUDIT: &str = "audit";
/// What is written of them.
const AUDITED: &str = "audit=info";

/// Lines that may wait to be written. When a slow reader lets it fill up, lines are dropped and counted.
const LINES_WAITING_MAX: usize = 16_384;

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// For people or for machines.
    pub format: Format,
    /// One line per request.
    pub access: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: Format::Auto, access: true }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Short lines, with colour where it is wanted.
    Human,
    /// One JSON object a line.
    Json,
}

/// Keeps the writer alive; the last lines are flushed when it is dropped.
pub struct Log {
    _writer: WorkerGuard,
    handle: Handle,
}

/// What may be asked and told of the log while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    dropped: ErrorCounter,
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

impl Handle {
    /// Lines that could not be written because the reader was too slow.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// Writes lines down to `level` from now on. `false` when a filter was given at the start, which
    /// then stays.
    pub fn set_level(&self, level: tracing::Level) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.reload(of_level(level)).is_ok())
    }
}

/// Our own lines from `level` on, and what libraries warn of. The TLS library warns of each greeting that it does not
/// like, with what a stranger wrote in it, and the platform's verifier says less of a refused certificate than we
/// do, as an error with the path of its own source.
fn of_level(level: tracing::Level) -> EnvFilter {
    EnvFilter::new(format!(
        "warn,rustls=off,rustls_platform_verifier=off,keybearer={level},access={level},{AUDITED}"
    ))
}

/// The filter that was given, and who has changed what all the same: only one that names that line's target may
/// silence it.
fn given(text: &str) -> Result<EnvFilter, StartError> {
    let filter = EnvFilter::builder().parse(text).map_err(|e| StartError::Filter(e.to_string()))?;
    let target = |directive: &str| directive.split(['=', '[']).next().unwrap_or_default().trim().to_owned();
    if text.split(',').any(|directive| target(directive) == AUDIT) {
        return Ok(filter);
    }
    Ok(filter.add_directive(Directive::from_str(AUDITED).expect("AUDITED is a directive")))
}

impl Log {
    /// A hold on the log.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Starts logging for the whole process. `filter` overrides the level.
///
/// # Errors
/// When `filter` is no `tracing` filter, or a log has been started before.
pub fn start(settings: &Settings, filter: Option<&str>) -> Result<Log, StartError> {
    let is_given = filter.is_some();
    let filter = match filter {
        Some(text) => given(text)?,
        None => of_level(settings.level),
    };
    let (filter, reloading) = reload::Layer::new(filter);
    let (is_terminal, has_colour) = (io::stderr().is_terminal(), colour::is_wanted(&io::stderr()));
    let json = match settings.format {
        Format::Auto => !is_terminal,
        Format::Human => false,
        Format::Json => true,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .finish(io::stderr());
    let dropped = writer.error_counter();
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        let layer = fmt::layer().json().flatten_event(true).with_writer(writer);
        registry.with(layer).try_init()
    } else {
        registry.with(fmt::layer().with_writer(writer).with_ansi(has_colour)).try_init()
    }
    .map_err(|_| StartError::Twice)?;
    let handle = Handle { dropped, filter: (!is_given).then_some(reloading) };
    Ok(Log { _writer: guard, handle })
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter does not parse.
    #[error("no filter: {0} (write for instance info,access=off)")]
    Filter(String),
    /// There is one already.
    #[error("the log has been started already")]
    Twice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_the_audit_lines_unless_it_names_them() {
        for (text, is_added) in [
            ("warn,access=off", true),
            ("error", true),
            ("off", true),
            ("", true),
            ("info,auditor=debug,keybearer[audit]=trace", true),
            ("warn,audit=off", false),
            ("audit", false),
            ("warn,audit[x]=info", false),
        ] {
            let filter = given(text).unwrap();
            let has = filter.to_string().split(',').any(|directive| directive == AUDITED);
            assert_eq!(has, is_added, "{text}: {filter}");
        }
    }
}
