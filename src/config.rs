//! The configuration file, and everyone's settings from it.
//!
//! Text becomes a tree that knows where everything stands (`tree`), environments are laid over it
//! (`overlay`), serde reads it into what the file may say (`file`, through `collect`), and that becomes
//! what the program believes (`lower`). Every problem on the way is collected; one is enough to fail.
//!
//! Nothing else knows YAML. Secrets are read here only to see that they can be read, and not kept.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    export, listen,
    proxy::settings::{Replay, RouteSettings, Timeouts},
    route,
    source::{Reason, Source},
    telemetry, token,
    upstream::pool,
};
use lower::Context;
use overlay::Overlay;
use problem::{Findings, Problem, Problems};
use tree::Node;

mod access;
mod collect;
mod field;
mod file;
mod file_azure;
mod file_grants;
mod file_listeners;
mod file_profiles;
mod file_proofs;
mod file_secrets;
mod file_static;
mod file_telemetry;
mod file_upstreams;
mod limits;
mod listeners;
mod lower;
mod names;
mod otlp;
mod overlay;
mod place;
mod planned;
pub mod problem;
mod profiles;
mod routes;
mod schema;
mod tree;
mod units;
mod upstreams;
mod urls;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

/// A configuration file with ten thousand routes is about 2 MiB.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the gateway was told, complete and consistent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests come in; at least one.
    pub listeners: Vec<listen::Settings>,
    /// Where health, metrics and the API are served, if anywhere.
    pub admin: Option<Admin>,
    /// The service accounts.
    pub profiles: Vec<token::Settings>,
    /// The routes; at least one, none in conflict, every profile defined.
    pub routes: Vec<route::Entry<RouteSettings>>,
    /// Data-plane threads; `None` means one per core.
    pub workers: Option<usize>,
    /// The log.
    pub log: telemetry::log::Settings,
    /// Where traces go; `None` keeps none and passes on what callers say of theirs.
    pub otlp: Option<export::Settings>,
    /// Limits on what callers may send.
    pub limits: listen::Limits,
    /// Limits on how long things may take.
    pub timeouts: Timeouts,
    /// Connections to upstreams.
    pub connections: pool::Settings,
    /// Memory for bodies that may be sent twice.
    pub replay: Replay,
    /// Where switches and the admin token are kept; `None` keeps nothing.
    pub state_dir: Option<PathBuf>,
    /// Whether a change of the file is put in force by itself.
    pub watch: bool,
    /// The environment that these settings are for.
    pub environment: Option<String>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: listen::Address,
    /// Whether another gateway of the same user may listen there at the same time.
    pub reuse_port: bool,
    /// `None` for plain HTTP.
    pub tls: Option<listen::tls::Settings>,
    /// The token for changes; without one it is made in `state_dir`.
    pub token: Option<Source>,
    /// Names that a `Host` may have besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// A configuration without problems.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the gateway was told, in the environment that was asked for.
    pub settings: Settings,
    /// All environments that the file defines, in its order.
    pub environments: Vec<String>,
    /// What an operator should know but that stops nothing.
    pub warnings: Vec<Problem>,
}

impl Loaded {
    /// The warnings for a running gateway's log. The owner of a profile's token tells by itself, and every day, that a
    /// secret or a certificate ends; of profiles that have no owner here nobody else does.
    pub fn warnings_for_log(&self) -> impl Iterator<Item = &Problem> {
        let is_owned = |name: &String| self.settings.profiles.iter().any(|own| own.profile.name == *name);
        self.warnings.iter().filter(move |warning| !warning.ending.as_ref().is_some_and(is_owned))
    }
}

/// Reads and checks the configuration file at `path`, for `environment` or for none.
///
/// Every environment is checked, also those not asked for; only their secrets may be absent.
///
/// # Errors
/// Everything that is wrong with the file, in its order.
pub fn load(path: &Path, environment: Option<&str>) -> Result<Loaded, Problems> {
    parse(&read_text(path)?, path, environment)
}

/// Like [`load`], for commands that only look: secrets may be absent.
///
/// # Errors
/// Everything that is wrong with the file, in its order.
pub fn inspect(path: &Path, environment: Option<&str>) -> Result<Loaded, Problems> {
    inspect_text(&read_text(path)?, path, environment)
}

