//! `keybearer run`: the gateway as a process.

use std::{
    io,
    panic::{self, PanicHookInfo},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    app::{self, Drained, control::Origin, service},
    cli::{Configured, Failure, LogArgs, complaint},
    config::Settings,
    listen::inherited::Inherited,
    outbound,
    telemetry::log,
};

/// A signal to a whole group comes twice to who is signalled as well, as from `timeout` or a terminal and a wrapper
/// within it. No person is as fast.
const ECHO: Duration = Duration::from_millis(100);
/// The variable that says what `--log-filter` does.
const FILTER: &str = "KEYBEARER_LOG";

pub(super) fn run(configured: &Configured, args: &LogArgs) -> Result<ExitCode, Failure> {
    harden();
    // Before there are threads: it changes the environment.
    let (inherited, useless) = Inherited::from_environment();
    let mut settings = configured.loaded.settings.clone();
    override_with(args, &mut settings);
    let log =
        log::start(&settings.log, args.log_filter.as_deref()).map_err(|error| not_begun(&error, args))?;
    report_panics();
    if let Some(words) = outbound::flaw_of_environment() {
        tracing::warn!("{words}");
    }
    for problem in useless {
        tracing::warn!("{problem}");
    }
    let environment = configured.loaded.settings.environment.clone();
    let overrides = args.clone();
    // For people who are elsewhere: those who ask the gateway, and those who read its log.
    let path = std::path::absolute(&configured.path).unwrap_or_else(|_| configured.path.clone());
    let origin = Origin {
        path: path.clone(),
        environment: environment.clone(),
        overrides: Box::new(move |settings| override_with(&overrides, settings)),
        inherited: Arc::new(inherited),
    };
    // Before anybody can know that it runs: from then on a signal must not simply end the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = Signals::receive(&runtime).context("signals cannot be received")?;
    // Read a second time, as the log has only begun: it may have changed in between.
    let (running, warnings) = app::start_file(origin, Some(&log))
        .map_err(|problems| Failure::Bad(complaint(&configured.path, &problems)))?;
    for warning in &warnings {
        tracing::warn!("{}", warning.to_string().trim_end());
    }
    let running = running?;
    for (name, address) in running.listeners() {
        tracing::info!(listener = name, %address, "listening");
    }
    if let Some(address) = running.admin() {
        tracing::info!(%address, "admin listening");
    }
    tracing::info!(
        config = %path.display(),
        environment,
        version = env!("CARGO_PKG_VERSION"),
        "keybearer runs"
    );
    if let Some(control) = running.control() {
        service::ready(&control.service_status());
    }
    let drained = wait_for_stop(running, runtime, signals)?;
    if let Drained::Cut(connections) = drained {
        tracing::warn!(connections, "the drain time is over, connections were cut");
    }
    tracing::info!("keybearer has stopped");
    Ok(ExitCode::SUCCESS)
}

fn not_begun(error: &log::StartError, args: &LogArgs) -> Failure {
    let variable = std::env::var(FILTER).ok();
    Failure::Bad(match error {
        // Said twice alike it does not matter who said it.
        log::StartError::Filter(_) if variable == args.log_filter => {
            format!("keybearer: {FILTER} is {error}\n")
        }
        log::StartError::Filter(_) => format!("keybearer: --log-filter is {error}\n"),
        log::StartError::Twice => format!("keybearer: {error}\n"),
    })
}

/// What the command line says otherwise.
fn override_with(args: &LogArgs, settings: &mut Settings) {
    if let Some(level) = args.log_level {
        settings.log.level = level;
    }
    if let Some(format) = args.log_format {
        settings.log.format = format.into();
    }
}

/// The signals that mean something here. What comes before somebody looks is not lost.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn receive(runtime: &Runtime) -> io::Result<Self> {
        let _context = runtime.enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The first signal begins the drain, a second one that is no echo ends the process. SIGHUP reloads.
fn wait_for_stop(running: app::Running, runtime: Runtime, signals: Signals) -> Result<Drained, Failure> {
    let Signals { mut terminate, mut interrupt, mut hangup } = signals;
    let outcome = runtime.block_on(async {
        let pulse = running.pulse();
        let mut alive = pin!(service::keep_alive(&pulse));
        loop {
            // Signals are not lost with the branches that are dropped: each stream keeps its own.
            tokio::select! {
                never = &mut alive => match never {},
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    // Logs what becomes of it. A stop signal does not wait for it.
                    if let Some(control) = running.control().cloned() {
                        drop(tokio::task::spawn_blocking(move || control.reload("SIGHUP")));
                    }
                }
            }
        }
        tracing::info!("stopping: requests in flight are finished, a second signal ends at once");
        service::stopping();
        running.stop();
        let second = no_echo(async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let stopped = tokio::task::spawn_blocking(move || running.wait());
        // The wait cannot be dropped half-way: the other branches end the process.
        tokio::select! {
            never = alive => match never {},
            drained = stopped => Ok(drained?),
            () = second => Err(anyhow::anyhow!("stopped by a second signal").into()),
        }
    });
    // A second signal does not wait for what the first one waits for.
    runtime.shutdown_background();
    outcome
}

/// Waits for a signal that comes later than an echo of one that has just come.
async fn no_echo(mut signal: impl AsyncFnMut()) {
    let first = tokio::time::Instant::now();
    while first.elapsed() < ECHO {
        signal().await;
    }
}

/// Keeps secrets out of core files and other processes' reach, and lifts the limit on connections.
/// What the system refuses is not worth stopping for: it is said once the log runs.
fn harden() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: files.maximum, maximum: files.maximum },
    );
}

/// A panic ends one request. Its place is logged; its message may hold what a caller sent.
fn report_panics() {
    panic::set_hook(Box::new(report_panic));
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a task has panicked; please report this");
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, PoisonError},
        thread,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_comes_twice_within_moments_counts_once() {
        let mut waits = [0, 1, 90, 20].into_iter();
        let second = no_echo(async || {
            tokio::time::sleep(Duration::from_millis(waits.next().unwrap())).await;
        });
        let begun = tokio::time::Instant::now();
        second.await;
        assert_eq!(begun.elapsed(), Duration::from_millis(111));
        assert_eq!(waits.next(), None);
    }

    /// What this test's own thread has logged.
    static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    struct Logged;

    impl io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOGGED.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The hook is the whole process's, so it hands on what panics in other tests meanwhile.
    #[test]
    fn a_panic_is_reported_by_its_place_and_never_by_its_message() {
        let (own, others) = (thread::current().id(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            if thread::current().id() == own { report_panic(info) } else { others(info) }
        }));
        let log = tracing_subscriber::fmt().json().with_writer(|| Logged).finish();
        let place = tracing::subscriber::with_default(log, || {
            let secret = "canary-7f3a";
            let line = line!() + 1;
            assert!(panic::catch_unwind(|| panic!("Authorization: Bearer {secret}")).is_err());
            assert!(panic::catch_unwind(|| panic::panic_any(secret.to_owned())).is_err());
            assert!(panic::catch_unwind(|| secret.parse::<u8>().map_err(|_| secret).unwrap()).is_err());
            format!("{}:{line}:", file!())
        });
        drop(panic::take_hook());
        let logged = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
        assert_eq!(logged.matches("a task has panicked").count(), 3, "{logged}");
        assert!(logged.contains(&place), "{place} is not in {logged}");
        assert!(!logged.contains("canary") && !logged.contains("Bearer"), "{logged}");
    }
}
