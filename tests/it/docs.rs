//! What the documents say, held against the program: examples, links, tables and lists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use keybearer::{
    admin::ENDPOINTS,
    proxy::{fault::CODE_NAMES, recovery::OUTCOME_NAMES},
};

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};

use crate::authority::Authority;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn readme() -> String {
    text_of(&root().join("README.md"))
}

/// Files of a folder with this extension, in order.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} holds no .{extension} file");
    found
}

fn documents() -> Vec<PathBuf> {
    let mut all = files("docs", "md");
    all.push(root().join("README.md"));
    all
}

/// Runs the program with nothing of our own environment that it would look at.
fn keybearer(arguments: &[&str], variables: &BTreeSet<String>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keybearer"))
        .args(arguments)
        .env_remove("KEYBEARER_CONFIG")
        .env_remove("KEYBEARER_ENVIRONMENT")
        .envs(variables.iter().map(|name| (name, "not-a-secret")))
        .output()
        .unwrap()
}

/// Fenced blocks in `language`, each with the number of its first line.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(bool, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(info)) => open = Some((info.trim() == language, number + 2, String::new())),
            (Some((_, _, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(wanted, ..)| *wanted).map(|(_, at, body)| (at, body)));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    found
}

/// The text without its fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Names of all variables that a configuration wants: `{env: NAME}`.
fn variables(yaml: &str) -> BTreeSet<String> {
    let after = yaml.split("{env:").skip(1);
    after.filter_map(|rest| Some(rest.split_once('}')?.0.trim().to_owned())).collect()
}

/// The part of a document under a heading, up to the next heading of the same level.
fn section(text: &str, heading: &str) -> String {
    let after =
        text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}")).1;
    after.split("\n## ").next().unwrap_or_default().to_owned()
}

/// First cells of the rows of a table.
fn first_cells(section: &str) -> Vec<&str> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| Some(row.split_once(" |")?.0))
        .skip(1)
        .filter(|cell| !cell.starts_with("---"))
        .collect()
}

#[test]
fn every_configuration_in_the_documents_passes_check() {
    let mut checked = 0;
    for document in documents() {
        for (line, yaml) in blocks(&text_of(&document), "yaml") {
            let place = format!("{}:{line}", document.display());
            if !yaml.contains("listeners:") {
                let is_part = yaml.contains("routes:") || yaml.contains("profiles:");
                assert!(!is_part, "{place}: a configuration that is not whole cannot be checked");
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("keybearer.yaml");
            fs::write(&path, &yaml).unwrap();
            write_certificates(&yaml, folder.path());
            write_keys_and_tokens(&yaml, folder.path());
            let output = keybearer(&["check", "--config", path.to_str().unwrap()], &variables(&yaml));
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && words.is_empty(), "{place}\n{words}");
            checked += 1;
        }
    }
    assert!(checked >= 25, "only {checked} configurations were found in the documents");
}

/// Every `NAME.pem` and `NAME.key` that a configuration of the documents names.
fn write_certificates(yaml: &str, folder: &Path) {
    let authority = Authority::new();
    for rest in yaml.split("{file: ").skip(1) {
        if let Some((name, _)) = rest.split_once(".pem}") {
            authority.issue(&[&format!("{name}.example")]).write(folder, name);
        }
    }
}

