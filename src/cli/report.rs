//! What `keybearer status` prints: a gateway in tables.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    admin::changes::{Entry, Switch},
    cli::{
        table::Table,
        times::{ago, ahead, clock_time, span},
        told::{Callers, Configuration, Profile, Report, Route},
    },
    profile::{diagnosis, skew},
};

/// No token that is renewed lives for ten years.
const FAR: u64 = 10 * 365 * 86_400;

/// Names in one line.
const NAMES_MAX: usize = 5;

/// Requests of each route in a second, when there was an earlier look.
pub(super) type Rates = BTreeMap<String, f64>;

/// The whole report. `now` is in seconds since 1970.
pub(super) fn text(report: &Report, rates: Option<&Rates>, now: u64) -> String {
    let mut out = gateway(report, now);
    out.push_str(&trouble(&report.profiles));
    let mut listeners = Table::new(&["LISTENER", "OPEN", "ACCEPTED"], &[1, 2]);
    for listener in &report.listeners {
        listeners.row([
            listener.name.clone(),
            listener.connections.to_string(),
            listener.accepted.to_string(),
        ]);
    }
    add(&mut out, &listeners.text());
    add(&mut out, &callers(&report.callers, now));
    add(&mut out, &routes(&report.routes, rates));
    add(&mut out, &profiles(&report.profiles, now));
    if let Some(configuration) = &report.status.configuration {
        add(&mut out, &switches(configuration, now));
    }
    out
}

fn add(out: &mut String, part: &str) {
    if !part.is_empty() {
        out.push('\n');
        out.push_str(part);
    }
}

fn gateway(report: &Report, now: u64) -> String {
    let status = &report.status;
    let state = match (status.stopping, status.ready) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "NOT READY",
    };
    let mut out =
        format!("gateway      {state}, version {}, up {}\n", status.version, span(status.uptime_seconds));
    if let Some(configuration) = &status.configuration {
        let reading = &configuration.reading;
        let (path, loaded) = (&configuration.path, ago(reading.loaded_at, now));
        let _ = writeln!(out, "file         {path}, loaded {loaded}");
        if reading.done + reading.failed > 0 {
            let _ = writeln!(out, "reloads      {} done, {} refused", reading.done, reading.failed);
        }
        let chosen = configuration.environment.as_deref().unwrap_or("none");
        let there: Vec<_> = configuration.environments.iter().map(String::as_str).collect();
        if !there.is_empty() || configuration.environment.is_some() {
            let _ = writeln!(out, "environment  {chosen} (defined: {})", there.join(", "));
        }
        if let Some(refused) = &reading.refused {
            out.push_str("LAST RELOAD  REFUSED; what was loaded before goes on to be served:\n");
            refused.trim_end().lines().for_each(|line| {
                let _ = writeln!(out, "  {line}");
            });
        }
    }
    if let Some(lost) = status.log_lines_dropped.filter(|lost| *lost > 0) {
        let _ = writeln!(out, "log          {lost} lines lost: their reader is too slow");
    }
    out
}

