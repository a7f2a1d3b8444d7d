//! What one filter says of another: does it cover all that the other can match, or can both match one name?
//!
//! Access rules need both: a grant holds for a subscription only if it covers it wholly, and a prohibition stands against
//! one as soon as they have a name in common. Share names play no part: `$share/g/a/#` asks for what `a/#` asks for.

use super::TopicFilter;

impl TopicFilter {
    /// Whether every name that `other` matches is matched by this filter too.
    pub fn covers(&self, other: &TopicFilter) -> bool {
        covers(self.pattern(), other.pattern())
    }

    /// Whether there is a name that both match.
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        overlaps(self.pattern(), other.pattern())
    }
}

fn starts_with_wildcard(pattern: &str) -> bool {
    pattern.starts_with(['#', '+'])
}

fn covers(wide: &str, narrow: &str) -> bool {
    // A wildcard at the front does not see `$SYS/…` [MQTT-4.7.2-1].
    if starts_with_wildcard(wide) && narrow.starts_with('$') {
        return false;
    }
    // Every name has a first level, so at the front alone `+/#` is as wide as `#`.
    let wide = if wide == "+/#" { "#" } else { wide };
    let mut narrow_levels = narrow.split('/');
    for level in wide.split('/') {
        if level == "#" {
            return true; // the parent level included, §4.7.1.2
        }
        match narrow_levels.next() {
            Some("#") | None => return false,
            Some("+") if level != "+" => return false,
            Some(other) if level != "+" && level != other => return false,
            Some(_) => {}
        }
    }
    narrow_levels.next().is_none()
}

fn overlaps(a: &str, b: &str) -> bool {
    if starts_with_wildcard(a) && b.starts_with('$')
        || starts_with_wildcard(b) && a.starts_with('$')
    {
        return false;
    }
    let (mut a_levels, mut b_levels) = (a.split('/'), b.split('/'));
    loop {
        match (a_levels.next(), b_levels.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TopicName;
    use super::*;
    use crate::text::Text;

    /// All sequences of one to `depth` of `levels`.
    fn sequences(levels: &[&str], depth: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut last = vec![String::new()];
        for length in 0..depth {
            let longer = |prefix: &String| {
                let prefix = prefix.clone();
                levels.iter().map(move |level| match length {
                    0 => (*level).to_owned(),
                    _ => format!("{prefix}/{level}"),
                })
            };
            last = last.iter().flat_map(longer).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    fn filters() -> Vec<TopicFilter> {
        sequences(&["a", "b", "+", "#", "$x"], 3)
            .iter()
            .filter_map(|text| TopicFilter::new(Text::try_from(text.as_str()).unwrap()).ok())
            .collect()
    }

    /// Deeper than the filters, and with a level that none of them names: so no list of literals passes for a wildcard.
    fn names() -> Vec<TopicName> {
        sequences(&["a", "b", "", "$x", "other"], 4)
            .iter()
            .filter_map(|text| TopicName::new(Text::try_from(text.as_str()).unwrap()).ok())
            .collect()
    }

    #[test]
    fn covering_and_overlapping_are_what_matching_every_name_says() {
        let (filters, names) = (filters(), names());
        let matched: Vec<Vec<bool>> = filters
            .iter()
            .map(|filter| names.iter().map(|name| filter.matches(name)).collect())
            .collect();
        assert!(filters.len() > 60 && names.len() > 700);
        for (wide, wide_matches) in filters.iter().zip(&matched) {
            for (narrow, narrow_matches) in filters.iter().zip(&matched) {
                let mut pairs = wide_matches.iter().zip(narrow_matches);
                let covers = pairs.clone().all(|(wide, narrow)| *wide || !narrow);
                let overlaps = pairs.any(|(wide, narrow)| *wide && *narrow);
                assert_eq!(wide.covers(narrow), covers, "{wide} covers {narrow}");
                assert_eq!(wide.overlaps(narrow), overlaps, "{wide} overlaps {narrow}");
            }
        }
    }

    #[test]
    fn a_shared_subscription_is_judged_by_what_it_shares() {
        let grant = TopicFilter::from_static("open/#");
        assert!(grant.covers(&TopicFilter::from_static("$share/g/open/a")));
        assert!(!grant.covers(&TopicFilter::from_static("$share/open/secret/#")));
        assert!(
            TopicFilter::from_static("secret/#")
                .overlaps(&TopicFilter::from_static("$share/g/+/x"))
        );
    }
}
