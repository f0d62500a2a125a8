//! A command whose output is the secret.
//!
//! No shell reads it. It runs in a process group of its own, which is killed when its time is over, when
//! nobody waits for it any more, and when the command itself has ended: nothing that it started outlives
//! the reading. What it says on standard error goes nowhere, as it may be the secret.

use std::{
    ffi::OsStr,
    io,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{io::AsyncReadExt, process};
use zeroize::Zeroizing;

use super::BYTES_MAX;

/// A command and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// A path, or a name that is looked for on `PATH`.
    pub program: PathBuf,
    /// What it is given, as it is.
    pub arguments: Vec<String>,
    /// From its start to its end.
    pub timeout: Duration,
}

/// Why a command gave nothing. Never holds anything that it said.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// It is not there.
    #[error("there is no such program (check the path, or PATH of the gateway's environment)")]
    Absent,
    /// It is there and cannot be executed.
    #[error("it is no program that the gateway's user may execute")]
    NotExecutable,
    /// The system would not start it, or its output could not be read.
    #[error("it cannot be run: {0}")]
    System(io::ErrorKind),
    /// It took too long.
    #[error("it did not end within {} (see timeout); it was killed", Span(*.0))]
    TimedOut(Duration),
    /// It said that it failed.
    #[error("it ended with exit status {0} (run it by hand, as the gateway's user, to see why)")]
    Failed(i32),
    /// A signal ended it.
    #[error("signal {0} ended it")]
    Killed(i32),
}

pub(super) struct Span(pub(super) Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{} s", self.0.as_secs())
        } else {
            write!(f, "{} ms", self.0.as_millis())
        }
    }
}

impl Command {
    /// Runs it and gives what it wrote to standard output: all of it, or one byte more than a secret has.
    ///
    /// # Errors
    /// [`Flaw`].
    pub(super) async fn run(&self) -> Result<Vec<u8>, Flaw> {
        let mut command = process::Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.process_group(0).kill_on_drop(true).spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Flaw::Absent,
                io::ErrorKind::PermissionDenied => Flaw::NotExecutable,
                kind => Flaw::System(kind),
            })?;
        // Dropped on every way out, also when nobody waits any more.
        let group = Group::of(&child);
        let work = async {
            let mut output = Zeroizing::new(Vec::with_capacity(4096));
            let stdout = child.stdout.take().ok_or(Flaw::System(io::ErrorKind::BrokenPipe))?;
            let failed = |error: io::Error| Flaw::System(error.kind());
            stdout.take(BYTES_MAX + 1).read_to_end(&mut output).await.map_err(failed)?;
            if output.len() as u64 <= BYTES_MAX {
                group.ended().await;
            }
            // While the command is not waited for, its number cannot be another group's.
            drop(group);
            let status = child.wait().await.map_err(failed)?;
            Ok((output, status))
        };
        let ended = tokio::time::timeout(self.timeout, work).await;
        let (mut output, status) = ended.map_err(|_| Flaw::TimedOut(self.timeout))??;
        let output = std::mem::take(&mut *output);
        if output.len() as u64 > BYTES_MAX {
            return Ok(output);
        }
        judged(status).map(|()| output)
    }

    /// Whether there is a program to run.
    pub(super) fn probe(&self) -> Result<(), Flaw> {
        let is_path = self.program.components().count() > 1;
        let places: Vec<PathBuf> = if is_path {
            vec![self.program.clone()]
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join(&self.program)).collect()
        };
        let there: Vec<_> = places.iter().filter(|place| place.is_file()).collect();
        match there.iter().any(|place| is_executable(place)) {
            true => Ok(()),
            false if there.is_empty() => Err(Flaw::Absent),
            false => Err(Flaw::NotExecutable),
        }
    }

    /// What it is called in messages: never its arguments, which may hold what is nobody's business.
    pub(super) fn name(&self) -> &OsStr {
        self.program.as_os_str()
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.permissions().mode() & 0o111 != 0)
}

fn judged(status: ExitStatus) -> Result<(), Flaw> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Flaw::Failed(code)),
        (None, signal) => Err(Flaw::Killed(signal.unwrap_or_default())),
    }
}

/// The processes of a command. Dropping it kills them all.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// Waits until the command itself has ended, and leaves it to be waited for.
    async fn ended(&self) {
        let Some(id) = self.0 else { return };
        let wait = move || waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        // The thread comes free when the command ends, which at the latest `drop` sees to.
        let _ = tokio::task::spawn_blocking(wait).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // Nothing is left of it, most of the time.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sh(script: &str) -> Command {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Command { program: "sh".into(), arguments, timeout: Duration::from_secs(20) }
    }

    #[tokio::test]
    async fn output_is_taken_as_it_is_and_a_failure_shows_only_its_status() {
        assert_eq!(sh("printf 's3cret\\n'").run().await.unwrap(), b"s3cret\n");
        let error = sh("echo s3cret; echo s3cret >&2; exit 7").run().await.unwrap_err();
        assert_eq!(error, Flaw::Failed(7));
        assert_eq!(sh("kill -9 $$").run().await.unwrap_err(), Flaw::Killed(9));
    }

    #[tokio::test]
    async fn no_shell_reads_the_arguments() {
        let arguments = vec!["%s".to_owned(), "$(id) ; `id` *".to_owned()];
        let command = Command { program: "printf".into(), arguments, timeout: Duration::from_secs(20) };
        assert_eq!(command.run().await.unwrap(), b"$(id) ; `id` *");
    }

    #[tokio::test]
    async fn more_output_than_any_secret_has_is_cut_off() {
        let output = sh("yes").run().await.unwrap();
        assert_eq!(output.len() as u64, BYTES_MAX + 1);
    }

    #[tokio::test]
    async fn nothing_that_the_command_started_outlives_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        // Once held by its output, once let go by it.
        for redirect in ["", ">/dev/null"] {
            let mut command = sh(&format!("sleep 300 {redirect} & echo $! > {}; echo x", note.display()));
            command.timeout = Duration::from_millis(500);
            let outcome = command.run().await;
            assert_eq!(outcome.is_err(), redirect.is_empty(), "{outcome:?}");
            let id = fs::read_to_string(&note).unwrap();
            let state = Path::new("/proc").join(id.trim()).join("stat");
            let is_gone = || fs::read_to_string(&state).map_or(true, |text| text.contains(") Z "));
            while !is_gone() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_and_told() {
        let mut command = sh("sleep 300");
        command.timeout = Duration::from_millis(100);
        let error = command.run().await.unwrap_err();
        assert_eq!(error.to_string(), "it did not end within 100 ms (see timeout); it was killed");
    }

    #[test]
    fn a_program_that_is_not_there_is_found_out_before_it_is_run() {
        let probe = |program: &str| {
            let program = program.into();
            Command { program, arguments: Vec::new(), timeout: Duration::ZERO }.probe()
        };
        assert_eq!(probe("sh"), Ok(()));
        assert_eq!(probe("no-such-program-anywhere"), Err(Flaw::Absent));
        assert_eq!(probe("/no/such/program"), Err(Flaw::Absent));
        assert_eq!(probe("/etc/passwd"), Err(Flaw::NotExecutable));
    }
}
