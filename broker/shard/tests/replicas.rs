//! What every replica must agree on, for generated histories: the same entries make the same state, a restart changes
//! nothing, and nothing that is applied panics.

use bytes::Bytes;
use meridian_shard::log::{self, command::Body};
use meridian_shard::{Effect, FenceCatalog, MemoryStore, Reply, ShardState};
use proptest::prelude::*;

const FENCE: &str = r#"{"type":"Feature","id":"f","properties":{"radius_m":500,"dwell_s":5},"geometry":{"type":"Point","coordinates":[24.94,60.17]}}"#;

fn client() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(String::from)
}

fn message() -> impl Strategy<Value = log::Message> {
    (
        prop::sample::select(vec!["t/1", "t/2", "x"]),
        prop::collection::vec(any::<u8>(), 0..4),
        0..3_u32,
        any::<bool>(),
        prop::option::of(0..3_u32),
    )
        .prop_map(
            |(topic, payload, qos, retain, message_expiry_s)| log::Message {
                topic: topic.into(),
                payload: Bytes::from(payload),
                qos,
                retain,
                message_expiry_s,
                ..Default::default()
            },
        )
}

fn once() -> impl Strategy<Value = log::Once> {
    (client(), 0..6_u64, 0..4_u32).prop_map(|(client_id, epoch, packet_id)| log::Once {
        client_id,
        epoch,
        packet_id,
    })
}

fn fix() -> impl Strategy<Value = log::Fix> {
    (0..40_i64, -30..30_i32, -30..30_i32).prop_map(|(t, lat, lon)| log::Fix {
        ts_ms: 1000 * t,
        lat_e7: 601_700_000 + lat * 3000,
        lon_e7: 249_400_000 + lon * 6000,
        ..Default::default()
    })
}

fn queued() -> impl Strategy<Value = log::QueuedMessage> {
    (message(), 0..3_u32).prop_map(|(message, qos)| log::QueuedMessage {
        message: Some(message),
        qos,
        ..Default::default()
    })
}

fn command() -> impl Strategy<Value = Body> {
    let epoch = || 0..6_u64;
    prop_oneof![
        (message(), prop::option::of(once())).prop_map(|(message, once)| Body::Publish(
            log::Publish {
                message: Some(message),
                once
            }
        )),
        (
            client(),
            prop::collection::vec(fix(), 1..4),
            any::<bool>(),
            prop::option::of((fix(), 1..9_u64))
        )
            .prop_map(|(device, fixes, resend, pending)| {
                Body::Fixes(log::Fixes {
                    device,
                    region: "hel".into(),
                    fixes,
                    pending: pending.map(|(last, count)| log::Suppressed {
                        count,
                        last: Some(last),
                        distance_m: 3.0,
                    }),
                    resend,
                    ..Default::default()
                })
            }),
        (client(), fix()).prop_map(|(device, last)| Body::LastSeen(log::LastSeen {
            devices: vec![log::SeenDevice {
                device,
                pending: Some(log::Suppressed {
                    count: 1,
                    last: Some(last),
                    distance_m: 1.0
                })
            }],
        })),
        (0..20_u64).prop_map(|purge_events_below| Body::Tick(log::Tick { purge_events_below })),
        (
            client(),
            any::<bool>(),
            0..4_u32,
            prop::option::of((message(), 0..4_u32))
        )
            .prop_map(|(client_id, clean_start, expiry_s, will)| {
                let will = will.map(|(message, delay_s)| log::Will {
                    message: Some(message),
                    delay_s,
                });
                Body::OpenSession(log::OpenSession {
                    client_id,
                    clean_start,
                    expiry_s,
                    will,
                    ..Default::default()
                })
            }),
        (client(), epoch(), any::<bool>(), 0..4_u32).prop_map(
            |(client_id, connection_epoch, publish_will, expiry_s)| {
                Body::CloseSession(log::CloseSession {
                    client_id,
                    connection_epoch,
                    publish_will,
                    expiry_s,
                })
            }
        ),
        (client(), epoch(), prop::collection::vec(queued(), 0..3)).prop_map(
            |(client_id, session_epoch, retained)| {
                let subscription = log::Subscription {
                    filter: "t/#".into(),
                    ..Default::default()
                };
                Body::Subscribe(log::Subscribe {
                    client_id,
                    session_epoch,
                    subscriptions: vec![subscription],
                    retained,
                })
            }
        ),
        (client(), epoch()).prop_map(|(client_id, session_epoch)| {
            Body::Unsubscribe(log::Unsubscribe {
                client_id,
                session_epoch,
                filters: vec!["t/#".into()],
            })
        }),
        (
            0..10_u64,
            0..30_u64,
            prop::collection::vec((client(), epoch(), queued()), 0..3)
        )
            .prop_map(|(from, upto, items)| {
                let item = |(client_id, session_epoch, queued)| log::EnqueueItem {
                    client_id,
                    session_epoch,
                    queued: Some(queued),
                };
                Body::Enqueue(log::Enqueue {
                    source: "other".into(),
                    upto,
                    items: items.into_iter().map(item).collect(),
                    from,
                    revision: 9,
                })
            }),
        (
            client(),
            epoch(),
            prop::collection::vec(0..5_u64, 0..3),
            prop::collection::vec(0..5_u64, 0..3)
        )
            .prop_map(|(client_id, session_epoch, settled, received)| {
                Body::Settle(log::Settle {
                    client_id,
                    session_epoch,
                    settled,
                    received,
                })
            }),
        once().prop_map(|once| Body::Release(log::Release { once: Some(once) })),
        (client(), epoch())
            .prop_map(|(client_id, epoch)| Body::Forget(log::Forget { client_id, epoch })),
        (0..4_u64, any::<bool>()).prop_map(|(revision, there)| {
            let upserts = if there {
                vec![log::FenceRecord {
                    id: "f".into(),
                    feature_json: FENCE.into(),
                    rev: revision,
                }]
            } else {
                vec![]
            };
            Body::PutFences(log::PutFences {
                revision,
                upserts,
                removes: vec![],
                replace_all: true,
            })
        }),
        (client(), epoch()).prop_map(|(client_id, connection_epoch)| Body::WillPublished(
            log::WillPublished {
                client_id,
                connection_epoch
            }
        )),
        Just(Body::Settings(log::Settings {
            min_distance_m: 30.0,
            queue_messages_max: 2,
            queue_bytes_max: 100,
            max_future_ms: 1 << 50,
            ..Default::default()
        })),
    ]
}

