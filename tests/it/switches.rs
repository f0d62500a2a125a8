//! Routes and environments are switched to other accounts while the gateway serves.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use keybearer::{
    admin::changes::{Reloaded, Switched, Wish},
    app::control::ChangeError,
    demo::idp::Account,
};

use serde_json::Value;

use crate::{
    peer::Authority,
    process::{Process, command},
    stage::{CLIENT, Plan, ROLE, SECRET, Stage, eventually, start_file},
};

pub(crate) const OTHER: &str = "77777777-7615-472f-8200-a81d5c87c0ca";

/// A stage with a second account, and an environment in which the route has it.
pub(crate) async fn start() -> Stage {
    let plan = Plan::default().more("state_dir: state");
    let stage = plan.start_with(|idp| idp.add_account(Account::new(OTHER, SECRET, &[ROLE]))).await;
    // The second account, and what an environment makes of the route, as an operator would add them.
    let second = second(&stage);
    fs::write(stage.folder.path().join("keybearer.yaml"), second).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
    stage.ready().await;
    stage
}

/// The stage's configuration with the account `other` beside `account`.
fn second(stage: &Stage) -> String {
    let (before, rest) = stage.yaml.split_once("profiles:\n").unwrap();
    let (account, routes) = rest.split_once("routes:\n").unwrap();
    let other = account.replace("  account:", "  other:").replace(CLIENT, OTHER);
    format!(
        "{before}profiles:\n{account}\n{other}\nroutes:\n{routes}\n\
         environments:\n  staging:\n    routes:\n      orders: {{profile: other}}\n"
    )
}

