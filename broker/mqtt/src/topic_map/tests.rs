use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn map(names: &[&str]) -> TopicMap<usize> {
    let mut map = TopicMap::new();
    for (index, name) in names.iter().enumerate() {
        map.insert(name.parse().expect("a topic name"), index);
    }
    map
}

fn matches(map: &TopicMap<usize>, pattern: &str) -> Vec<String> {
    let mut names = Vec::new();
    let whole = map.try_for_each_match(&filter(pattern), |topic, _| {
        names.push(topic.as_str().to_owned());
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(whole, ControlFlow::Continue(()));
    names
}

#[test]
fn everything_below_a_level_lies_together() {
    let map = map(&["a b", "a/b", "a", "a/b/c", "a/\u{1}", "a-", "b", "a\u{1}x"]);
    let order = map
        .iter()
        .map(|(topic, _)| topic.as_str())
        .collect::<Vec<_>>();
    assert_eq!(
        order,
        ["a", "a/\u{1}", "a/b", "a/b/c", "a\u{1}x", "a b", "a-", "b"]
    );
    assert_eq!(matches(&map, "a/#"), ["a", "a/\u{1}", "a/b", "a/b/c"]);
    assert_eq!(matches(&map, "+"), ["a", "a\u{1}x", "a b", "a-", "b"]);
}

#[test]
fn a_front_wildcard_does_not_see_dollar_topics_mqtt_4_7_2_1() {
    let map = map(&["$SYS/a", "$SYS/b", "x/a", "!/a"]);
    assert_eq!(matches(&map, "#"), ["!/a", "x/a"]);
    assert_eq!(matches(&map, "+/a"), ["!/a", "x/a"]);
    assert_eq!(matches(&map, "$SYS/+"), ["$SYS/a", "$SYS/b"]);
}

#[test]
fn a_break_stops_and_its_value_comes_back() {
    let map = map(&["a", "b", "c"]);
    assert_eq!(
        map.try_for_each_match(&filter("#"), |topic, _| ControlFlow::Break(
            topic.to_string()
        )),
        ControlFlow::Break("a".into())
    );
}

#[test]
fn one_region_in_a_thousand_is_found_without_looking_at_the_others() {
    let mut map = TopicMap::new();
    for region in 0..1000 {
        for device in 0..20 {
            map.insert(
                format!("geo/{region:03}/{device:02}/position")
                    .parse()
                    .expect("a name"),
                (),
            );
        }
    }
    let mut found = 0;
    let more = map.scan(&filter("geo/500/+/position"), None, 21, |_, ()| {
        found += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((found, more), (20, None));
    // A device in every region: two looks a region, not twenty.
    let mut found = 0;
    let more = map.scan(&filter("geo/+/07/position"), None, 3001, |_, ()| {
        found += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((found, more), (1000, None));
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$x", "é", "a\u{1}", "a ", "z"])
}

fn any_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |t| !t.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(prop_oneof![2 => level(), 2 => Just("+")], 0..5);
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
    fn a_scan_agrees_with_the_definition_however_it_is_cut(
        names in prop::collection::btree_set(any_topic(), 0..40),
        pattern in any_filter(),
        visits_max in 1_usize..6,
    ) {
        let map = map(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let pattern = filter(&pattern);
        let expected = map.iter().filter(|(topic, _)| pattern.matches(topic)).map(|(topic, _)| topic.clone());
        let expected = expected.collect::<Vec<_>>();

        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            cursor = map.scan(&pattern, cursor, visits_max, |topic, _| {
                found.push(topic.clone());
                if found.len() % 3 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if cursor.is_none() {
                break;
            }
        }
        prop_assert_eq!(found, expected);
    }
}
