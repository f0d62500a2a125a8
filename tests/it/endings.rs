//! Switches that end without anybody's wish, and those that a restart must keep.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use keybearer::{
    admin::changes::{Entry, Wish},
    app::Running,
    clock,
};
use serde_json::Value;

use crate::{
    process::{Process, command},
    stage::{CLIENT, SECRET, Stage, eventually, start_file},
    switches::{OTHER, THIRD, add_third, client, edit, enter, give_a_third, start, switch},
};

/// A stage with three accounts and a second route, `bills`, which is switched to the third one.
async fn with_bills() -> Stage {
    let stage = start().await;
    add_third(&stage);
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let orders = text.lines().find(|line| line.starts_with("  orders: {match")).unwrap();
    let bills = orders.replace("orders", "bills").replace("/v1", "/v2");
    edit(&stage, orders, &format!("{orders}\n{bills}")).unwrap();
    let wish = Wish { route: Some("bills".into()), to: Some("third".into()), lasts: None, is_dry_run: false };
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().switch(&wish, "a test")).unwrap();
    stage
}

/// Who a restarted gateway calls the API as; nobody when it does not.
async fn account(stage: &Stage, gateway: &Running, path: &str) -> String {
    let url = format!("http://{}{path}", gateway.listener("local").unwrap());
    let answer: Value = stage.http.get(url).send().await.unwrap().json().await.unwrap();
    answer["seen"]["account"].as_str().unwrap_or_default().to_owned()
}

/// What the history says, the latest first.
fn history(gateway: &Running) -> Vec<String> {
    let view = gateway.control().unwrap().view();
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
    let line = |entry: &Entry| {
        let route = entry.route.as_deref().unwrap_or("-");
        format!("{} {route} {} {}", entry.action.word(), name(&entry.from), name(&entry.to))
    };
    view.switches.history().map(line).collect()
}