/// The client that the API was last called by.
pub(crate) async fn client(stage: &Stage) -> String {
    let answer: Value = stage.get("/v1/a").await.json().await.unwrap();
    answer["seen"]["account"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn switch(stage: &Stage, to: &str, lasts: Option<Duration>) -> Result<Switched, ChangeError> {
    let wish = Wish { route: Some("orders".into()), to: Some(to.into()), lasts, is_dry_run: false };
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().switch(&wish, "a test"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switched_route_uses_the_other_account_and_undo_goes_back() {
    let stage = start().await;
    let first = client(&stage).await;
    let switched = switch(&stage, "other", None).unwrap();
    assert_eq!((switched.from.as_deref(), switched.is_kept), (Some("account"), true));
    assert_eq!(client(&stage).await, OTHER);
    let control = stage.gateway.control().unwrap();
    tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_eq!(client(&stage).await, first);
    let error = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap_err();
    assert_eq!(error.to_string(), "route \"orders\" is not switched; nothing was changed");
    let view = control.view();
    let told: Vec<_> = view.switches.history().map(|entry| entry.by.as_str()).collect();
    assert_eq!(told, ["a test", "a test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_outlives_a_restart_and_a_reload() {
    let stage = start().await;
    switch(&stage, "other", None).unwrap();
    let reloaded = tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
    assert!(reloaded.warnings.is_empty(), "the replaced profile is used by the file: {reloaded:?}");
    assert_eq!(client(&stage).await, OTHER);
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    let url = format!("http://{}/v1/a", again.listener("local").unwrap());
    let answer: Value = stage.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["seen"]["account"], OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_for_a_while_ends_by_itself() {
    let stage = start().await;
    switch(&stage, "other", Some(Duration::from_secs(1))).unwrap();
    assert_eq!(client(&stage).await, OTHER);
    let control = stage.gateway.control().unwrap();
    eventually("the switch has ended", || control.view().switches.profiles().is_empty()).await;
    assert_ne!(client(&stage).await, OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_without_a_token_is_not_switched_to() {
    let stage = start().await;
    stage.idp.set_secrets(OTHER, &["another"]);
    let second = fs::read_to_string(stage.folder.path().join("keybearer.yaml")).unwrap();
    let third = second.replace("  other:\n", "  other:\n    default_ttl: 7m\n    required: false\n");
    fs::write(stage.folder.path().join("keybearer.yaml"), third).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
    let error = switch(&stage, "other", None).unwrap_err();
    assert!(matches!(&error, ChangeError::NoToken(profile, _) if profile == "other"), "{error}");
    assert_ne!(client(&stage).await, OTHER);
    assert!(stage.gateway.control().unwrap().view().switches.profiles().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named_with_what_is() {
    let stage = start().await;
    let error = switch(&stage, "nobody", None).unwrap_err().to_string();
    assert_eq!(error, "profile \"nobody\" is not defined (defined: \"account\", \"other\")");
    let error = switch(&stage, "account", None).unwrap_err().to_string();
    assert!(error.contains("served with profile \"account\" already"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_gets_the_token_and_changes_nothing() {
    let stage = start().await;
    let wish = Wish { route: Some("orders".into()), to: Some("other".into()), lasts: None, is_dry_run: true };
    let control = stage.gateway.control().unwrap();
    let tried = tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap();
    assert_eq!(tried.to.as_deref(), Some("other"));
    assert_ne!(client(&stage).await, OTHER);
    assert_eq!(control.view().switches.history().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_environment_is_switched_and_back() {
    let stage = start().await;
    let control = stage.gateway.control().unwrap();
    let wish = Wish { route: None, to: Some("staging".into()), lasts: None, is_dry_run: false };
    tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap();
    assert_eq!(client(&stage).await, OTHER);
    assert_eq!(control.view().environment.as_deref(), Some("staging"));
    tokio::task::block_in_place(|| control.undo(None, "a test")).unwrap();
    assert_ne!(client(&stage).await, OTHER);
    assert_eq!(control.view().environment, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_the_switch_and_changes_nothing() {
    let stage = start().await;
    // The new file cannot be made: its name is taken by a folder. Root may write anywhere, so permissions
    // would prove nothing.
    fs::create_dir_all(stage.folder.path().join("state/switches.json.new/full")).unwrap();
    let error = switch(&stage, "other", None).unwrap_err();
    assert!(matches!(error, ChangeError::NotKept(_)), "{error}");
    assert_ne!(client(&stage).await, OTHER);
    assert!(stage.gateway.control().unwrap().view().switches.profiles().is_empty());
}

/// The account `other` gets no token, and readiness does not wait for it.
fn break_other(stage: &Stage, more: &str) {
    stage.idp.set_secrets(OTHER, &["another"]);
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("  other:\n", "  other:\n    required: false\n") + more).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_whose_account_has_no_token_is_not_switched_to() {
    let stage = start().await;
    break_other(&stage, "");
    let control = stage.gateway.control().unwrap();
    for is_dry_run in [true, false] {
        let wish = Wish { route: None, to: Some("staging".into()), lasts: None, is_dry_run };
        let error = tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap_err();
        assert!(matches!(&error, ChangeError::NoToken(profile, _) if profile == "other"), "{error}");
    }
    assert_ne!(client(&stage).await, OTHER);
    assert_eq!(control.view().environment, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tries_the_accounts_that_an_environment_brings_along() {
    let stage = start().await;
    let nobody = "88888888-7615-472f-8200-a81d5c87c0ca";
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let more = format!("  testing:\n    profiles:\n      account: {{client_id: {nobody}}}\n");
    fs::write(&path, text + &more).unwrap();
    let control = stage.gateway.control().unwrap();
    tokio::task::block_in_place(|| control.reload("test")).unwrap();
    let wish = Wish { route: None, to: Some("testing".into()), lasts: None, is_dry_run: true };
    let error = tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap_err();
    assert!(matches!(&error, ChangeError::NoToken(profile, _) if profile == "account"), "{error}");
    assert_eq!(stage.status("/v1/a").await, 200);
    assert_eq!(stage.gateway.profiles().len(), 2, "what was tried is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_keep_no_switch_from_beginning_and_ending() {
    let stage = start().await;
    let authority = Authority::new();
    let (certificate, key) = authority.issue("127.0.0.1");
    // Of a listener and an upstream that have nothing to do with it, and of the route's own upstream.
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let secured = format!(
        "listeners:\n  secured:\n    address: \"127.0.0.1:0\"\n    tls: {{certificate: {{file: {certificate:?}}}, key: {{file: {key:?}}}}}\n"
    );
    let upstream =
        format!("upstream: {{url: \"https://127.0.0.1:9\", ca: {{file: {:?}}}}}", authority.file());
    let away = format!("routes:\n  away: {{match: {{path: /away}}, {upstream}, profile: none}}\n");
    let own = format!("  own: {{match: {{path: /own}}, {upstream}, profile: account}}\n\nenvironments:");
    let text = text.replace("listeners:\n", &secured).replace("\nroutes:\n", &format!("\n{away}"));
    fs::write(&path, text.replace("\nenvironments:", &own)).unwrap();
    let control = stage.gateway.control().unwrap();
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    let wish = |route: &str, lasts| Wish {
        route: Some(route.into()),
        to: Some("other".into()),
        lasts,
        is_dry_run: false,
    };
    let change = |wish: &Wish| tokio::task::block_in_place(|| control.switch(wish, "a test")).unwrap();
    // While the files are in order, for the account that the route goes back to.
    change(&wish("own", None));
    for file in [&key, &authority.file()] {
        fs::write(file, "-----BEGIN").unwrap();
    }
    change(&wish("orders", Some(Duration::from_secs(1))));
    assert_eq!(client(&stage).await, OTHER);
    let is_over = || !control.view().switches.profiles().contains_key("orders");
    eventually("the switch has ended", is_over).await;
    assert_ne!(client(&stage).await, OTHER);
    for environment in [Some("staging"), None] {
        let wish = Wish { route: None, to: environment.map(str::to_owned), lasts: None, is_dry_run: false };
        match environment {
            Some(_) => drop(change(&wish)),
            None => drop(tokio::task::block_in_place(|| control.undo(None, "a test")).unwrap()),
        }
        assert_eq!(client(&stage).await == OTHER, environment.is_some());
    }
    tokio::task::block_in_place(|| control.undo(Some("own"), "a test")).unwrap();
    assert!(control.view().switches.profiles().is_empty());
    // A reload judges them.
    let error = tokio::task::block_in_place(|| control.reload("a test")).unwrap_err();
    assert!(matches!(error, ChangeError::Problems(_)), "{error}");
}

/// A process with the configuration of `stage` and a state folder of its own, and its file.
async fn beside(stage: &Stage) -> (PathBuf, Process) {
    let text = fs::read_to_string(stage.folder.path().join("keybearer.yaml")).unwrap();
    let path = stage.folder.path().join("process.yaml");
    fs::write(&path, text.replace("state_dir: state", "state_dir: own")).unwrap();
    let process = Process::start_with(&path, &[]).await;
    (path, process)
}

/// How a command to `process` ends.
fn exit_code(path: &Path, process: &Process, line: &str) -> Option<i32> {
    let mut command = command(&line.split(' ').collect::<Vec<_>>());
    command.arg("--config").arg(path).env("KEYBEARER_ADMIN", process.admin().to_string());
    tokio::task::block_in_place(|| command.output().unwrap()).status.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_and_every_refusal_is_in_the_audit_log_with_who_asked() {
    let stage = start().await;
    let (path, process) = beside(&stage).await;
    let run = |line: &str| exit_code(&path, &process, line);
    assert_eq!(run("switch orders other"), Some(0));
    assert_eq!(run("switch orders nobody"), Some(2));
    assert_eq!(run("switch orders --undo"), Some(0));
    assert_eq!(run("switch orders --undo"), Some(1));
    assert_eq!(run("switch orders other --dry-run"), Some(0));
    assert_eq!(run("switch --environment staging"), Some(0));
    assert_eq!(run("reload"), Some(0));
    let url = format!("http://{}/api/v1/reload", process.admin());
    let guess = stage.http.post(url).bearer_auth("canary-guess").json(&serde_json::json!({}));
    assert_eq!(guess.send().await.unwrap().status(), 401);
    eventually("the guess is on record", || process.has_logged("a change was refused")).await;
    let told = process.lines();
    assert!(!told.concat().contains("canary-guess"));
    let told: Vec<Value> = told.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = told.iter().filter(|line| line["target"] == "audit").collect();
    let (guess, told) = told.split_last().unwrap();
    assert_eq!(["action", "path", "from"].map(|key| &guess[key]), ["refused", "/api/v1/reload", "127.0.0.1"]);
    assert!(told.iter().all(|line| line["by"] == "admin token, 127.0.0.1"), "{told:?}");
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let rows: Vec<_> = told
        .iter()
        .map(|line| ["action", "route", "from", "to"].map(|key| word(line, key)).join(" "))
        .collect();
    assert_eq!(
        rows,
        [
            "switch orders account other",
            "switch orders - nobody",
            "undo orders other account",
            "undo orders - -",
            "switch - none staging",
            "reload - - -",
        ]
    );
    assert!(word(told[1], "message").contains("not switched: profile \"nobody\" is not defined"), "{told:?}");
}

/// Puts another text in the place of a part of the configuration and reloads.
pub(crate) fn edit(stage: &Stage, from: &str, to: &str) -> Result<Reloaded, ChangeError> {
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("a test"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_are_kept_in_the_state_folder_that_a_reload_has_brought() {
    let stage = start().await;
    let kept = |folder: &str| stage.folder.path().join(folder).join("switches.json").exists();
    switch(&stage, "other", None).unwrap();
    edit(&stage, "state_dir: state", "state_dir: moved").unwrap();
    assert!(kept("moved") && !kept("state"), "a start with the old folder would find them again");
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    assert_eq!(again.control().unwrap().view().switches.profiles()["orders"], "other");
    drop(again);
    edit(&stage, "state_dir: moved", "state_dir: moved/../moved").unwrap();
    assert!(kept("moved"), "it is the same folder");
    edit(&stage, "state_dir: moved/../moved", "state_dir: moved").unwrap();
    assert!(kept("moved"));
    // Without a folder they last as long as the gateway, which is said.
    edit(&stage, "state_dir: moved\n", "").unwrap();
    assert_eq!(client(&stage).await, OTHER);
    assert!(!kept("moved"));
    let control = stage.gateway.control().unwrap();
    let undone = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert!(!undone.is_kept);
    edit(&stage, "workers: 2\n", "workers: 2\nstate_dir: third\n").unwrap();
    assert!(switch(&stage, "other", None).unwrap().is_kept);
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    assert_eq!(again.control().unwrap().view().switches.profiles()["orders"], "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_refused_leaves_the_state_folders_as_they_were() {
    let stage = start().await;
    let read = |folder: &str| fs::read(stage.folder.path().join(folder).join("switches.json")).ok();
    switch(&stage, "other", None).unwrap();
    let before = read("state");
    assert!(before.is_some());
    fs::create_dir(stage.folder.path().join("moved")).unwrap();
    let broken = "state_dir: moved\nworkers: 1\n";
    edit(&stage, "workers: 2\nstate_dir: state\n", broken).unwrap_err();
    assert_eq!((read("state"), read("moved")), (before.clone(), None));
    fs::write(stage.folder.path().join("moved/switches.json"), "of another time").unwrap();
    let error = edit(&stage, broken, "workers: 1\nstate_dir: moved\n").unwrap_err();
    assert!(matches!(error, ChangeError::Reload(_)), "{error}");
    assert_eq!((read("state"), read("moved")), (before.clone(), Some(b"of another time".to_vec())));
    // A folder that cannot be one refuses the reload by its name.
    let error =
        edit(&stage, "workers: 1\nstate_dir: moved\n", "workers: 2\nstate_dir: secret\n").unwrap_err();
    assert!(error.to_string().contains("secret cannot be used"), "{error}");
    assert_eq!(read("state"), before);
    // A folder that was made for it goes again.
    edit(&stage, "workers: 2\nstate_dir: secret\n", "workers: 1\nstate_dir: far/away\n").unwrap_err();
    assert!(!stage.folder.path().join("far").exists());
    assert!(switch(&stage, "account", None).unwrap().is_kept);
    assert_ne!(read("state"), before, "what is switched now is kept where it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_switches_in_the_folder_that_a_reload_brings_are_put_aside() {
    let stage = start().await;
    let file = |name: &str| stage.folder.path().join("moved").join(name);
    switch(&stage, "other", None).unwrap();
    fs::create_dir(stage.folder.path().join("moved")).unwrap();
    let theirs = fs::read_to_string(stage.folder.path().join("state/switches.json")).unwrap();
    let theirs = theirs.replace("\"other\"", "\"theirs\"");
    fs::write(file("switches.json"), &theirs).unwrap();
    let broken = "state_dir: moved\nworkers: 1\n";
    edit(&stage, "workers: 2\nstate_dir: state\n", broken).unwrap_err();
    assert!(!file("switches.json.former").exists(), "the reload was refused");
    edit(&stage, broken, "workers: 2\nstate_dir: moved\n").unwrap();
    assert_eq!(fs::read_to_string(file("switches.json.former")).unwrap(), theirs);
    assert_eq!(client(&stage).await, OTHER);
    // The same switches under another name of the folder are not other ones.
    switch(&stage, "account", None).unwrap();
    edit(&stage, "state_dir: moved\n", "state_dir: moved/../moved\n").unwrap();
    assert!(!file("switches.json.former.2").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_that_could_not_be_used_at_the_start_is_used_after_a_reload() {
    let stage = start().await;
    let path = |name: &str| stage.folder.path().join(name);
    let text =
        fs::read_to_string(path("keybearer.yaml")).unwrap().replace("state_dir: state", "state_dir: later");
    // Nor does the admin listener start without the token in it.
    let text = text.replace("admin: {address: \"127.0.0.1:0\"}", "");
    fs::write(path("later"), "a file in its place").unwrap();
    fs::write(path("other.yaml"), text).unwrap();
    let gateway = start_file(&path("other.yaml"), None);
    let control = gateway.control().unwrap();
    let to = |profile: &str| {
        let to = Some(profile.to_owned());
        let wish = Wish { route: Some("orders".into()), to, lasts: None, is_dry_run: false };
        tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap()
    };
    assert!(!to("other").is_kept);
    // Still not: the rest of the file comes into force all the same, as at the start.
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    fs::remove_file(path("later")).unwrap();
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    assert!(path("later/switches.json").exists());
    assert!(to("account").is_kept);
}

/// Serves everything in this environment.
pub(crate) fn enter(stage: &Stage, environment: Option<&str>) -> Switched {
    let to = environment.map(str::to_owned);
    let wish = Wish { route: None, to, lasts: None, is_dry_run: false };
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().switch(&wish, "a test")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_long_row_of_switches_the_latest_outlives_a_restart() {
    let stage = start().await;
    for _ in 0..10 {
        enter(&stage, Some("staging"));
        enter(&stage, None);
    }
    enter(&stage, Some("staging"));
    let again = start_file(&stage.folder.path().join("keybearer.yaml"), None);
    assert_eq!(again.control().unwrap().view().environment.as_deref(), Some("staging"));
    // The whole row is undone to where it began.
    let control = stage.gateway.control().unwrap();
    let mut last = None;
    while let Ok(undone) = tokio::task::block_in_place(|| control.undo(None, "a test")) {
        last = Some(undone.to);
    }
    assert_eq!(last, Some(None));
    assert_eq!(control.view().environment, None);
}

pub(crate) const THIRD: &str = "88888888-7615-472f-8200-a81d5c87c0ca";

/// The file has a third account, which serves nothing.
pub(crate) fn add_third(stage: &Stage) {
    stage.idp.add_account(Account::new(THIRD, SECRET, &[ROLE]));
    let account = stage.yaml.split_once("profiles:\n").unwrap().1.split_once("routes:\n").unwrap().0;
    let third = account.replace("  account:", "  third:").replace(CLIENT, THIRD);
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("profiles:\n", &format!("profiles:\n{third}\n"), 1)).unwrap();
}

/// The file gives the route a third account, whatever is switched.
pub(crate) fn give_a_third(stage: &Stage) {
    add_third(stage);
    edit(stage, "profile: account}", "profile: third}").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_back_is_told_with_the_account_that_is_served_then() {
    let stage = start().await;
    let control = stage.gateway.control().unwrap();
    switch(&stage, "other", None).unwrap();
    give_a_third(&stage);
    assert_eq!(client(&stage).await, OTHER);
    let undone = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_eq!(client(&stage).await, THIRD);
    assert_eq!((undone.from.as_deref(), undone.to.as_deref()), (Some("other"), Some("third")));
    let latest = control.view().switches.history().next().cloned().unwrap();
    assert_eq!((latest.action.word(), latest.to.as_deref()), ("undo", Some("third")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_switch_is_told_with_the_account_that_is_served_then() {
    let stage = start().await;
    let control = stage.gateway.control().unwrap();
    // Longer than a reload takes.
    switch(&stage, "other", Some(Duration::from_secs(5))).unwrap();
    give_a_third(&stage);
    assert_eq!(client(&stage).await, OTHER);
    eventually("the switch has ended", || control.view().switches.profiles().is_empty()).await;
    assert_eq!(client(&stage).await, THIRD);
    let latest = control.view().switches.history().next().cloned().unwrap();
    assert_eq!((latest.action.word(), latest.to.as_deref()), ("expire", Some("third")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_under_another_environment_is_told_with_the_account_that_is_served_then() {
    let stage = start().await;
    let control = stage.gateway.control().unwrap();
    enter(&stage, Some("staging"));
    assert_eq!(switch(&stage, "account", None).unwrap().from.as_deref(), Some("other"));
    tokio::task::block_in_place(|| control.undo(None, "a test")).unwrap();
    let undone = tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_ne!(client(&stage).await, OTHER);
    assert_eq!((undone.from.as_deref(), undone.to.as_deref()), (Some("account"), Some("account")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_says_what_is_an_environments_and_from_where_to_where() {
    let stage = start().await;
    let (path, process) = beside(&stage).await;
    let run = |line: &str| exit_code(&path, &process, line);
    assert_eq!(run("switch --environment staging"), Some(0));
    assert_eq!(run("switch --environment none"), Some(0));
    assert_eq!(run("switch --environment none --undo"), Some(0));
    assert_eq!(run("switch --environment staging --undo"), Some(0));
    assert_eq!(run("switch --environment nowhere"), Some(2));
    assert_eq!(run("switch --environment nowhere --undo"), Some(2), "nobody is asked for what is not there");
    assert_eq!(run("switch --environment staging --undo"), Some(1), "it is not in force");
    assert_eq!(run("switch --environment none"), Some(1));
    assert_eq!(run("switch orders other"), Some(0));
    eventually("the last one is on record", || process.has_logged("\"route\":\"orders\"")).await;
    let told: Vec<Value> = process.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = told.iter().filter(|line| line["target"] == "audit").collect();
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let keys = ["action", "what", "route", "from", "to"];
    let rows: Vec<_> = told.iter().map(|line| keys.map(|key| word(line, key)).join(" ")).collect();
    assert_eq!(
        rows,
        [
            "switch environment - none staging",
            "switch environment - staging none",
            "undo environment - none staging",
            "undo environment - staging none",
            "switch environment - - nowhere",
            "switch environment - - none",
            "switch route orders account other",
        ]
    );
}
