//! What is wrong with a configuration file: where, what was found, what to write instead.
//!
//! Problems are values. They carry the offending line, and a line never shows a secret: the value of
//! any key that sounds like one is masked, whatever the problem is about.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use super::tree::Position;

/// Characters of an offending line that are shown; a generated file may have very long ones.
const LINE_CHARS_MAX: usize = 160;

/// Words in a key after which no value is shown.
const SECRET_WORDS: [&str; 8] =
    ["secret", "password", "passwd", "api-key", "api_key", "apikey", "authorization", "private_key"];

/// Keys after which no text is shown. As whole keys only: `token_url` is no secret.
const SECRET_KEYS: [&str; 8] = ["token", "bearer", "basic", "header", "query", "value", "exec", "vault"];

/// One thing that is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named by whoever asked.
    pub file: PathBuf,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: u32,
    /// Column in characters, from 1; 0 when the file as a whole is meant.
    pub column: u32,
    /// What is wrong and the remedy; lowercase, no full stop.
    pub message: String,
    /// The offending line, secrets masked.
    pub source_line: Option<String>,
    /// The profile whose secret or certificate ends soon, if that is what it says: a running gateway tells by itself.
    pub ending: Option<String>,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn whole(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message, source_line: None, ending: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if self.line == 0 {
            return write!(f, "{file}: {}", self.message);
        }
        write!(f, "{file}:{}:{}: {}", self.line, self.column, self.message)?;
        let Some(line) = &self.source_line else { return Ok(()) };
        // A mask may have shortened the line: the caret stays under its last character then.
        let indent = (self.column as usize).min(line.chars().count().max(1)) - 1;
        write!(f, "\n{:>5} | {line}\n      | {:indent$}^", self.line, "")
    }
}

/// Everything that is wrong with a configuration file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts by position and drops what was found twice.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        problems.dedup_by(|a, b| (a.line, a.column, &a.message) == (b.line, b.column, &b.message));
        Self(problems)
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems themselves.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where problems are gathered while one file is read.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Line, and how many of its characters may be shown.
    masks: RefCell<HashMap<u32, usize>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        let text = text.trim_start_matches('\u{feff}');
        let lines = if text.is_empty() { Vec::new() } else { lines(text).collect() };
        let (problems, warnings) = (RefCell::default(), RefCell::default());
        Self { file, lines, problems, warnings, masks: RefCell::default() }
    }

    /// Records a problem.
    pub(super) fn add(&self, at: Position, message: impl Into<String>) {
        self.problems.borrow_mut().push(self.make(at, message.into()));
    }

    /// Records something that an operator should know but that does not stop the gateway.
    pub(super) fn warn(&self, at: Position, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.make(at, message.into()));
    }

    /// Records that a secret or a certificate of `profile` ends soon.
    pub(super) fn warn_of_end(&self, at: Position, profile: &str, words: &str) {
        let warning = self.make(at, format!("profile {profile:?}: {words}"));
        self.warnings.borrow_mut().push(Problem { ending: Some(profile.to_owned()), ..warning });
    }

    /// Shows nothing of the line from `skip` characters after `at` on, in this or any other problem.
    pub(super) fn hide(&self, at: Position, skip: usize) {
        let shown = (at.column.saturating_sub(1) as usize).saturating_add(skip);
        let mut masks = self.masks.borrow_mut();
        let mask = masks.entry(at.line).or_insert(shown);
        *mask = shown.min(*mask);
    }

    /// Shows nothing of the line from the first `mark` on.
    pub(super) fn hide_behind(&self, line: u32, mark: char) {
        let text = self.lines.get(line.saturating_sub(1) as usize).copied().unwrap_or_default();
        let before = text.chars().take_while(|c| *c != mark).count();
        self.hide(Position { line, column: 1 }, before);
    }

    /// How many problems there are so far.
    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Line and message of the first `end` problems.
    pub(super) fn known(&self, end: usize) -> HashSet<(u32, String)> {
        self.problems.borrow().iter().take(end).map(|p| (p.line, p.message.clone())).collect()
    }

    /// Changes the problems from number `start` on.
    pub(super) fn amend(&self, start: usize, change: impl FnMut(&mut Problem)) {
        self.problems.borrow_mut().iter_mut().skip(start).for_each(change);
    }

    /// All problems, and the warnings that are not problems as well.
    pub(super) fn finish(self) -> (Problems, Vec<Problem>) {
        let show = |mut all: Vec<Problem>| {
            all.iter_mut().for_each(|problem| problem.source_line = self.shown(problem.line));
            Problems::new(all)
        };
        let problems = show(self.problems.take());
        let mut warnings = show(self.warnings.take()).into_vec();
        warnings.retain(|warning| !problems.iter().any(|problem| problem == warning));
        (problems, warnings)
    }

    fn make(&self, at: Position, message: String) -> Problem {
        let file = self.file.to_owned();
        Problem { file, line: at.line, column: at.column, message, source_line: None, ending: None }
    }

    fn shown(&self, number: u32) -> Option<String> {
        let line = *self.lines.get(number.checked_sub(1)? as usize)?;
        if self.continues_a_secret(number) {
            let indent: String = line.chars().take_while(|c| *c == ' ').collect();
            return Some(format!("{indent}…"));
        }
        let Some(shown) = self.masks.borrow().get(&number).copied() else { return Some(tidy(&mask(line))) };
        let masked = mask(&line.chars().take(shown).collect::<String>());
        Some(if masked.ends_with('…') { tidy(&masked) } else { tidy(&masked) + "…" })
    }

    /// Whether a line without a key of its own follows a key that sounds like a secret.
    fn continues_a_secret(&self, line: u32) -> bool {
        let mut above = self.lines.iter().take(line as usize).rev();
        let own = above.next().is_some_and(|text| text.contains(':'));
        !own && above.find(|text| text.contains(':')).is_some_and(|text| mask(text).ends_with('…'))
    }
}

