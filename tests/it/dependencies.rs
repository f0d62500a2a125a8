//! What the program is built from: which versions of libraries, and where they come from.

use std::{fs, path::Path};

/// Before these versions lie holes that a caller could use: requests that are read in two ways, or memory and
/// processor time for little.
const FLOORS: [(&str, &str); 7] = [
    ("hyper", "1.12.0"),
    ("h2", "0.4.20"),
    ("rustls", "0.23.18"),
    ("rustls-webpki", "0.103.13"),
    ("tokio", "1.44.2"),
    ("bytes", "1.11.1"),
    ("aws-lc-sys", "0.39.0"),
];
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

struct Package {
    name: String,
    version: String,
    source: Option<String>,
    has_checksum: bool,
}

fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn locked(path: &str) -> Vec<Package> {
    let text = text_of(path);
    let package = |text: &str| {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let (name, version) = (value("name").unwrap(), value("version").unwrap());
        Package { name, version, source: value("source"), has_checksum: value("checksum").is_some() }
    };
    text.split("[[package]]").skip(1).map(package).collect()
}

fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap();
    plain.split('.').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn no_library_is_older_than_the_version_that_closes_its_holes() {
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let packages = locked(path);
        for (name, floor) in FLOORS {
            let mut found = packages.iter().filter(|package| package.name == name).peekable();
            assert!(found.peek().is_some(), "{path} has no {name}");
            for package in found {
                let version = &package.version;
                assert!(numbers(version) >= numbers(floor), "{path} has {name} {version}, below {floor}");
            }
        }
    }
}

#[test]
fn every_package_but_our_own_comes_from_the_registry_with_its_checksum() {
    for (path, own) in
        [("Cargo.lock", &["keybearer"][..]), ("fuzz/Cargo.lock", &["keybearer", "keybearer-fuzz"])]
    {
        let packages = locked(path);
        assert!(packages.len() > 100, "{path}: {}", packages.len());
        for Package { name, version, source, has_checksum } in packages {
            match source {
                Some(source) => {
                    assert_eq!(source, REGISTRY, "{path}: {name} {version}");
                    assert!(has_checksum, "{path}: {name} {version}");
                }
                None => assert!(own.contains(&name.as_str()), "{path}: {name} {version} has no source"),
            }
        }
    }
}

#[test]
fn code_of_ours_can_hold_nothing_unsafe() {
    let manifest = text_of("Cargo.toml");
    let lints = manifest.split("\n[lints.rust]\n").nth(1).unwrap().split("\n[").next().unwrap();
    // Unlike `deny`, this cannot be taken back by an attribute.
    assert!(lints.lines().any(|line| line == "unsafe_code = \"forbid\""), "{lints}");
}
