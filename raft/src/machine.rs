//! A group's state machine as openraft drives it: commands to the user's machine, its changes to the store.

use std::io;
use std::sync::Mutex;

use futures::{Stream, StreamExt};
use meridian_proto::raft::v1;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot, SnapshotMeta, StoredMembership};
use prost::Message as _;

use crate::codec::{self, Answer, Id, Payload, Types};
use crate::log_store::LogStore;
use crate::snapshot::{self, SnapshotData};
use crate::state_machine::{Committed, StateMachine};
use crate::storage::{StateWrites, Storage};

/// Commands of one batch of changes.
const BATCH_MAX: usize = 256;

pub(crate) struct Machine<S> {
    /// Lent out only while it is restored.
    user: Option<S>,
    storage: Storage,
    group: String,
    log: LogStore,
    applied: Option<Id>,
    membership: StoredMembershipOf<Types>,
    /// As the state was last flushed.
    flushed: Option<SnapshotMetaOf<Types>>,
}

impl<S: StateMachine> Machine<S> {
    pub(crate) fn open(
        mut user: S,
        storage: Storage,
        group: &str,
        log: LogStore,
    ) -> io::Result<Self> {
        snapshot::finish_interrupted(&storage, group)?;
        let reader = storage.reader(group);
        let (applied, membership) = match reader.applied().map_err(io::Error::other)? {
            Some(bytes) => codec::applied_from_disk(
                &v1::Applied::decode(&bytes[..]).map_err(io::Error::other)?,
            )?,
            None => (None, StoredMembership::default()),
        };
        // The log begins behind what was flushed, or there is a hole that nothing can fill.
        if log.purged() > applied {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the log of {group} begins after entry {}, but the state has come to entry {} only: a part of it is \
                     missing, and this node must not vote with it",
                    log.purged().map_or(0, |id| id.index()),
                    applied.map_or(0, |id| id.index())
                ),
            ));
        }
        user.restore(&reader);
        let flushed = applied.map(|_| SnapshotMeta {
            last_log_id: applied,
            last_membership: membership.clone(),
        });
        Ok(Machine {
            user: Some(user),
            storage,
            group: group.to_owned(),
            log,
            applied,
            membership,
            flushed,
        })
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let mut commands = Vec::with_capacity(batch.len());
        let mut responders = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            let id = entry.log_id();
            self.applied = Some(id);
            let is_command = match entry.payload {
                EntryPayload::Normal(Payload(payload)) => {
                    commands.push(Committed {
                        index: id.index(),
                        payload,
                    });
                    true
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    false
                }
                EntryPayload::Blank => false,
            };
            responders.push((is_command, responder));
        }
        let mut writes = StateWrites::new(&self.storage, &self.group);
        let mut replies = if commands.is_empty() {
            Vec::new()
        } else {
            self.user
                .as_mut()
                .expect("it was given back")
                .apply(&commands, &mut writes)
        }
        .into_iter();
        let applied =
            codec::applied_to_disk(self.applied.as_ref(), &self.membership).encode_to_vec();
        if let Err(error) = writes.commit(&applied) {
            (self.storage.on_failure)(&format!(
                "the state of {} could not be written: {error}",
                self.group
            ));
            return Err(io::Error::other(error));
        }
        for (is_command, responder) in responders {
            let reply = if is_command { replies.next() } else { None };
            if let Some(responder) = responder {
                responder.send(Answer(Mutex::new(
                    reply.map(|reply| Box::new(reply) as Box<dyn std::any::Any + Send>),
                )));
            }
        }
        if let Some(applied) = self.applied {
            self.log.trim_cache(applied.index());
        }
        Ok(())
    }
}

impl<S: StateMachine + Sync> RaftStateMachine<Types> for Machine<S> {
    // A node's own snapshot is the flushed state itself, where it is; what travels is read from it when it does.
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Flusher;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<Id>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        // What is ready is one batch; nobody waits for it to fill.
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.len() == BATCH_MAX {
                self.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            self.apply_batch(batch)
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Flusher> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Flusher {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        self.flushed = Some(meta.clone());
        self.log.take_bytes_since_snapshot();
        Flusher {
            storage: self.storage.clone(),
            meta,
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Received(received) = snapshot else {
            return Err(io::Error::other("the state is its own snapshot"));
        };
        let (storage, group) = (self.storage.clone(), self.group.clone());
        let mut user = self.user.take().expect("it was given back");
        let installed = tokio::task::spawn_blocking(move || {
            let applied = snapshot::install(&storage, &group, received)?;
            user.restore(&storage.reader(&group));
            io::Result::Ok((user, codec::applied_from_disk(&applied)?))
        });
        let installed = installed
            .await
            .map_err(io::Error::other)
            .and_then(|done| done);
        match installed {
            Ok((user, (applied, membership))) => {
                self.user = Some(user);
                self.applied = applied;
                self.membership = membership.clone();
                self.flushed = Some(SnapshotMeta {
                    last_log_id: applied,
                    last_membership: membership,
                });
                self.log.take_bytes_since_snapshot();
                metrics::counter!("meridian_raft_snapshots_installed_total").increment(1);
                Ok(())
            }
            // The state may be half the old one: only from disk can it come back.
            Err(error) => {
                (self.storage.on_failure)(&format!(
                    "a snapshot of {} could not be installed: {error}",
                    self.group
                ));
                Err(error)
            }
        }
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        // A group that has applied nothing has nothing to send.
        let flushed = self.flushed.clone();
        let flushed = flushed.filter(|meta| meta.last_log_id.is_some());
        Ok(flushed.map(|meta| Snapshot {
            meta,
            snapshot: SnapshotData::Own,
        }))
    }
}

/// Makes the state durable, so that the log below it can be purged.
pub(crate) struct Flusher {
    storage: Storage,
    meta: SnapshotMetaOf<Types>,
}

impl RaftSnapshotBuilder<Types> for Flusher {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotData>, io::Error> {
        let storage = self.storage.clone();
        let flushed = tokio::task::spawn_blocking(move || storage.flush_states())
            .await
            .map_err(io::Error::other)?;
        if let Err(error) = flushed {
            (self.storage.on_failure)(&format!("the states could not be flushed: {error}"));
            return Err(io::Error::other(error));
        }
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData::Own,
        })
    }
}
