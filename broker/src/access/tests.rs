use meridian_mqtt::text::Text;
use meridian_mqtt::topic::{TopicFilter, TopicName};

use super::*;

fn rights(rules: &str, id: &str, user: Option<&str>) -> Rights {
    let rules = Rules::parse(rules).unwrap();
    rules.rights(Client {
        id,
        user,
        region: Some("us-east"),
    })
}
fn publishes(rights: &Rights, topic: &str) -> bool {
    rights.may_publish(&TopicName::new(Text::try_from(topic).unwrap()).unwrap())
}
fn subscribes(rights: &Rights, filter: &str) -> bool {
    rights.may_subscribe(&TopicFilter::new(Text::try_from(filter).unwrap()).unwrap())
}

const FLEET: &str = r##"
[[rule]]
clients = ["truck-*"]
publish = ["gps/${region}/%c/position"]
subscribe = ["cmd/${region}/${clientid}/#"]
[[rule]]
users = ["ops"]
publish = ["cmd/#"]
subscribe = ["#", "$SYS/#"]
[[rule]]
effect = "deny"
users = ["ops"]
publish = ["cmd/+/+/unlock"]
"##;

#[test]
fn a_client_gets_what_its_rule_names_and_nothing_else() {
    let truck = rights(FLEET, "truck-7", None);
    assert!(publishes(&truck, "gps/us-east/truck-7/position"));
    for other in [
        "gps/us-east/truck-8/position",
        "gps/us-west/truck-7/position",
        "x",
        "cmd/us-east/truck-7/x",
    ] {
        assert!(!publishes(&truck, other), "{other}");
    }
    assert!(
        subscribes(&truck, "cmd/us-east/truck-7/#")
            && subscribes(&truck, "cmd/us-east/truck-7/a/+")
    );
    assert!(!subscribes(&truck, "cmd/us-east/+/#") && !subscribes(&truck, "#"));
    let nobody = rights(FLEET, "bus-7", None);
    assert!(!publishes(&nobody, "gps/us-east/bus-7/position") && !subscribes(&nobody, "a"));
}

#[test]
fn what_one_rule_forbids_no_other_allows() {
    let ops = rights(FLEET, "x", Some("ops"));
    assert!(publishes(&ops, "cmd/us-east/truck-7/horn"));
    assert!(!publishes(&ops, "cmd/us-east/truck-7/unlock"));
    let reader = rights(
        "[[rule]]\nsubscribe = [\"a/#\"]\n[[rule]]\neffect = \"deny\"\nsubscribe = [\"a/+/secret\"]",
        "x",
        None,
    );
    assert!(subscribes(&reader, "a/b/c"));
    assert!(!subscribes(&reader, "a/#"), "part of it is forbidden");
    assert!(!subscribes(&reader, "a/b/secret"));
}

/// S22.
#[test]
fn a_wildcard_is_granted_only_if_wholly_covered_and_a_share_is_judged_by_its_inner_filter() {
    let reader = rights("[[rule]]\nsubscribe = [\"open/+\", \"b/#\"]", "x", None);
    assert!(
        subscribes(&reader, "open/+")
            && subscribes(&reader, "open/a")
            && subscribes(&reader, "b/+/c")
    );
    for wide in [
        "open/#",
        "+/a",
        "+/#",
        "#",
        "open/a/b",
        "$SYS/#",
        "$share/open/secret/#",
        "$share/g/#",
    ] {
        assert!(!subscribes(&reader, wide), "{wide}");
    }
    assert!(subscribes(&reader, "$share/g/open/a"));
    assert!(!subscribes(
        &rights("[[rule]]\nsubscribe = [\"#\"]", "x", None),
        "$SYS/#"
    ));
}

/// S23.
#[test]
fn an_id_that_could_mean_more_than_itself_fills_no_pattern() {
    let rules = "[[rule]]\npublish = [\"dev/%c/#\"]\nsubscribe = [\"dev/%c/#\", \"user/%u/#\"]";
    for id in ["#", "+", "a/b", "a#", "$SYS", ""] {
        let strange = rights(rules, id, Some(id));
        assert!(
            !publishes(&strange, "dev/victim/x")
                && !publishes(&strange, &format!("dev/{}/x", id.replace(['#', '+'], "y")))
        );
        assert!(
            !subscribes(&strange, "dev/victim/#")
                && !subscribes(&strange, "#")
                && !subscribes(&strange, "user/x")
        );
    }
    // A regular expression's signs are letters like others, and what was put in is not looked at again.
    for id in [".*", "[a-z]", "%u", "x${username}", "a|b"] {
        let literal = rights(rules, id, Some("victim"));
        assert!(publishes(&literal, &format!("dev/{id}/x")), "{id}");
        assert!(!publishes(&literal, "dev/victim/x"), "{id}");
    }
    let by_pattern = "[[rule]]\nclients = [\"truck-*\", \"a.c\"]\npublish = [\"t\"]";
    assert!(publishes(&rights(by_pattern, "truck-7", None), "t"));
    for strange in ["truck-/#", "truck-+", "xtruck-7", "abc"] {
        assert!(
            !publishes(&rights(by_pattern, strange, None), "t"),
            "{strange}"
        );
    }
}

