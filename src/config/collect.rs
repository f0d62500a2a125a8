//! A serde deserializer over the tree that does not stop at the first problem.
//!
//! Three habits make it collect: unknown keys are recorded and skipped, keys that are absent are
//! offered to the struct all the same, and a [`Field`] swallows the failure of its value after it was
//! recorded. Two enum names are special: [`SHAPE`] picks the variant by what was written (text, a list
//! or a map), [`KIND`] by the map's `kind`.

use std::fmt;

use serde::{
    de::{Deserializer, Error, Visitor},
    forward_to_deserialize_any,
};

use super::{
    access::{Entries, FieldAccess, Fields, Items, Variant},
    field::FIELD,
    names::{closest, quoted},
    place::Place,
    planned::planned,
    problem::Findings,
    tree::{Node, Position, Value},
};

/// The serde name of an enum whose variants `text`, `list` and `map` are chosen by what was written.
pub(super) const SHAPE: &str = "$shape";

/// The serde name of an enum whose variant is named by the key `kind` of a map.
pub(super) const KIND: &str = "$kind";

/// A key of the whole file that is read before the rest, so that no struct has it.
const READ_BEFORE: &str = "environments";

/// Characters of a found value that a message repeats.
const FOUND_CHARS_MAX: usize = 40;

/// Keys that lead to secrets, though their names do not say so. As whole names only: many others hold them.
const SECRET_PARTS: [&str; 11] = [
    "extra",
    "key",
    "token",
    "bearer",
    "basic",
    "header",
    "query",
    "value",
    "exec",
    "vault",
    "azure_key_vault",
];

/// Structs that say where a secret is: what is no key of theirs may be the secret itself.
const SECRET_STRUCTS: [&str; 2] = ["SecretPlace", "TokenFile"];

/// A failure on its way to the nearest [`Field`].
#[derive(Debug)]
pub(super) struct Failed {
    /// What to record; `None` once it is recorded.
    message: Option<String>,
}

/// A failure that is on record.
pub(super) const RECORDED: Failed = Failed { message: None };

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("recorded"))
    }
}

impl std::error::Error for Failed {}

impl Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: Some(message.to_string()) }
    }
}

/// Reads one value of the tree.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// `None` when the key is absent.
    pub(super) node: Option<&'a Node>,
    /// Where the value's key stands; the place of what is missing inside.
    pub(super) key_at: Position,
    pub(super) place: &'a Place<'a>,
    pub(super) findings: &'a Findings<'a>,
}

impl<'a> Reader<'a> {
    /// A reader for the whole file.
    pub(super) fn new(root: &'a Node, findings: &'a Findings<'a>) -> Self {
        const ROOT: &Place<'static> = &Place::Root;
        Self { node: Some(root), key_at: Position { line: 1, column: 1 }, place: ROOT, findings }
    }

    fn at(&self) -> Position {
        self.node.map_or(self.key_at, |node| node.at)
    }

    pub(super) fn fail(&self, message: impl fmt::Display) -> Failed {
        self.findings.add(self.at(), format!("{}{message}", self.place));
        RECORDED
    }

    fn expected(&self, what: &str) -> Failed {
        if self.may_be_secret() {
            self.findings.hide(self.at(), 0);
        }
        self.fail(format_args!("expected {what}, found {}", self.found()))
    }

    /// Whether a wrong value may hold a secret, because the right one would be near one.
    fn may_be_secret(&self) -> bool {
        let steps = self.place.steps();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let keys = match steps.as_slice() {
            // A name is no key, unless it stands where a key was meant.
            ["profiles" | "routes" | "listeners", _, keys @ ..] if !keys.is_empty() => keys,
            ["telemetry", "otlp", "headers", ..] => return true,
            keys => keys,
        };
        keys.iter().any(|key| is_near_secret(key) || SECRET_PARTS.contains(key))
    }

