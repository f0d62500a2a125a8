//! The status page in a real browser: Chromium, driven by `tests/browser/page.mjs`.
//!
//! With `KEYBEARER_SCREENSHOT=FILE` it also keeps a picture of the page, for docs/.

use std::{env, fs, path::PathBuf, process::Command};

use keybearer::demo::idp::Account;

use crate::stage::{CLIENT, Plan, ROLE, SECRET, Stage};

const OTHER: &str = "77777777-7615-472f-8200-a81d5c87c0ca";

/// Chromium as distributions call it, in the path.
fn chromium() -> Option<PathBuf> {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// A stage with a second account, as an operator would add it.
async fn start() -> Stage {
    let plan = Plan::default().more("state_dir: state");
    let stage = plan.start_with(|idp| idp.add_account(Account::new(OTHER, SECRET, &[ROLE]))).await;
    let (before, rest) = stage.yaml.split_once("profiles:\n").unwrap();
    let (account, routes) = rest.split_once("routes:\n").unwrap();
    let other = account.replace("  account:", "  other:").replace(CLIENT, OTHER);
    let text = format!("{before}profiles:\n{account}\n{other}\nroutes:\n{routes}\n");
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("test")).unwrap();
    stage.ready().await;
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_page_works_in_a_browser() {
    // CI has it; elsewhere `make tools` says that this is left out.
    let Some(chromium) = chromium() else {
        assert!(env::var_os("CI").is_none(), "chromium is missing: install it and try again");
        return;
    };
    let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let modules = scripts.join("node_modules");
    assert!(modules.is_dir(), "{} is missing: `make tools` installs it", modules.display());
    let stage = start().await;
    // The page shall show a 401 that was recovered before it was opened.
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    let token = fs::read_to_string(stage.folder.path().join("state/admin-token")).unwrap();
    let mut node = Command::new("node");
    node.arg(scripts.join("page.mjs")).arg(chromium);
    node.args([format!("http://{}/", stage.gateway.admin().unwrap()), format!("http://{}", stage.address())]);
    node.arg(token.trim()).args(env::var_os("KEYBEARER_SCREENSHOT"));
    let output =
        tokio::task::spawn_blocking(move || node.output().expect("node is installed")).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains(&format!("it switches: {OTHER}")), "{told}");
    assert!(told.contains(&format!("it undoes: {CLIENT}")), "{told}");
    assert!(told.contains("it tells who is connected"), "{told}");
}
