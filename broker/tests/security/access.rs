//! Users, access rules, and rights that are taken away.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meridian_mqtt::packet::{QoS, Version};
use meridian_mqtt::reason::ReasonCode;

use crate::support::Broker;
use crate::support::client::{Client, Login, WAIT};

/// How long something that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(700);
/// Within which rights that are taken away are gone.
pub(crate) const REVOKED: Duration = Duration::from_secs(5);

pub(crate) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Files {
            folder: tempfile::tempdir().unwrap(),
        }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
    pub(crate) fn users(&self, list: &[(&str, &str)]) -> PathBuf {
        let path = self.path("users.toml");
        for (name, password) in list {
            add_user(&path, name, password);
        }
        path
    }
    /// A broker with these access rules, and the users `anna` and `bert`.
    fn broker(&self, rules: &str, more: &str) -> Broker {
        let users = self.users(&[("anna", "pa"), ("bert", "pb")]);
        let acl = self.write("acl.toml", rules);
        Broker::start(&format!(
            "[auth]\nusers_file = {users:?}\nacl_file = {acl:?}\n{more}"
        ))
    }
}

fn add_user(file: &Path, name: &str, password: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["user", "add", name, "--file"])
        .arg(file)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{password}").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}

pub(crate) fn connected(broker: &Broker, version: Version, login: Login<'_>) -> Client {
    let mut client = Client::tcp(broker.mqtt, version);
    assert_eq!(client.login(login).reason, ReasonCode::Success);
    client
}

pub(crate) fn topics(messages: Vec<(String, String)>) -> Vec<String> {
    messages.into_iter().map(|(topic, _)| topic).collect()
}

/// The filters of a session, as the API lists them.
fn subscriptions(broker: &Broker, id: &str) -> Vec<String> {
    let clients = broker.get("clients");
    let mut clients = clients["data"].as_array().unwrap().iter();
    let client = clients.find(|client| client["client_id"] == id).unwrap();
    let filters = client["subscriptions"].as_array().unwrap();
    let mut filters: Vec<String> = filters
        .iter()
        .map(|filter| filter.as_str().unwrap().to_owned())
        .collect();
    filters.sort();
    filters
}

