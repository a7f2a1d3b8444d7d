//! What one client may do: filters that allow, and filters that forbid. What nothing allows is forbidden, and what
//! anything forbids is not allowed.

use meridian_mqtt::topic::{TopicFilter, TopicName};

/// The broker's own topics: what it learnt of positions.
const GEO: &str = "geo";

/// What one client may do.
#[derive(Debug)]
pub struct Rights {
    /// `None`: there are no rules.
    granted: Option<Granted>,
    /// Whether `geo/` is open where there are no rules.
    publish_geo: bool,
}

#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) publish: Grants,
    pub(super) subscribe: Grants,
}

/// Filters, of topic names to publish to or to receive from.
#[derive(Debug, Default)]
pub(super) struct Grants {
    pub(super) allow: Vec<TopicFilter>,
    pub(super) deny: Vec<TopicFilter>,
    /// A prohibition that could not be told apart: all of it holds.
    pub(super) nothing: bool,
}

impl Grants {
    fn permit(&self, topic: &TopicName) -> bool {
        !self.nothing
            && self.allow.iter().any(|filter| filter.matches(topic))
            && !self.deny.iter().any(|filter| filter.matches(topic))
    }

    /// Whether one filter allows all that `asked` can match, and none forbids any of it.
    fn permit_all(&self, asked: &TopicFilter) -> bool {
        !self.nothing
            && self.allow.iter().any(|filter| filter.covers(asked))
            && !self.deny.iter().any(|filter| filter.overlaps(asked))
    }
}

impl Rights {
    pub(super) fn open(publish_geo: bool) -> Self {
        Rights {
            granted: None,
            publish_geo,
        }
    }

    pub(super) fn granted(granted: Granted) -> Self {
        Rights {
            granted: Some(granted),
            publish_geo: false,
        }
    }

    /// Whether the client may publish to `topic`. Nobody may under `$`; under `geo/` only by a grant that names it.
    #[must_use]
    pub fn may_publish(&self, topic: &TopicName) -> bool {
        let first = topic.levels().next().unwrap_or_default();
        if first.starts_with('$') {
            return false;
        }
        let is_geo = first == GEO && topic.as_str().len() > GEO.len();
        let Some(granted) = &self.granted else {
            return self.publish_geo || !is_geo;
        };
        let names_geo = |filter: &TopicFilter| filter.levels().next() == Some(GEO);
        granted.publish.permit(topic)
            && (!is_geo
                || granted
                    .publish
                    .allow
                    .iter()
                    .any(|filter| names_geo(filter) && filter.matches(topic)))
    }

    /// Whether the client may subscribe to `filter`: to all that it can match.
    #[must_use]
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.granted
            .as_ref()
            .is_none_or(|granted| granted.subscribe.permit_all(filter))
    }

    /// Whether the client may be sent what was published to `topic`. A subscription that may stand brings nothing else;
    /// what an earlier one brought is still to be asked.
    #[must_use]
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        self.granted
            .as_ref()
            .is_none_or(|granted| granted.subscribe.permit(topic))
    }
}
