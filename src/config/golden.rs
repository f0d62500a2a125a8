//! Pairs of a bad file and exactly what is said about it: `testdata/*.yaml` and `.txt` beside it.
//!
//! A first line `# environment: NAME` chooses one. `KEYBEARER_BLESS=1 cargo test golden` writes the
//! `.txt` files anew; read the difference before you keep it.

use std::{fs, path::Path};

use super::parse;

/// A place that no machine has, so that relative paths read the same everywhere.
const FILE: &str = "/nowhere/keybearer.yaml";

fn said(text: &str) -> String {
    let environment = text.lines().next().and_then(|line| line.strip_prefix("# environment: "));
    let words = match parse(text, Path::new(FILE), environment) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect(),
        Err(problems) => format!("{problems}\n"),
    };
    words.replace(FILE, "keybearer.yaml")
}

#[test]
fn every_bad_file_is_answered_with_exactly_what_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/testdata");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    assert!(files.len() >= 10, "the pairs are missing");
    let mut wrong = Vec::new();
    for path in files {
        let said = said(&fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("txt");
        if std::env::var_os("KEYBEARER_BLESS").is_some() {
            fs::write(&golden, &said).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if said != expected || said.contains("hunter2") {
            wrong.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "answered otherwise, or with a secret:\n{}", wrong.join("\n"));
}