/// Waits until the log has said `word` `times` times.
fn wait_for_log(broker: &Broker, word: &str, times: usize) {
    let deadline = Instant::now() + WAIT;
    while broker.log().matches(word).count() < times {
        assert!(Instant::now() < deadline, "{word} in {}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_publication_that_no_rule_allows_reaches_nobody_and_5_0_is_told() {
    let files = Files::new();
    let rules = "[[rule]]\nusers = [\"anna\"]\npublish = [\"open/%c/#\"]\n[[rule]]\nusers = [\"bert\"]\nsubscribe = [\"#\"]";
    let broker = files.broker(rules, "");
    let mut reader = connected(&broker, Version::V5, Login::with("reader", "bert", "pb"));
    assert_eq!(
        reader.subscribe(&["#"], QoS::AtLeastOnce),
        [ReasonCode::GrantedQoS1]
    );
    let mut v5 = connected(&broker, Version::V5, Login::with("a5", "anna", "pa"));
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(v5.publish("secret/x", "", qos), ReasonCode::NotAuthorized);
        assert_eq!(
            v5.publish("open/other/x", "", qos),
            ReasonCode::NotAuthorized
        );
        assert_eq!(
            v5.publish("geo/hel/x/position", "", qos),
            ReasonCode::NotAuthorized
        );
    }
    v5.send("secret/y", "").unwrap();
    assert_eq!(
        v5.publish("open/a5/x", "", QoS::AtLeastOnce),
        ReasonCode::Success
    );
    // 3.1.1 has no word for it: it is acknowledged, and goes nowhere, as mosquitto does it.
    let mut v3 = connected(&broker, Version::V311, Login::with("a3", "anna", "pa"));
    assert_eq!(
        v3.publish("secret/z", "", QoS::AtLeastOnce),
        ReasonCode::Success
    );
    assert_eq!(
        v3.publish("open/a3/x", "", QoS::AtLeastOnce),
        ReasonCode::Success
    );
    assert_eq!(topics(reader.messages(SILENCE)), ["open/a5/x", "open/a3/x"]);
}

#[test]
fn s22_each_filter_is_judged_on_its_own_wholly_and_without_its_share() {
    let files = Files::new();
    let broker = files.broker("[[rule]]\nsubscribe = [\"a/+\", \"b/#\"]", "");
    let asked = [
        "a/x",
        "+/attrs",
        "$share/g/secret/#",
        "+/#",
        "#",
        "a/#",
        "$share/g/b/x",
        "b/+/y",
        "$SYS/#",
    ];
    let (no, yes) = (ReasonCode::NotAuthorized, ReasonCode::GrantedQoS1);
    let mut v5 = connected(&broker, Version::V5, Login::with("c5", "anna", "pa"));
    let answers = v5.subscribe(&asked, QoS::AtLeastOnce);
    assert_eq!(answers, [yes, no, no, no, no, no, yes, yes, no]);
    let mut v3 = connected(&broker, Version::V311, Login::with("c3", "anna", "pa"));
    let answers = v3.subscribe(&asked[..2], QoS::AtLeastOnce);
    assert_eq!(answers, [yes, ReasonCode::UnspecifiedError]);
}

#[test]
fn s23_an_id_with_wildcards_is_no_wildcard() {
    let files = Files::new();
    let rules =
        "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"dev/%c/#\"]\npublish = [\"dev/%c/#\"]";
    let broker = files.broker(rules, "");
    for id in ["#", "+", "a/b", ".*"] {
        let mut strange = connected(&broker, Version::V5, Login::with(id, "anna", "pa"));
        let asked = ["dev/#", "dev/+/x", "dev/victim/x"];
        assert_eq!(
            strange.subscribe(&asked, QoS::AtMostOnce),
            [ReasonCode::NotAuthorized; 3],
            "{id}"
        );
        assert_eq!(
            strange.publish("dev/victim/x", "", QoS::AtLeastOnce),
            ReasonCode::NotAuthorized
        );
    }
    let mut plain = connected(&broker, Version::V5, Login::with("victim", "anna", "pa"));
    assert_eq!(
        plain.subscribe(&["dev/victim/#"], QoS::AtMostOnce),
        [ReasonCode::Success]
    );
}

#[test]
fn s20_a_will_is_judged_at_connect_and_again_when_it_is_due() {
    let files = Files::new();
    let reading = "[[rule]]\nusers = [\"bert\"]\nsubscribe = [\"#\"]\n";
    let writing = "[[rule]]\nusers = [\"anna\"]\npublish = [\"wills/%c\"]\n";
    let broker = files.broker(&format!("{reading}{writing}"), "");
    let with_will = |id, will| Login {
        will: Some(will),
        expiry_s: 60,
        ..Login::with(id, "anna", "pa")
    };
    for version in [Version::V5, Version::V311] {
        let mut refused = Client::tcp(broker.mqtt, version);
        let connack = refused.login(with_will("w", ("secret/w", 0)));
        assert_eq!(connack.reason, ReasonCode::NotAuthorized);
        assert!(refused.farewell(WAIT).is_some());
    }
    let mut reader = connected(&broker, Version::V5, Login::with("reader", "bert", "pb"));
    reader.subscribe(&["wills/#"], QoS::AtLeastOnce);
    let allowed = connected(&broker, Version::V5, with_will("w0", ("wills/w0", 0)));
    drop(allowed);
    assert_eq!(
        topics(reader.messages(Duration::from_secs(2))),
        ["wills/w0"]
    );
    // The rest is due after the right is gone: one still connected, one with a delay.
    let connected_still = connected(&broker, Version::V5, with_will("w1", ("wills/w1", 0)));
    let delayed = connected(&broker, Version::V5, with_will("w2", ("wills/w2", 5)));
    drop(delayed);
    files.write("acl.toml", reading);
    broker.signal("HUP");
    wait_for_log(&broker, "Read anew", 2);
    drop(connected_still);
    assert_eq!(topics(reader.messages(Duration::from_secs(8))), [""; 0]);
}

#[test]
fn s21_rights_taken_away_end_live_subscriptions_and_what_waits() {
    let files = Files::new();
    let writing = "[[rule]]\nusers = [\"bert\"]\npublish = [\"#\"]\n";
    let both = "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"open/#\", \"secret/#\"]\n";
    let open = "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"open/#\"]\n";
    let mut broker = files.broker(&format!("{writing}{both}"), "");
    let persistent = |id| Login {
        expiry_s: 600,
        clean: false,
        ..Login::with(id, "anna", "pa")
    };
    let filters = ["open/#", "secret/#"];
    let mut live = connected(&broker, Version::V5, Login::with("live", "anna", "pa"));
    live.subscribe(&filters, QoS::AtLeastOnce);
    let mut away = connected(&broker, Version::V5, persistent("away"));
    away.subscribe(&filters, QoS::AtLeastOnce);
    drop(away);
    // It takes one message at a time and acknowledges none, so the rest waits in its session.
    let mut slow = connected(
        &broker,
        Version::V5,
        Login {
            receive_maximum: 1,
            ..persistent("slow")
        },
    );
    slow.subscribe(&filters, QoS::AtLeastOnce);
    let mut writer = connected(&broker, Version::V5, Login::with("writer", "bert", "pb"));
    for number in 0..3 {
        assert_eq!(
            writer.publish(&format!("open/{number}"), "", QoS::AtLeastOnce),
            ReasonCode::Success
        );
        assert_eq!(
            writer.publish(&format!("secret/{number}"), "", QoS::AtLeastOnce),
            ReasonCode::Success
        );
    }
    assert_eq!(live.messages(SILENCE).len(), 6);

    files.write("acl.toml", &format!("{writing}{open}"));
    std::thread::sleep(REVOKED);
    // Who is away still has his subscription, and it is judged when he comes back.
    let (only_open, both_of_them) = (vec!["open/#"], vec!["open/#", "secret/#"]);
    assert_eq!(subscriptions(&broker, "live"), only_open);
    assert_eq!(subscriptions(&broker, "slow"), only_open);
    assert_eq!(subscriptions(&broker, "away"), both_of_them);
    writer.publish("secret/later", "", QoS::AtLeastOnce);
    writer.publish("open/later", "", QoS::AtLeastOnce);
    assert_eq!(topics(live.messages(SILENCE)), ["open/later"]);
    let left = ["open/0", "open/1", "open/2", "open/later"];
    assert_eq!(topics(slow.messages(SILENCE)), left);
    // Across a reconnection, and a restart of the broker: what the log still has is judged by the rules of now.
    broker.kill_and_restart();
    let mut away = Client::tcp(broker.mqtt, Version::V5);
    assert!(away.login(persistent("away")).session_present);
    assert_eq!(topics(away.messages(Duration::from_secs(1))), left);
    let mut writer = connected(&broker, Version::V5, Login::with("writer", "bert", "pb"));
    for id in ["slow", "away"] {
        assert_eq!(subscriptions(&broker, id), only_open, "{id}");
    }
    // The right comes back; the subscription has to be asked for again.
    files.write("acl.toml", &format!("{writing}{both}"));
    broker.signal("HUP");
    wait_for_log(&broker, "Read anew", 2);
    assert_eq!(
        away.subscribe(&["secret/#"], QoS::AtLeastOnce),
        [ReasonCode::GrantedQoS1]
    );
    writer.publish("secret/again", "", QoS::AtLeastOnce);
    assert_eq!(topics(away.messages(SILENCE)), ["secret/again"]);
}

#[test]
fn s21_a_user_who_is_taken_off_the_list_is_disconnected_and_stays_out() {
    let files = Files::new();
    let broker = files.broker("[[rule]]\npublish = [\"#\"]", "");
    let mut anna = connected(&broker, Version::V5, Login::with("a", "anna", "pa"));
    let mut bert = connected(&broker, Version::V5, Login::with("b", "bert", "pb"));
    let removed = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["user", "rm", "anna", "--file"])
        .arg(files.path("users.toml"))
        .status()
        .unwrap();
    assert!(removed.success());
    assert_eq!(
        anna.farewell(REVOKED),
        Some(Some(ReasonCode::NotAuthorized))
    );
    let refused = Client::tcp(broker.mqtt, Version::V5).login(Login::with("a", "anna", "pa"));
    assert_eq!(refused.reason, ReasonCode::BadUserNameOrPassword);
    assert_ne!(
        bert.publish("x", "", QoS::AtLeastOnce),
        ReasonCode::NotAuthorized
    );
}

