//! Sessions, wills and queues by the log alone.

use bytes::Bytes;
use meridian_shard::log::{self, command::Body};
use meridian_shard::{
    Effect, FenceCatalog, MemoryStore, OpenedSession, Reply, ShardState, packet_id_of,
};

struct Shard {
    state: ShardState,
    store: MemoryStore,
    now_ms: i64,
    effects: Vec<Effect>,
}

impl Shard {
    fn new() -> Self {
        let store = MemoryStore::default();
        Shard {
            state: ShardState::restore("s", FenceCatalog::default(), &store),
            store,
            now_ms: 1_000_000,
            effects: vec![],
        }
    }
    fn apply(&mut self, body: Body) -> Reply {
        let entry = log::Entry {
            proposed_at_ms: self.now_ms,
            commands: vec![log::Command { body: Some(body) }],
            ..Default::default()
        };
        self.state
            .apply(entry, &mut self.store, &mut self.effects)
            .replies
            .remove(0)
    }
    fn open(&mut self, open: log::OpenSession) -> OpenedSession {
        match self.apply(Body::OpenSession(open)) {
            Reply::Opened(opened) => *opened,
            other => panic!("{other:?}"),
        }
    }
    fn close(&mut self, opened: &OpenedSession, publish_will: bool, expiry_s: u32) -> Reply {
        let connection_epoch = opened.connection_epoch;
        self.apply(Body::CloseSession(log::CloseSession {
            client_id: "c".into(),
            connection_epoch,
            publish_will,
            expiry_s,
        }))
    }
    fn pass(&mut self, seconds: i64) {
        self.now_ms += 1000 * seconds;
        self.apply(Body::Tick(log::Tick::default()));
    }
    fn wills(&self) -> usize {
        self.effects
            .iter()
            .filter(|effect| matches!(effect, Effect::WillDue { .. }))
            .count()
    }
    fn ended(&self) -> bool {
        self.effects
            .iter()
            .any(|effect| matches!(effect, Effect::SessionEnded { .. }))
    }
}

fn session(expiry_s: u32) -> log::OpenSession {
    log::OpenSession {
        client_id: "c".into(),
        clean_start: false,
        expiry_s,
        ..Default::default()
    }
}

fn with_will(expiry_s: u32, delay_s: u32) -> log::OpenSession {
    let message = log::Message {
        topic: "w".into(),
        ..Default::default()
    };
    log::OpenSession {
        will: Some(log::Will {
            message: Some(message),
            delay_s,
        }),
        ..session(expiry_s)
    }
}

fn enqueue(shard: &mut Shard, epoch: u64, upto: u64, payload: &[u8]) -> Reply {
    let message = log::Message {
        topic: "t".into(),
        payload: Bytes::copy_from_slice(payload),
        ..Default::default()
    };
    let queued = log::QueuedMessage {
        message: Some(message),
        qos: 1,
        ..Default::default()
    };
    let item = log::EnqueueItem {
        client_id: "c".into(),
        session_epoch: epoch,
        queued: Some(queued),
    };
    shard.apply(Body::Enqueue(log::Enqueue {
        source: "other".into(),
        upto,
        items: vec![item],
        from: shard.state.handed("other"),
        revision: shard.state.subscriptions_revision(),
    }))
}

#[test]
fn a_session_is_opened_by_no_other_user_until_its_time_is_over() {
    let mut shard = Shard::new();
    let of = |owner: &str, clean_start| log::OpenSession {
        owner: owner.to_owned(),
        clean_start,
        ..with_will(10, 0)
    };
    // Whoever proves a user first makes a session of nobody's his own.
    shard.open(of("", false));
    let mine = shard.open(of("anna", false));
    assert!(mine.present);
    let wills = shard.wills();
    let refused = |shard: &mut Shard| {
        for stranger in ["bert", ""] {
            for clean_start in [false, true] {
                let opened = shard.apply(Body::OpenSession(of(stranger, clean_start)));
                assert_eq!(opened, Reply::NotOwner);
            }
        }
    };
    refused(&mut shard);
    assert_eq!(shard.wills(), wills, "the connection was not taken over");
    shard.close(&mine, false, 10);
    shard.pass(9);
    refused(&mut shard);
    assert!(shard.open(of("anna", false)).present);
    let mine = shard.open(of("anna", false));
    shard.close(&mine, false, 10);
    shard.pass(11);
    assert!(!shard.open(of("bert", false)).present);
}

