//! How the tour looks: headings, requests, answers, verdicts. It also remembers the verdicts.
//!
//! It knows nothing of what is shown. Colour and lines that are rewritten are for terminals only.

use std::io::{self, Write};

use super::answer::Answer;
use crate::telemetry::colour;

/// Text is broken here; wider is tiring to read.
const WIDTH: usize = 92;
const INDENT: &str = "   ";
/// Room for the longest name of a field, `www-authenticate`.
const NAME_WIDTH: usize = 18;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// What the reader's screen can do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Screen {
    /// Colour is shown and wanted.
    pub(super) colour: bool,
    /// A line can be rewritten.
    pub(super) live: bool,
}

impl Screen {
    /// What standard output is, and what the person asked for.
    pub(super) fn of_stdout() -> Screen {
        let out = io::stdout();
        Screen { colour: colour::is_wanted(&out), live: colour::can_redraw(&out) }
    }
}

/// One step of the tour and what was found wrong in it.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Its heading.
    pub(super) title: String,
    /// What did not come out as told.
    pub(super) failures: Vec<String>,
    /// How many things were looked at.
    pub(super) checks: usize,
}

impl Verdict {
    /// A step that looked at nothing has shown nothing.
    pub(super) fn is_as_told(&self) -> bool {
        self.failures.is_empty() && self.checks > 0
    }
}

/// What the tour is printed on.
pub(super) struct Page<W> {
    out: W,
    screen: Screen,
    verdicts: Vec<Verdict>,
    /// What stands on the line that is being rewritten.
    live_line: Option<String>,
}

impl<W: Write> Page<W> {
    /// An empty page.
    pub(super) fn new(out: W, screen: Screen) -> Page<W> {
        Page { out, screen, verdicts: Vec::new(), live_line: None }
    }

    /// The steps so far.
    pub(super) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// What was printed.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// A line as it is; empty for a gap.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.settle()?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// A heading without a number.
    pub(super) fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(BOLD, text);
        self.line("")?;
        self.line(&text)
    }

    /// Running text, broken into lines.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        for line in wrapped(text, WIDTH - INDENT.len()) {
            self.line(&format!("{INDENT}{line}"))?;
        }
        Ok(())
    }

    /// Lines of a file.
    pub(super) fn listing(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            let (code, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
            let comment = self.paint(DIM, comment);
            self.line(format!("{INDENT}{code}{comment}").trim_end())?;
        }
        Ok(())
    }

    /// Begins a numbered step with a sentence of why it matters.
    pub(super) fn step(&mut self, title: &str, why: &str) -> io::Result<()> {
        self.verdicts.push(Verdict { title: title.to_owned(), failures: Vec::new(), checks: 0 });
        let number = self.verdicts.len();
        self.heading(&format!("{number}  {title}"))?;
        self.text(why)?;
        self.line("")
    }

    /// Something that the tour does to the scene.
    pub(super) fn action(&mut self, text: &str) -> io::Result<()> {
        let mark = self.paint(YELLOW, "▸");
        let mut lead = format!("{mark} ");
        for line in wrapped(text, WIDTH - INDENT.len() - 2) {
            self.line(&format!("{INDENT}{lead}{line}"))?;
            lead = "  ".to_owned();
        }
        Ok(())
    }

    /// A request, as one would type it.
    pub(super) fn request(&mut self, command: &str) -> io::Result<()> {
        let (prompt, command) = (self.paint(DIM, "$"), self.paint(CYAN, command));
        self.line(&format!("{INDENT}{prompt} {command}"))
    }

    /// What came back.
    pub(super) fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let colour = match answer.status() {
            200..300 => GREEN,
            _ => YELLOW,
        };
        let status = self.paint(colour, &answer.status_line());
        self.line(&format!("{INDENT}  {status}"))?;
        for (name, value) in answer.essentials() {
            self.field(name, &value)?;
        }
        Ok(())
    }

    /// A name and its value, in a column.
    pub(super) fn field(&mut self, name: &str, value: &str) -> io::Result<()> {
        let mut name = self.paint(DIM, &format!("{name:NAME_WIDTH$}"));
        for line in wrapped(value, WIDTH - INDENT.len() - 2 - NAME_WIDTH) {
            self.line(&format!("{INDENT}  {name}{line}"))?;
            name = " ".repeat(NAME_WIDTH);
        }
        Ok(())
    }

    /// How a wait goes on; only a terminal shows it.
    pub(super) fn progress(&mut self, text: &str) -> io::Result<()> {
        if !self.screen.live || self.live_line.as_deref() == Some(text) {
            return Ok(());
        }
        self.live_line = Some(text.to_owned());
        let text = self.paint(DIM, &format!("… {text}"));
        write!(self.out, "\r\x1b[2K{INDENT}{text}")?;
        self.out.flush()
    }

    /// The end of a wait.
    pub(super) fn waited(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(DIM, &format!("… {text}"));
        self.line(&format!("{INDENT}{text}"))
    }

    /// A verdict on the current step: `told` is what should be, `found` what is instead.
    pub(super) fn check(&mut self, told: &str, is_so: bool, found: &str) -> io::Result<()> {
        let words = if is_so { told.to_owned() } else { format!("{told} (but: {found})") };
        if let Some(verdict) = self.verdicts.last_mut() {
            verdict.checks += 1;
            if !is_so {
                verdict.failures.push(words.clone());
            }
        }
        let mut mark = if is_so { self.paint(GREEN, "✓ ") } else { self.paint(RED, "✗ ") };
        for line in wrapped(&words, WIDTH - INDENT.len() - 2) {
            self.line(&format!("{INDENT}{mark}{line}"))?;
            mark = "  ".to_owned();
        }
        Ok(())
    }

    /// The last line: good or bad.
    pub(super) fn conclusion(&mut self, text: &str, is_good: bool) -> io::Result<()> {
        let mark = if is_good { "✓" } else { "✗" };
        let text = self.paint(if is_good { GREEN } else { RED }, &format!("{mark} {text}"));
        self.line(&text)
    }

    /// Takes away the line that was being rewritten.
    fn settle(&mut self) -> io::Result<()> {
        if self.live_line.take().is_some() {
            write!(self.out, "\r\x1b[2K")?;
        }
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.screen.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Breaks at spaces; a word that is too long has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces_and_nothing_is_lost() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a https://long.example/path b", 5), ["a", "https://long.example/path", "b"]);
    }

    #[test]
    fn without_a_terminal_there_is_neither_colour_nor_a_rewritten_line() {
        let mut page = Page::new(Vec::new(), Screen::default());
        page.step("A title", "why").unwrap();
        page.progress("3 s left").unwrap();
        page.check("it works", false, "it does not").unwrap();
        assert!(!page.verdicts()[0].is_as_told());
        let shown = String::from_utf8(page.into_inner()).unwrap();
        assert_eq!(shown, "\n1  A title\n   why\n\n   ✗ it works (but: it does not)\n");
    }

    #[test]
    fn on_a_terminal_progress_leaves_nothing_behind() {
        let mut page = Page::new(Vec::new(), Screen { colour: false, live: true });
        page.progress("3 s left").unwrap();
        page.progress("3 s left").unwrap();
        page.line("done").unwrap();
        let shown = String::from_utf8(page.into_inner()).unwrap();
        assert_eq!(shown, "\r\x1b[2K   … 3 s left\r\x1b[2Kdone\n");
    }
}
