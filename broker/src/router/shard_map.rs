//! Which shard does a topic, a filter or a client belong to? One pure function of the configuration.
//!
//! `publish ─► **shard map** ─► shard`. A shard is a place: the second level of a topic under a geographic root is its
//! region. Everything else is spread over the default shards by hash.

use meridian_mqtt::topic::{TopicFilter, TopicName};

/// A shard's place in [`ShardMap::names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

impl ShardIndex {
    /// For indexing the lists that have one element a shard.
    #[must_use]
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// The shards of the cluster and the topics that belong to each.
#[derive(Debug, Clone)]
pub struct ShardMap {
    names: Vec<String>,
    roots: Vec<String>,
    /// Region prefix to shard, longest first.
    regions: Vec<(String, ShardIndex)>,
    /// The first default shard; they are the last ones.
    first_default: usize,
    client_region: Option<regex::Regex>,
}

/// The shards that a filter can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Exactly this one.
    One(ShardIndex),
    /// Any of these.
    Many(Vec<ShardIndex>),
}

impl Reach {
    /// The shards, in order.
    #[must_use]
    pub fn shards(&self) -> &[ShardIndex] {
        match self {
            Reach::One(shard) => std::slice::from_ref(shard),
            Reach::Many(shards) => shards,
        }
    }
}

impl ShardMap {
    /// Shards `regions`, then `default-0` and so on. `default_shards` is at least 1.
    #[must_use]
    pub fn new(
        roots: Vec<String>,
        regions: &[String],
        default_shards: u16,
        client_region: Option<regex::Regex>,
    ) -> Self {
        assert!(default_shards > 0, "what is in no region must go somewhere");
        let mut names = regions.to_vec();
        names.extend((0..default_shards).map(|number| format!("default-{number}")));
        assert!(
            u16::try_from(names.len()).is_ok(),
            "the configuration bounds the shards"
        );
        let mut by_length: Vec<(String, ShardIndex)> = regions
            .iter()
            .enumerate()
            .map(|(at, region)| (region.clone(), index(at)))
            .collect();
        by_length.sort_by_key(|(region, _)| std::cmp::Reverse(region.len()));
        ShardMap {
            names,
            roots,
            regions: by_length,
            first_default: regions.len(),
            client_region,
        }
    }

    /// All shards by name.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// All shards.
    pub fn all(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.names.len()).map(index)
    }

    /// The shard `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<ShardIndex> {
        self.names.iter().position(|known| known == name).map(index)
    }

    /// The one shard that a topic belongs to.
    #[must_use]
    pub fn of_topic(&self, topic: &TopicName) -> ShardIndex {
        let topic = topic.as_str();
        let mut levels = topic.splitn(4, '/');
        let root = levels.next().unwrap_or_default();
        if !self.is_root(root) {
            return self.by_hash(&[topic]);
        }
        match (levels.next(), levels.next()) {
            (Some(region), device) => self
                .of_region(region)
                .unwrap_or_else(|| self.by_hash(&[region, device.unwrap_or("")])),
            (None, _) => self.by_hash(&[topic]),
        }
    }

    /// The shards whose topics `filter` can match; more than one only where a wildcard stands before the shard key.
    #[must_use]
    pub fn of_filter(&self, filter: &TopicFilter) -> Reach {
        let pattern = filter.pattern();
        let mut levels = pattern.splitn(4, '/');
        let root = levels.next().unwrap_or_default();
        if root == "#" || root == "+" {
            return Reach::Many(self.all().collect());
        }
        if !self.is_root(root) {
            return if filter.has_wildcard() {
                Reach::Many(self.defaults().collect())
            } else {
                Reach::One(self.by_hash(&[pattern]))
            };
        }
        match (levels.next(), levels.next()) {
            // `gps/#` matches `gps` as well.
            (Some("#" | "+"), _) => Reach::Many(self.all().collect()),
            (Some(region), device) => match (self.of_region(region), device) {
                (Some(shard), _) => Reach::One(shard),
                (None, Some("#" | "+")) => Reach::Many(self.defaults().collect()),
                (None, device) => Reach::One(self.by_hash(&[region, device.unwrap_or("")])),
            },
            (None, _) => Reach::One(self.by_hash(&[pattern])),
        }
    }

    /// The home shard of a client's session: where its region is, if its id names one.
    #[must_use]
    pub fn of_client(&self, client_id: &str) -> ShardIndex {
        let region = self.client_region(client_id);
        let shard = region.and_then(|region| self.of_region(region));
        shard.unwrap_or_else(|| self.by_hash(&[client_id]))
    }

    /// The region that a client's id names, whether it has a shard of its own or not.
    #[must_use]
    pub fn client_region<'a>(&self, client_id: &'a str) -> Option<&'a str> {
        let found = self.client_region.as_ref()?.captures(client_id)?;
        Some(found.name("region")?.as_str())
    }

    /// Longest prefix wins; a prefix ends at the region's end or at a `-`.
    fn of_region(&self, region: &str) -> Option<ShardIndex> {
        let covers = |prefix: &str| {
            region
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.regions
            .iter()
            .find(|(prefix, _)| covers(prefix))
            .map(|(_, shard)| *shard)
    }

    fn is_root(&self, level: &str) -> bool {
        self.roots.iter().any(|root| root == level)
    }

    fn defaults(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (self.first_default..self.names.len()).map(index)
    }

    fn by_hash(&self, parts: &[&str]) -> ShardIndex {
        let defaults = self.names.len() - self.first_default;
        let hash = usize::try_from(fnv1a(parts) % defaults as u64)
            .expect("less than the number of shards");
        index(self.first_default + hash)
    }
}