fn entries() -> impl Strategy<Value = Vec<log::Entry>> {
    let entry = (0..2500_i64, prop::collection::vec(command(), 1..5));
    prop::collection::vec(entry, 1..40).prop_map(|entries| {
        let mut now_ms = 1_000_000;
        entries
            .into_iter()
            .map(|(passed, commands)| {
                // Sometimes it does not move, as under one leader within a millisecond.
                now_ms += passed - passed.min(300);
                let commands = commands
                    .into_iter()
                    .map(|body| log::Command { body: Some(body) })
                    .collect();
                log::Entry {
                    proposed_at_ms: now_ms,
                    commands,
                    ..Default::default()
                }
            })
            .collect()
    })
}

/// A replica: its state and what it has made durable.
struct Replica {
    state: ShardState,
    store: MemoryStore,
}

impl Replica {
    fn new() -> Self {
        Self::restored(MemoryStore::default())
    }
    fn restored(store: MemoryStore) -> Self {
        Replica {
            state: ShardState::restore("hel", FenceCatalog::default(), &store),
            store,
        }
    }
    fn apply(&mut self, entry: &log::Entry) -> (Vec<Reply>, Vec<Effect>) {
        let mut effects = Vec::new();
        let applied = self
            .state
            .apply(entry.clone(), &mut self.store, &mut effects);
        (applied.replies, effects)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn replicas_that_apply_the_same_entries_agree(entries in entries()) {
        let (mut one, mut two) = (Replica::new(), Replica::new());
        for entry in &entries {
            prop_assert_eq!(one.apply(entry), two.apply(entry));
            prop_assert_eq!(&one.store, &two.store);
        }
    }

    #[test]
    fn a_restart_at_any_entry_changes_nothing_that_follows(entries in entries(), at in any::<prop::sample::Index>()) {
        let at = at.index(entries.len());
        let mut steady = Replica::new();
        for entry in &entries[..at] {
            steady.apply(entry);
        }
        let mut restarted = Replica::restored(steady.store.clone());
        for entry in &entries[at..] {
            prop_assert_eq!(steady.apply(entry), restarted.apply(entry));
            prop_assert_eq!(&steady.store, &restarted.store);
        }
    }

    #[test]
    fn events_have_dense_offsets_and_carry_their_own_name(entries in entries()) {
        let mut replica = Replica::new();
        let mut next = 0;
        for entry in &entries {
            for effect in replica.apply(entry).1 {
                let Effect::Event { offset, event } = effect else { continue };
                prop_assert_eq!(offset, next);
                next += 1;
                if let Some(log::event::Body::Alert(alert)) = &event.body {
                    prop_assert_eq!(&alert.event_id, &format!("hel-{offset}"));
                }
            }
        }
        prop_assert_eq!(replica.state.next_offset(), next);
    }

    #[test]
    fn a_queue_never_holds_two_messages_of_one_identifier_nor_more_than_it_may(entries in entries()) {
        let mut replica = Replica::new();
        for entry in &entries {
            replica.apply(entry);
            for session in replica.state.sessions() {
                let ids: std::collections::BTreeSet<_> = session.queue.keys().map(|seq| meridian_shard::packet_id_of(*seq)).collect();
                prop_assert_eq!(ids.len(), session.queue.len());
                prop_assert!(session.queue.len() <= 1000);
            }
        }
    }
}
