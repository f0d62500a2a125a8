//! What is said to an operator who has mistyped something, or whose machine lacks something.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    process::{command, keybearer},
    stage::{Plan, Stage},
    terminal::Terminal,
};

/// The least that is a configuration; it can be added to.
const LEAST: &str = "listeners: {l: {address: \"127.0.0.1:0\"}}\nroutes: {r: {upstream: \"http://127.0.0.1:9\", profile: none}}\n";

/// The command in a folder where this is `keybearer.yaml`.
fn of(folder: &Path, yaml: &str, line: &str) -> Command {
    fs::write(folder.join("keybearer.yaml"), yaml).unwrap();
    let mut command = command(&line.split(' ').collect::<Vec<_>>());
    for name in ["KEYBEARER_ADMIN", "NO_COLOR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").current_dir(folder);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it and expects this exit code.
#[track_caller]
fn run(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    said(&output)
}

#[track_caller]
fn has(words: &str, expected: &[&str]) {
    for part in expected {
        assert!(words.contains(part), "{part:?} is not in\n{words}");
    }
}

#[test]
fn check_warns_of_what_would_keep_the_gateway_from_starting_here() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file.sock"), "mine").unwrap();
    let yaml = LEAST.replace(
        "listeners: {",
        "state_dir: /proc/none/state\nadmin: {address: \"unix:file.sock\"}\nlisteners: {u: {address: \"unix:none/u.sock\"}, ",
    );
    let words = run(of(folder.path(), &yaml, "check"), 0);
    has(
        &words,
        &[
            "keybearer.yaml is valid",
            "listener \"u\": address: the folder ",
            "/none is not there (make it",
            "admin: address: ",
            "/file.sock is no socket, so none can be made there",
            "state_dir: /proc/none/state cannot be made: this user can make no folder in /proc: ",
        ],
    );
    // What could be made is made by nobody yet.
    let fine = format!("state_dir: a/b\n{LEAST}");
    let words = run(of(folder.path(), &fine, "check"), 0);
    assert!(!words.contains("warning"), "{words}");
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn nobody_gets_colour_who_wants_none_and_the_log_names_the_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("TERM", "dumb"), ("NO_COLOR", "1"), ("NO_COLOR", "")] {
        let mut run = of(folder.path(), LEAST, "run -c keybearer.yaml");
        run.env(name, value);
        let terminal = Terminal::start(run, 40, 200);
        terminal.until("keybearer runs").await;
        terminal.interrupt();
        let (status, shown) = terminal.end().await;
        assert_eq!(status.code(), Some(0), "{shown}");
        assert_eq!(shown.contains('\x1b'), value.is_empty(), "{name}={value}: {shown:?}");
        has(&shown, &[&format!("{}/keybearer.yaml", folder.path().display())]);
        let mut doctor = of(folder.path(), LEAST, "doctor");
        doctor.env(name, value);
        let (_, shown) = Terminal::start(doctor, 40, 200).end().await;
        assert_eq!(shown.contains("\x1b[3"), value.is_empty(), "{name}={value}: {shown:?}");
        assert!(shown.contains("examined") && (name != "TERM" || !shown.contains('\x1b')), "{shown:?}");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = of(folder.path(), LEAST, "check");
    for name in ["KEYBEARER_CONFIG", "KEYBEARER_ENVIRONMENT", "KEYBEARER_LOG"] {
        check.env(name, "");
    }
    has(&run(check, 0), &["is valid"]);
    let mut status = of(folder.path(), LEAST, "status");
    for name in ["KEYBEARER_ADMIN", "KEYBEARER_ADMIN_CERTIFICATE", "KEYBEARER_ADMIN_KEY"] {
        status.env(name, "");
    }
    has(&run(status, 2), &["the configuration has no admin listener to ask"]);
}

#[test]
fn whoever_has_no_configuration_is_told_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = |line: &str| {
        let command = of(folder.path(), "", line);
        fs::remove_file(folder.path().join("keybearer.yaml")).unwrap();
        run(command, 2)
    };
    has(&nowhere("run"), &["--config FILE", "keybearer init writes a first one"]);
    has(&nowhere("status"), &["keybearer init", "say --admin ADDRESS:PORT"]);
}

#[test]
fn a_filter_that_is_none_is_named_by_where_it_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let words = run(of(folder.path(), LEAST, "run --log-filter a=b=c"), 2);
    has(&words, &["keybearer: --log-filter is no filter: "]);
    let mut by_variable = of(folder.path(), LEAST, "run");
    by_variable.env("KEYBEARER_LOG", "a=b=c");
    has(&run(by_variable, 2), &["keybearer: KEYBEARER_LOG is no filter: "]);
}

