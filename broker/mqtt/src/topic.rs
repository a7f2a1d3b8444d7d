//! Topic names and topic filters (5.0 §4.7), shared subscriptions included (§4.8.2).
//!
//! `text ─► **topic** ─► packet, topic tree, router`. Both types are proofs: a [`TopicName`] has no wildcard, a
//! [`TopicFilter`] has them only where they are allowed. [`TopicFilter::matches`] is the plain definition of matching;
//! [`crate::topic_tree`] is the fast form and is tested against it.

mod coverage;

use std::fmt;
use std::str::FromStr;

use crate::text::{Text, TextError};

/// Most levels of a name or filter: deep topics are an old way to hurt brokers (CVE-2019-11779).
pub const TOPIC_LEVELS_MAX: usize = 128;

const SHARE: &str = "$share/";
const QUEUE: &str = "$queue/";

/// Where a message is published: one level or more, no wildcard [MQTT-4.7.1-1].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Text);

/// What a subscription asks for: a pattern of topic names, perhaps shared among a group.
///
/// Two filters are equal when their whole texts are: `a` and `$share/g/a` are two subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    text: Text,
    /// Where the pattern begins in `text`, bytes; 0 unless the subscription is shared.
    pattern_at: u16,
}

/// Why a text is no topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No characters [MQTT-4.7.3-1].
    #[error("a topic has at least one character [MQTT-4.7.3-1]")]
    Empty,
    /// A wildcard in a name [MQTT-3.3.2-2], or at a wrong place in a filter [MQTT-4.7.1-1], [MQTT-4.7.1-2].
    #[error("a wildcard stands where none is allowed")]
    Wildcard,
    /// More than [`TOPIC_LEVELS_MAX`] levels.
    #[error("a topic of more than {TOPIC_LEVELS_MAX} levels")]
    TooDeep,
    /// `$share` without group or filter, or a wildcard in the group [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    #[error("a shared subscription without a valid group and filter [MQTT-4.8.2-1]")]
    Share,
    /// Not even a string of MQTT.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl TopicName {
    /// Checks `text`; on failure the caller still has it.
    pub fn new(text: Text) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        // Without a branch inside, so that it runs on vectors: this is once a message.
        let bytes = text.bytes();
        if bytes.iter().fold(false, |found, byte| {
            found | (*byte == b'+') | (*byte == b'#')
        }) {
            return Err(TopicError::Wildcard);
        }
        let is_short = bytes.len() < TOPIC_LEVELS_MAX;
        if !is_short && bytes.iter().filter(|byte| **byte == b'/').count() >= TOPIC_LEVELS_MAX {
            return Err(TopicError::TooDeep);
        }
        Ok(Self(text))
    }

    /// A name of the program itself.
    ///
    /// # Panics
    /// When it is no topic name.
    pub fn from_static(name: &'static str) -> Self {
        Self::new(Text::from_static(name)).expect("a static topic name is valid")
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as [`Text`].
    pub fn text(&self) -> &Text {
        &self.0
    }

    /// Its levels, at least one; each may be empty [MQTT-4.7.3-1].
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }

    /// A copy that pins no read buffer, see [`Text::detach`].
    pub fn detach(&self) -> Self {
        Self(self.0.detach())
    }
}

impl TopicFilter {
    /// Checks `text`; on failure the caller still has it.
    pub fn new(text: Text) -> Result<Self, TopicError> {
        let pattern_at = pattern_at(&text)?;
        check_pattern(&text[pattern_at..])?;
        Ok(Self {
            pattern_at: u16::try_from(pattern_at).expect("a text is at most 65,535 bytes"),
            text,
        })
    }

    /// A filter of the program itself.
    ///
    /// # Panics
    /// When it is no topic filter.
    pub fn from_static(filter: &'static str) -> Self {
        Self::new(Text::from_static(filter)).expect("a static topic filter is valid")
    }

    /// The whole filter as the client wrote it, `$share/…` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole filter as [`Text`].
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The group of a shared subscription; `$queue/…` is the group `$queue`.
    pub fn share(&self) -> Option<&str> {
        match self.pattern_at as usize {
            0 => None,
            at if self.text.starts_with(SHARE) => Some(&self.text[SHARE.len()..at - 1]),
            at => Some(&self.text[..at - 1]),
        }
    }

    /// The part that topic names are compared with: without `$share/{group}/`.
    pub fn pattern(&self) -> &str {
        &self.text[self.pattern_at as usize..]
    }

    /// The levels of [`Self::pattern`].
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.pattern().split('/')
    }

    /// Whether it can match more than one name.
    pub fn has_wildcard(&self) -> bool {
        self.pattern()
            .bytes()
            .any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether a message on `topic` is meant by this filter (5.0 §4.7).
    pub fn matches(&self, topic: &TopicName) -> bool {
        pattern_matches(self.pattern(), topic.as_str())
    }

    /// A copy that pins no read buffer, see [`Text::detach`].
    pub fn detach(&self) -> Self {
        Self {
            text: self.text.detach(),
            pattern_at: self.pattern_at,
        }
    }
}

/// The definition of matching, level by level. Both sides are valid.
pub(crate) fn pattern_matches(pattern: &str, topic: &str) -> bool {
    // `#` and `+` at the front must not see `$SYS/…`; only a filter that names its `$` level may [MQTT-4.7.2-1].
    if topic.starts_with('$') && pattern.starts_with(['#', '+']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in pattern.split('/') {
        if level == "#" {
            return true; // the parent level included, §4.7.1.2
        }
        match topic_levels.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Where the pattern starts behind `$share/{group}/` or `$queue/`; 0 without them.
fn pattern_at(text: &str) -> Result<usize, TopicError> {
    if let Some(rest) = text.strip_prefix(SHARE) {
        let (group, pattern) = rest.split_once('/').ok_or(TopicError::Share)?;
        if group.is_empty() || group.contains(['+', '#']) || pattern.is_empty() {
            return Err(TopicError::Share);
        }
        return Ok(SHARE.len() + group.len() + 1);
    }
    match text.strip_prefix(QUEUE) {
        Some("") => Err(TopicError::Share),
        Some(_) => Ok(QUEUE.len()),
        None if text == "$share" => Err(TopicError::Share),
        None => Ok(0),
    }
}

fn check_pattern(pattern: &str) -> Result<(), TopicError> {
    if pattern.is_empty() {
        return Err(TopicError::Empty);
    }
    let mut levels = 0;
    let mut ended = false;
    for level in pattern.split('/') {
        levels += 1;
        if levels > TOPIC_LEVELS_MAX {
            return Err(TopicError::TooDeep);
        }
        let alone = level.len() == 1;
        if ended || (!alone && level.contains(['+', '#'])) {
            return Err(TopicError::Wildcard);
        }
        ended = level == "#";
    }
    Ok(())
}

impl FromStr for TopicName {
    type Err = TopicError;
    fn from_str(name: &str) -> Result<Self, TopicError> {
        Self::new(Text::try_from(name)?)
    }
}

impl FromStr for TopicFilter {
    type Err = TopicError;
    fn from_str(filter: &str) -> Result<Self, TopicError> {
        Self::new(Text::try_from(filter)?)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
