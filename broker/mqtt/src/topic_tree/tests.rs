use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn topic(text: &str) -> TopicName {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(tree: &TopicTree<u32, u32>, name: &str) -> Vec<u32> {
    let mut keys = Vec::new();
    tree.for_each_match(&topic(name), |key, _| keys.push(*key));
    keys.sort_unstable();
    keys
}

#[test]
fn wildcards_at_the_front_do_not_see_dollar_topics_mqtt_4_7_2_1() {
    let mut tree = TopicTree::new();
    for (key, text) in ["#", "+/a", "$SYS/#", "$SYS/+"].into_iter().enumerate() {
        tree.insert(&filter(text), key as u32, 0);
    }
    assert_eq!(matches(&tree, "$SYS/a"), [2, 3]);
    assert_eq!(matches(&tree, "$SYS"), [2]);
    assert_eq!(matches(&tree, "x/a"), [0, 1]);
}

#[test]
fn an_insert_replaces_the_value_of_its_filter_and_key() {
    let mut tree = TopicTree::new();
    assert_eq!(tree.insert(&filter("a/#"), 1, 10), None);
    assert_eq!(tree.insert(&filter("a/#"), 1, 11), Some(10));
    assert_eq!(tree.insert(&filter("a/#"), 2, 20), None);
    assert_eq!((tree.len(), tree.get(&filter("a/#"), &1)), (2, Some(&11)));
    assert_eq!(tree.remove(&filter("a"), &1), None);
    assert_eq!(tree.remove(&filter("a/#"), &1), Some(11));
    assert_eq!(matches(&tree, "a"), [2]);
}

#[test]
fn an_emptied_tree_gives_its_memory_back() {
    let mut tree = TopicTree::<u32, u32>::new();
    let empty = tree.heap_bytes();
    for key in 0..1000 {
        tree.insert(&filter(&format!("cmd/{key}/+/x/#")), key, 0);
    }
    for key in 0..1000 {
        assert_eq!(
            tree.remove(&filter(&format!("cmd/{key}/+/x/#")), &key),
            Some(0)
        );
    }
    assert!(tree.is_empty() && !tree.has_match(&topic("cmd/1/a/x")));
    assert_eq!(tree.heap_bytes(), empty);
}

#[test]
fn an_idle_device_with_one_subscription_costs_less_than_three_hundred_bytes() {
    let mut tree = TopicTree::<u64, u64>::new();
    let devices = 100_000;
    for key in 0..devices {
        tree.insert(&filter(&format!("cmd/us-east/truck-{key:06}/#")), key, 0);
    }
    let bytes = tree.heap_bytes() / devices as usize;
    assert!(bytes < 300, "{bytes} bytes a subscription");
}

#[test]
fn a_topic_of_128_levels_meets_an_explosion_of_wildcards_once_a_node_s16() {
    let mut tree = TopicTree::<u32, u32>::new();
    for key in 0..2048_u32 {
        let levels = (0..11)
            .map(|bit| if key & (1 << bit) == 0 { "a" } else { "+" })
            .collect::<Vec<_>>();
        tree.insert(&filter(&format!("{}/#", levels.join("/"))), key, 0);
    }
    let deep = vec!["a"; 128].join("/");
    assert_eq!(matches(&tree, &deep), (0..2048).collect::<Vec<_>>());
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$x", "é", "aa"])
}

fn any_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |t| !t.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(prop_oneof![3 => level(), 2 => Just("+")], 0..5);
    (levels, any::<bool>())
        .prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

proptest! {
    #[test]
    fn the_tree_agrees_with_the_definition_after_any_inserts_and_removes(
        steps in prop::collection::vec((any_filter(), 0_u32..4, any::<bool>()), 1..60),
        topics in prop::collection::vec(any_topic(), 1..12),
    ) {
        let mut tree = TopicTree::new();
        let mut naive = BTreeMap::new();
        for (index, (text, key, insert)) in steps.iter().enumerate() {
            let index = index as u32;
            if *insert {
                prop_assert_eq!(tree.insert(&filter(text), *key, index), naive.insert((text.clone(), *key), index));
            } else {
                prop_assert_eq!(tree.remove(&filter(text), key), naive.remove(&(text.clone(), *key)));
            }
        }
        prop_assert_eq!(tree.len(), naive.len());
        for name in topics {
            let mut found = Vec::new();
            tree.for_each_match(&topic(&name), |key, value| found.push((*key, *value)));
            let mut expected = naive
                .iter()
                .filter(|((text, _), _)| filter(text).matches(&topic(&name)))
                .map(|((_, key), value)| (*key, *value))
                .collect::<Vec<_>>();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected, "{}", name);
        }
    }
}
