//! The commands that speak to a running gateway, as an operator types them: status, switch, reload.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    authority::Authority,
    process::command,
    stage::{PATIENCE, Plan, Stage},
    switches::{OTHER, client, start},
    terminal::Terminal,
};

/// The command with this gateway's configuration, from its folder.
async fn keybearer(stage: &Stage, line: &str) -> Output {
    let mut command = of(stage, line);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn of(stage: &Stage, line: &str) -> std::process::Command {
    let mut command = command(&line.split(' ').collect::<Vec<_>>());
    command.env_remove("KEYBEARER_ADMIN").current_dir(stage.folder.path());
    // Port 0 of the configuration is another one in truth.
    if let Some(address) = stage.gateway.admin().filter(|_| !line.contains("--admin")) {
        let scheme = if stage.yaml.contains("admin.pem") { "https" } else { "http" };
        command.env("KEYBEARER_ADMIN", format!("{scheme}://{address}"));
    }
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the command and expects this exit code.
async fn run(stage: &Stage, line: &str, code: i32) -> String {
    let output = keybearer(stage, line).await;
    assert_eq!(output.status.code(), Some(code), "{line}:\n{}", said(&output));
    let words = said(&output);
    assert!(!words.contains("eyJ") && !words.contains("canary"), "{words}");
    words
}

#[track_caller]
fn has(words: &str, expected: &[&str]) {
    for part in expected {
        assert!(words.contains(part), "{part:?} is not in\n{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_gateway_in_tables_and_as_json() {
    let stage = start().await;
    assert_eq!(stage.status("/v1/a").await, 200);
    let words = run(&stage, "status", 0).await;
    has(
        &words,
        &[
            "gateway      ready",
            "reloads      1 done",
            "environment  none (defined: staging)",
            "ROUTE ",
            "PROFILE ",
        ],
    );
    let row = |first: &str| words.lines().find(|line| line.starts_with(first)).unwrap().to_owned();
    let cells: Vec<_> = row("orders ").split_whitespace().map(str::to_owned).collect();
    assert_eq!(cells[..3], ["orders", "account", "1"], "{words}");
    has(&row("account "), &["ready, no. 1", "orders"]);
    has(&row("local "), &["local", "1"]);
    let json: Value = serde_json::from_str(&run(&stage, "status --json", 0).await).unwrap();
    assert_eq!((&json["ready"], &json["routes"][0]["name"]), (&json!(true), &json!("orders")));
    assert_eq!(json["profiles"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_switched_listed_and_taken_back() {
    let stage = start().await;
    let tried = run(&stage, "switch orders other --dry-run", 0).await;
    has(
        &tried,
        &["route \"orders\": profile \"other\" instead of \"account\" can be had; nothing was changed"],
    );
    has(&run(&stage, "switch --list", 0).await, &["nothing is switched"]);
    assert_ne!(client(&stage).await, OTHER);
    let switched = run(&stage, "switch orders other --for 30m", 0).await;
    has(
        &switched,
        &[
            "profile \"other\" instead of \"account\" from now on",
            "UTC (in ",
            "keybearer switch orders --undo",
        ],
    );
    assert_eq!(client(&stage).await, OTHER);
    let list = run(&stage, "switch --list", 0).await;
    has(&list, &["route orders", "account", "other", " UTC (in ", "admin token, 127.0.0.1"]);
    has(&run(&stage, "status", 0).await, &["other (switched)", "SWITCHED"]);
    run(&stage, "switch orders --undo", 0).await;
    assert_ne!(client(&stage).await, OTHER);
    let list = run(&stage, "switch --list", 0).await;
    has(&list, &["nothing is switched", "undo", "switch"]);
    has(
        &run(&stage, "switch orders --undo", 1).await,
        &["route \"orders\" is not switched; nothing was changed"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_environment_is_switched_by_command() {
    let stage = start().await;
    let switched = run(&stage, "switch --environment staging", 0).await;
    has(&switched, &["environment \"staging\" instead of \"none\"", "switch --environment staging --undo"]);
    assert_eq!(client(&stage).await, OTHER);
    has(&run(&stage, "status", 0).await, &["environment  staging", "the environment"]);
    has(&run(&stage, "switch -e none --undo", 1).await, &["\"none\" is not in force, but \"staging\" is"]);
    has(
        &run(&stage, "switch -e elsewhere --undo", 2).await,
        &["environment \"elsewhere\" is not defined (defined: \"staging\")"],
    );
    run(&stage, "switch --environment staging --undo", 0).await;
    assert_ne!(client(&stage).await, OTHER);
    run(&stage, "switch --environment staging", 0).await;
    has(&run(&stage, "switch --environment none", 0).await, &["environment \"none\" instead of \"staging\""]);
    assert_ne!(client(&stage).await, OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_badly_is_said_with_what_there_is() {
    let stage = start().await;
    has(
        &run(&stage, "switch orders nobody", 2).await,
        &["profile \"nobody\" is not defined (defined: \"account\", \"other\")"],
    );
    has(
        &run(&stage, "switch nowhere other", 2).await,
        &["route \"nowhere\" is not defined (defined: \"orders\")"],
    );
    has(&run(&stage, "switch a/../b%c other", 2).await, &["route \"a/../b%c\" is not defined"]);
    has(
        &run(&stage, "switch orders other --for soon", 2).await,
        &["not a span (such as 90s, 30m, 8h or 2d)"],
    );
    has(&run(&stage, "switch orders account", 1).await, &["already"]);
    for line in
        ["switch", "switch orders", "switch orders other --undo", "switch --list orders", "switch --undo"]
    {
        has(&run(&stage, line, 2).await, &["Usage: keybearer switch ROUTE PROFILE"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_tls_is_known_by_the_certificate_of_its_configuration() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    // The name is none by which it is called here.
    authority.issue(&["gateway.internal"]).write(folder.path(), "admin");
    let (pem, key) = (folder.path().join("admin.pem"), folder.path().join("admin.key"));
    let (pem, key) = (pem.display(), key.display());
    let admin = format!(
        "state_dir: state\nadmin: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: {pem}}}, key: {{file: {key}}}}}}}"
    );
    let stage = Plan::default().more(&admin).start().await;
    stage.ready().await;
    has(&run(&stage, "status", 0).await, &["ready"]);
    has(&run(&stage, "reload", 0).await, &["reloaded"]);
    // Without the configuration the certificate must be of an authority that is known, and for the name.
    let address = stage.gateway.admin().unwrap();
    let elsewhere = format!("status --config nothing.yaml --admin https://{address}");
    has(&run(&stage, &elsewhere, 1).await, &["the TLS handshake failed", "--ca FILE"]);
    fs::write(stage.folder.path().join("ca.pem"), &authority.pem).unwrap();
    has(&run(&stage, &format!("{elsewhere} --ca ca.pem"), 1).await, &["not valid for name"]);
    let here = authority.issue(&["127.0.0.1"]);
    here.write(folder.path(), "admin");
    let ca = format!("{elsewhere} --ca ca.pem");
    // The gateway looks at its files every two seconds.
    let renewed = async { while keybearer(&stage, &ca).await.status.code() != Some(0) {} };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the new certificate is used");
    let plain = format!("status --admin http://{address}");
    has(&run(&stage, &plain, 1).await, &["the port speaks TLS", "say https://"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_asks_for_a_certificate_is_shown_the_one_on_the_command_line() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue(&["127.0.0.1"]).write(folder.path(), "admin");
    fs::write(folder.path().join("operators.pem"), &authority.pem).unwrap();
    let place = folder.path().display();
    let tls = format!(
        "{{certificate: {{file: {place}/admin.pem}}, key: {{file: {place}/admin.key}}, client_ca: {{file: {place}/operators.pem}}}}"
    );
    let admin = format!("state_dir: state\nadmin: {{address: \"127.0.0.1:0\", tls: {tls}}}");
    let stage = Plan::default().more(&admin).start().await;
    stage.ready().await;
    let without = run(&stage, "status", 1).await;
    has(&without, &["it asks for a client certificate", "--certificate FILE and --key FILE"]);
    authority.issue_to("operator").write(stage.folder.path(), "operator");
    has(&run(&stage, "status --certificate operator.pem --key operator.key", 0).await, &["ready"]);
    has(&run(&stage, "reload --certificate operator.pem --key operator.key", 0).await, &["reloaded"]);
    // What does not fit is told before anything is sent.
    Authority::new().issue_to("stranger").write(stage.folder.path(), "stranger");
    let mixed = run(&stage, "status --certificate operator.pem --key stranger.key", 2).await;
    has(&mixed, &["the key in file stranger.key does not belong to the certificate in file operator.pem"]);
    has(&run(&stage, "status --certificate operator.pem", 2).await, &["--key <FILE>"]);
    let stranger = run(&stage, "status --certificate stranger.pem --key stranger.key", 1).await;
    has(&stranger, &["it does not take the certificate in --certificate", "client_ca"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_unix_socket_no_token_is_needed() {
    let plan = Plan::default().more("admin: {address: \"unix:admin.sock\", socket: {mode: \"0600\"}}");
    let stage = plan.start().await;
    stage.ready().await;
    has(&run(&stage, "status", 0).await, &["gateway      ready"]);
    has(&run(&stage, "reload", 0).await, &["reloaded"]);
    has(&run(&stage, "status --config nothing.yaml --admin unix:admin.sock", 0).await, &["ready"]);
    let none = run(&stage, "status --admin unix:other.sock", 1).await;
    has(&none, &["no gateway answers at unix:other.sock", "No such file", "does it run"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_folder_that_cannot_be_used_is_not_told_as_none() {
    // A file is in its place.
    let more = "admin: {address: \"unix:admin.sock\", token: {file: secret}}\nstate_dir: secret\n\
                environments: {staging: {routes: {orders: {profile: none}}}}";
    let stage = Plan::default().more(more).start().await;
    let note = "a restart of the gateway forgets this: it has no state_dir that it can use";
    has(&run(&stage, "switch --environment staging", 0).await, &[note]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_have_the_token_is_told_where_it_is() {
    let stage = start().await;
    let token = stage.folder.path().join("state/admin-token");
    let right = fs::read_to_string(&token).unwrap();
    fs::write(stage.folder.path().join("guess"), "guess").unwrap();
    let wrong = run(&stage, "reload --token-file guess", 1).await;
    has(
        &wrong,
        &["does not take the admin token in file guess: changes need the admin token", "--token-file"],
    );
    let absent = run(&stage, "reload --token-file nothing", 1).await;
    has(&absent, &["nothing cannot be read: no such file", "with sudo"]);
    let unknown = run(&stage, "reload --config nothing.yaml", 2).await;
    has(&unknown, &["--token-file FILE"]);
    fs::write(stage.folder.path().join("copy"), &right).unwrap();
    run(&stage, "reload --config nothing.yaml --token-file copy", 0).await;
    let far = run(&stage, "reload --admin http://192.0.2.1:9901", 2).await;
    has(&far, &["plain HTTP to another machine", "https://"]);
    assert!(!far.contains(right.trim()));
    let away = run(&stage, "reload --admin 127.0.0.1:1", 1).await;
    has(&away, &["no gateway answers at http://127.0.0.1:1", "does it run"]);
    // Something else answers there: the gateway's own listener for callers.
    let other = run(&stage, &format!("status --admin {}", stage.address()), 1).await;
    has(&other, &["not as the admin listener of keybearer"]);
}

/// No token is the right one there, so the gateway's own words are the ones that help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_no_admin_token_says_so_itself() {
    let stage = Stage::start().await;
    fs::write(stage.folder.path().join("guess"), "guess").unwrap();
    let admin = stage.gateway.admin().unwrap();
    let refused = run(&stage, &format!("reload --admin {admin} --token-file guess"), 1).await;
    has(&refused, &["does not take the admin token in file guess", "set state_dir or admin.token"]);
    // A restart would lose what is switched; a reload is enough.
    let refused = run(&stage, &format!("reload --admin {admin}"), 2).await;
    has(&refused, &["has neither state_dir nor admin.token", "SIGHUP"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_an_admin_listener_is_told_from_one_that_does_not_run() {
    let stage = Stage::start().await;
    let text = stage.yaml.replace("admin: {address: \"127.0.0.1:0\"}\n", "");
    fs::write(stage.folder.path().join("other.yaml"), text).unwrap();
    let mut command = of(&stage, "status --config other.yaml");
    command.env_remove("KEYBEARER_ADMIN");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    has(&said(&output), &["has no admin listener to ask (add admin: {address: 127.0.0.1:9901}"]);
    let stateless = run(&stage, "reload", 2).await;
    has(&stateless, &["neither state_dir nor admin.token"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_watches_until_it_is_interrupted() {
    let stage = start().await;
    let mut command = of(&stage, "status --watch --interval 1s");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut is_told = |what: &str| lines.by_ref().find(|line| line.contains(what));
    tokio::task::block_in_place(|| is_told("gateway      ready")).unwrap();
    run(&stage, "switch orders other", 0).await;
    let line = tokio::task::block_in_place(|| is_told("other (switched)"));
    assert!(line.is_some(), "the watch ended");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = tokio::task::block_in_place(|| child.wait()).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_what_has_changed_or_every_problem_with_its_place() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let good = fs::read_to_string(&path).unwrap();
    has(&run(&stage, "reload", 0).await, &["reloaded", "nothing that is in force has changed"]);
    let orders = good.lines().find(|line| line.starts_with("  orders: {match")).unwrap();
    let next = format!("{}\n{}", orders.replace("/v1", "/v2"), orders.replace("orders", "bills"));
    let other = good.replace(orders, &next) + "timeouts: {connect: 3s}\n";
    fs::write(&path, other).unwrap();
    let words = run(&stage, "reload", 0).await;
    has(&words, &["  added    route \"bills\"", "  changed  route \"orders\"", "  changed  timeouts"]);
    assert!(!words.contains("profile"), "{words}");
    fs::write(&path, format!("{good}workers: 3\nwokers: 2\n")).unwrap();
    let refused = run(&stage, "reload", 2).await;
    has(
        &refused,
        &["keybearer.yaml:", "is written twice", "\"wokers\" (did you mean", "nothing was changed"],
    );
    fs::write(&path, good.replace("path: /v1", "pfad: /v1").replace("kind: entra", "kind: entre")).unwrap();
    let refused = run(&stage, "reload", 2).await;
    has(&refused, &["unknown key \"pfad\"", "\"entre\"", "keybearer.yaml:"]);
    // The file on disk is broken, and the gateway that runs is found and tells why.
    has(
        &run(&stage, "status", 0).await,
        &["LAST RELOAD  REFUSED", "unknown key \"pfad\"", "gateway      ready"],
    );
    fs::write(&path, good.replace("workers: 2", "workers: 1")).unwrap();
    has(&run(&stage, "reload", 1).await, &["a change of workers needs a restart; nothing was changed"]);
    fs::write(&path, good).unwrap();
    let words = run(&stage, "reload", 0).await;
    has(&words, &["  changed  route \"orders\"", "  removed  route \"bills\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_changes_a_reload_names_the_first_and_counts_the_rest() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let good = fs::read_to_string(&path).unwrap();
    let route =
        |n| format!("  r{n}: {{match: {{path: /x/{n}}}, upstream: \"http://127.0.0.1:9\", profile: none}}\n");
    let many: String = (10..40).map(route).collect();
    fs::write(&path, good.replacen("routes:\n", &format!("routes:\n{many}"), 1)).unwrap();
    let words = run(&stage, "reload", 0).await;
    has(&words, &["  added    route \"r29\"\n  added    10 more, which --json names\n"]);
    assert!(!words.contains("\"r30\""), "{words}");
    fs::write(&path, &good).unwrap();
    let json: Value = serde_json::from_str(&run(&stage, "reload --json", 0).await).unwrap();
    assert_eq!(json["removed"].as_array().unwrap().len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_does_not_wait_for_who_changes() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let changed = fs::read_to_string(&path).unwrap().replace("  other:\n", "  other:\n    default_ttl: 7m\n");
    fs::write(&path, changed).unwrap();
    // The changed profile's token comes after longer than a health check waits.
    let before = stage.idp.requests();
    stage.idp.set_delay(std::time::Duration::from_secs(8));
    let mut reload = of(&stage, "reload");
    let reload = tokio::task::spawn_blocking(move || reload.output().unwrap());
    stage.idp.wait_for_requests(before + 1).await;
    has(&run(&stage, "status", 0).await, &["gateway      ready"]);
    assert!(!reload.is_finished(), "the reload had ended before");
    has(&said(&reload.await.unwrap()), &["  changed  profile \"other\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_the_watch_draws_in_place_and_leaves_nothing_behind() {
    let stage = start().await;
    let terminal = Terminal::start(of(&stage, "status --watch --interval 1s"), 6, 40);
    terminal.until("gateway      ready").await;
    terminal.until("more lines").await;
    // A second look begins in the upper left again.
    crate::stage::eventually("it is drawn again", || terminal.shown().matches("\x1b[H").count() >= 2).await;
    terminal.interrupt();
    let (status, shown) = terminal.end().await;
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.starts_with("\x1b[?1049h") && shown.ends_with("\x1b[?1049l"), "{shown:?}");
    for drawn in shown.split("\x1b[H").skip(1) {
        let lines: Vec<_> = drawn.split("\r\n").collect();
        assert!(lines.len() <= 6, "{drawn:?}");
        // No line wraps, or the screen would roll.
        assert!(
            lines[..5].iter().all(|line| line.trim_end_matches("\x1b[K").chars().count() < 40),
            "{drawn:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_state_folder_brings_its_admin_token_with_it() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("state_dir: state", "state_dir: moved")).unwrap();
    // The command already looks for the token where the file says, and the gateway still has the old one.
    run(&stage, "reload", 1).await;
    let words = run(&stage, "reload --token-file state/admin-token", 0).await;
    has(&words, &["  changed  state_dir"]);
    has(&run(&stage, "switch orders other", 0).await, &["profile \"other\" instead of \"account\""]);
    let old =
        format!("switch orders --undo --token-file {}/state/admin-token", stage.folder.path().display());
    run(&stage, &old, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_switches_back_to_what_the_file_says_is_not_switched_any_more() {
    let stage = start().await;
    let metric = async || {
        let (_, text) = stage.admin("/metrics").await;
        text.lines()
            .filter(|line| line.starts_with("keybearer_switched{"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    run(&stage, "switch orders other", 0).await;
    assert_eq!(metric().await, ["keybearer_switched{route=\"orders\"} 1"]);
    run(&stage, "switch orders account", 0).await;
    assert_eq!(metric().await, [""; 0]);
    let words = run(&stage, "status", 0).await;
    assert!(!words.contains("(switched)"), "{words}");
    // What was before can still be had back.
    has(&run(&stage, "switch --list", 0).await, &["route orders"]);
    run(&stage, "switch orders --undo", 0).await;
    has(&run(&stage, "status", 0).await, &["other (switched)"]);
    run(&stage, "switch orders --undo", 0).await;
    run(&stage, "switch --environment staging", 0).await;
    assert_eq!(metric().await, ["keybearer_switched{route=\"\"} 1"]);
    run(&stage, "switch --environment none", 0).await;
    assert_eq!(metric().await, [""; 0]);
    // A reload that writes the account into the file ends it, too.
    run(&stage, "switch orders other", 0).await;
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("profile: account}", "profile: other}", 1)).unwrap();
    run(&stage, "reload", 0).await;
    assert_eq!(metric().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_says_which_routes_keep_a_switch_of_their_own() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let orders = text.lines().find(|line| line.starts_with("  orders: {match")).unwrap();
    let bills = orders.replace("orders", "bills").replace("/v1", "/v2");
    fs::write(&path, text.replace(orders, &format!("{orders}\n{bills}"))).unwrap();
    run(&stage, "reload", 0).await;
    let plain = run(&stage, "switch --environment staging --dry-run", 0).await;
    assert!(!plain.contains("keep"), "{plain}");
    run(&stage, "switch bills other", 0).await;
    let note = "routes that keep a switch of their own: bills (keybearer switch ROUTE --undo)";
    has(&run(&stage, "switch --environment staging --dry-run", 0).await, &[note]);
    has(&run(&stage, "switch --environment staging", 0).await, &[note]);
    has(&run(&stage, "switch --environment staging --undo", 0).await, &[note]);
    let json = run(&stage, "switch --environment staging --json", 0).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["still_switched"], json!(["bills"]));
    let route = run(&stage, "switch bills --undo --json", 0).await;
    assert!(route.contains("\"still_switched\":[]"), "{route}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_not_there_is_named_by_an_undo_as_well() {
    let stage = start().await;
    let words = run(&stage, "switch ordres --undo", 2).await;
    has(&words, &["route \"ordres\" is not defined (defined: \"orders\")"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_names_what_a_switch_covers_and_environments() {
    let stage = start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let good = fs::read_to_string(&path).unwrap();
    run(&stage, "switch orders other", 0).await;
    let covered = good.replacen("profile: account}", "profile: other}", 1);
    fs::write(&path, format!("{covered}  testing: {{routes: {{orders: {{profile: account}}}}}}\n")).unwrap();
    let words = run(&stage, "reload", 0).await;
    has(&words, &["  added    environment \"testing\"", "  changed  route \"orders\""]);
    fs::write(&path, good.replacen("profile: account}", "profile: other}", 1) + "# a remark\n").unwrap();
    has(&run(&stage, "reload", 0).await, &["  removed  environment \"testing\""]);
    has(&run(&stage, "reload", 0).await, &["nothing that is in force has changed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authoritys_certificate_in_the_place_of_a_servers_is_named_as_such() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let folder = tempfile::tempdir().unwrap();
    let (pem, file) = (folder.path().join("admin.pem"), folder.path().join("admin.key"));
    fs::write(&pem, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&file, key.serialize_pem()).unwrap();
    let admin = format!(
        "state_dir: state\nadmin: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: {pem:?}}}, key: {{file: {file:?}}}}}}}"
    );
    let stage = Plan::default().more(&admin).start().await;
    let address = stage.gateway.admin().unwrap();
    let line = format!("status --config nothing.yaml --admin https://{address} --ca {}", pem.display());
    let words = run(&stage, &line, 1).await;
    has(
        &words,
        &["the certificate of an authority (CA:TRUE)", "next: ", "basicConstraints=critical,CA:FALSE"],
    );
    assert!(!words.contains("--ca FILE"), "{words}");
}