/// Like [`inspect`], of a text as if it stood in the file `path`, which need not exist.
///
/// # Errors
/// Everything that is wrong with the text, in its order.
pub fn inspect_text(text: &str, path: &Path, environment: Option<&str>) -> Result<Loaded, Problems> {
    parse_switched(text, path, &Asked::plain(environment, Secrets::Optional))
}

/// Where a running gateway of a configuration is spoken to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The admin listener, if there is one.
    pub admin: Option<Admin>,
    /// Where its token is when the file names no other place.
    pub state_dir: Option<PathBuf>,
}

/// Reads from the file at `path` where its gateway is spoken to, whatever else is wrong with the file: the
/// gateway that runs may have begun with an earlier state of it.
///
/// # Errors
/// When the file cannot be read, or the admin listener cannot be made out in it.
pub fn find_admin(path: &Path) -> Result<Found, Problems> {
    let text = read_text(path)?;
    let findings = Findings::new(path, &text);
    let folder = folder(path);
    let found = tree::parse(&text, &findings).and_then(|root| {
        let file = file::File::deserialize(collect::Reader::new(&root, &findings)).ok()?;
        let cx = Context { findings: &findings, folder: &folder, selected: false };
        let admin = listeners::admin(&file, &[], &cx);
        let is_whole = admin.is_some() || field::given(&file.admin).is_none();
        is_whole.then(|| Found { admin, state_dir: lower::state_dir(&file, &cx) })
    });
    found.ok_or_else(|| findings.finish().0)
}

fn folder(path: &Path) -> PathBuf {
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// Which reading of the file is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The environment; `None` for the file as it stands.
    pub environment: Option<&'a str>,
    /// Whether a running gateway was switched to it.
    pub is_switched_to: bool,
    /// Whether files on this machine are judged.
    pub secrets: Secrets,
    /// Other profiles on some routes, by the route's name.
    pub switched: &'a BTreeMap<String, String>,
}

impl<'a> Asked<'a> {
    /// What the file says of `environment`.
    fn plain(environment: Option<&'a str>, secrets: Secrets) -> Self {
        Self { environment, is_switched_to: false, secrets, switched: const { &BTreeMap::new() } }
    }
}

/// Whether what the settings name on this machine must be there: secrets and other files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// What cannot be used is a problem.
    Needed,
    /// It is a warning.
    Optional,
}

/// The text of the file at `path`.
///
/// # Errors
/// When it cannot be read, or is no text.
pub fn read_text(path: &Path) -> Result<String, Problems> {
    let whole = |message: String| Problems::new(vec![Problem::whole(path, message)]);
    let bytes = read(path).map_err(whole)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
        whole(format!("not UTF-8 text (line {line} has a byte that is none; save the file as UTF-8)"))
    })
}

/// Checks `text` as if it stood in the file `path`, which need not exist.
///
/// # Errors
/// Everything that is wrong with the text, in its order.
pub fn parse(text: &str, path: &Path, environment: Option<&str>) -> Result<Loaded, Problems> {
    parse_switched(text, path, &Asked::plain(environment, Secrets::Needed))
}

/// Like [`parse`], of what was switched while the gateway ran.
///
/// # Errors
/// Everything that is wrong with the text, in its order, and what a switched profile makes wrong.
pub fn parse_switched(text: &str, path: &Path, asked: &Asked<'_>) -> Result<Loaded, Problems> {
    let findings = Findings::new(path, text);
    let reading = tree::parse(text, &findings).and_then(|root| {
        let overlays = overlay::overlays(&root, &findings);
        let settings = variants(&root, &overlays, asked, path, &findings)?;
        Some((settings, overlays.iter().map(|overlay| overlay.name.to_owned()).collect()))
    });
    let (problems, warnings) = findings.finish();
    match reading {
        Some((settings, environments)) if problems.is_empty() => {
            Ok(Loaded { settings, environments, warnings })
        }
        _ => Err(problems),
    }
}