#[test]
fn a_session_is_found_again_until_its_time_is_over_mqtt_3_1_2_5() {
    let mut shard = Shard::new();
    let first = shard.open(session(10));
    assert!(!first.present);
    shard.close(&first, true, 10);
    shard.pass(9);
    let again = shard.open(session(10));
    assert!(
        again.present
            && again.epoch == first.epoch
            && again.connection_epoch > first.connection_epoch
    );
    shard.close(&again, true, 10);
    shard.pass(10);
    assert!(shard.ended());
    assert!(!shard.open(session(10)).present);
}

#[test]
fn clean_start_begins_a_new_session_mqtt_3_1_2_4() {
    let mut shard = Shard::new();
    let first = shard.open(session(100));
    let clean = shard.open(log::OpenSession {
        clean_start: true,
        ..session(100)
    });
    assert!(!clean.present && clean.epoch != first.epoch && shard.ended());
}

#[test]
fn only_the_log_lets_time_pass() {
    let mut shard = Shard::new();
    let opened = shard.open(session(10));
    shard.close(&opened, true, 10);
    shard.now_ms -= 3_600_000;
    shard.apply(Body::Tick(log::Tick::default()));
    assert!(!shard.ended(), "a clock that ran back ends nothing");
    assert_eq!(
        shard.state.now_ms(),
        1_000_000,
        "and does not move the shard's"
    );
}

#[test]
fn an_old_connection_ends_nothing_of_a_newer_one() {
    let mut shard = Shard::new();
    let old = shard.open(with_will(100, 5));
    let new = shard.open(session(100));
    assert_eq!(shard.close(&old, true, 0), Reply::Stale);
    assert_eq!(shard.close(&new, true, 100), Reply::Done);
}

#[test]
fn a_will_comes_once_after_its_delay_and_not_if_the_client_is_back_mqtt_3_1_3_9() {
    let mut shard = Shard::new();
    let opened = shard.open(with_will(100, 10));
    shard.close(&opened, true, 100);
    shard.pass(9);
    assert_eq!(shard.wills(), 0);
    let back = shard.open(with_will(100, 10));
    shard.pass(60);
    assert_eq!(shard.wills(), 0, "the client came back in time");
    shard.close(&back, true, 100);
    shard.pass(10);
    shard.pass(60);
    assert_eq!(shard.wills(), 1);
}

#[test]
fn a_will_waits_no_longer_than_its_session_lasts_mqtt_3_1_2_8() {
    let mut shard = Shard::new();
    let opened = shard.open(with_will(3, 100));
    shard.close(&opened, true, 3);
    shard.pass(3);
    assert!(shard.wills() == 1 && shard.ended());
}

#[test]
fn a_client_that_left_in_order_has_no_will_mqtt_3_1_2_10() {
    let mut shard = Shard::new();
    let opened = shard.open(with_will(0, 0));
    shard.close(&opened, false, 0);
    assert!(shard.wills() == 0 && shard.ended());
}

#[test]
fn the_will_of_an_overtaken_connection_without_delay_is_published() {
    let mut shard = Shard::new();
    shard.open(with_will(100, 0));
    shard.open(session(100));
    assert_eq!(shard.wills(), 1);
}