    fn found(&self) -> String {
        match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => "nothing".to_owned(),
            Some(Value::Seq(_)) => "a list".to_owned(),
            Some(Value::Map(_)) => "a map".to_owned(),
            Some(Value::Plain(_) | Value::Quoted(_)) if self.may_be_secret() => "text".to_owned(),
            Some(Value::Plain(text) | Value::Quoted(text)) => shown(text),
        }
    }

    /// Records what the visitor complained about.
    pub(super) fn settle<T>(&self, result: Result<T, Failed>) -> Result<T, Failed> {
        result.map_err(|failed| match failed.message {
            Some(message) => self.fail(message),
            None => failed,
        })
    }

    fn text(&self) -> Result<&'a str, Failed> {
        self.node.and_then(Node::text).ok_or_else(|| self.expected("text"))
    }

    fn map(&self) -> Result<&'a [(Node, Node)], Failed> {
        self.map_or_nothing().ok_or_else(|| self.expected("a map"))
    }

    fn map_or_nothing(&self) -> Option<&'a [(Node, Node)]> {
        match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => Some(entries),
            _ => None,
        }
    }

    /// Records a key that the struct `name` does not have.
    fn stray(&self, name: &str, key: &Node, allowed: &[&'static str]) {
        let word = key.text().unwrap_or_default();
        if let Some(hint) = planned(name, word) {
            self.findings.add(key.at, format!("{}{word} is not built yet ({hint})", self.place));
            return;
        }
        if SECRET_STRUCTS.contains(&name) && closest(word, allowed).is_none() {
            self.findings.hide(key.at, 0);
            let allowed = allowed.join(", ");
            self.findings.add(key.at, format!("{}unknown key (allowed: {allowed})", self.place));
            return;
        }
        let is_whole_file = matches!(self.place, Place::Root);
        let allowed: Vec<_> = allowed.iter().copied().chain(is_whole_file.then_some(READ_BEFORE)).collect();
        let allowed = allowed.as_slice();
        // Nobody knows what an unknown key holds: it may be a secret.
        if closest(word, allowed).is_none_or(is_near_secret) {
            self.findings.hide(key.at, word.chars().count() + ": ".len());
        }
        self.findings.add(key.at, self.unknown("key", word, allowed));
    }

    fn unknown(&self, what: &str, word: &str, allowed: &[&'static str]) -> String {
        let place = self.place;
        let near = closest(word, allowed).map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
        format!("{place}unknown {what} {} ({near}allowed: {})", shown(word), allowed.join(", "))
    }
}

/// Whether the value of such a key is a secret, or says where one is.
fn is_near_secret(key: &str) -> bool {
    const WORDS: [&str; 8] = [
        "secret",
        "password",
        "private_key",
        "federated_token",
        "client_assertion",
        "service_account",
        "subject_token",
        "actor_token",
    ];
    WORDS.iter().any(|word| key.contains(word))
}

fn shown(text: &str) -> String {
    if text.chars().nth(FOUND_CHARS_MAX).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(FOUND_CHARS_MAX).collect();
    format!("{:?}", start + "…")
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let text = self.text()?;
        self.settle(visitor.visit_str(text))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let value = match self.node.map(|node| &node.value) {
            Some(Value::Plain(text)) if text == "true" => true,
            Some(Value::Plain(text)) if text == "false" => false,
            _ => return Err(self.expected("true or false")),
        };
        self.settle(visitor.visit_bool(value))
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let digits = |text: &&String| text.chars().all(|c| c.is_ascii_digit());
        let number = match self.node.map(|node| &node.value) {
            Some(Value::Plain(text)) => Some(text).filter(digits).and_then(|text| text.parse().ok()),
            _ => None,
        };
        let number: u64 = number.ok_or_else(|| self.expected("a whole number"))?;
        self.settle(visitor.visit_u64(number))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if self.node.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &str, visitor: V) -> Result<V::Value, Failed> {
        if name != FIELD {
            return visitor.visit_newtype_struct(self);
        }
        let mut start = Some(self.at());
        match self.node.map(|node| &node.value) {
            None => {
                let key = self.place.key().unwrap_or_default();
                let parent = if let Place::Key(parent, _) = self.place { parent } else { self.place };
                self.findings.add(self.key_at, format!("{parent}the key {key:?} is missing"));
                start = None;
            }
            Some(Value::Null) => {
                self.findings
                    .add(self.at(), format!("{}has no value (write one or remove the key)", self.place));
                start = None;
            }
            _ => {}
        }
        visitor.visit_seq(FieldAccess { at: self.at(), given: start.is_some(), step: 0, reader: self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let Some(Value::Seq(items)) = self.node.map(|node| &node.value) else {
            return Err(self.expected("a list"));
        };
        visitor.visit_seq(Items { reader: self, items: items.iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_map(Entries { reader: self, entries: self.map()?.iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let entries = match self.map_or_nothing() {
            Some(entries) => entries,
            // Whoever writes a path here means this.
            None if fields == ["file"] => return Err(self.expected("{file: PATH}")),
            None => return Err(self.expected("a map")),
        };
        for (key, _) in entries {
            if !key.text().is_some_and(|word| fields.contains(&word)) {
                self.stray(name, key, fields);
            }
        }
        visitor.visit_map(Fields { reader: self, entries, fields: fields.iter(), field: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let variant = match name {
            SHAPE => self.shape(variants)?,
            KIND => self.kind(variants)?,
            _ => self.word(name, variants)?,
        };
        visitor.visit_enum(Variant { reader: self, variant })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl Reader<'_> {
    fn shape(&self, variants: &[&'static str]) -> Result<&'static str, Failed> {
        let shape = match self.node.map(|node| &node.value) {
            Some(Value::Plain(_) | Value::Quoted(_)) => "text",
            Some(Value::Seq(_)) => "list",
            Some(Value::Map(_)) => "map",
            None | Some(Value::Null) => "nothing",
        };
        let article = |shape: &&str| if *shape == "text" { "text".to_owned() } else { format!("a {shape}") };
        let wanted = || variants.iter().map(article).collect::<Vec<_>>().join(" or ");
        let variant = variants.iter().find(|variant| **variant == shape);
        variant.copied().ok_or_else(|| self.expected(&wanted()))
    }

    fn kind(&self, variants: &'static [&'static str]) -> Result<&'static str, Failed> {
        self.map()?;
        let Some(kind) = self.node.and_then(|node| node.find("kind")) else {
            let kinds = quoted(variants.iter().copied());
            self.findings
                .add(self.key_at, format!("{}the key \"kind\" is missing (one of {kinds})", self.place));
            return Err(RECORDED);
        };
        let place = Place::Key(self.place, "kind");
        let reader = Reader { node: Some(kind), place: &place, ..*self };
        reader.word("kind", variants)
    }

    fn word(&self, name: &str, variants: &'static [&'static str]) -> Result<&'static str, Failed> {
        let word = self.text()?;
        if let Some(variant) = variants.iter().find(|variant| **variant == word) {
            return Ok(variant);
        }
        match planned(name, word) {
            Some(hint) => {
                self.findings.add(self.at(), format!("{}{word} is not built yet ({hint})", self.place))
            }
            None if self.may_be_secret() => {
                self.findings.hide(self.at(), 0);
                let allowed = variants.join(", ");
                self.findings.add(self.at(), format!("{}expected a map, or {allowed}", self.place));
            }
            None => self.findings.add(self.at(), self.unknown("value", word, variants)),
        }
        Err(RECORDED)
    }
}