#[test]
fn a_prohibition_that_cannot_be_filled_in_forbids_all() {
    let rules = "[[rule]]\npublish = [\"#\"]\nsubscribe = [\"#\", \"$SYS/#\"]\n[[rule]]\neffect = \"deny\"\nclients = [\"*\"]\npublish = [\"secret/%c\"]\nsubscribe = [\"secret/%c\"]";
    assert!(publishes(&rights(rules, "a", None), "secret/b"));
    assert!(!publishes(&rights(rules, "a", None), "secret/a"));
    let strange = rights(rules, "a/b", None);
    assert!(
        !publishes(&strange, "x") && !subscribes(&strange, "x") && !subscribes(&strange, "$SYS/#")
    );
}

#[test]
fn a_rule_for_users_is_no_rule_for_who_proved_no_name() {
    let rules = "[[rule]]\nusers = [\"*\"]\npublish = [\"t\"]";
    assert!(publishes(&rights(rules, "x", Some("anna")), "t"));
    assert!(!publishes(&rights(rules, "x", None), "t"));
    assert!(!publishes(
        &rights("[[rule]]\npublish = [\"u/%u\"]", "x", None),
        "u/"
    ));
}

/// S12, and the contract: nobody publishes under `geo/` unless a rule says so.
#[test]
fn the_brokers_own_topics_are_granted_only_by_name() {
    let all = rights("[[rule]]\npublish = [\"#\", \"$SYS/#\"]", "x", None);
    assert!(publishes(&all, "a") && publishes(&all, "geo") && publishes(&all, "geography/x"));
    assert!(!publishes(&all, "geo/us-east/t/position") && !publishes(&all, "$SYS/broker/x"));
    let named = rights("[[rule]]\npublish = [\"geo/us-east/#\"]", "x", None);
    assert!(
        publishes(&named, "geo/us-east/t/position") && !publishes(&named, "geo/us-west/t/position")
    );
    let open = Access::new(None, false);
    assert!(
        !publishes(open.open(), "geo/x")
            && publishes(open.open(), "a")
            && subscribes(open.open(), "#")
    );
}

/// S24.
#[test]
fn an_empty_file_allows_nothing_and_a_broken_one_is_no_file() {
    let nothing = rights("", "x", Some("anna"));
    assert!(!publishes(&nothing, "a") && !subscribes(&nothing, "a"));
    for (broken, place) in [
        ("[[rule]]\npublish = \"a\"", "publish"),
        ("[[rule]]\npublishes = [\"a\"]", "publishes"),
        ("[[rule]]\neffect = \"maybe\"", "maybe"),
        (
            "[[rule]]\n[[rule]]\npublish = [\"ok\", \"a/#/b\"]",
            "rule[1].publish[1]",
        ),
        (
            "[[rule]]\nsubscribe = [\"a/${client}\"]",
            "rule[0].subscribe[0]",
        ),
        (
            "[[rule]]\nsubscribe = [\"$share/g/a\"]",
            "rule[0].subscribe[0]",
        ),
        ("[[rule]]\nusers = [\"\"]", "rule[0].users[0]"),
        ("[[rule", "line 1"),
    ] {
        let error = Rules::parse(broken).unwrap_err();
        assert!(error.contains(place), "{broken}: {error}");
    }
}

/// S24.
#[test]
fn a_file_that_cannot_be_read_leaves_the_rules_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acl.toml");
    std::fs::write(&path, "[[rule]]\npublish = [\"a\"]").unwrap();
    let access = Access::new(Some(Arc::new(Rules::load(&path).unwrap())), false);
    let client = Client {
        id: "x",
        user: None,
        region: None,
    };
    let before = access.generation();
    for broken in ["[[rule]]\npublish = [\"#/a\"]", "nonsense"] {
        std::fs::write(&path, broken).unwrap();
        let error = access.reload(&path).unwrap_err().to_string();
        assert!(error.contains("acl.toml"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(access.reload(&path).is_err());
    assert!(publishes(&access.rights(client).0, "a") && access.generation() == before);
    std::fs::write(&path, "").unwrap();
    access.reload(&path).unwrap();
    assert!(!publishes(&access.rights(client).0, "a") && access.generation() > before);
}
