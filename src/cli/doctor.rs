//! `keybearer doctor`: what the doctor found, for people and for programs.

use std::{fmt::Write as _, io, process::ExitCode, sync::Arc};

use serde_json::{Value, json};

use crate::{
    cli::{Configured, Failure, print, say},
    doctor::{
        self, Progress, Report, Wish,
        step::{Case, Outcome, Step},
    },
    outbound,
    telemetry::colour,
};

pub(super) fn doctor(configured: &Configured, wish: Wish, as_json: bool) -> Result<ExitCode, Failure> {
    let settings = &configured.loaded.settings;
    let profiles = settings.profiles.iter().map(|profile| profile.profile.name.as_str());
    is_defined("profile", wish.profile.as_deref(), profiles)?;
    is_defined("route", wish.route.as_deref(), settings.routes.iter().map(|route| route.name.as_str()))?;
    if let Some(probe) = wish.probe.as_ref().filter(|probe| !probe.starts_with('/')) {
        let words = format!("keybearer: --probe {probe:?} is no path (it begins with /, as in /v1/orders)\n");
        return Err(Failure::Bad(words));
    }
    let routes = wish.routes(settings);
    if let Some(probe) = wish.probe.as_ref().filter(|_| wish.probed(&routes).is_empty()) {
        let paths: Vec<_> = routes.iter().map(|route| format!("\"{}\"", route.rule.path.as_str())).collect();
        let paths = if paths.is_empty() { "none".into() } else { paths.join(", ") };
        let words = format!("keybearer: no route takes the path \"{probe}\" (paths of routes: {paths})\n");
        return Err(Failure::Bad(words));
    }
    if let Some(words) = outbound::flaw_of_environment() {
        say(&format!("warning: {words}\n"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(doctor::examine(settings, &wish, progress()));
    // A resolver that hangs holds a thread that nobody waits for.
    runtime.shutdown_background();
    if colour::can_redraw(&io::stderr()) {
        say("\r\x1b[K");
    }
    print(&if as_json {
        json_of(&report).to_string() + "\n"
    } else {
        text(&report, colour::is_wanted(&io::stdout()))
    })?;
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn is_defined<'a>(
    what: &str,
    wanted: Option<&str>,
    there: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let there: Vec<_> = there.collect();
    if there.contains(&wanted) {
        return Ok(());
    }
    let names: Vec<_> = there.iter().map(|name| format!("\"{name}\"")).collect();
    let names = if names.is_empty() { "none".into() } else { names.join(", ") };
    Err(Failure::Bad(format!("keybearer: {what} \"{wanted}\" is not defined (defined: {names})\n")))
}

/// One line on a terminal that says how far it is; nothing elsewhere.
fn progress() -> Progress {
    if !colour::can_redraw(&io::stderr()) {
        return Arc::new(|_, _| {});
    }
    Arc::new(|done, total| say(&format!("\r\x1b[Kexamined {done} of {total}")))
}

fn text(report: &Report, colours: bool) -> String {
    let mut out = String::new();
    let sections =
        [("profile", &report.profiles), ("route", &report.routes), ("collector", &report.collectors)];
    for (what, cases) in sections {
        for case in cases {
            let about: Vec<_> = case.about.iter().map(|(label, value)| format!("{label} {value}")).collect();
            // Writing to a string does not fail.
            let _ = writeln!(out, "{what} {} ({})", case.name, about.join(", "));
            for step in &case.steps {
                out.push_str(&line(step, colours));
            }
            out.push('\n');
        }
    }
    let (failed, warnings) = (report.count(Outcome::Failed), report.count(Outcome::Warning));
    let cases = report.cases().count();
    let _ = match (failed, warnings) {
        (0, 0) => writeln!(out, "all is well: {cases} examined"),
        _ => writeln!(out, "{cases} examined: {failed} failed, {warnings} to look at"),
    };
    out
}

fn line(step: &Step, colours: bool) -> String {
    let (before, after) = match (colours, step.outcome) {
        (false, _) => ("", ""),
        (true, Outcome::Ok) => ("\x1b[32m", "\x1b[0m"),
        (true, Outcome::Warning) => ("\x1b[33m", "\x1b[0m"),
        (true, Outcome::Failed) => ("\x1b[31m", "\x1b[0m"),
        (true, Outcome::Skipped) => ("\x1b[2m", "\x1b[0m"),
    };
    let took = step.took.map_or(String::new(), |took| format!(" ({} ms)", took.as_millis()));
    let outcome = step.outcome.name();
    let mut out = format!("  {before}{outcome:8}{after} {:14} {}{took}\n", step.name, step.seen);
    if let Some((meaning, remedy)) = &step.words {
        let _ = writeln!(out, "{:26}means: {meaning}\n{:26}next:  {remedy}", "", "");
    }
    out
}

/// The form is documented in docs/diagnosis.md and only grows.
fn json_of(report: &Report) -> Value {
    let cases = |cases: &[Case]| cases.iter().map(case).collect::<Vec<_>>();
    json!({
        "ok": report.is_well(),
        "failed": report.count(Outcome::Failed),
        "warnings": report.count(Outcome::Warning),
        "profiles": cases(&report.profiles),
        "routes": cases(&report.routes),
        "collectors": cases(&report.collectors),
    })
}

fn case(case: &Case) -> Value {
    let steps = case.steps.into_iter().map(|step| {
        json!({
            "step": step.name,
            "outcome": step.outcome.name(),
            "seen": step.seen,
            "meaning": step.words.as_ref().map(|(meaning, _)| meaning),
            "remedy": step.words.as_ref().map(|(_, remedy)| remedy),
            "took_ms": step.took.map(|took| took.as_secs_f64() * 1000.0),
        })
    });
    let steps: Vec<Value> = steps.collect();
    let about = case.about.iter().map(|(label, value)| ((*label).to_owned(), json!(value)));
    let mut whole: serde_json::Map<String, Value> = about.collect();
    whole.insert("name".into(), json!(case.name));
    whole.insert("outcome".into(), json!(case.outcome().name()));
    whole.insert("steps".into(), json!(steps));
    Value::Object(whole)
}