#[test]
fn an_address_of_the_admin_listener_that_is_taken_is_told_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = format!("admin: {{address: \"{}\"}}\n{LEAST}", taken.local_addr().unwrap());
    let words = run(of(folder.path(), &yaml, "run"), 1);
    has(&words, &["the admin listener cannot listen on ", "stop it or choose another address"]);
}

#[test]
fn usage_that_is_wrong_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let words = run(of(folder.path(), LEAST, "doctor --probe ok"), 2);
    has(&words, &["--probe \"ok\" is no path (it begins with /"]);
    let words = run(of(folder.path(), LEAST, "switch r a --for soon"), 2);
    has(&words, &["'--for <SPAN>': not a span (such as 90s, 30m, 8h or 2d)"]);
}

#[test]
fn a_proxy_that_cannot_be_read_is_told_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let mut doctor = of(folder.path(), LEAST, "doctor");
    doctor.env("HTTPS_PROXY", "http://joe:canary@proxy.example:port");
    let words = said(&doctor.output().unwrap());
    has(&words, &["warning: HTTPS_PROXY is not the address of a proxy"]);
    assert!(!words.contains("canary"), "{words}");
    // Nothing can be bound, so that it ends.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = LEAST.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let mut gateway = of(folder.path(), &yaml, "run");
    gateway.env("HTTPS_PROXY", "http://joe:canary@proxy.example:port");
    let words = run(gateway, 1);
    has(&words, &["HTTPS_PROXY is not the address of a proxy"]);
    assert!(!words.contains("canary"), "{words}");
}

#[test]
fn the_manual_of_a_command_is_of_the_program() {
    let page = said(&keybearer(&["man", "init"]));
    let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
    has(title, &[concat!("\"keybearer ", env!("CARGO_PKG_VERSION"), "\"")]);
}

#[tokio::test]
async fn a_port_without_tls_is_told_as_such() {
    let stage = Stage::start().await;
    let admin = stage.gateway.admin().unwrap();
    let line = format!("status --admin https://{admin}");
    let command = of(stage.folder.path(), LEAST, &line);
    let words = tokio::task::spawn_blocking(|| run(command, 1)).await.unwrap();
    has(&words, &["the port does not speak TLS", "http://"]);
    assert!(!words.contains("--ca"), "{words}");
}

#[tokio::test]
async fn json_is_printed_of_a_refusal_too_and_the_words_beside_it() {
    let plan = Plan::default().more("admin: {address: \"unix:admin.sock\"}");
    let stage = plan.start().await;
    stage.ready().await;
    let ask = async |line: &str| {
        let mut command = command(&line.split(' ').collect::<Vec<_>>());
        command.current_dir(stage.folder.path()).env("KEYBEARER_ADMIN", "unix:admin.sock");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let yaml = stage.folder.path().join("keybearer.yaml");
    fs::write(&yaml, "listeners: {}\n").unwrap();
    for (line, exit, code, words) in [
        ("reload --json", 2, "configuration_invalid", "there must be at least one"),
        ("switch nothing account --json", 2, "not_defined", "\"nothing\" is not defined"),
        ("switch orders none --json", 2, "not_defined", "cannot take its account away (set profile: none"),
        ("switch orders account --json", 1, "already_so", "nothing was changed"),
    ] {
        let output = ask(line).await;
        assert_eq!(output.status.code(), Some(exit), "{line}: {}", said(&output));
        let problem: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(problem["code"], code, "{line}: {problem}");
        has(&String::from_utf8_lossy(&output.stderr), &[words]);
    }
    let quiet = ask("switch orders none").await;
    assert!(quiet.stdout.is_empty(), "{}", said(&quiet));
}

#[test]
fn check_says_nothing_of_a_state_folder_that_this_user_cannot_look_into() {
    let folder = tempfile::tempdir().unwrap();
    let permit = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let private = folder.path().join("private");
    fs::create_dir_all(private.join("state")).unwrap();
    // As systemd has it with DynamicUser=: a link into a folder that only root may enter.
    std::os::unix::fs::symlink("private/state", folder.path().join("state")).unwrap();
    permit(folder.path(), 0o755);
    permit(&private, 0o700);
    for named in ["state", "private/state", "private/none"] {
        let mut check = of(folder.path(), &format!("state_dir: {named}\n{LEAST}"), "check");
        match fs::metadata(&private).unwrap().uid() {
            // Nobody: root may look everywhere.
            0 => drop(check.uid(65_534)),
            _ => permit(&private, 0),
        }
        let words = run(check, 0);
        assert!(!words.contains("state_dir"), "{named}: {words}");
    }
    permit(&private, 0o700);
    fs::write(folder.path().join("file"), "").unwrap();
    let words = run(of(folder.path(), &format!("state_dir: file\n{LEAST}"), "check"), 0);
    has(&words, &["state_dir: ", "/file is no folder (make it"]);
}
