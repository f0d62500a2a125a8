//! From what the file says to what the program believes, collecting problems on the way.
//!
//! Here are the parts without much to say; `profiles` and `routes` have their own files.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Settings,
    field::{Field, given},
    file::{self, DurationText, SizeText},
    limits, listeners,
    names::{is_name, not_a_name},
    otlp,
    problem::Findings,
    profiles, routes,
    tree::Position,
    units,
};
use crate::telemetry;

/// More threads than any machine's cores for this work.
const WORKERS: RangeInclusive<usize> = 1..=1024;
/// What lowering needs to know besides the file.
pub(super) struct Context<'a> {
    pub(super) findings: &'a Findings<'a>,
    /// Where relative paths begin.
    pub(super) folder: &'a Path,
    /// Whether this is what will run: only then must its secrets be there.
    pub(super) selected: bool,
}

impl Context<'_> {
    pub(super) fn problem(&self, at: Position, message: impl Into<String>) {
        self.findings.add(at, message);
    }

    /// Something is not on this machine: a problem only when it is needed here.
    pub(super) fn missing(&self, at: Position, message: String) {
        if self.selected { self.findings.add(at, message) } else { self.findings.warn(at, message) }
    }

    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    pub(super) fn name(&self, thing: &str, at: Position, name: &str) {
        if !is_name(name) {
            self.problem(at, not_a_name(thing, name));
        }
    }

    pub(super) fn duration(
        &self,
        place: &str,
        field: &Option<Field<DurationText>>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some((at, text)) = given(field) else { return default };
        units::duration(&text.0, range).unwrap_or_else(|words| {
            self.problem(at, format!("{place}: {words}"));
            default
        })
    }

    pub(super) fn size(
        &self,
        place: &str,
        field: Option<(Position, &SizeText)>,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> usize {
        let Some((at, text)) = field else { return default };
        units::size(&text.0, range).unwrap_or_else(|words| {
            self.problem(at, format!("{place}: {words}"));
            default
        })
    }

    pub(super) fn number(
        &self,
        place: &str,
        field: &Option<Field<u64>>,
        range: RangeInclusive<usize>,
        default: usize,
    ) -> usize {
        let Some((at, number)) = given(field) else { return default };
        match usize::try_from(*number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (start, end) = range.into_inner();
                self.problem(at, format!("{place}: {number} is out of range ({start} to {end})"));
                default
            }
        }
    }
}

/// The settings of one reading of the file. Where there were problems, they are incomplete.
pub(super) fn lower(file: &file::File, environment: Option<&str>, cx: &Context<'_>) -> Settings {
    let replay = limits::replay(file, cx);
    let limits = limits::limits(file, cx);
    let timeouts = limits::timeouts(file, cx);
    let open = listeners::lower(file, cx);
    let admin = listeners::admin(file, &open, cx);
    let profiles = profiles::lower(file, limits::waiters(file, cx), cx);
    let defaults = routes::Defaults {
        replay,
        body_bytes_max: limits::body_bytes(file, cx),
        forwarded: routes::forwarded(&file.forwarded).unwrap_or_default(),
        expect_continue: limits::expect_continue(file, cx),
    };
    let routes = routes::lower(file, &defaults, cx);
    Settings {
        listeners: open,
        admin,
        profiles,
        routes,
        workers: workers(file, cx),
        log: log(file),
        otlp: otlp::lower(file, cx),
        limits,
        timeouts,
        connections: limits::connections(file, cx),
        replay,
        state_dir: state_dir(file, cx),
        watch: given(&file.watch).is_some_and(|(_, watch)| *watch),
        environment: environment.map(str::to_owned),
    }
}

/// An IP address and a port.
pub(super) fn address(place: &str, at: Position, text: &str, cx: &Context<'_>) -> Option<SocketAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        let words = "is not an IP address and a port (as in 127.0.0.1:8080 or [::1]:8080)";
        cx.problem(at, format!("{place}: {text:?} {words}"));
    }
    address
}

pub(super) fn state_dir(file: &file::File, cx: &Context<'_>) -> Option<PathBuf> {
    let (at, path) = given(&file.state_dir)?;
    if path.trim().is_empty() {
        cx.problem(at, "state_dir: the path is empty (leave the key out to keep nothing)");
    }
    Some(cx.path(path))
}

fn workers(file: &file::File, cx: &Context<'_>) -> Option<usize> {
    let (at, text) = given(&file.workers)?;
    if text.0 == "auto" {
        return None;
    }
    let number = text.0.parse().ok().filter(|number| WORKERS.contains(number));
    if number.is_none() {
        cx.problem(at, format!("workers: {:?} is neither auto nor a number from 1 to 1024", text.0));
    }
    number
}

fn log(file: &file::File) -> telemetry::log::Settings {
    let mut out = telemetry::log::Settings::default();
    let log = given(&file.telemetry).and_then(|(_, telemetry)| given(&telemetry.log));
    let Some((_, log)) = log else { return out };
    if let Some((_, level)) = given(&log.level) {
        out.level = match level {
            file::Level::Error => tracing::Level::ERROR,
            file::Level::Warn => tracing::Level::WARN,
            file::Level::Info => tracing::Level::INFO,
            file::Level::Debug => tracing::Level::DEBUG,
            file::Level::Trace => tracing::Level::TRACE,
        };
    }
    if let Some((_, format)) = given(&log.format) {
        out.format = match format {
            file::Format::Auto => telemetry::log::Format::Auto,
            file::Format::Human => telemetry::log::Format::Human,
            file::Format::Json => telemetry::log::Format::Json,
        };
    }
    if let Some((_, access)) = given(&log.access) {
        out.access = *access;
    }
    out
}