#[test]
fn s24_a_broken_file_is_refused_at_the_start_and_changes_nothing_later() {
    let files = Files::new();
    let broker = files.broker("[[rule]]\nsubscribe = [\"a\"]", "");
    let mut client = connected(&broker, Version::V5, Login::with("c", "anna", "pa"));
    let mut answers = |filter| client.subscribe(&[filter], QoS::AtMostOnce)[0];
    assert_eq!(
        (answers("a"), answers("b")),
        (ReasonCode::Success, ReasonCode::NotAuthorized)
    );
    files.write("acl.toml", "[[rule]]\nsubscribe = [\"a\", \"b/#/c\"]");
    wait_for_log(&broker, "rule[0].subscribe[1]", 1);
    assert!(broker.log().contains("what was in force stays"));
    assert_eq!(
        (answers("a"), answers("b")),
        (ReasonCode::Success, ReasonCode::NotAuthorized)
    );
    files.write("acl.toml", "");
    wait_for_log(&broker, "nobody may publish or subscribe", 1);
    assert_eq!(
        (answers("a"), answers("b")),
        (ReasonCode::NotAuthorized, ReasonCode::NotAuthorized)
    );

    let config = files.write(
        "meridian.toml",
        "[auth]\nacl_file = \"broken.toml\"\n[node]\ndata_dir = \"unused\"",
    );
    files.write("broken.toml", "[[rule]]\npublishes = [\"a\"]");
    let refused = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["serve", "-c"])
        .arg(config)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("auth.acl_file") && said.contains("publishes"),
        "{said}"
    );
}

