//! One table of the configuration being read: typed access by key, every problem noted with its line, unknown keys
//! found at the end with a suggestion.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Text};

/// Where problems are noted while reading goes on.
pub(super) struct Notes<'a> {
    pub text: Text<'a>,
    /// What relative paths are taken from.
    pub base: &'a std::path::Path,
    pub found: RefCell<Vec<Problem>>,
}

impl Notes<'_> {
    pub fn add(&self, problem: Problem) {
        self.found.borrow_mut().push(problem);
    }
}

pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    /// Byte offset of the table, for a missing key.
    at: usize,
    /// The key of this table: `job.daily.target.nas`.
    pub path: String,
    notes: &'a Notes<'a>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn new(table: &'a DeTable<'a>, at: usize, path: String, notes: &'a Notes<'a>) -> Self {
        Self { table, at, path, notes, known: RefCell::default() }
    }

    pub fn notes(&self) -> &'a Notes<'a> {
        self.notes
    }

    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value, and that this key is known.
    pub fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Every entry, for tables whose keys the user names.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, usize, &'a Spanned<DeValue<'a>>)> {
        self.table.iter().map(|(k, v)| (k.get_ref().as_ref(), k.span().start, v))
    }

    pub fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, what: impl Into<String>) {
        self.note(self.notes.text.problem(value.span().start, self.key(key), what));
    }

    pub fn note(&self, problem: Problem) {
        self.notes.add(problem);
    }

    pub fn problem(&self, key: &str, offset: usize, what: impl Into<String>) -> Problem {
        self.notes.text.problem(offset, self.key(key), what)
    }

    pub fn missing(&self, key: &str, hint: &str) {
        self.note(self.notes.text.problem(self.at, self.key(key), "is missing").hint(hint));
    }

    pub fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong(key, value, format!("must be a text in quotes, not {}", kind(value)));
        }
        text
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(key, value, format!("must be true or false, not {}", kind(value)));
        }
        flag
    }

    pub fn whole(&self, key: &'static str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let number = value.get_ref().as_integer().and_then(|i| i.as_str().parse().ok());
        if let Some(number) = number.filter(|n| range.contains(n)) {
            return Some(number);
        }
        self.wrong(key, value, format!("must be a whole number from {} to {}", range.start(), range.end()));
        None
    }

    /// A text or a number, read by `parse`, whose error becomes the problem.
    pub fn parsed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.value(key)?;
        match scalar(value) {
            None => {
                self.wrong(key, value, format!("must be a text or a number, not {}", kind(value)));
                None
            }
            Some(text) => parse(text).map_err(|what| self.wrong(key, value, what)).ok(),
        }
    }

    /// One text or a list of texts, each read by `parse`; the good ones of a list with bad ones.
    pub fn list<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let read = |item: &Spanned<DeValue<'_>>| match item.get_ref().as_str() {
            Some(text) => parse(text).map_err(|what| self.wrong(key, item, what)).ok(),
            None => {
                self.wrong(key, item, format!("must be a text in quotes, not {}", kind(item)));
                None
            }
        };
        match value.get_ref().as_array() {
            Some(items) => items.iter().filter_map(read).collect(),
            None => read(value).into_iter().collect(),
        }
    }

    pub fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(table, value.span().start, self.key(key), self.notes)),
            None => {
                self.wrong(key, value, format!("must be a table, not {}", kind(value)));
                None
            }
        }
    }

    /// Notes every key that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, at, _) in self.entries() {
            if known.contains(&key) {
                continue;
            }
            let problem = self.problem(key, at, "is not known here");
            self.note(match nearest(key, known.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean '{near}'?")),
                None => problem.hint(format!("known are {}", known.join(", "))),
            });
        }
    }
}

/// The known word that looks most like a mistyped one.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(like, _)| *like > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// A text, or a number as it is written.
pub(super) fn scalar<'v>(value: &'v Spanned<DeValue<'_>>) -> Option<&'v str> {
    match value.get_ref() {
        DeValue::String(text) => Some(text),
        DeValue::Integer(number) => Some(number.as_str()),
        DeValue::Float(number) => Some(number.as_str()),
        _ => None,
    }
}

pub(super) fn kind(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The plugin's own options, as JSON.
pub(super) fn json(value: &DeValue<'_>) -> Result<serde_json::Value, String> {
    use serde_json::Value;
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let digits: i64 = i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| format!("the number {} is too large", number.as_str()))?;
            Value::from(digits)
        }
        DeValue::Float(number) => {
            let float: f64 = number.as_str().parse().map_err(|_| "is no number".to_owned())?;
            Value::from(float)
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|i| json(i.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entries = table.iter().map(|(k, v)| Ok((k.get_ref().to_string(), json(v.get_ref())?)));
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}
