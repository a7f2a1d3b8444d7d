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
            config.listeners.tcp.map(|plain| plain.bind),
            config.listeners.ws.map(|plain| plain.bind),
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
    let mistakes = load("[cluster]\nseeds = [\"10.0.0.1:7883\"]", &[]).unwrap_err();
    assert!(mistakes[0].starts_with("cluster.bind"), "{mistakes:?}");
}

#[test]
fn a_sink_is_told_what_it_lacks() {
    for (section, said) in [
        (
            "type = \"carrier-pigeon\"\nloft = 3",
            "sinks.x.type: `carrier-pigeon` is no kind",
        ),
        ("path = \"events.ndjson\"", "sinks.x.type: is needed: "),
        ("type = \"file\"", "sinks.x.path: is needed"),
        ("type = \"timescale\"", "sinks.x.url: is needed"),
        (
            "type = \"timescale\"\nurl = \"postgres://u@db.example/x\"",
            "sinks.x.url: leaves this machine",
        ),
        ("type = \"kafka\"", "sinks.x.bootstrap_servers: is needed"),
        (
            "type = \"kafka\"\nbootstrap_servers = \"h:1\"\n[sinks.x.properties]\nacks = \"1\"",
            "sinks.x.properties.acks: is this sink's own",
        ),
        (
            "type = \"kafka\"\nbootstrap_servers = \"h:1\"\ntopic_prefix = \"../\"",
            "sinks.x.topic_prefix: must be",
        ),
        (
            "type = \"webhook\"\nurl = \"http://169.254.169.254/\"",
            "sinks.x.url: link-local",
        ),
        (
            "type = \"file\"\npath = \"a\"\nfence = [\"f\"]",
            "sinks.x.fence: is no key; did you mean sinks.x.fences?",
        ),
    ] {
        let mistakes = load(&format!("[sinks.x]\n{section}\n"), &[]).unwrap_err();
        assert!(
            mistakes.len() == 1 && mistakes[0].starts_with(said),
            "{section}: {mistakes:?}"
        );
    }
    let named = load("[sinks.\"a/b\"]\ntype = \"file\"\npath = \"x\"", &[]).unwrap_err();
    assert!(named[0].starts_with("sinks.a/b: must be"), "{named:?}");
}

#[test]
fn a_sinks_filter_and_patience_are_read() {
    let text = "[sinks.x]\ntype = \"timescale\"\nurl = \"postgres://m@127.0.0.1/m\"\ntimeout = \"3s\"\n\
                retention = \"90d\"\nevents = [\"alert\"]\ndevices = [\"truck-*\"]";
    let config = load(text, &[]).unwrap();
    let sink = &config.sinks["x"];
    assert_eq!(sink.timeout, Duration::from_secs(3));
    assert_eq!(
        (sink.filter.events.len(), &*sink.filter.devices[0]),
        (1, "truck-*")
    );
    let SinkKind::Timescale(options) = &sink.kind else {
        panic!("{sink:?}")
    };
    assert_eq!(options.retention, Some(Duration::from_secs(90 * 86_400)));
}

#[test]
fn a_node_founds_the_cluster_if_it_is_told_to_or_knows_nobody_else() {
    let founds = |cluster: &str| {
        let config = load(
            &format!("[cluster]\nbind = \"127.0.0.1:7883\"\n{cluster}"),
            &[],
        );
        config.unwrap().cluster.options.unwrap().bootstrap
    };
    assert!(founds(""));
    assert!(founds("seeds = [\"127.0.0.1:7883\"]"));
    assert!(founds(
        "seeds = [\"10.0.0.2:7883\"]\nbootstrap = [\"127.0.0.1:7883\"]"
    ));
    assert!(!founds("seeds = [\"10.0.0.2:7883\"]"));
    assert!(!founds(
        "seeds = [\"10.0.0.2:7883\"]\nbootstrap = [\"10.0.0.2:7883\"]"
    ));
    let mistakes = load("[cluster]\nbind = \"0.0.0.0:7883\"", &[]).unwrap_err();
    assert!(mistakes[0].starts_with("cluster.advertise"), "{mistakes:?}");
    let mistakes = load(
        "[cluster]\nbind = \"127.0.0.1:7883\"\nseeds = [\"x\"]\ncert = \"a\"",
        &[],
    )
    .unwrap_err();
    assert!(mistakes[0].starts_with("cluster.cert"), "{mistakes:?}");
    assert!(mistakes[1].starts_with("cluster.seeds[0]"), "{mistakes:?}");
}

