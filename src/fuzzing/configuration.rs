//! Configuration text: reading never panics, and every problem has a place in the text.

use std::path::Path;

use crate::config;

pub(super) fn target(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    // What a file names is opened: nothing may name a device or wait for a pipe.
    if text.contains("/dev") || text.contains("/proc") || text.contains("/sys") {
        return;
    }
    let Err(problems) = config::parse(text, Path::new("fuzzed.yaml"), None) else { return };
    assert!(!problems.is_empty(), "refused without a problem");
    // CR, LF and CR LF each end a line.
    let lines = text.replace("\r\n", "\n").split(['\r', '\n']).count();
    for problem in problems.iter() {
        assert!(!problem.message.is_empty(), "a problem without words");
        assert!(problem.line as usize <= lines + 1, "{problem:?} is behind the last of {lines} lines");
        let is_inside = problem.line > 0 && (problem.line as usize) < lines;
        assert!(!is_inside || problem.source_line.is_some(), "{problem:?} shows no line");
        assert_eq!(problem.line == 0, problem.column == 0, "{problem:?} has half a place");
    }
    assert!(!problems.to_string().is_empty());
}
