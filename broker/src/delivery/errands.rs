//! What follows from an applied entry but must go through a log again: wills to the shards of their topics, ended
//! sessions' names out of all shards.
//!
//! `apply ─► **errands** ─► other shards' logs`. An errand is no more than a sign. Whether there is still something to do
//! stands in the shards' states, which are asked right before; so an errand may come twice, late or, when the queue is
//! full, never: a look at the states, now and then, finds what is left over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_shard::log;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::access::{Access, Client};
use crate::router::ShardIndex;
use crate::shards::Shards;

/// Errands that wait, in number. More are left to the next look.
const ERRANDS_MAX: usize = 4096;
/// Between two looks at what is left over.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Something to do for a shard.
#[derive(Debug, PartialEq, Eq)]
pub enum Errand {
    /// Publish a will in its topic's shard, then confirm it in its home.
    PublishWill {
        /// The will's home.
        home: ShardIndex,
        /// Its name.
        once: log::Once,
    },
    /// Free the name of a will that is confirmed.
    Release {
        /// The shard of its topic.
        shard: ShardIndex,
        /// The name.
        once: log::Once,
    },
    /// A session ended: its names may be forgotten everywhere.
    Forget {
        /// Whose.
        client_id: String,
        /// Up to which session.
        epoch: u64,
    },
}

/// Where errands are handed in.
#[derive(Debug, Clone)]
pub struct Errands(mpsc::Sender<Errand>);

impl Errands {
    /// A way in, and what [`run`] takes them from.
    #[must_use]
    pub fn channel() -> (Errands, mpsc::Receiver<Errand>) {
        let (sender, receiver) = mpsc::channel(ERRANDS_MAX);
        (Errands(sender), receiver)
    }

    /// Hands one in. It does not wait, for it is called where entries are applied.
    pub fn submit(&self, errand: Errand) {
        // Full: the next look finds it. Closed: the node stops, and the first look after its start does.
        let _left_to_a_look = self.0.try_send(errand);
    }
}

/// Runs errands of the shards that are led here, one after the other, until `stop` says so.
pub async fn run(
    shards: Arc<Shards>,
    access: Arc<Access>,
    mut queue: mpsc::Receiver<Errand>,
    mut stop: watch::Receiver<bool>,
) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The first one is due at once.
            _ = look.tick() => {
                for errand in left_over(&shards) {
                    perform(&shards, &access, errand).await;
                }
            }
            errand = queue.recv() => match errand {
                Some(errand) => perform(&shards, &access, errand).await,
                None => return,
            },
            _ = stop.changed() => return,
        }
    }
}

/// What the states say is still to be done.
fn left_over(shards: &Shards) -> Vec<Errand> {
    let mut errands = Vec::new();
    let mut ended: BTreeMap<String, u64> = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.leading.leads()) {
        let names: Vec<log::Once> = {
            let state = shard.state.lock();
            errands.extend(state.leaving_wills().map(|once| Errand::PublishWill {
                home: shard.index,
                once,
            }));
            state.names().collect()
        };
        // A name is taken while its will is leaving, or its session lives. So whoever has neither is done with.
        for once in names {
            let home = shards.get(shards.map.of_client(&once.client_id));
            // What is led elsewhere may have come further than it seems here.
            if !home.leading.leads() {
                continue;
            }
            let state = home.state.lock();
            let is_will = once.packet_id == 0;
            if is_will && state.leaving_will(&once).is_none() {
                errands.push(Errand::Release {
                    shard: shard.index,
                    once,
                });
            } else if !is_will
                && state
                    .session(&once.client_id)
                    .is_none_or(|session| session.record.epoch > once.epoch)
            {
                let epoch = ended.entry(once.client_id).or_default();
                *epoch = once.epoch.max(*epoch);
            }
        }
    }
    let forget = |(client_id, epoch)| Errand::Forget { client_id, epoch };
    errands.extend(ended.into_iter().map(forget));
    errands
}

async fn perform(shards: &Shards, access: &Access, errand: Errand) {
    match errand {
        Errand::PublishWill { home, once } => publish_will(shards, access, home, once).await,
        Errand::Release { shard, once } => release(shards, shard, once).await,
        Errand::Forget { client_id, epoch } => {
            for shard in shards.iter() {
                if shard.state.lock().knows_names_of(&client_id) {
                    let forget = log::Forget {
                        client_id: client_id.clone(),
                        epoch,
                    };
                    shard.submit(log::command::Body::Forget(forget)).await;
                }
            }
        }
    }
}

/// Publishes a will under its name, confirms it, and frees the name, in this order: after a crash at any point, what was
/// done already is known by the name or by the confirmation. One that its client may not publish any more is confirmed only.
async fn publish_will(shards: &Shards, access: &Access, home: ShardIndex, once: log::Once) {
    // Another errand, or the replay of a log, may be about the same will. Once it is confirmed its name is no hindrance.
    if !shards.get(home).leading.leads() {
        return;
    }
    let leaving = shards.get(home).state.lock().leaving_will(&once).cloned();
    let Some(mut message) = leaving else { return };
    let Some(topic) = crate::router::topic(&message.topic) else {
        return;
    };
    let confirm = log::command::Body::WillPublished(log::WillPublished {
        client_id: once.client_id.clone(),
        connection_epoch: once.epoch,
    });
    let user = std::mem::take(&mut message.publisher_user);
    let client = Client {
        id: &once.client_id,
        user: Some(user.as_str()).filter(|user| !user.is_empty()),
        region: shards.map.client_region(&once.client_id),
    };
    // Rights may have been taken away since CONNECT.
    if !access.rights(client).0.may_publish(&topic) {
        metrics::counter!("meridian_messages_dropped_total", "reason" => "not_authorized")
            .increment(1);
        shards.get(home).submit(confirm).await;
        return;
    }
    let index = shards.map.of_topic(&topic);
    message.received_ms = crate::clock::wall_ms();
    let publish = log::command::Body::Publish(log::Publish {
        message: Some(message),
        once: Some(once.clone()),
    });
    if shards.get(index).propose(publish).await.is_err() {
        tracing::warn!(
            client = once.client_id,
            "A will could not be published yet."
        );
        return;
    }
    if shards.get(home).propose(confirm).await.is_ok() {
        release(shards, index, once).await;
    }
}

async fn release(shards: &Shards, shard: ShardIndex, once: log::Once) {
    let release = log::Release { once: Some(once) };
    shards
        .get(shard)
        .submit(log::command::Body::Release(release))
        .await;
}