#[test]
fn a_will_that_was_not_confirmed_is_still_there_after_a_restart() {
    let mut shard = Shard::new();
    let opened = shard.open(with_will(0, 0));
    shard.close(&opened, true, 0);
    let restarted = ShardState::restore("s", FenceCatalog::default(), &shard.store);
    assert_eq!(restarted.leaving_wills().count(), 1);
    shard.apply(Body::WillPublished(log::WillPublished {
        client_id: "c".into(),
        connection_epoch: opened.connection_epoch,
    }));
    assert_eq!(
        ShardState::restore("s", FenceCatalog::default(), &shard.store)
            .leaving_wills()
            .count(),
        0
    );
}

#[test]
fn a_will_leaves_until_it_is_confirmed_also_in_a_replay() {
    let mut shard = Shard::new();
    let opened = shard.open(with_will(0, 0));
    let before = (shard.store.clone(), shard.now_ms);
    shard.close(&opened, true, 0);
    let once = shard.effects.iter().find_map(|effect| match effect {
        Effect::WillDue { once } => Some(once.clone()),
        _ => None,
    });
    let once = once.expect("the will is due");
    assert_eq!(shard.state.leaving_will(&once).unwrap().topic, "w");
    let other = log::Once {
        epoch: once.epoch + 1,
        ..once.clone()
    };
    assert!(shard.state.leaving_will(&other).is_none());
    let confirm = Body::WillPublished(log::WillPublished {
        client_id: once.client_id.clone(),
        connection_epoch: once.epoch,
    });
    shard.apply(confirm.clone());
    assert!(shard.state.leaving_will(&once).is_none());
    // The log is replayed from before the will: the sign comes again, and the will is no longer there behind it.
    let mut replayed = Shard::new();
    (replayed.store, replayed.now_ms) = before;
    replayed.state = ShardState::restore("s", FenceCatalog::default(), &replayed.store);
    replayed.close(&opened, true, 0);
    replayed.apply(confirm);
    assert_eq!(replayed.wills(), 1);
    assert!(replayed.state.leaving_will(&once).is_none());
    assert_eq!(replayed.store, shard.store);
}

#[test]
fn a_will_published_again_under_its_name_is_published_once() {
    let mut shard = Shard::new();
    let once = log::Once {
        client_id: "c".into(),
        epoch: 3,
        packet_id: 0,
    };
    let publish = Body::Publish(log::Publish {
        message: Some(log::Message {
            topic: "w".into(),
            ..Default::default()
        }),
        once: Some(once.clone()),
    });
    assert_eq!(shard.apply(publish.clone()), Reply::Done);
    // Its session's end does not free the name of a will that was not confirmed.
    shard.apply(Body::Forget(log::Forget {
        client_id: "c".into(),
        epoch: 9,
    }));
    assert_eq!(shard.state.names().collect::<Vec<_>>(), [once]);
    assert_eq!(shard.apply(publish), Reply::Duplicate);
    assert_eq!(shard.state.next_offset(), 1);
}

#[test]
fn what_is_handed_over_twice_is_queued_once() {
    let mut shard = Shard::new();
    let opened = shard.open(session(100));
    assert_eq!(enqueue(&mut shard, opened.epoch, 7, b"x"), Reply::Done);
    assert_eq!(enqueue(&mut shard, opened.epoch, 7, b"x"), Reply::Duplicate);
    assert_eq!(shard.state.handed("other"), 7);
    assert_eq!(shard.state.session("c").unwrap().queue.len(), 1);
}

#[test]
fn a_queue_is_bounded_and_says_what_it_lets_go() {
    let mut shard = Shard::new();
    let opened = shard.open(session(100));
    shard.apply(Body::Settings(log::Settings {
        queue_messages_max: 2,
        queue_bytes_max: 1000,
        ..Default::default()
    }));
    for upto in 1..=3 {
        enqueue(&mut shard, opened.epoch, upto, b"x");
    }
    assert_eq!(shard.state.session("c").unwrap().queue.len(), 2);
    assert_eq!(
        shard
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Dropped { .. }))
            .count(),
        1
    );
}

