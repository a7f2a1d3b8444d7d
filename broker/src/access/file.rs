//! The access file: a list of rules, each for some users or clients.
//!
//! ```toml
//! [[rule]]
//! clients = ["truck-*"]
//! publish = ["gps/${region}/%c/position"]
//! subscribe = ["cmd/${region}/%c/#"]
//!
//! [[rule]]
//! effect = "deny"
//! users = ["guest"]
//! subscribe = ["geo/+/+/alert/#"]
//! ```
//!
//! A value that is put into a filter is put in literally, and never if it holds `/`, `+` or `#` or begins with `$`: an id
//! cannot widen a rule (CVE-2017-7650), nor is it ever part of a regular expression (CVE-2026-44838).

use std::path::{Path, PathBuf};

use meridian_mqtt::topic::TopicFilter;
use regex::Regex;
use serde::Deserialize;

use super::Client;
use super::rights::{Granted, Rights};
use crate::router::text;

/// Bytes of an access file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a file is no access file.
#[derive(Debug, thiserror::Error)]
pub enum AclError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be understood.
    #[error("{path}: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What, and where.
        message: String,
    },
}

/// All rules, in no order: what one forbids, no other allows.
#[derive(Debug, Default)]
pub struct Rules {
    list: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    denies: bool,
    /// `None`: whoever it is, without a name too.
    users: Option<Vec<Pattern>>,
    clients: Option<Vec<Pattern>>,
    publish: Vec<Template>,
    subscribe: Vec<Template>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    #[serde(default)]
    effect: Effect,
    users: Option<Vec<String>>,
    clients: Option<Vec<String>>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Effect {
    #[default]
    Allow,
    Deny,
}

impl Rules {
    /// Reads an access file. An empty one is right, and allows nothing.
    ///
    /// # Errors
    /// [`AclError`] names the file and the place.
    pub fn load(path: &Path) -> Result<Self, AclError> {
        let read = || {
            let bytes = std::fs::metadata(path)?.len();
            if bytes > FILE_BYTES_MAX {
                return Err(std::io::Error::other(format!(
                    "{bytes} bytes are more than {FILE_BYTES_MAX}"
                )));
            }
            std::fs::read_to_string(path)
        };
        let content = read().map_err(|source| AclError::Read {
            path: path.to_owned(),
            source,
        })?;
        let rules = Self::parse(&content).map_err(|message| AclError::Parse {
            path: path.to_owned(),
            message,
        })?;
        if rules.list.is_empty() {
            tracing::warn!(
                path = %path.display(),
                "The access file has no rule: nobody may publish or subscribe."
            );
        }
        Ok(rules)
    }

    /// Reads the text of an access file.
    ///
    /// # Errors
    /// Says what is wrong, and where.
    pub fn parse(content: &str) -> Result<Self, String> {
        let file: File = toml::from_str(content).map_err(|error| error.to_string())?;
        let rule = |(at, rule): (usize, FileRule)| {
            let place = |error| format!("rule[{at}].{error}");
            Ok(Rule {
                denies: rule.effect == Effect::Deny,
                users: patterns("users", rule.users).map_err(place)?,
                clients: patterns("clients", rule.clients).map_err(place)?,
                publish: templates("publish", &rule.publish).map_err(place)?,
                subscribe: templates("subscribe", &rule.subscribe).map_err(place)?,
            })
        };
        let list = file.rule.into_iter().enumerate().map(rule);
        Ok(Rules {
            list: list.collect::<Result<_, String>>()?,
        })
    }

    /// What the rules say of `client`.
    pub(super) fn rights(&self, client: Client<'_>) -> Rights {
        let mut granted = Granted::default();
        for rule in self.list.iter().filter(|rule| rule.concerns(client)) {
            let Granted { publish, subscribe } = &mut granted;
            for (templates, grants) in [(&rule.publish, publish), (&rule.subscribe, subscribe)] {
                for template in templates {
                    match (template.fill(client), rule.denies) {
                        (Some(filter), true) => grants.deny.push(filter),
                        (Some(filter), false) => grants.allow.push(filter),
                        // What cannot be filled in allows nothing; and what it was to forbid cannot be told apart.
                        (None, true) => grants.nothing = true,
                        (None, false) => {}
                    }
                }
            }
        }
        Rights::granted(granted)
    }
}

impl Rule {
    fn concerns(&self, client: Client<'_>) -> bool {
        let fits = |patterns: &Option<Vec<Pattern>>, value: Option<&str>| match (patterns, value) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(patterns), Some(value)) => patterns
                .iter()
                .any(|pattern| pattern.fits(value, self.denies)),
        };
        fits(&self.users, client.user) && fits(&self.clients, Some(client.id))
    }
}

