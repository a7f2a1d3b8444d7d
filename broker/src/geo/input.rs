//! Which topics carry fixes, and of which device in which region.

use meridian_mqtt::topic::TopicName;

/// A pattern such as `gps/{region}/{device}/position`: what an input topic looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPattern(Vec<Level>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    Region,
    Device,
}

/// Why a pattern is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// Both must be there, once.
    #[error("an input pattern names {{region}} and {{device}} once each, as whole levels")]
    Placeholders,
}

impl InputPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`]: `{region}` or `{device}` is missing, doubled, or part of a level.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let levels: Vec<Level> = pattern
            .split('/')
            .map(|level| match level {
                "{region}" => Level::Region,
                "{device}" => Level::Device,
                literal => Level::Literal(literal.to_owned()),
            })
            .collect();
        let count = |wanted: &Level| levels.iter().filter(|level| *level == wanted).count();
        let odd = levels.iter().any(
            |level| matches!(level, Level::Literal(text) if text.contains(['{', '}', '+', '#'])),
        );
        if odd || count(&Level::Region) != 1 || count(&Level::Device) != 1 {
            return Err(PatternError::Placeholders);
        }
        Ok(InputPattern(levels))
    }

    /// The region and the device of `topic`, if it is an input. An empty level names nobody.
    #[must_use]
    pub fn read<'a>(&self, topic: &'a TopicName) -> Option<(&'a str, &'a str)> {
        let (mut region, mut device) = ("", "");
        let mut levels = topic.as_str().split('/');
        for wanted in &self.0 {
            let level = levels.next()?;
            match wanted {
                Level::Literal(literal) if literal == level => {}
                Level::Literal(_) => return None,
                Level::Region => region = level,
                Level::Device => device = level,
            }
        }
        (levels.next().is_none() && !region.is_empty() && !device.is_empty())
            .then_some((region, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_topic_names_its_region_and_its_device() {
        let pattern = InputPattern::new("gps/{region}/{device}/position").unwrap();
        let read = |topic| {
            pattern
                .read(&TopicName::from_static(topic))
                .map(|(r, d)| (r.to_owned(), d.to_owned()))
        };
        assert_eq!(
            read("gps/hel/bus-1/position"),
            Some(("hel".into(), "bus-1".into()))
        );
        for other in [
            "gps/hel/bus-1",
            "gps/hel/bus-1/position/x",
            "geo/hel/bus-1/position",
            "gps//bus-1/position",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_pattern_without_a_device_is_none() {
        for wrong in [
            "gps/{region}/position",
            "gps/{region}/{region}/{device}",
            "gps/x{region}/{device}",
            "gps/+/{region}/{device}",
        ] {
            assert_eq!(
                InputPattern::new(wrong),
                Err(PatternError::Placeholders),
                "{wrong}"
            );
        }
    }
}