fn seconds() -> u64 {
    clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_away_at_a_restart_ends_no_switch() {
    let stage = with_bills().await;
    let later = stage.folder.path().join("later");
    fs::write(&later, SECRET).unwrap();
    let own = "  staging:\n    profiles: {other: {client_secret: {file: later}}}\n";
    edit(&stage, "  staging:\n", own).unwrap();
    enter(&stage, Some("staging"));
    fs::remove_file(&later).unwrap();
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    assert_eq!(again.control().unwrap().view().environment.as_deref(), Some("staging"));
    assert_eq!(account(&stage, &again, "/v2/a").await, THIRD);
    assert_eq!(account(&stage, &again, "/v1/a").await, "", "no other account takes its place");
    assert_eq!(history(&again), ["switch - none staging", "switch bills account third"]);
    // Another restart, with the secret.
    drop(again);
    fs::write(&later, SECRET).unwrap();
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    assert_eq!(account(&stage, &again, "/v1/a").await, OTHER);
    assert_eq!(account(&stage, &again, "/v2/a").await, THIRD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_that_is_gone_at_a_restart_takes_no_routes_switch_along() {
    let stage = with_bills().await;
    enter(&stage, Some("staging"));
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split_once("environments:\n").unwrap().0).unwrap();
    for _ in 0..2 {
        let again = start_file(&path, None);
        assert_eq!(again.control().unwrap().view().environment, None);
        assert_eq!(account(&stage, &again, "/v2/a").await, THIRD);
        assert_eq!(account(&stage, &again, "/v1/a").await, CLIENT);
        let expected = ["drop - staging none", "switch - none staging", "switch bills account third"];
        assert_eq!(history(&again), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_for_another_environment_is_put_down_with_what_is_served_then() {
    let stage = start().await;
    enter(&stage, Some("staging"));
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), Some("staging"));
    assert_eq!(account(&stage, &again, "/v1/a").await, OTHER);
    assert_eq!(history(&again), ["drop - staging staging", "switch - none staging"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_leaves_the_file_leaves_the_switch_before_in_force() {
    let stage = start().await;
    add_third(&stage);
    let control = stage.gateway.control().unwrap();
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    switch(&stage, "other", None).unwrap();
    switch(&stage, "third", None).unwrap();
    assert_eq!(client(&stage).await, THIRD);
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("  third:\n").unwrap();
    let (_, rest) = rest.split_once("  account:\n").unwrap();
    fs::write(&path, format!("{before}  account:\n{rest}")).unwrap();
    let reloaded = tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    let told = "route \"orders\", switched to \"third\": the switch is dropped";
    assert!(reloaded.warnings.concat().contains(told), "{reloaded:?}");
    assert_eq!(client(&stage).await, OTHER);
    assert_eq!(history(&stage.gateway)[0], "drop orders third other");
    let undone = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_eq!((undone.to.as_deref(), client(&stage).await.as_str()), (Some("account"), CLIENT));
    assert!(control.view().switches.profiles().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_brings_back_no_switch_whose_time_is_over() {
    let stage = start().await;
    add_third(&stage);
    let control = stage.gateway.control().unwrap();
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    // Longer than the second switch takes.
    let until = switch(&stage, "other", Some(Duration::from_secs(5))).unwrap().until.unwrap();
    switch(&stage, "third", None).unwrap();
    eventually("the first one's time is over", || seconds() >= until).await;
    let undone = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_eq!((undone.from.as_deref(), undone.to.as_deref()), (Some("third"), Some("account")));
    assert_eq!(client(&stage).await, CLIENT);
    assert_eq!(history(&stage.gateway)[..2], ["undo orders third account", "expire orders other account"]);
}

/// A process with a state folder of its own, and the command that speaks to it.
struct Operated {
    process: Process,
    path: std::path::PathBuf,
}

impl Operated {
    async fn start(stage: &Stage) -> Self {
        let text = fs::read_to_string(stage.folder.path().join("keybearer.yaml")).unwrap();
        let path = stage.folder.path().join("process.yaml");
        fs::write(&path, text.replace("state_dir: state", "state_dir: own")).unwrap();
        Self { process: Process::start_with(&path, &[]).await, path }
    }

    /// What the command says; it must end with `code`.
    fn run(&self, line: &str, code: i32) -> String {
        let mut command = command(&line.split(' ').collect::<Vec<_>>());
        command.arg("--config").arg(&self.path).env("KEYBEARER_ADMIN", self.process.admin().to_string());
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert_eq!(output.status.code(), Some(code), "{line}:\n{words}");
        words
    }

    fn edit(&self, change: impl Fn(&str) -> String) {
        let text = fs::read_to_string(&self.path).unwrap();
        fs::write(&self.path, change(&text)).unwrap();
    }

    /// The lines of the audit log for this action.
    fn audit(&self, action: &str) -> Vec<String> {
        let lines = self.process.lines();
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = lines.filter(|line| line["target"] == "audit" && line["action"] == action);
        let keys = ["what", "route", "from", "to", "by"];
        told.map(|line| keys.map(|key| line[key].as_str().unwrap_or("-").to_owned()).join(" ")).collect()
    }
}

/// The configuration with a profile that only its environment has.
fn with_special(stage: &Stage) {
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let other = text.split_once("  other:\n").unwrap().1.split_once("\nroutes:\n").unwrap().0;
    let other: String = other.lines().map(|line| format!("    {line}\n")).collect();
    let special = format!("  staging:\n    profiles:\n      special:\n{other}");
    edit(stage, "  staging:\n", &special).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_an_environment_ends_is_named_and_only_told_when_it_ends() {
    let stage = start().await;
    with_special(&stage);
    let gateway = Operated::start(&stage).await;
    gateway.run("switch --environment staging", 0);
    gateway.run("switch orders special", 0);
    let note = "routes whose own switch ends with this, as its profile is not configured there: orders\n";
    let tried = gateway.run("switch --environment none --dry-run", 0);
    assert!(tried.contains(note), "{tried}");
    // It goes through the same pipe as what would have come before it.
    gateway.run("switch orders nobody", 2);
    eventually("the log is there", || gateway.audit("switch").len() == 3).await;
    assert!(!gateway.process.has_logged("is dropped") && gateway.audit("drop").is_empty());
    let done = gateway.run("switch --environment none", 0);
    assert!(done.contains(note), "{done}");
    eventually("the end is on record", || !gateway.audit("drop").is_empty()).await;
    assert_eq!(gateway.audit("drop"), ["route orders special account configuration"]);
    assert!(gateway.process.has_logged("its route or profile is not configured here"));
    let json: Value = serde_json::from_str(&gateway.run("switch --environment staging --json", 0)).unwrap();
    assert_eq!(json["dropped"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_a_reload_ends_is_told_when_the_reload_is_done() {
    let stage = start().await;
    let gateway = Operated::start(&stage).await;
    gateway.run("switch orders other", 0);
    // The environment uses it as well.
    gateway.edit(|text| {
        let (before, rest) = text.split_once("  other:\n").unwrap();
        let routes = rest.split_once("\nroutes:\n").unwrap().1.split_once("environments:\n").unwrap().0;
        format!("{before}\nroutes:\n{routes}").replace("workers: 2", "workers: 1")
    });
    gateway.run("reload", 1);
    eventually("it was refused", || gateway.process.has_logged("the configuration was not reloaded")).await;
    assert!(!gateway.process.has_logged("is dropped") && gateway.audit("drop").is_empty());
    gateway.edit(|text| text.replace("workers: 1", "workers: 2"));
    let words = gateway.run("reload", 0);
    assert!(words.contains("route \"orders\", switched to \"other\": the switch is dropped"), "{words}");
    eventually("the end is on record", || !gateway.audit("drop").is_empty()).await;
    assert_eq!(gateway.audit("drop"), ["route orders other account configuration"]);
    assert!(gateway.run("switch --list", 0).contains("drop"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_whose_time_is_over_at_a_restart_is_on_record_with_what_is_served_then() {
    let stage = start().await;
    let gateway = Operated::start(&stage).await;
    // Longer than it takes to end the process.
    gateway.run("switch orders other --for 5s", 0);
    let over = seconds() + 5;
    assert!(gateway.audit("expire").is_empty());
    drop(gateway);
    give_a_third(&stage);
    eventually("its time is over", || seconds() >= over).await;
    let gateway = Operated::start(&stage).await;
    assert_eq!(gateway.audit("expire"), ["route orders other third its time was over"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_the_environment_that_is_switched_to_is_refused_with_the_way_out() {
    let stage = start().await;
    let gateway = Operated::start(&stage).await;
    gateway.run("switch --environment staging", 0);
    gateway.edit(|text| text.split_once("environments:\n").unwrap().0.to_owned());
    let words = gateway.run("reload", 2);
    let way_out = "keybearer switch --environment staging --undo";
    assert!(words.contains("environment \"staging\" is not defined (defined: none)"), "{words}");
    assert!(words.contains(way_out), "{words}");
    gateway.run(way_out.strip_prefix("keybearer ").unwrap(), 0);
    gateway.run("reload", 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_level_is_on_record_once_it_is_in_force() {
    let stage = start().await;
    let ask = async |gateway: &Process| {
        let token = fs::read_to_string(stage.folder.path().join("own/admin-token")).unwrap();
        let url = format!("http://{}/api/v1/log-level", gateway.admin());
        let body = serde_json::json!({"level": "debug"});
        stage.http.put(url).bearer_auth(token.trim()).json(&body).send().await.unwrap().status()
    };
    let gateway = Operated::start(&stage).await;
    assert_eq!(ask(&gateway.process).await, 200);
    let is_told = |line: &String| line.contains("\"log_level\"");
    eventually("it is on record", || gateway.process.lines().iter().any(is_told)).await;
    let line = gateway.process.lines().into_iter().find(is_told).unwrap();
    assert_eq!(line.matches("\"level\":").count(), 1, "{line}");
    assert!(line.contains("\"to\":\"debug\""), "{line}");
    let path = gateway.path.clone();
    drop(gateway);
    let filtered = Process::start_with(&path, &["--log-filter", "info"]).await;
    assert_eq!(ask(&filtered).await, 409);
    // What is told after it would come behind it.
    filtered.signal("-HUP");
    eventually("the reload is on record", || filtered.has_logged("\"reload\"")).await;
    assert!(!filtered.lines().iter().any(is_told));
}