#[test]
fn a_file_that_is_no_toml_says_the_line() {
    assert!(load("[node]\nid = = 1", &[]).unwrap_err()[0].starts_with("line 2"));
}

/// Every section and every kind of sink, so that every key is read.
const EVERYTHING: &str = "[node]\n[cluster]\n[sharding]\n[auth]\n[limits]\n[durability]\n[geo]\n\
    [listeners.tcp]\n[listeners.ws]\n[listeners.http]\n[listeners.tls]\ncert = \"c\"\nkey = \"k\"\n\
    [listeners.wss]\ncert = \"c\"\nkey = \"k\"\n[sinks.s]\ntype = \"file\"\npath = \"f\"\n\
    [sinks.t]\ntype = \"timescale\"\nurl = \"postgres://m@127.0.0.1/m\"\n\
    [sinks.k]\ntype = \"kafka\"\nbootstrap_servers = \"h:9092\"\n\
    [sinks.w]\ntype = \"webhook\"\nurl = \"https://h/\"\n";

/// The keys that hold no number. A new key is either here, or read with a range.
const NOT_MEASURED: &[&str] = &[
    "auth.acl_file",
    "auth.allow_anonymous",
    "auth.api_token",
    "auth.bind_client_id",
    "auth.jwt_audience",
    "auth.jwt_issuer",
    "auth.jwt_keys",
    "auth.publish_geo",
    "auth.users_file",
    "cluster.advertise",
    "cluster.bind",
    "cluster.bootstrap",
    "cluster.ca",
    "cluster.cert",
    "cluster.key",
    "cluster.name",
    "cluster.seeds",
    "durability.fsync",
    "geo.input",
    "listeners.http.bind",
    "listeners.tcp.bind",
    "listeners.tcp.proxy_protocol",
    "listeners.tls.bind",
    "listeners.tls.cert",
    "listeners.tls.client_ca",
    "listeners.tls.client_crl",
    "listeners.tls.identity",
    "listeners.tls.key",
    "listeners.tls.min_version",
    "listeners.tls.proxy_protocol",
    "listeners.ws.bind",
    "listeners.ws.proxy_protocol",
    "listeners.wss.bind",
    "listeners.wss.cert",
    "listeners.wss.client_ca",
    "listeners.wss.client_crl",
    "listeners.wss.identity",
    "listeners.wss.key",
    "listeners.wss.min_version",
    "listeners.wss.proxy_protocol",
    "node.data_dir",
    "node.zone",
    "sharding.client_region",
    "sharding.regions",
    "sharding.roots",
    "sinks.k.bootstrap_servers",
    "sinks.k.devices",
    "sinks.k.events",
    "sinks.k.fences",
    "sinks.k.format",
    "sinks.k.regions",
    "sinks.k.topic_prefix",
    "sinks.k.transactional",
    "sinks.k.type",
    "sinks.s.devices",
    "sinks.s.events",
    "sinks.s.fences",
    "sinks.s.path",
    "sinks.s.regions",
    "sinks.s.type",
    "sinks.t.ca",
    "sinks.t.devices",
    "sinks.t.events",
    "sinks.t.fences",
    "sinks.t.regions",
    "sinks.t.type",
    "sinks.t.url",
    "sinks.w.ca",
    "sinks.w.devices",
    "sinks.w.events",
    "sinks.w.fences",
    "sinks.w.regions",
    "sinks.w.secret",
    "sinks.w.type",
    "sinks.w.url",
];

/// Every key that a node reads, with what it says of its values.
fn all_keys() -> BTreeMap<String, reader::Kind> {
    let mut reader = Reader::parse(EVERYTHING, []).unwrap();
    let _config = read(&mut reader, Path::new(""));
    let known = reader.known().clone();
    assert_eq!(reader.finish(), [], "the file that has everything is right");
    known
}

/// The two ends of `from 1s to 7d`, and whether `off` may stand there.
fn ends(range: &str) -> (String, String, bool) {
    let (ends, off) = match range.strip_suffix(", or off") {
        Some(ends) => (ends, true),
        None => (range, false),
    };
    let (low, high) = ends
        .strip_prefix("from ")
        .unwrap()
        .split_once(" to ")
        .unwrap();
    (low.to_owned(), high.to_owned(), off)
}