/// Every other file that a configuration of the documents names. Its certificates are made anew with RSA
/// keys, which accounts mostly sign with.
fn write_keys_and_tokens(yaml: &str, folder: &Path) {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let key = pair.serialize_pem();
    for rest in yaml.split("{file: ").skip(1) {
        let Some((name, _)) = rest.split_once('}') else { continue };
        let text = match name.rsplit_once('.') {
            Some((_, "pem")) if yaml.contains("private_key:") => {
                CertificateParams::new([name.to_owned()]).unwrap().self_signed(&pair).unwrap().pem()
            }
            Some((_, "key")) if yaml.contains("private_key:") => key.clone(),
            Some(("google", "json")) => serde_json::json!({
                "type": "service_account", "private_key_id": "1", "private_key": key,
                "client_email": "a@b.example", "token_uri": "https://oauth2.googleapis.com/token",
            })
            .to_string(),
            Some(("zitadel", "json")) => {
                serde_json::json!({"type": "serviceaccount", "keyId": "1", "key": key, "userId": "2"})
                    .to_string()
            }
            Some((_, "token")) => "e30.e30.c2ln\n".to_owned(),
            _ => continue,
        };
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn every_file_in_config_passes_check_in_each_of_its_environments() {
    for path in files("config", "yaml") {
        let name = path.to_str().unwrap();
        let variables = variables(&text_of(&path));
        let output = keybearer(&["check", "--config", name], &variables);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && words.is_empty(), "{name}\n{words}");
        // `… 1 environment (staging)`
        let told = String::from_utf8(output.stdout).unwrap();
        let environments =
            told.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(names, _)| names);
        for environment in environments.into_iter().flat_map(|names| names.split(", ")) {
            let output = keybearer(&["check", "--config", name, "--environment", environment], &variables);
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name} {environment}\n{words}");
        }
    }
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut followed = 0;
    for document in documents() {
        let text = prose(&text_of(&document));
        for rest in text.split("](").skip(1) {
            let link = rest.split_once(')').unwrap_or_else(|| panic!("{}: {rest}", document.display())).0;
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.is_file(), "{}: {link} leads nowhere", document.display());
            let is_there = anchor.is_empty() || anchors(&text_of(&target)).contains(anchor);
            assert!(is_there, "{}: {link} names no heading", document.display());
            followed += 1;
        }
    }
    assert!(followed >= 10, "only {followed} links were found");
}

/// The anchors that a page of this text has.
fn anchors(text: &str) -> BTreeSet<String> {
    let text = prose(text);
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(slug).collect()
}

#[test]
fn the_readme_lists_the_commands_that_there_are() {
    let readme = readme();
    let table = section(&readme, "## Commands");
    let named: BTreeSet<&str> = first_cells(&table)
        .into_iter()
        .filter_map(|cell| cell.strip_prefix("`keybearer ")?.trim_end_matches('`').split(' ').next())
        .collect();
    let help = String::from_utf8(keybearer(&["--help"], &BTreeSet::new()).stdout).unwrap();
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    // A command stands two columns in; what is further in continues its description.
    let commands: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(named, commands);
}

#[test]
fn every_fault_and_every_outcome_of_a_401_is_explained() {
    let operating = text_of(&root().join("docs/operating.md"));
    let (listed, remedies) =
        (section(&readme(), "## Faults"), section(&operating, "## Faults, and what to do"));
    for code in CODE_NAMES {
        let row = format!("| `{code}` |");
        assert!(listed.contains(&row), "README.md does not list the fault {code}");
        assert!(remedies.contains(&row), "docs/operating.md does not say what to do about {code}");
    }
    for outcome in OUTCOME_NAMES {
        let row = format!("| `{outcome}` |");
        assert!(operating.contains(&row), "docs/operating.md does not list the outcome {outcome}");
    }
}

#[test]
fn the_readme_lists_the_admin_endpoints_that_there_are() {
    let readme = readme();
    let table = section(&readme, "## See and change what it does");
    let listed: BTreeSet<&str> = first_cells(&table).into_iter().map(|cell| cell.trim_matches('`')).collect();
    let there: BTreeSet<&str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    assert_eq!(listed, there);
}

#[test]
fn every_test_that_the_safety_contract_names_is_there() {
    let found = named_tests(&text_of(&root().join("docs/security.md")));
    assert!(found > 80, "only {found} tests are named in docs/security.md");
}

#[test]
fn every_pitfall_that_others_fell_into_names_a_test_that_is_there() {
    let testing = text_of(&root().join("docs/testing.md"));
    let table = section(&testing, "## Pitfalls of others");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    for row in rows {
        assert!(named_tests(row) > 0, "a pitfall without a test: {row}");
    }
    let found = named_tests(&table);
    assert!(found > 40, "only {found} tests are named");
}

/// Letter and number of rows: F1 to F16 and so on.
const REQUIRED: [(char, usize); 11] = [
    ('F', 16),
    ('R', 10),
    ('H', 10),
    ('W', 7),
    ('C', 13),
    ('B', 6),
    ('S', 8),
    ('M', 6),
    ('L', 8),
    ('I', 10),
    ('X', 4),
];
/// Rows of what is not built: they have no test, and are named in one line.
const NOT_BUILT: [&str; 9] = ["C1", "C2", "C4", "C5", "C7", "C8", "C10", "C11", "C13"];

