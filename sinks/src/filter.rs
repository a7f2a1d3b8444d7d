//! Which events a sink wants.

use crate::sink::{Event, EventRecord};

/// Which events a sink wants. An empty list asks for nothing, so the default takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `position`, `alert`, or a type of alert such as `geofenceEnter`.
    pub events: Vec<String>,
    /// Regions.
    pub regions: Vec<String>,
    /// Devices; `*` stands for any characters, `?` for one.
    pub devices: Vec<String>,
    /// Ids of fences: alerts that speak of one of them, and positions inside of one.
    pub fences: Vec<String>,
}

impl Filter {
    /// Whether the sink wants this.
    #[must_use]
    pub fn passes(&self, record: &EventRecord) -> bool {
        let (kind, r#type, region, device) = match &record.event {
            Event::Position(position) => ("position", "", &position.region, &position.device),
            Event::Alert(alert) => ("alert", &*alert.r#type, &alert.region, &alert.device),
        };
        any_or_empty(&self.events, |event| event == kind || event == r#type)
            && any_or_empty(&self.regions, |wanted| wanted == region)
            && any_or_empty(&self.devices, |pattern| matches(pattern, device))
            && any_or_empty(&self.fences, |fence| match &record.event {
                Event::Position(position) => position.fences.iter().any(|inside| inside == fence),
                Event::Alert(alert) => alert.fence.as_ref().is_some_and(|of| of.id == fence),
            })
    }
}

fn any_or_empty(list: &[String], wanted: impl Fn(&str) -> bool) -> bool {
    list.is_empty() || list.iter().any(|item| wanted(item))
}

/// As fences choose their devices: `*` is any run of characters, `?` is one.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where to go on when a try fails: behind the last `*`, one character further.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern.next(), text.clone().next()) {
            (Some('*'), _) => retry = Some((pattern.clone(), text.clone())),
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                text.next();
            }
            (None, None) => return true,
            _ => {
                let Some((after_star, tried)) = &mut retry else {
                    return false;
                };
                if tried.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                text = tried.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_proto::v1::{Alert, EnrichedPosition, FenceRef};

    fn alert(r#type: &str, fence: Option<&str>) -> EventRecord {
        let fence = fence.map(|id| FenceRef {
            id: id.into(),
            ..Default::default()
        });
        record(Event::Alert(Alert {
            r#type: r#type.into(),
            region: "us-east".into(),
            device: "truck-7".into(),
            fence,
            ..Default::default()
        }))
    }

    fn position(fences: &[&str]) -> EventRecord {
        record(Event::Position(EnrichedPosition {
            region: "us-west".into(),
            device: "bus-1".into(),
            fences: fences.iter().map(|&id| id.to_owned()).collect(),
            ..Default::default()
        }))
    }

    fn record(event: Event) -> EventRecord {
        EventRecord {
            shard: "s".into(),
            offset: 0,
            at_ms: 0,
            event,
        }
    }

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn without_a_word_everything_passes() {
        assert!(Filter::default().passes(&alert("alarm", None)));
        assert!(Filter::default().passes(&position(&[])));
    }

    #[test]
    fn events_are_chosen_by_kind_or_by_type_of_alert() {
        let only = |events| Filter {
            events: list(events),
            ..Default::default()
        };
        assert!(only(&["alert"]).passes(&alert("alarm", None)));
        assert!(!only(&["alert"]).passes(&position(&[])));
        assert!(only(&["position"]).passes(&position(&[])));
        assert!(!only(&["geofenceEnter"]).passes(&alert("geofenceExit", Some("f"))));
        assert!(only(&["geofenceEnter", "geofenceExit"]).passes(&alert("geofenceExit", None)));
    }

    #[test]
    fn fences_choose_the_alerts_of_a_fence_and_the_positions_inside() {
        let depot = Filter {
            fences: list(&["depot"]),
            ..Default::default()
        };
        assert!(depot.passes(&alert("geofenceEnter", Some("depot"))));
        assert!(!depot.passes(&alert("geofenceEnter", Some("other"))));
        assert!(!depot.passes(&alert("alarm", None)));
        assert!(depot.passes(&position(&["a", "depot"])));
        assert!(!depot.passes(&position(&[])));
    }

    #[test]
    fn all_of_the_conditions_must_hold() {
        let filter = Filter {
            regions: list(&["us-east"]),
            devices: list(&["truck-*"]),
            ..Default::default()
        };
        assert!(filter.passes(&alert("alarm", None)));
        assert!(!filter.passes(&position(&[])));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("truck-*", "truck-", true),
            ("truck-*", "bus-truck-1", false),
            ("*-7", "truck-7", true),
            ("*-7", "truck-77-", false),
            ("t*k*7", "truck-7", true),
            ("a*a", "a", false),
            ("**", "", true),
            ("*ab", "aab", true),
            ("*ab*b", "aab", false),
            ("truck", "truck", true),
            ("truck", "truck-7", false),
            ("truck-?", "truck-7", true),
            ("truck-?", "truck-77", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} and {text}");
        }
    }
}