/// The mistakes with `value` at `key`, the way the environment says it.
fn mistakes_with(key: &str, value: &str) -> Vec<Mistake> {
    let variable = format!("MERIDIAN__{}", key.to_ascii_uppercase().replace('.', "__"));
    let mut reader = Reader::parse(EVERYTHING, [(variable, value.to_owned())]).unwrap();
    let _config = read(&mut reader, Path::new(""));
    reader.finish()
}

#[test]
fn every_key_is_measured_or_known_not_to_be() {
    for (key, kind) in all_keys() {
        let listed = NOT_MEASURED.contains(&key.as_str());
        assert_eq!(kind == reader::Kind::Other, listed, "{key}");
    }
}

#[test]
fn every_number_is_refused_outside_its_range_with_key_and_range() {
    let mut tried = 0;
    for (key, kind) in all_keys() {
        let reader::Kind::Measured(range) = kind else {
            continue;
        };
        tried += 1;
        let (low, high, off) = ends(&range);
        let unit = low.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        // Others may stand against the number itself, such as a replication that needs more nodes.
        let concerns = |mistake: &&Mistake| mistake.key == key && mistake.what.contains(" to ");
        for right in [&low, &high] {
            let mistakes = mistakes_with(&key, right);
            assert_eq!(mistakes.iter().find(concerns), None, "{key} = {right}");
        }
        let off_is_wrong = !mistakes_with(&key, "off").is_empty();
        assert_eq!(off_is_wrong, !off, "{key} = off");
        let number = |text: &str| -> f64 {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
            text[..end.unwrap_or(text.len())].parse().unwrap()
        };
        let mut wrong = vec![
            "-1".to_owned(),
            format!("-1{unit}"),
            "-9223372036854775808".to_owned(),
            "9223372036854775807".to_owned(),
            format!("18446744073709551615{unit}"),
            format!("18446744073709551616{unit}"),
            format!("1e400{unit}"),
            format!(
                "{}{}",
                number(&high) + 1.0,
                high.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            ),
            "NaN".to_owned(),
            "inf".to_owned(),
            String::new(),
        ];
        // Where none is no choice, zero is a mistake.
        if number(&low) > 0.0 {
            wrong.extend(["0".to_owned(), format!("0{unit}")]);
        }
        for wrong in wrong {
            let mistakes = mistakes_with(&key, &wrong);
            let told = mistakes
                .iter()
                .any(|mistake| mistake.key == key && mistake.what.contains(&range));
            assert!(told, "{key} = {wrong:?}: {mistakes:?}");
        }
    }
    assert!(tried >= 20, "only {tried} keys are measured");
}

/// Zero stands for something of its own at these, and nowhere else.
#[test]
fn zero_is_accepted_only_where_it_means_something() {
    let zero: Vec<String> = all_keys()
        .into_iter()
        .filter(|(_, kind)| *kind != reader::Kind::Other)
        .map(|(key, _)| key)
        .filter(|key| {
            ["0", "0m", "0s", "0B"]
                .iter()
                .any(|zero| mistakes_with(key, zero).is_empty())
        })
        .collect();
    // Every move is reported; the Kafka cluster's own number of them; all rotated files are kept.
    assert_eq!(
        zero,
        [
            "geo.min_distance",
            "sinks.k.partitions",
            "sinks.k.replication",
            "sinks.s.keep"
        ]
    );
}

#[test]
fn a_number_of_another_type_is_refused_with_the_range() {
    for wrong in [
        "nan",
        "1.5",
        "true",
        "\"many\"",
        "[1]",
        "9223372036854775807",
        "-1",
    ] {
        let mistakes = load(&format!("[limits]\nmax_inflight = {wrong}"), &[]).unwrap_err();
        assert!(
            mistakes[0].starts_with("limits.max_inflight: ")
                && mistakes[0].contains("from 1 to 65535"),
            "{mistakes:?}"
        );
    }
}

#[test]
fn the_largest_packet_is_what_mqtt_can_say() {
    let config = load("[limits]\nmax_packet = 268435455", &[]).unwrap();
    assert_eq!(config.limits.max_packet, 268_435_455);
    assert!(load("[limits]\nmax_packet = \"256MB\"", &[]).is_err());
}

/// What the documentation shows, without what this version does not have.
#[test]
fn the_documented_sample_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let auth = format!(
        "users_file = {:?}\nacl_file = {:?}",
        file("users.toml", ""),
        file(
            "acl.toml",
            "[[rule]]\npublish = [\"gps/${region}/%c/position\"]"
        )
    );
    let sample = r#"