#[test]
fn a_message_keeps_its_identifier_until_it_is_settled() {
    let mut shard = Shard::new();
    let opened = shard.open(session(100));
    for upto in 1..=3 {
        enqueue(&mut shard, opened.epoch, upto, b"x");
    }
    let settle = |settled, received| {
        Body::Settle(log::Settle {
            client_id: "c".into(),
            session_epoch: opened.epoch,
            settled,
            received,
        })
    };
    shard.apply(settle(vec![1], vec![2]));
    shard.close(&opened, true, 100);
    let again = shard.open(session(100));
    let left: Vec<(u16, bool)> = again
        .queue
        .iter()
        .map(|(seq, entry)| (packet_id_of(*seq).get(), entry.released))
        .collect();
    assert_eq!(left, [(2, true), (3, false)]);
}

#[test]
fn identifiers_go_round_after_65535() {
    assert_eq!(packet_id_of(65_535).get(), 65_535);
    assert_eq!(packet_id_of(65_536).get(), 1);
}

#[test]
fn a_qos_2_publication_is_applied_once_until_it_is_released_mqtt_4_3_3_10() {
    let mut shard = Shard::new();
    let once = log::Once {
        client_id: "c".into(),
        epoch: 1,
        packet_id: 9,
    };
    let publish = || {
        Body::Publish(log::Publish {
            message: Some(log::Message {
                topic: "t".into(),
                ..Default::default()
            }),
            once: Some(once.clone()),
        })
    };
    assert_eq!(shard.apply(publish()), Reply::Done);
    assert_eq!(shard.apply(publish()), Reply::Duplicate);
    assert_eq!(shard.state.next_offset(), 1);
    shard.apply(Body::Release(log::Release {
        once: Some(once.clone()),
    }));
    assert_eq!(shard.apply(publish()), Reply::Done);
    shard.apply(Body::Forget(log::Forget {
        client_id: "c".into(),
        epoch: 1,
    }));
    assert!(!shard.state.knows_names_of("c"));
}

#[test]
fn a_retained_message_is_the_last_one_and_an_empty_one_clears_it_mqtt_3_3_1_6() {
    let mut shard = Shard::new();
    let retain = |payload: &'static [u8]| {
        let message = log::Message {
            topic: "t".into(),
            payload: Bytes::from_static(payload),
            retain: true,
            ..Default::default()
        };
        Body::Publish(log::Publish {
            message: Some(message),
            once: None,
        })
    };
    shard.apply(retain(b"1"));
    shard.apply(retain(b"2"));
    let filter = meridian_mqtt::topic::TopicFilter::from_static("#");
    let mut found = Vec::new();
    shard
        .state
        .for_each_retained(&filter, 0, |_, retained| found.push(retained.clone()));
    assert!(
        matches!(&found[..], [log::Retained { body: Some(log::retained::Body::Message(message)) }] if message.payload == "2")
    );
    shard.apply(retain(b""));
    assert_eq!(shard.state.retained_count(), 0);
    assert!(
        !shard.store.state.keys().any(|key| key.starts_with(b"r/")),
        "nothing of it is left on disk"
    );
}

fn hand_over(shard: &mut Shard, from: u64, upto: u64, revision: u64) -> Reply {
    shard.apply(Body::Enqueue(log::Enqueue {
        source: "other".into(),
        upto,
        items: Vec::new(),
        from,
        revision,
    }))
}

fn subscribe(shard: &mut Shard, epoch: u64, since: u64) {
    let subscription = log::Subscription {
        filter: "t".into(),
        since: std::iter::once(("other".to_owned(), since)).collect(),
        ..Default::default()
    };
    let subscribed = shard.apply(Body::Subscribe(log::Subscribe {
        client_id: "c".into(),
        session_epoch: epoch,
        subscriptions: vec![subscription],
        retained: Vec::new(),
    }));
    assert_eq!(subscribed, Reply::Done);
}