fn index(at: usize) -> ShardIndex {
    ShardIndex(u16::try_from(at).expect("the configuration bounds the shards"))
}

/// FNV-1a, 64 bits: the same on every node and in every version, because data lies where it says.
fn fnv1a(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([b'/']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ShardMap {
        let roots = ["gps", "geo", "cmd"].map(String::from).to_vec();
        let regions = ["us-east", "us-east-nyc", "eu"].map(String::from);
        let pattern = regex::Regex::new("^(?<region>[a-z]+-[a-z]+)[.:/]").unwrap();
        ShardMap::new(roots, &regions, 4, Some(pattern))
    }
    fn topic(map: &ShardMap, topic: &'static str) -> String {
        map.names()[map.of_topic(&TopicName::from_static(topic)).at()].clone()
    }

    #[test]
    fn a_region_is_the_second_level_under_a_root_and_the_longest_prefix_wins() {
        let map = map();
        assert_eq!(topic(&map, "gps/us-east/truck-7/position"), "us-east");
        assert_eq!(
            topic(&map, "geo/us-east-nyc/truck-7/alert/geofenceEnter"),
            "us-east-nyc"
        );
        assert_eq!(topic(&map, "cmd/us-east-boston/x"), "us-east");
        assert!(topic(&map, "gps/us-eastern/x").starts_with("default-"));
        assert!(topic(&map, "other/us-east/x").starts_with("default-"));
    }

    #[test]
    fn all_topics_of_a_device_in_no_configured_region_share_a_shard() {
        let map = map();
        assert_eq!(
            topic(&map, "gps/mars/rover/position"),
            topic(&map, "geo/mars/rover/alert/alarm")
        );
    }

    #[test]
    fn a_filter_reaches_every_topic_that_it_matches() {
        let map = map();
        let topics = [
            "gps",
            "gps/eu",
            "gps/eu/d/position",
            "gps/mars/rover/position",
            "a",
            "a/b",
            "geo/us-east-nyc/t/x",
            "other/eu",
        ];
        let filters = [
            "#",
            "+",
            "+/+",
            "gps/#",
            "gps/+/+/position",
            "gps/eu/#",
            "gps/mars/#",
            "gps/mars/rover/#",
            "a",
            "a/#",
            "a/+",
            "gps/eu",
            "gps",
            "geo/us-east-nyc/+/x",
            "other/+",
            "+/eu/#",
        ];
        for filter in filters.map(TopicFilter::from_static) {
            let reach = map.of_filter(&filter);
            for name in topics.map(TopicName::from_static) {
                if filter.matches(&name) {
                    assert!(
                        reach.shards().contains(&map.of_topic(&name)),
                        "{filter:?} must reach {name:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_client_lives_in_the_region_that_its_id_names() {
        let map = map();
        assert_eq!(
            map.names()[map.of_client("us-east.truck-7").at()],
            "us-east"
        );
        assert!(map.names()[map.of_client("truck-7").at()].starts_with("default-"));
    }
}