/// Lines as YAML counts them: CR LF, LF or CR ends one (YAML 1.2 §5.4). Counted otherwise, the wrong line
/// would be shown, without the mask that was meant for it.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let whole = text.strip_suffix(['\r', '\n']).unwrap_or(text);
    whole.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// `line` without what follows a key that sounds like a secret, and without passwords in URLs.
fn mask(line: &str) -> String {
    let line = mask_userinfo(line);
    let lower = line.to_ascii_lowercase();
    let mut from = 0;
    while let Some(value) = after_secret_key(&lower, from) {
        let (before, rest) = line.split_at(value);
        let Some(end) = end_of_reference(rest) else { return format!("{before}…") };
        from = value + end;
    }
    line
}

/// Where the value of the first key that sounds like a secret begins, from `from` on.
fn after_secret_key(lower: &str, from: usize) -> Option<usize> {
    let rest = lower.get(from..)?;
    let inside = SECRET_WORDS.iter().filter_map(|word| Some(rest.find(word)? + word.len())).min();
    let whole = SECRET_KEYS.iter().filter_map(|key| end_of_key(rest, key)).min();
    let word = inside.into_iter().chain(whole).min()?;
    let colon = word + rest.get(word..)?.find(':')? + 1;
    let tail = rest.get(colon..)?;
    let value = colon + (tail.len() - tail.trim_start().len());
    Some(from + value)
}

/// Where the first `key` of `text` ends that has text behind it, not a map.
fn end_of_key(text: &str, key: &str) -> Option<usize> {
    let is_found = |(at, _): &(usize, &str)| {
        let before = text.get(..*at).unwrap_or_default();
        let after = text.get(at + key.len()..).unwrap_or_default().trim_start_matches(['"', '\'']);
        let value = after.trim_start().strip_prefix(':').map(str::trim_start);
        let begins = before.trim_end_matches(['"', '\'']);
        (begins.is_empty() || begins.ends_with([' ', '{', ',']))
            && value.is_some_and(|value| !value.starts_with('{'))
    };
    text.match_indices(key).find(is_found).map(|(at, _)| at + key.len())
}

/// The length of a value that is safe to show: none, a flag, or where a secret is kept.
fn end_of_reference(value: &str) -> Option<usize> {
    if value.is_empty() || value.starts_with('#') {
        return Some(value.len());
    }
    let word = value.split([',', '}', ' ']).next().unwrap_or_default();
    if matches!(word, "true" | "false") {
        return Some(word.len());
    }
    let inside = value.strip_prefix('{')?.trim_start();
    let (key, rest) = inside.split_once(':')?;
    let (name, _) = rest.split_once('}')?;
    let safe = match key.trim() {
        "env" => is_variable(name.trim()),
        "file" => !name.contains([',', '{', '[']),
        _ => false,
    };
    safe.then(|| value.find('}').map_or(value.len(), |end| end + 1))
}

/// Whether `name` can be an environment variable; if not, it may be a secret in the wrong place.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn mask_userinfo(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("…@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out + rest
}

/// `line` fit for a terminal: no control characters, not endless.
fn tidy(line: &str) -> String {
    let clean = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '·',
        c => c,
    };
    let mut shown: String = line.chars().take(LINE_CHARS_MAX).map(clean).collect();
    if line.chars().nth(LINE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn values_of_keys_that_sound_like_secrets_are_masked() {
        let check = |line: &str, expected: &str| assert_eq!(mask(line), expected);
        check("  client_secret: hunter2", "  client_secret: …");
        check(
            "  a: {client_secrt: x, Client_Secret: hunter2, b: c}",
            "  a: {client_secrt: x, Client_Secret: …",
        );
        check("  client_secret: {env: A}  # why", "  client_secret: {env: A}  # why");
        check("  client_secret: {env: p4ss-word}", "  client_secret: …");
        check("  client_secret: {value: hunter2}", "  client_secret: …");
        check("{client_secret: {file: /a}, password: b}", "{client_secret: {file: /a}, password: …");
        check("  upstream: https://joe:hunter2@a.example/x", "  upstream: https://…@a.example/x");
        check("  client_secret:", "  client_secret:");
        check("  admin: {token: hunter2, a: b}", "  admin: {token: …");
        check("  admin: {\"token\": hunter2}", "  admin: {\"token\": …");
        check("  admin: {token: {file: a}, b: c}", "  admin: {token: {file: a}, b: c}");
        check("  token_url: https://a.example/token", "  token_url: https://a.example/token");
        check("  a: {kind: static, bearer: hunter2}", "  a: {kind: static, bearer: …");
        check("  header: {name: X-Key, value: @hunter2}", "  header: {name: X-Key, value: …");
        check("  bearer: {exec: [pass, hunter2]}", "  bearer: {exec: …");
        check("  token: {kind: static, a: b}", "  token: {kind: static, a: b}");
        check("  no-token: hunter", "  no-token: hunter");
        check("  a: {pass_authorization: true, b: c}", "  a: {pass_authorization: true, b: c}");
        check("  path: /secrets/a", "  path: /secrets/a");
    }
}