#[test]
fn s19_a_stranger_with_a_victims_id_is_refused_and_the_victim_stays() {
    let files = Files::new();
    let mut broker = files.broker(
        "[[rule]]\nsubscribe = [\"#\"]\npublish = [\"#\"]",
        "allow_anonymous = true",
    );
    let mine = Login {
        expiry_s: 600,
        clean: false,
        ..Login::with("truck-7", "anna", "pa")
    };
    let mut victim = connected(&broker, Version::V5, mine);
    victim.subscribe(&["cmd/#"], QoS::AtLeastOnce);
    let strangers = [Login::with("truck-7", "bert", "pb"), Login::new("truck-7")];
    let all_are_refused = |broker: &Broker| {
        for stranger in strangers {
            for clean in [true, false] {
                let refused =
                    Client::tcp(broker.mqtt, Version::V5).login(Login { clean, ..stranger });
                assert_eq!(refused.reason, ReasonCode::NotAuthorized);
            }
        }
    };
    all_are_refused(&broker);
    let mut writer = connected(&broker, Version::V5, Login::with("w", "bert", "pb"));
    writer.publish("cmd/1", "", QoS::AtLeastOnce);
    assert_eq!(topics(victim.messages(SILENCE)), ["cmd/1"]);
    // Also while the victim is away, and after the broker was killed.
    drop(victim);
    all_are_refused(&broker);
    broker.kill_and_restart();
    all_are_refused(&broker);
    let mut victim = Client::tcp(broker.mqtt, Version::V5);
    assert!(victim.login(mine).session_present);
    // The owner himself takes over as ever [MQTT-3.1.4-3].
    let _newer = connected(&broker, Version::V5, mine);
    assert_eq!(
        victim.farewell(WAIT),
        Some(Some(ReasonCode::SessionTakenOver))
    );
}

#[test]
fn s19_with_bound_ids_a_client_is_its_user() {
    let files = Files::new();
    let broker = files.broker(
        "[[rule]]\npublish = [\"#\"]",
        "allow_anonymous = true\nbind_client_id = true",
    );
    for (id, login, reason) in [
        ("anna", Some(("anna", "pa")), ReasonCode::Success),
        ("bert", Some(("anna", "pa")), ReasonCode::NotAuthorized),
        ("anna", None, ReasonCode::NotAuthorized),
    ] {
        let login = Login {
            user: login,
            ..Login::new(id)
        };
        assert_eq!(
            Client::tcp(broker.mqtt, Version::V5).login(login).reason,
            reason,
            "{id}"
        );
    }
    let assigned = Client::tcp(broker.mqtt, Version::V5).login(Login::with("", "bert", "pb"));
    assert_eq!(
        assigned.properties.assigned_client_id.as_deref(),
        Some("bert")
    );
}

#[test]
fn s25_an_empty_password_opens_nothing() {
    let files = Files::new();
    let broker = files.broker("", "");
    for (user, password) in [
        ("anna", ""),
        ("", ""),
        ("admin", "public"),
        ("nobody", "pa"),
    ] {
        let refused = Client::tcp(broker.mqtt, Version::V5).login(Login::with("x", user, password));
        assert_eq!(refused.reason, ReasonCode::BadUserNameOrPassword, "{user}");
    }
}

#[test]
fn a_real_client_is_held_to_the_same_rules() {
    let files = Files::new();
    let broker = files.broker(
        "[[rule]]\nusers = [\"anna\"]\nsubscribe = [\"open/#\"]\npublish = [\"open/#\"]",
        "",
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answers = runtime.block_on(async {
        use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
        use rumqttc::v5::{AsyncClient, Event, MqttOptions, mqttbytes::QoS};
        let mut options = MqttOptions::new("real", "127.0.0.1", broker.mqtt);
        options.set_credentials("anna", "pa");
        let (client, mut events) = AsyncClient::new(options, 10);
        client.subscribe("open/#", QoS::AtLeastOnce).await.unwrap();
        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        client
            .publish("secret", QoS::AtLeastOnce, false, "x")
            .await
            .unwrap();
        let (mut granted, mut refused, mut published) = (false, false, None);
        let all = async {
            while !(granted && refused && published.is_some()) {
                match events.poll().await.unwrap() {
                    Event::Incoming(Packet::SubAck(ack)) => {
                        granted |=
                            matches!(ack.return_codes[..], [SubscribeReasonCode::Success(_)]);
                        refused |= ack.return_codes == [SubscribeReasonCode::NotAuthorized];
                    }
                    Event::Incoming(Packet::PubAck(ack)) => {
                        published = Some(ack.reason == PubAckReason::NotAuthorized)
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(WAIT, all)
            .await
            .expect("three answers come");
        published
    });
    assert_eq!(answers, Some(true));
}