/// The JSON Schema of the configuration file, for editors.
pub fn schema() -> serde_json::Value {
    schema::schema()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let remedy = "check the path and that the gateway's user may read it";
    let failed = |error: std::io::Error| format!("cannot be read: {} ({remedy})", Reason::from(&error));
    let file = fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err("is a directory (name the file in it)".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 16 MiB, so it is hardly a configuration".to_owned());
    }
    Ok(bytes)
}

/// Reads the file as it is and in each of its environments; the settings of the one asked for.
fn variants(
    root: &Node,
    overlays: &[Overlay<'_>],
    &Asked { environment, is_switched_to, secrets, switched }: &Asked<'_>,
    path: &Path,
    findings: &Findings<'_>,
) -> Option<Settings> {
    let folder = folder(path);
    let mut used = HashSet::new();
    let mut chosen = None;
    for overlay in [None].into_iter().chain(overlays.iter().map(Some)) {
        let name = overlay.map(|overlay| overlay.name);
        let before = findings.count();
        let mut tree = overlay::apply(root, overlay);
        if name == environment {
            overlay::switch(&mut tree, switched);
        }
        let is_needed = name == environment && secrets == Secrets::Needed;
        let cx = Context { findings, folder: &folder, selected: is_needed };
        let settings = one(&tree, name, &cx, &mut used);
        if let Some(overlay) = overlay {
            name_environment(overlay, before, findings);
        }
        if name == environment {
            chosen = settings;
        }
    }
    if let Some(name) = environment.filter(|name| !overlays.iter().any(|overlay| overlay.name == *name)) {
        let at = root.entries().iter().find(|(key, _)| key.text() == Some("environments"));
        let at = at.map_or(root.at, |(key, _)| key.at);
        let defined = names::quoted(overlays.iter().map(|overlay| overlay.name));
        // Such a file is good for everybody who has not switched.
        let why = match is_switched_to {
            true => format!(
                " (a gateway that runs is switched to it: keybearer switch --environment {name} --undo)"
            ),
            false => String::new(),
        };
        findings.add(at, format!("environment {name:?} is not defined (defined: {defined}){why}"));
    }
    warn_of_unused(root, &used, findings);
    for overlay in overlays {
        warn_of_unused(overlay.node, &used, findings);
    }
    chosen
}

fn one(
    tree: &Node,
    environment: Option<&str>,
    cx: &Context<'_>,
    used: &mut HashSet<String>,
) -> Option<Settings> {
    let file = file::File::deserialize(collect::Reader::new(tree, cx.findings)).ok()?;
    if let Some((_, routes)) = file.routes.get() {
        let profiles = routes.iter().filter_map(|(_, _, route)| route.value.as_ref()?.profile.value.clone());
        used.extend(profiles);
    }
    let settings = lower::lower(&file, environment, cx);
    readers(tree, used);
    let is_used = |profile: &&token::Settings| used.contains(&profile.profile.name);
    let company: Vec<_> = settings.profiles.iter().filter(is_used).flat_map(|p| p.also.clone()).collect();
    used.extend(company);
    Some(settings)
}

/// Profiles that other profiles read their secrets with.
fn readers(node: &Node, used: &mut HashSet<String>) {
    for (key, value) in node.entries() {
        if key.text() == Some("azure_key_vault") {
            used.extend(value.find("profile").and_then(Node::text).map(str::to_owned));
        }
        readers(value, used);
    }
    if let tree::Value::Seq(items) = &node.value {
        items.iter().for_each(|item| readers(item, used));
    }
}

/// Says in which environment a problem arises when its place does not show it.
fn name_environment(overlay: &Overlay<'_>, start: usize, findings: &Findings<'_>) {
    let lines = overlay.at.line..=overlay.node.last_line();
    let known = findings.known(start);
    findings.amend(start, |problem| {
        if !lines.contains(&problem.line) && !known.contains(&(problem.line, problem.message.clone())) {
            problem.message.push_str(&format!(" (in environment {:?})", overlay.name));
        }
    });
}

fn warn_of_unused(node: &Node, used: &HashSet<String>, findings: &Findings<'_>) {
    let profiles = node.find("profiles").map(Node::entries).unwrap_or_default();
    for (key, _) in profiles {
        let name = key.text().unwrap_or_default();
        if !used.contains(name) {
            findings.warn(key.at, format!("profile {name:?} is used by no route"));
        }
    }
}
