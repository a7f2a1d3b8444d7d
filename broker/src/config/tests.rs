use super::*;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&file), environment)
        .map_err(|error| error.0.iter().map(ToString::to_string).collect())
}

#[test]
fn without_a_file_it_listens_on_loopback_only_and_lets_anybody_in() {
    let config = Config::load(None, []).unwrap();
    assert!(
        [
            config.listeners.tcp,
            config.listeners.ws,
            config.listeners.http
        ]
        .iter()
        .flatten()
        .all(|bind| bind.ip().is_loopback())
    );
    assert!(config.auth.allow_anonymous && config.fsync);
    assert_eq!(config.geo.max_silence, Some(Duration::from_secs(300)));
}

#[test]
fn off_loopback_nobody_is_let_in_unless_it_is_said() {
    let config = load("[listeners.tcp]\nbind = \"0.0.0.0:1883\"", &[]).unwrap();
    assert!(!config.auth.allow_anonymous);
    assert!(config.listeners.ws.is_none(), "only what is named runs");
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    let mistakes = load(
        "[geo]\nmin_distanse = \"50m\"\n[listners.tcp]\nbind = \"127.0.0.1:0\"",
        &[],
    )
    .unwrap_err();
    assert!(
        mistakes
            .contains(&"geo.min_distanse: is no key; did you mean geo.min_distance?".to_owned()),
        "{mistakes:?}"
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_path() {
    let text = "[node]\nid = 0\n[limits]\nmax_inflight = 70000\nmax_packet = \"lots\"\n[geo]\ninput = [\"gps/x\"]\nmax_speed = \"0m/s\"";
    let mistakes = load(text, &[]).unwrap_err();
    for key in [
        "node.id",
        "limits.max_inflight",
        "limits.max_packet",
        "geo.input[0]",
        "geo.max_speed",
    ] {
        assert!(
            mistakes
                .iter()
                .any(|mistake| mistake.starts_with(&format!("{key}: "))),
            "{key} in {mistakes:?}"
        );
    }
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = load(
        "[geo]\nmin_distance = \"10m\"",
        &[
            ("MERIDIAN__GEO__MIN_DISTANCE", "70m"),
            ("MERIDIAN__NODE__ID", "9"),
            ("PATH", "/"),
        ],
    )
    .unwrap();
    assert_eq!((config.geo.min_distance_m, config.node.id), (70.0, 9));
}

#[test]
fn what_this_version_does_not_have_is_refused_and_not_ignored() {
    let mistakes = load("[cluster]\nreplication = 3\n[sinks.lake]\ntype = \"kafka\"\nbootstrap_servers = \"x\"\n[auth]\nacl_file = \"a\"", &[]).unwrap_err();
    for key in ["cluster.replication", "sinks.lake.type", "auth.acl_file"] {
        assert!(
            mistakes.iter().any(|mistake| mistake.starts_with(key)),
            "{key} in {mistakes:?}"
        );
    }
    assert!(
        !mistakes
            .iter()
            .any(|mistake| mistake.contains("bootstrap_servers")),
        "{mistakes:?}"
    );
}

#[test]
fn a_file_that_is_no_toml_says_the_line() {
    assert!(load("[node]\nid = = 1", &[]).unwrap_err()[0].starts_with("line 2"));
}
