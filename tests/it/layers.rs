//! The ladder of modules in `lib.rs`: imports go down or stay inside a module, never up.

use std::{collections::BTreeMap, fs, path::Path};

/// The ladder, as the crate's documentation shows it.
const LADDER: [(&str, u32); 25] = [
    ("secret", 0),
    ("clock", 0),
    ("telemetry", 0),
    ("replay", 0),
    ("body", 0),
    ("route", 0),
    ("outbound", 0),
    ("accepting", 0),
    ("source", 1),
    ("profile", 2),
    ("issuer", 2),
    ("export", 2),
    ("caller", 3),
    ("token", 3),
    ("upstream", 3),
    ("proxy", 4),
    ("listen", 5),
    ("admin", 5),
    ("config", 6),
    ("app", 7),
    ("doctor", 8),
    ("demo", 8),
    ("cli", 9),
    ("main", 10),
    ("fuzzing", 10),
];

#[test]
fn a_module_imports_only_modules_below_it() {
    let ladder: BTreeMap<&str, u32> = LADDER.into();
    let mut wrong = Vec::new();
    let mut edges = 0;
    for (file, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let module = file.split(['/', '.']).next().unwrap().to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let level =
            *ladder.get(module.as_str()).unwrap_or_else(|| panic!("{module} has no place on the ladder"));
        for import in imports(&text) {
            let below = ladder.get(import.as_str()).unwrap_or_else(|| panic!("{file} imports {import}?"));
            edges += 1;
            // `clock` is the one leaf that every module may read the time from.
            if import != module && *below >= level && import != "clock" {
                wrong.push(format!("{file} (level {level}) imports {import} (level {below})"));
            }
        }
    }
    assert!(edges > 50, "the imports were not found");
    assert!(wrong.is_empty(), "imports that go up the ladder:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for (file, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        assert!(text.starts_with("//!"), "{file} has no header");
        let production = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
        let is_test = file.ends_with("tests.rs") || file.contains("golden") || file.contains("/tests/");
        assert!(is_test || production <= 400, "{file} has {production} lines");
    }
}

/// First path segments behind `crate::`, also inside a group.
fn imports(text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in production.match_indices("crate::") {
        let rest = &production[at + "crate::".len()..];
        let line_start = production[..at].rfind('\n').map_or(0, |n| n + 1);
        if production[line_start..at].trim_start().starts_with("//") {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.push(word(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The first segments of a group's members, one level deep.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(word(group[start..at].trim()));
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(word(group[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn sources(root: &Path) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}
