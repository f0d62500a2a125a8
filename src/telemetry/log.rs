//! Setting up the log: one writer to standard error that never makes a request wait.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// The target of access lines, for filters: `access=off` silences them.
pub const ACCESS: &str = "access";

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
    /// Short lines with colour.
    Human,
    /// One JSON object a line.
    Json,
}

/// Keeps the writer alive; the last lines are flushed when it is dropped.
pub struct Log {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Lines that could not be written because the reader was too slow.
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Starts logging for the whole process. `filter` (`KEYBEARER_LOG`) overrides the level.
///
/// # Errors
/// When `filter` is no `tracing` filter, or a log has been started before.
pub fn start(settings: &Settings, filter: Option<&str>) -> Result<Log, StartError> {
    let filter = match filter {
        Some(text) => EnvFilter::builder().parse(text).map_err(|e| StartError::Filter(e.to_string()))?,
        None => EnvFilter::new(format!("warn,keybearer={0},access={0}", settings.level)),
    };
    let is_terminal = io::stderr().is_terminal();
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
        registry.with(fmt::layer().with_writer(writer).with_ansi(is_terminal)).try_init()
    }
    .map_err(|_| StartError::Twice)?;
    Ok(Log { _writer: guard, dropped })
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter does not parse.
    #[error("KEYBEARER_LOG is no filter: {0} (write for instance info,access=off)")]
    Filter(String),
    /// There is one already.
    #[error("the log has been started already")]
    Twice,
}
