//! Questions on a terminal; without one, what is missing is collected.

use std::io::{self, BufRead as _};

use crate::cli::{Failure, say};

/// Longer answers are pasted by mistake.
const ANSWER_BYTES_MAX: usize = 4096;

/// Why an answer will not do, in words.
pub(super) type Flaw = String;

/// Gets what is wanted from flags, or from a person.
pub(super) struct Asker {
    is_asking: bool,
    /// Flags that are needed and were not given, or say something wrong.
    flaws: Vec<String>,
}

/// Something that is wanted.
pub(super) struct Wanted<'a> {
    /// The flag that says it.
    pub(super) flag: &'a str,
    /// What the flag says.
    pub(super) given: Option<&'a str>,
    /// What a person is asked.
    pub(super) question: &'a str,
    /// What is taken when nothing is said.
    pub(super) default: Option<&'a str>,
    /// Whether an answer will do.
    pub(super) check: fn(&str) -> Result<(), Flaw>,
}

impl Asker {
    pub(super) fn new(is_asking: bool) -> Self {
        Self { is_asking, flaws: Vec::new() }
    }

    /// What is wanted; nothing when it is neither given nor asked for.
    pub(super) fn want(&mut self, wanted: &Wanted<'_>) -> Result<String, Failure> {
        if let Some(given) = wanted.given {
            if let Err(flaw) = (wanted.check)(given) {
                self.flaws.push(format!("{} {given:?}: {flaw}", wanted.flag));
            }
            return Ok(given.to_owned());
        }
        if !self.is_asking {
            if wanted.default.is_none() {
                self.flaws.push(format!("{} is missing ({})", wanted.flag, wanted.question));
            }
            return Ok(wanted.default.unwrap_or_default().to_owned());
        }
        loop {
            let shown = wanted.default.map_or_else(String::new, |default| format!(" [{default}]"));
            say(&format!("{}{shown}: ", wanted.question));
            let typed = line()?;
            let answer = match (typed.is_empty(), wanted.default) {
                (true, Some(default)) => default.to_owned(),
                _ => typed,
            };
            match (wanted.check)(&answer) {
                Ok(()) => return Ok(answer),
                Err(flaw) => say(&format!("  {flaw}\n")),
            }
        }
    }

    /// One of several; a person chooses by number. `flags` are told when nobody can be asked.
    pub(super) fn choose<T: Copy>(
        &mut self,
        flags: &str,
        question: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Failure> {
        if !self.is_asking {
            self.flaws.push(format!("{flags} is missing ({question})"));
            return Ok(None);
        }
        say(&format!("{question}\n"));
        for (at, (name, _)) in choices.iter().enumerate() {
            say(&format!("  {} {name}\n", at + 1));
        }
        loop {
            say("number [1]: ");
            let typed = line()?;
            let number = if typed.is_empty() { Ok(1) } else { typed.parse::<usize>() };
            let chosen = number.ok().and_then(|n| choices.get(n.checked_sub(1)?));
            match chosen {
                Some((_, chosen)) => return Ok(Some(*chosen)),
                None => say(&format!("  a number from 1 to {}\n", choices.len())),
            }
        }
    }

    /// Notes something that is wrong with the flags as a whole.
    pub(super) fn flaw(&mut self, flaw: String) {
        self.flaws.push(flaw);
    }

    /// Fails when something was missing or wrong, and says all of it.
    pub(super) fn finish(self) -> Result<(), Failure> {
        if self.flaws.is_empty() {
            return Ok(());
        }
        let all: String = self.flaws.iter().map(|flaw| format!("  {flaw}\n")).collect();
        let next =
            "on a terminal, keybearer init asks for what is missing; keybearer init --help has examples";
        Err(Failure::Bad(format!("keybearer: no configuration was written\n{all}{next}\n")))
    }
}

/// What a person types.
fn line() -> Result<String, Failure> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line)?;
    if read == 0 || line.len() > ANSWER_BYTES_MAX {
        say("\n");
        return Err(anyhow::anyhow!("there was no answer; no configuration was written").into());
    }
    Ok(line.trim().to_owned())
}