[node]
id = 1
data_dir = "/var/lib/meridian"
zone = "us-east-1a"
[cluster]
name = "prod"
bind = "0.0.0.0:7883"
advertise = "10.0.0.1:7883"
bootstrap = ["10.0.0.1:7883"]
[sharding]
roots = ["gps", "geo", "cmd"]
regions = ["us-east", "us-west", "eu-central"]
default_shards = 4
client_region = "^(?<region>[a-z]+-[a-z]+)[.:/]"
[listeners.tcp]
bind = "0.0.0.0:1883"
[listeners.tls]
bind = "0.0.0.0:8883"
cert = "server.pem"
key = "server.key"
client_ca = "devices-ca.pem"
[listeners.ws]
bind = "0.0.0.0:8083"
[listeners.http]
bind = "127.0.0.1:18083"
[auth]
allow_anonymous = false
AUTH
[limits]
max_packet = "256KB"
max_inflight = 32
max_queued = 1000
max_sessions = 1000000
publish_rate = "100/s"
[durability]
fsync = true
[geo]
input = ["gps/{region}/{device}/position"]
min_distance = "50m"
max_silence = "300s"
max_speed = "100m/s"
max_future = "120s"
[sinks.lake]
type = "kafka"
bootstrap_servers = "127.0.0.1:9092"
[sinks.history]
type = "timescale"
url = "postgres://meridian@127.0.0.1/meridian"
[sinks.audit]
type = "file"
path = "events.ndjson"
"#;
    let config = load(&sample.replace("AUTH", &auth), &[]).unwrap();
    assert_eq!(config.limits.max_packet, 256 << 10);
    assert_eq!(config.limits.publish_rates.messages, Some(100));
    assert!(config.auth.users.is_some() && config.auth.acl.is_some());
    assert_eq!(config.listeners.tls.unwrap().bind.port(), 8883);
    assert_eq!(config.limits.max_connections, 1_000_000);
    assert!(
        config
            .sharding
            .client_region
            .unwrap()
            .is_match("us-east.truck")
    );
}

/// S24.
#[test]
fn an_access_file_that_is_broken_or_missing_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acl.toml");
    let config = format!("[auth]\nacl_file = {path:?}\n");
    assert!(load(&config, &[]).unwrap_err()[0].starts_with("auth.acl_file: "));
    std::fs::write(&path, "[[rule]]\npublish = [\"a/#/b\"]").unwrap();
    let mistakes = load(&config, &[]).unwrap_err();
    assert!(mistakes[0].contains("rule[0].publish[0]"), "{mistakes:?}");
    std::fs::write(&path, "").unwrap();
    assert!(load(&config, &[]).unwrap().auth.acl.is_some());
    let both = load(&format!("{config}publish_geo = true"), &[]).unwrap_err();
    assert!(both[0].starts_with("auth.publish_geo: "), "{both:?}");
}

#[test]
fn what_is_not_written_down_does_not_bind_this_machine() {
    let limits = load("", &[]).unwrap().limits;
    assert_eq!(limits.per_address.max, Some(4096));
    assert!(
        limits.per_loopback_address.max.is_none() && limits.per_loopback_address.rate.is_none()
    );
    assert!(limits.publish_rates.messages.is_none() && limits.publish_rates.bytes.is_none());
    let text = "[limits]\nmax_connections_per_address = 7\nconnection_rate_per_address = \"off\"\npublish_rate = \"100/s\"\npublish_bytes_rate = \"1MB/s\"";
    let limits = load(text, &[]).unwrap().limits;
    assert_eq!(
        (limits.per_address.max, limits.per_address.rate),
        (Some(7), None)
    );
    assert_eq!(limits.per_loopback_address.max, Some(7));
    assert_eq!(
        (limits.publish_rates.messages, limits.publish_rates.bytes),
        (Some(100), Some(1 << 20))
    );
    for (key, wrong) in [
        ("publish_rate", "\"0/s\""),
        ("publish_bytes_rate", "\"0KB/s\""),
        ("max_connections_per_address", "0"),
        ("max_sessions_per_user", "-1"),
        ("connection_rate_per_address", "\"fast\""),
    ] {
        let mistakes = load(&format!("[limits]\n{key} = {wrong}"), &[]).unwrap_err();
        assert!(
            mistakes[0].starts_with(&format!("limits.{key}: ")),
            "{mistakes:?}"
        );
    }
}
