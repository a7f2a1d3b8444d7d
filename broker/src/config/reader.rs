//! Reads keys by their path, and knows which ones nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use toml::Value;

use super::units::{self, Unit};

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where: `section.key`.
    pub key: String,
    /// What, and what would be right.
    pub what: String,
}

impl Mistake {
    pub(crate) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Mistake {
            key: key.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// What stands at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text, a list or a truth value.
    Other,
    /// A number, with or without a unit, of this range in words.
    Measured(String),
}

/// Prefix of the environment's keys.
const PREFIX: &str = "MERIDIAN__";

pub(crate) struct Reader {
    /// Leaves by path.
    values: BTreeMap<String, Value>,
    sections: BTreeSet<String>,
    /// Paths that somebody asked for, and whether what stands there is measured.
    known: BTreeMap<String, Kind>,
    ignored: Vec<String>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    pub(crate) fn parse(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistake> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(0, |span| text[..span.start].lines().count().max(1));
            Mistake::new(format!("line {line}"), error.message().to_owned())
        })?;
        let mut reader = Reader {
            values: BTreeMap::new(),
            sections: BTreeSet::new(),
            known: BTreeMap::new(),
            ignored: Vec::new(),
            mistakes: Vec::new(),
        };
        reader.flatten("", table);
        for (name, value) in environment {
            let Some(path) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let path = path.to_ascii_lowercase().replace("__", ".");
            reader.add_sections(&path);
            reader.values.insert(path, from_environment(&value));
        }
        Ok(reader)
    }

    fn flatten(&mut self, path: &str, table: toml::Table) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key
            } else {
                format!("{path}.{key}")
            };
            match value {
                Value::Table(table) => {
                    self.sections.insert(path.clone());
                    self.flatten(&path, table);
                }
                leaf => {
                    self.values.insert(path, leaf);
                }
            }
        }
    }

    fn add_sections(&mut self, path: &str) {
        for (at, _) in path.match_indices('.') {
            self.sections.insert(path[..at].to_owned());
        }
    }

    pub(crate) fn has_section(&self, section: &str) -> bool {
        self.sections.contains(section)
    }

    /// The names below `section`.
    pub(crate) fn subsections(&mut self, section: &str) -> Vec<String> {
        let prefix = format!("{section}.");
        let below = self
            .sections
            .iter()
            .filter_map(|path| path.strip_prefix(&prefix));
        below
            .filter(|name| !name.contains('.'))
            .map(str::to_owned)
            .collect()
    }

    /// All keys below `section`, whose names are not ours.
    pub(crate) fn texts_below(&mut self, section: &str) -> Vec<(String, String)> {
        let prefix = format!("{section}.");
        let keys: Vec<String> = self
            .values
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect();
        let read = |key: String| {
            let text = match self.take(&key)? {
                Value::Boolean(value) => value.to_string(),
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                other => {
                    self.mistake(&key, format!("must be text, not {}", other.type_str()));
                    return None;
                }
            };
            Some((key[prefix.len()..].to_owned(), text))
        };
        keys.into_iter().filter_map(read).collect()
    }

    /// Says nothing about what is in `section`.
    pub(crate) fn ignore_section(&mut self, section: &str) {
        self.ignored.push(format!("{section}."));
    }

    pub(crate) fn mistake(&mut self, key: &str, what: String) {
        self.mistakes.push(Mistake::new(key, what));
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.entry(key.to_owned()).or_insert(Kind::Other);
        self.values.remove(key)
    }

    /// The keys that were asked for, with what stands there.
    #[cfg(test)]
    pub(crate) fn known(&self) -> &BTreeMap<String, Kind> {
        &self.known
    }

    /// Whether something stands at `key`. To be asked before the key is read.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.mistake(key, format!("must be text, not {}", other.type_str()));
                None
            }
        }
    }

    /// Text that `read` understands.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.mistake(key, what);
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.mistake(key, format!("must be true or false, not {other}"));
                default
            }
        }
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn number(&mut self, key: &str, default: u64, min: u64, max: u64) -> u64 {
        self.measured(key, &units::COUNT, min..=max)
            .unwrap_or(default)
    }

    /// A value with a unit, within `range`; `None` if the key is absent, or wrong and noted as such.
    pub(crate) fn measured<T: PartialOrd>(
        &mut self,
        key: &str,
        unit: &Unit<T>,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        self.ranged(key, unit.in_words(&range), |text| unit.within(text, &range))
    }

    /// [`Reader::measured`], or `off` for none; `default` if the key is absent.
    pub(crate) fn measured_or_off<T: PartialOrd>(
        &mut self,
        key: &str,
        unit: &Unit<T>,
        range: RangeInclusive<T>,
        default: Option<T>,
    ) -> Option<T> {
        let words = format!("{}, or off", unit.in_words(&range));
        let read = |text: &str| units::or_off(text, |text| unit.within(text, &range));
        self.ranged(key, words, read).unwrap_or(default)
    }

    /// Every number of the configuration comes through here, so none is without a range.
    fn ranged<T>(
        &mut self,
        key: &str,
        words: String,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key);
        self.known
            .insert(key.to_owned(), Kind::Measured(words.clone()));
        let value = value?;
        let text = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match read(&text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.mistake(key, format!("{what}; it must be {words}"));
                None
            }
        }
    }

    pub(crate) fn text_list(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let default = || default.iter().map(|&text| text.to_owned()).collect();
        match self.take(key) {
            None => default(),
            Some(Value::Array(list)) => {
                let texts: Option<Vec<String>> = list
                    .iter()
                    .map(|item| item.as_str().map(str::to_owned))
                    .collect();
                texts.unwrap_or_else(|| {
                    self.mistake(key, "must be a list of texts".into());
                    default()
                })
            }
            Some(Value::String(text)) => {
                text.split(',').map(|item| item.trim().to_owned()).collect()
            }
            Some(other) => {
                self.mistake(
                    key,
                    format!("must be a list of texts, not {}", other.type_str()),
                );
                default()
            }
        }
    }

    /// A list of topic levels, each once.
    pub(crate) fn level_list(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let list = self.text_list(key, default);
        let mut seen = BTreeSet::new();
        for (at, level) in list.iter().enumerate() {
            let bad =
                level.is_empty() || level.contains(['/', '+', '#', '\0']) || level.starts_with('$');
            if bad || ["meta"].contains(&level.as_str()) || level.starts_with("default-") {
                self.mistake(
                    &format!("{key}[{at}]"),
                    format!("`{level}` cannot be a topic level of ours"),
                );
            }
            if !seen.insert(level) {
                self.mistakes.push(Mistake::new(
                    format!("{key}[{at}]"),
                    format!("`{level}` is there twice"),
                ));
            }
        }
        list
    }

    /// All mistakes, the keys that nobody knows among them.
    pub(crate) fn finish(mut self) -> Vec<Mistake> {
        for key in self.values.keys() {
            if self.ignored.iter().any(|prefix| key.starts_with(prefix)) {
                continue;
            }
            let near = self
                .known
                .keys()
                .map(|known| (strsim::damerau_levenshtein(key, known), known))
                .min()
                .filter(|(distance, _)| *distance <= 8);
            let what = match near {
                Some((_, known)) => format!("is no key; did you mean {known}?"),
                None => "is no key".to_owned(),
            };
            self.mistakes.push(Mistake::new(key.clone(), what));
        }
        self.mistakes.sort_by(|a, b| a.key.cmp(&b.key));
        self.mistakes
    }
}

/// A value of the environment: a number or a truth value if it reads as one, otherwise text.
fn from_environment(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return Value::Integer(number);
    }
    match text {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        other => Value::String(other.to_owned()),
    }
}
