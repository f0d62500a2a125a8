//! `keybearer status`: what a running gateway says of itself, once or again and again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};

use crate::{
    cli::{
        Failure,
        client::Client,
        place::AdminArgs,
        print,
        report::{self, Rates},
        times,
        told::{Report, Route},
    },
    clock::{self, Moment},
};

/// Between two looks, unless said otherwise.
const INTERVAL: &str = "2s";
/// Looking more often would be work for the gateway.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Begins to draw: another screen without a cursor, so that what stood on this one comes back.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left.
const HOME: &str = "\x1b[H";
/// Clears what an earlier, longer line left; then goes on.
const LINE_END: &str = "\x1b[K\n";
/// Clears what an earlier, longer report left.
const REST: &str = "\x1b[J";

/// What is asked.
#[derive(Args)]
pub(super) struct StatusArgs {
    /// Print JSON, one object for each look
    #[arg(long)]
    json: bool,
    /// Show as well who is connected
    #[arg(long)]
    callers: bool,
    /// Look again and again, until Ctrl-C; in place on a terminal
    #[arg(long)]
    watch: bool,
    /// How often with --watch, such as 10s
    #[arg(long, value_name = "SPAN", default_value = INTERVAL, value_parser = interval, requires = "watch")]
    interval: Duration,
    /// The admin listener is the same in every environment: taken so that one command line fits all commands
    #[arg(short, long, value_name = "NAME", hide = true)]
    environment: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let span = crate::admin::changes::span(text).filter(|span| *span >= INTERVAL_MIN);
    span.ok_or_else(|| "not a span of a second or more (such as 2s, 1m)".to_owned())
}

pub(super) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let client = Client::new(args.admin.place()?, false)?;
    if args.watch {
        return client.runtime().block_on(watch(&client, args));
    }
    let report = client.runtime().block_on(Report::of(&client, args.callers))?;
    print(&shown(&report, None, args.json))?;
    Ok(if report.status.ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn shown(report: &Report, rates: Option<&Rates>, as_json: bool) -> String {
    if as_json { format!("{}\n", report.json) } else { report::text(report, rates, times::now()) }
}

/// Looks until a signal comes. A gateway that is away for a while, for a restart, is asked again.
async fn watch(client: &Client, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let screen = (!args.json && io::stdout().is_terminal()).then(Screen::begin).transpose()?;
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Seen::default();
    loop {
        let look = async {
            ticks.tick().await;
            let report = Report::of(client, args.callers).await;
            report.map(|report| shown(&report, Some(&last.rates(&report)), args.json))
        };
        // A look that a signal ends is not missed.
        let text = tokio::select! {
            look = look => look,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        let is_read = match (text, &screen) {
            (Ok(text), Some(screen)) => screen.draw(&text),
            (Ok(text), None) => write(&(text + if args.json { "" } else { "\n" })),
            (Err(Failure::Failed(error)), Some(screen)) => screen.draw(&format!("{error:#}\n")),
            (Err(Failure::Failed(error)), None) => {
                super::say(&format!("keybearer: {error:#}\n"));
                true
            }
            (Err(bad), _) => return Err(bad),
        };
        if !is_read {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the text was taken: a reader who has gone ends the watch.
fn write(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// What routes had counted at the last look.
#[derive(Default)]
struct Seen(Option<(Moment, BTreeMap<String, u64>)>);

impl Seen {
    /// Requests in a second since the last look, by route.
    fn rates(&mut self, report: &Report) -> Rates {
        let now = clock::now();
        let count = |route: &Route| (route.name.clone(), route.requests.values().sum::<u64>());
        let counts: BTreeMap<_, _> = report.routes.iter().map(count).collect();
        let rates = self.0.as_ref().map(|(at, before)| {
            let seconds = now.since(*at).as_secs_f64().max(0.001);
            let rate = |(name, count): (&String, &u64)| {
                // A gateway that was started anew counts from nothing.
                let new = count.checked_sub(*before.get(name)?)?;
                Some((name.clone(), new as f64 / seconds))
            };
            counts.iter().filter_map(rate).collect()
        });
        self.0 = Some((now, counts));
        rates.unwrap_or_default()
    }
}

/// The terminal while it is drawn on. What stood on it comes back at the end, however that comes.
struct Screen;

impl Screen {
    fn begin() -> io::Result<Self> {
        let mut out = io::stdout().lock();
        out.write_all(BEGIN.as_bytes())?;
        out.flush()?;
        Ok(Self)
    }

    /// Draws over what stood here, as much as there is room for.
    fn draw(&self, text: &str) -> bool {
        let (rows, columns) = size();
        // In the last column some terminals would wrap, or clear it again.
        let columns = columns.saturating_sub(1);
        let lines: Vec<&str> = text.lines().collect();
        let is_whole = lines.len() <= rows;
        let room = if is_whole { rows } else { rows.saturating_sub(1) };
        let mut out = HOME.to_owned();
        for (at, line) in lines.iter().take(room).enumerate() {
            out.push_str(if at == 0 { "" } else { LINE_END });
            out.extend(line.chars().take(columns));
        }
        if !is_whole {
            let _ = write!(out, "{LINE_END}… {} more lines", lines.len() - room);
        }
        out.push_str("\x1b[K");
        out.push_str(REST);
        write(&out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(END);
    }
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}