#[test]
fn every_requirement_has_a_row_with_tests_that_are_there() {
    let text = text_of(&root().join("docs/requirements.md"));
    let not_built =
        text.lines().find_map(|line| line.strip_suffix("no forward mode, and so no interception."));
    let not_built = not_built.and_then(|line| line.strip_suffix(": not built: ")).unwrap_or_default();
    assert_eq!(not_built.split(", ").collect::<Vec<_>>(), NOT_BUILT);
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter(|(id, _)| !matches!(*id, "id" | "---"))
        .collect();
    let ids: Vec<&str> = rows.iter().map(|(id, _)| *id).collect();
    let numbered = |(letter, count)| (1..=count).map(move |number| format!("{letter}{number}"));
    let required = REQUIRED.into_iter().flat_map(numbered);
    let required: Vec<String> = required.filter(|id| !NOT_BUILT.contains(&id.as_str())).collect();
    assert_eq!(ids, required, "docs/requirements.md has each row once, in order");
    for (id, row) in rows {
        assert!(named_tests(row) > 0, "{id} names no test");
    }
}

/// How many tests a text names; each must be there. `refusals::name` is a test in `tests/it/refusals.rs`,
/// `src/route/tests.rs::name` one in that file.
fn named_tests(text: &str) -> usize {
    let mut found = 0;
    for named in text.split('`').skip(1).step_by(2) {
        let Some((file, name)) = named.rsplit_once("::") else { continue };
        let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !name.bytes().all(is_word) || !(file.bytes().all(is_word) || file.ends_with(".rs")) {
            continue;
        }
        let path = if file.ends_with(".rs") { file.to_owned() } else { format!("tests/it/{file}.rs") };
        assert!(has_test(&text_of(&root().join(&path)), name), "{path} has no test {name}");
        found += 1;
    }
    found
}

/// Whether there is a function of this name that is marked as a test.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let begins = |line: &&str| {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        function.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(begins) else { return false };
    let mut marks =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    marks.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

#[test]
fn every_dependency_has_a_reason() {
    let reasons = text_of(&root().join("docs/dependencies.md"));
    let manifest = text_of(&root().join("Cargo.toml"));
    let mut table = "";
    let mut found = 0;
    for line in manifest.lines() {
        if line.starts_with('[') {
            table = line;
        } else if matches!(table, "[dependencies]" | "[dev-dependencies]")
            && let Some((name, _)) = line.split_once('=')
            && !line.starts_with('#')
        {
            let row = format!("| `{}` |", name.trim());
            assert!(reasons.contains(&row), "docs/dependencies.md does not say why {} is here", name.trim());
            found += 1;
        }
    }
    assert!(found > 20, "only {found} dependencies were found in Cargo.toml");
}

#[test]
fn the_schema_for_editors_is_json_and_every_key_in_it_is_explained() {
    let output = keybearer(&["schema"], &BTreeSet::new());
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for section in
        ["listeners", "admin", "profiles", "routes", "environments", "limits", "timeouts", "replay"]
    {
        let place = format!("/properties/{section}");
        assert!(schema.pointer(&place).is_some(), "{section} is not in the schema");
    }
    let explained = text_of(&root().join("docs/configuration.md"));
    let words: BTreeSet<&str> =
        prose_code(&explained).flat_map(|code| code.split(|c| !is_of_key(c))).collect();
    let mut keys = BTreeSet::new();
    collect_keys(&schema, &mut keys);
    assert!(keys.len() > 80, "only {} keys were found in the schema", keys.len());
    for key in keys {
        assert!(words.contains(key.as_str()), "docs/configuration.md does not explain {key}");
    }
}

/// What stands in backticks.
fn prose_code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names of all properties in a schema, at whatever depth.
fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            for (name, value) in object {
                if let ("properties", serde_json::Value::Object(properties)) = (name.as_str(), value) {
                    keys.extend(properties.keys().cloned());
                }
                collect_keys(value, keys);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}