#[test]
fn messages_are_taken_only_from_where_the_cursor_stands() {
    let mut shard = Shard::new();
    assert_eq!(hand_over(&mut shard, 3, 5, 0), Reply::Stale, "a gap");
    assert_eq!(hand_over(&mut shard, 0, 5, 0), Reply::Done);
    assert_eq!(hand_over(&mut shard, 0, 5, 0), Reply::Duplicate);
    assert_eq!(
        hand_over(&mut shard, 3, 8, 0),
        Reply::Stale,
        "3 and 4 are there"
    );
    assert_eq!(shard.state.handed("other"), 5);
}

#[test]
fn who_hands_over_without_knowing_a_subscription_is_told_to_look_again() {
    let mut shard = Shard::new();
    let session = shard.open(session(10));
    let before = shard.state.subscriptions_revision();
    subscribe(&mut shard, session.epoch, 4);
    let after = shard.state.subscriptions_revision();
    assert_eq!(
        hand_over(&mut shard, 0, 4, before),
        Reply::Done,
        "it sees none of these"
    );
    assert_eq!(hand_over(&mut shard, 4, 6, before), Reply::Stale);
    assert_eq!(hand_over(&mut shard, 4, 6, after), Reply::Done);
    // And so after a restart.
    shard.state = ShardState::restore("s", FenceCatalog::default(), &shard.store);
    assert_eq!(hand_over(&mut shard, 6, 7, before), Reply::Stale);
    assert_eq!(hand_over(&mut shard, 6, 7, after), Reply::Done);
}

#[test]
fn commands_that_a_node_sends_twice_are_applied_once_also_after_a_restart() {
    let mut shard = Shard::new();
    let publish = |first: u64, topics: &[&str]| log::Entry {
        node: 2,
        boot: 1,
        first,
        commands: topics
            .iter()
            .map(|topic| log::Command {
                body: Some(Body::Publish(log::Publish {
                    message: Some(log::Message {
                        topic: (*topic).into(),
                        ..Default::default()
                    }),
                    once: None,
                })),
            })
            .collect(),
        ..Default::default()
    };
    let mut apply = |entry: log::Entry, restart: bool| {
        if restart {
            shard.state = ShardState::restore("s", FenceCatalog::default(), &shard.store);
        }
        let mut effects = Vec::new();
        let applied = shard.state.apply(entry, &mut shard.store, &mut effects);
        let events = effects.len();
        (applied.first, applied.replies.len(), events)
    };
    assert_eq!(apply(publish(1, &["a", "b"]), false), (1, 2, 2));
    assert_eq!(apply(publish(1, &["a", "b"]), true).1, 0);
    assert_eq!(apply(publish(2, &["b", "c"]), true), (3, 1, 1));
    assert_eq!(apply(publish(5, &["e"]), true).1, 0, "4 is not there yet");
    assert_eq!(shard.state.next_of(2, 1), 4);
}

#[test]
fn a_connection_elsewhere_is_told_of_a_newer_one_and_of_its_own_end() {
    let mut shard = Shard::new();
    let first = shard.open(session(10));
    let second = shard.open(session(10));
    let opened = |shard: &Shard| -> Vec<u64> {
        let epoch = |effect: &Effect| match effect {
            Effect::SessionOpened {
                connection_epoch, ..
            } => Some(*connection_epoch),
            _ => None,
        };
        shard.effects.iter().filter_map(epoch).collect()
    };
    assert_eq!(
        opened(&shard),
        [first.connection_epoch, second.connection_epoch]
    );
    assert!(first.connection_epoch < second.connection_epoch);
    shard.effects.clear();
    shard.close(&first, true, 10);
    assert!(shard.effects.is_empty(), "the old one ends nothing");
    shard.close(&second, true, 10);
    assert!(matches!(
        &shard.effects[..],
        [Effect::SessionClosed { connection_epoch, .. }] if *connection_epoch == second.connection_epoch
    ));
}