/// Nothing when nobody is connected, or nobody has asked.
fn callers(callers: &Callers, now: u64) -> String {
    let mut table = Table::new(&["LISTENER", "CALLER", "OPEN", "REQUESTS", "SINCE", "CERTIFICATE"], &[2, 3]);
    for caller in &callers.callers {
        table.row([
            caller.listener.clone(),
            caller.caller.clone(),
            caller.connections.to_string(),
            caller.requests.to_string(),
            ago(caller.since, now),
            caller.certificate.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    let mut out = table.text();
    if callers.more > 0 {
        let _ = writeln!(out, "… {} more callers", callers.more);
    }
    out
}

/// Which profiles want to be looked at: at the top, as a small terminal shows no more of many routes.
fn trouble(profiles: &[Profile]) -> String {
    let failing = profiles.iter().filter(|profile| profile.error.is_some());
    let names: Vec<_> = failing.map(|profile| profile.name.clone()).collect();
    if names.is_empty() { String::new() } else { format!("FAILING      no new token: {}\n", named(&names)) }
}

fn routes(routes: &[Route], rates: Option<&Rates>) -> String {
    let mut headings =
        vec!["ROUTE", "PROFILE", "REQUESTS", "4XX", "5XX", "FAULTS", "401S", "OPEN", "P50", "P99"];
    headings.push(if rates.is_some() { "PER S" } else { "UPSTREAM" });
    headings.extend(rates.is_some().then_some("UPSTREAM"));
    let numbers: &[usize] =
        if rates.is_some() { &[2, 3, 4, 5, 6, 7, 8, 9, 10] } else { &[2, 3, 4, 5, 6, 7, 8, 9] };
    let mut table = Table::new(&headings, numbers);
    for route in routes {
        let class = |name: &str| route.requests.get(name).copied().unwrap_or(0).to_string();
        let profile = route.profile.as_deref().unwrap_or("none");
        let mark = if route.switched.is_some() { " (switched)" } else { "" };
        let mut cells = vec![
            route.name.clone(),
            format!("{profile}{mark}"),
            route.requests.values().sum::<u64>().to_string(),
            class("4xx"),
            class("5xx"),
            route.faults.values().sum::<u64>().to_string(),
            route.unauthorized.values().sum::<u64>().to_string(),
            route.in_flight.to_string(),
            milliseconds(route.duration.p50_seconds),
            milliseconds(route.duration.p99_seconds),
        ];
        let rate =
            |rates: &Rates| rates.get(&route.name).map_or_else(|| "-".into(), |rate| format!("{rate:.1}"));
        cells.extend(rates.map(rate));
        cells.push(route.upstream.clone());
        table.row(cells);
    }
    table.text()
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1000.0),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

fn profiles(profiles: &[Profile], now: u64) -> String {
    let mut table = Table::new(&["PROFILE", "TOKEN", "EXPIRES", "NEXT REQUEST", "FAILED", "ROUTES"], &[4]);
    // What never expires has its next request at the end of all days.
    let is_near = |at: &u64| at.saturating_sub(now) < FAR;
    for profile in profiles {
        let number = match profile.generation {
            0 => String::new(),
            n => format!(", no. {n}"),
        };
        let state = match (profile.ready, &profile.error, profile.required) {
            (true, None, _) => format!("ready{number}"),
            (true, Some(_), _) => format!("ready{number}, REFRESH FAILS"),
            (false, Some(_), true) => "NONE, FAILS".to_owned(),
            (false, Some(_), false) => "none, fails (not required)".to_owned(),
            (false, None, _) => "not yet".to_owned(),
        };
        table.row([
            profile.name.clone(),
            state,
            profile.expires_at.map_or_else(|| "-".into(), |at| ahead(at, now)),
            profile.next_request_at.filter(is_near).map_or_else(|| "-".into(), |at| ahead(at, now)),
            profile.requests_failed.to_string(),
            named(&profile.routes),
        ]);
    }
    let mut out = table.text();
    profiles.iter().for_each(|profile| remarks(profile, &mut out));
    out
}

/// The first names; a profile may serve thousands of routes.
pub(super) fn named(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
    let rest = match names.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    shown.join(", ") + &rest
}

/// What there is to do about a profile, also about one that is ready.
fn remarks(profile: &Profile, out: &mut String) {
    let name = &profile.name;
    if let Some(error) = &profile.error {
        let _ = writeln!(out, "  {name}: {error}");
        if let (Some(meaning), Some(remedy)) = (&profile.meaning, &profile.remedy) {
            let _ = writeln!(out, "    means  {meaning}\n    next   {remedy}");
        }
    }
    if !profile.missing_roles.is_empty() {
        let missing = profile.missing_roles.join(", ");
        let _ = writeln!(out, "  {name}: its token lacks {missing} (keybearer doctor tells more)");
    }
    let skew = profile.clock_skew_s.unwrap_or(0);
    if skew.unsigned_abs() > skew::WARN.as_secs() {
        let words = diagnosis::of_clock_skew(skew);
        let _ = writeln!(out, "  {name}: {} by {} s", words.meaning, skew.unsigned_abs());
    }
}

/// What is switched now; nothing when nothing is.
pub(super) fn switches(configuration: &Configuration, now: u64) -> String {
    let mut table = Table::new(&["SWITCHED", "FROM", "TO", "SINCE", "UNTIL", "BY"], &[]);
    let mut row = |what: String, switch: &Switch| {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
        let until = switch
            .until
            .map_or_else(|| "undone".into(), |at| format!("{} ({})", clock_time(at), ahead(at, now)));
        let since = ago(switch.at, now);
        table.row([what, name(&switch.from), name(&switch.to), since, until, switch.by.clone()]);
    };
    if let Some(switch) = &configuration.switched_environment {
        row("the environment".into(), switch);
    }
    for (route, switch) in &configuration.switched {
        row(format!("route {route}"), switch);
    }
    table.text()
}

/// What was switched and undone, the latest first; nothing when nothing was.
pub(super) fn history(entries: &[Entry]) -> String {
    let mut table = Table::new(&["WHEN", "WHAT", "OF", "FROM", "TO", "BY"], &[]);
    for entry in entries {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
        let of =
            entry.route.as_ref().map_or_else(|| "the environment".into(), |route| format!("route {route}"));
        table.row([
            clock_time(entry.at),
            entry.action.word().to_owned(),
            of,
            name(&entry.from),
            name(&entry.to),
            entry.by.clone(),
        ]);
    }
    table.text()
}
