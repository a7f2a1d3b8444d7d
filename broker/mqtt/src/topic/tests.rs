use super::*;

fn filter(text: &str) -> TopicFilter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(pattern: &str, topic: &str) -> bool {
    filter(pattern).matches(&topic.parse().expect("a valid topic"))
}

#[test]
fn a_hash_matches_its_parent_and_everything_below_mqtt_4_7_1_2() {
    for topic in ["sport", "sport/tennis", "sport/tennis/player1", "sport/"] {
        assert!(matches("sport/#", topic), "{topic}");
        assert!(matches("#", topic), "{topic}");
    }
    assert!(!matches("sport/#", "sports"));
    assert!(!matches("sport/tennis/#", "sport"));
}

#[test]
fn a_plus_matches_exactly_one_level_even_an_empty_one_mqtt_4_7_1_3() {
    assert!(matches("sport/+", "sport/"));
    assert!(!matches("sport/+", "sport"));
    assert!(!matches("sport/+", "sport/a/b"));
    assert!(matches("+/+", "/finance"));
    assert!(matches("/+", "/finance"));
    assert!(!matches("+", "/finance"));
    assert!(matches("+/tennis/#", "sport/tennis"));
}

#[test]
fn wildcards_at_the_front_do_not_see_dollar_topics_mqtt_4_7_2_1() {
    assert!(!matches("#", "$SYS/uptime"));
    assert!(!matches("+/uptime", "$SYS/uptime"));
    assert!(matches("$SYS/#", "$SYS/uptime"));
    assert!(matches("$SYS/+", "$SYS/uptime"));
    assert!(matches("a/#", "a/$b"), "only the first level is hidden");
    assert!(matches("#", "é/a"));
}

#[test]
fn levels_are_compared_byte_by_byte_without_folding_mqtt_4_7_3_4() {
    assert!(!matches("ACCOUNTS", "accounts"));
    assert!(!matches("\u{e9}", "e\u{301}"));
    assert!(matches("a b/\u{feff}", "a b/\u{feff}"));
}

#[test]
fn wildcards_stand_alone_in_their_level_and_hash_is_last_mqtt_4_7_1_1() {
    for bad in ["a+/b", "a#", "#/a", "a/#/b", "+a", "##", "++", "a/b#", "#/"] {
        assert_eq!(
            bad.parse::<TopicFilter>(),
            Err(TopicError::Wildcard),
            "{bad}"
        );
    }
    for good in ["#", "+", "+/+", "a/+/b/#", "/", "//", "+/#"] {
        filter(good);
    }
}

#[test]
fn a_topic_name_has_no_wildcard_and_is_not_empty_mqtt_3_3_2_2() {
    assert_eq!("a/+".parse::<TopicName>(), Err(TopicError::Wildcard));
    assert_eq!("a#".parse::<TopicName>(), Err(TopicError::Wildcard));
    assert_eq!("".parse::<TopicName>(), Err(TopicError::Empty));
    assert_eq!("".parse::<TopicFilter>(), Err(TopicError::Empty));
    assert!("/".parse::<TopicName>().is_ok());
}

#[test]
fn a_hundred_and_twenty_eight_levels_are_the_most() {
    let deep = vec!["a"; 128].join("/");
    assert!(deep.parse::<TopicName>().is_ok());
    assert!(deep.parse::<TopicFilter>().is_ok());
    let deeper = format!("{deep}/a");
    assert_eq!(deeper.parse::<TopicName>(), Err(TopicError::TooDeep));
    assert_eq!(deeper.parse::<TopicFilter>(), Err(TopicError::TooDeep));
    assert_eq!(
        "+/".repeat(32_767).parse::<TopicFilter>(),
        Err(TopicError::TooDeep)
    );
}

#[test]
fn a_shared_filter_names_its_group_and_its_pattern_mqtt_4_8_2_1() {
    let shared = filter("$share/fleet/gps/+/position");
    assert_eq!(
        (shared.share(), shared.pattern()),
        (Some("fleet"), "gps/+/position")
    );
    assert!(shared.matches(&TopicName::from_static("gps/x/position")));
    let queue = filter("$queue/jobs/#");
    assert_eq!((queue.share(), queue.pattern()), (Some("$queue"), "jobs/#"));
    let rooted = filter("$share/g//a");
    assert_eq!((rooted.share(), rooted.pattern()), (Some("g"), "/a"));
    assert_eq!(filter("$SYS/#").share(), None);
    assert!(!filter("$share/g/#").matches(&TopicName::from_static("$SYS/a")));
}

#[test]
fn a_share_without_group_or_filter_is_refused_mqtt_4_8_2_2() {
    for bad in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/g#/a",
        "$queue/",
    ] {
        assert_eq!(bad.parse::<TopicFilter>(), Err(TopicError::Share), "{bad}");
    }
    assert_eq!(
        "$share/g/a+".parse::<TopicFilter>(),
        Err(TopicError::Wildcard)
    );
}
