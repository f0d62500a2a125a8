//! Every input that is kept, through its target.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use crate::fuzzing::{TARGETS, run};

#[path = "../../tests/it/differential/requests.rs"]
mod requests;

/// Kept inputs stay few and small; a fuzzer finds its way from there.
const INPUTS_MAX: usize = 100;
const INPUT_BYTES_MAX: u64 = 4096;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = root().join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_kept_input_keeps_the_promises() {
    let mut broken = Vec::new();
    for (target, _) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty() && inputs.len() <= INPUTS_MAX, "{target} keeps {} inputs", inputs.len());
        for path in inputs {
            let input = fs::read(&path).unwrap();
            assert!(input.len() as u64 <= INPUT_BYTES_MAX, "{} is too large to keep", path.display());
            if catch_unwind(|| run(target, &input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break a promise (see above): {broken:?}");
}

#[test]
fn every_raw_request_of_the_differential_test_keeps_the_promises() {
    for case in requests::cases() {
        assert!(catch_unwind(|| run("head", &case.bytes)).is_ok(), "{} breaks a promise", case.name);
    }
}

#[test]
fn every_target_can_be_fuzzed() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        assert!(root().join(format!("fuzz/targets/{target}.rs")).exists(), "{target} has no file");
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target} is no binary");
    }
}

/// `name version` of every package in a lock file.
fn locked(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let packages = text.split("[[package]]").skip(1);
    packages
        .map(|package| {
            let value = |key: &str| package.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            format!("{} {}", value("name = "), value("version = ")).replace('"', "")
        })
        .collect()
}

#[test]
fn the_targets_are_built_from_what_the_program_is_built_from() {
    const OWN: [&str; 3] = ["keybearer-fuzz ", "libfuzzer-sys ", "arbitrary "];
    const REMEDY: &str = "cp Cargo.lock fuzz/ && cargo metadata --manifest-path fuzz/Cargo.toml";
    let (program, targets) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let others = targets.iter().filter(|package| !OWN.iter().any(|own| package.starts_with(own)));
    let unknown: Vec<_> = others.filter(|package| !program.contains(package)).collect();
    assert!(unknown.is_empty(), "fuzz/Cargo.lock has other versions: {unknown:?} ({REMEDY})");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| line.contains(" = ")) {
        let renamed = line.split("package = \"").nth(1).and_then(|rest| rest.split('"').next());
        let name = renamed.unwrap_or_else(|| line.split(' ').next().unwrap());
        let is_locked = targets.iter().any(|package| package.starts_with(&format!("{name} ")));
        assert!(is_locked, "fuzz/Cargo.lock does not know {name} ({REMEDY})");
    }
}
