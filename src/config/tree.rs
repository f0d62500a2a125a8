//! YAML text as a tree in which every value knows where it was written.
//!
//! Scalars keep their text: what they mean is decided by who reads them, so that `path: 1` or
//! `client_id: 0123` is text where text is wanted. Nothing here knows any key.

use std::collections::{HashMap, HashSet};

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::problem::Findings;

/// Nodes that a file may have, aliases written out. Ten thousand routes have a quarter of it; a
/// "billion laughs" file has more.
const NODES_MAX: usize = 1_000_000;

/// A place in the file: line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// Text without quotes: it may also be read as a number or as true or false.
    Plain(String),
    /// Text in quotes or in a block: only ever text.
    Quoted(String),
    Seq(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Quoted(text) => Some(text),
            _ => None,
        }
    }

    /// The value of `key` when this is a map that has it.
    pub(super) fn find(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.text() == Some(key)).map(|(_, value)| value)
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[(Node, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The last line that something of this value begins on.
    pub(super) fn last_line(&self) -> u32 {
        let inner = match &self.value {
            Value::Map(entries) => entries.iter().map(|(k, v)| k.last_line().max(v.last_line())).max(),
            Value::Seq(items) => items.iter().map(Node::last_line).max(),
            _ => None,
        };
        self.at.line.max(inner.unwrap_or(0))
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Map(entries) => entries.iter().map(|(k, v)| k.size() + v.size()).sum(),
            Value::Seq(items) => items.iter().map(Node::size).sum(),
            _ => 0,
        }
    }
}

/// Reads `text`. `None` when it is not one YAML document; the problem is recorded then.
pub(super) fn parse(text: &str, findings: &Findings<'_>) -> Option<Node> {
    let events = Parser::new_from_str(text);
    let mut builder = Builder { events, findings, anchors: HashMap::new(), nodes: 0 };
    match builder.document() {
        Ok(node) => Some(node),
        Err(Stop { at, message }) => {
            findings.add(at, message);
            None
        }
    }
}

/// Why reading stopped for good.
struct Stop {
    at: Position,
    message: String,
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        let at = position(error.marker().line(), error.marker().col());
        let words = error.info();
        let words = words.lines().next().unwrap_or_default();
        let remedy = if words.contains("tab") { " (indent with spaces)" } else { "" };
        Self { at, message: format!("not valid YAML: {words}{remedy}") }
    }
}

fn position(line: usize, column_from_zero: usize) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(line), column: number(column_from_zero.saturating_add(1)) }
}

struct Builder<'a, 'f, P> {
    events: P,
    findings: &'a Findings<'f>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t, P: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Builder<'_, '_, P> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(stop(
                        at,
                        "a second YAML document (a configuration is one document; remove the `---`)",
                    ));
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, at)?),
            }
        }
        let start = Position { line: 1, column: 1 };
        root.ok_or_else(|| {
            stop(start, "the file is empty (keybearer init --force writes a first configuration over it)")
        })
    }

    fn next(&mut self) -> Result<(Event<'t>, Position), Stop> {
        for item in self.events.by_ref() {
            let (event, span) = item?;
            if !matches!(event, Event::Comment(..)) {
                return Ok((event, position(span.start.line(), span.start.col())));
            }
        }
        Ok((Event::StreamEnd, Position::default()))
    }

    fn node(&mut self, event: Event<'t>, at: Position) -> Result<Node, Stop> {
        self.count(1, at)?;
        if event.tag().is_some() {
            // It may be a secret that begins with the mark of tags.
            self.findings.hide_behind(at.line, '!');
            return Err(stop(
                at,
                "a tag means nothing here (remove it, or put text that begins with ! in quotes)",
            ));
        }
        let anchor = event.anchor_id().filter(|id| *id != 0);
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if is_null(&text) => Value::Null,
            Event::Scalar(text, ScalarStyle::Plain, ..) => Value::Plain(text.into_owned()),
            Event::Scalar(text, ..) => Value::Quoted(text.into_owned()),
            Event::SequenceStart(..) => self.sequence()?,
            Event::MappingStart(..) => self.mapping()?,
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(stop(at, "an alias to something that contains it"));
                };
                self.count(node.size(), at)?;
                return Ok(node);
            }
            _ => return Err(stop(at, "not valid YAML: a value is missing")),
        };
        let node = Node { at, value };
        if let Some(id) = anchor {
            // It is kept a second time, for the aliases.
            self.count(node.size(), at)?;
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self) -> Result<Value, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Seq(items)),
                (event, at) => items.push(self.node(event, at)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Value, Stop> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Map(entries));
            }
            let key = self.node(event, at)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at)?;
            let Some(name) = key.text() else {
                return Err(stop(key.at, "a key must be plain text"));
            };
            if seen.insert(name.to_owned()) {
                entries.push((key, value));
            } else {
                self.findings.add(key.at, format!("the key {name:?} is written twice (remove one)"));
            }
        }
    }

    fn count(&mut self, more: usize, at: Position) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(stop(
                at,
                format!(
                    "more than {NODES_MAX} values, aliases written out (write out what is needed, without aliases, or split \
                 it between several gateways)"
                ),
            ));
        }
        Ok(())
    }
}

fn stop(at: Position, message: impl Into<String>) -> Stop {
    Stop { at, message: message.into() }
}

/// YAML 1.2 core schema: what an absent value looks like.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