/// A name, or with `*` for any characters a pattern of names.
#[derive(Debug)]
enum Pattern {
    Exact(String),
    Wild(Regex),
}

impl Pattern {
    fn fits(&self, value: &str, denies: bool) -> bool {
        match self {
            Pattern::Exact(name) => name == value,
            // A pattern grants nothing to who could mean more than one name by its own.
            Pattern::Wild(pattern) => (denies || is_plain(value)) && pattern.is_match(value),
        }
    }
}

fn patterns(key: &str, texts: Option<Vec<String>>) -> Result<Option<Vec<Pattern>>, String> {
    let pattern = |(at, text): (usize, String)| {
        if text.is_empty() {
            return Err(format!("{key}[{at}]: an empty name is nobody's"));
        }
        if !text.contains('*') {
            return Ok(Pattern::Exact(text));
        }
        let expression = format!("(?s)^{}$", regex::escape(&text).replace(r"\*", ".*"));
        Regex::new(&expression)
            .map(Pattern::Wild)
            .map_err(|error| format!("{key}[{at}]: {error}"))
    };
    texts
        .map(|texts| texts.into_iter().enumerate().map(pattern).collect())
        .transpose()
}

/// Whether `value` can stand in a topic filter as one level, or a part of one, that means itself alone.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.starts_with('$') && !value.contains(['/', '+', '#', '\0'])
}

/// A topic filter with places for what is known of a client.
#[derive(Debug)]
struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Of(Place),
}

#[derive(Debug, Clone, Copy)]
enum Place {
    ClientId,
    Username,
    Region,
}

const PLACES: [(&str, Place); 5] = [
    ("%c", Place::ClientId),
    ("${clientid}", Place::ClientId),
    ("%u", Place::Username),
    ("${username}", Place::Username),
    ("${region}", Place::Region),
];

fn templates(key: &str, texts: &[String]) -> Result<Vec<Template>, String> {
    let template = |(at, text): (usize, &String)| {
        Template::parse(text).map_err(|error| format!("{key}[{at}]: `{text}`: {error}"))
    };
    texts.iter().enumerate().map(template).collect()
}

impl Template {
    fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let place = PLACES.iter().find(|(name, _)| rest.starts_with(name));
            if let Some((name, place)) = place {
                parts.push(Part::Of(*place));
                rest = &rest[name.len()..];
            } else if rest.starts_with("${") {
                return Err("there are ${clientid}, ${username} and ${region}".to_owned());
            } else {
                let (one, others) = rest.split_at(first.len_utf8());
                match parts.last_mut() {
                    Some(Part::Text(text)) => text.push_str(one),
                    _ => parts.push(Part::Text(one.to_owned())),
                }
                rest = others;
            }
        }
        let template = Template(parts);
        let sample = Client {
            id: "x",
            user: Some("x"),
            region: Some("x"),
        };
        match template.fill(sample) {
            None => Err("is no topic filter".to_owned()),
            Some(filter) if filter.share().is_some() => {
                Err("leave the share out: a shared subscription is judged by what it shares".into())
            }
            Some(_) => Ok(template),
        }
    }

    /// The filter for `client`; `None` if what it needs is missing or could mean more than itself.
    fn fill(&self, client: Client<'_>) -> Option<TopicFilter> {
        let mut filter = String::new();
        for part in &self.0 {
            filter.push_str(match part {
                Part::Text(text) => text,
                Part::Of(Place::ClientId) => Some(client.id).filter(|id| is_plain(id))?,
                Part::Of(Place::Username) => client.user.filter(|user| is_plain(user))?,
                Part::Of(Place::Region) => client.region.filter(|region| is_plain(region))?,
            });
        }
        TopicFilter::new(text(&filter)?).ok()
    }
}
