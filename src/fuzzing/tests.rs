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
