//! One shard on one replica, and what each command does to it.
//!
//! `log ─► **apply** ─► effects`. All that outlives a process goes through `writes`; [`ShardState::restore`] reads it
//! back.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_geo_engine::{
    AlertFacts, Class, Fix, GeoEngine, Located, Observation, PositionCache, Report, Settings,
    Verdict,
};
use meridian_mqtt::topic::{TopicFilter, TopicName};
use meridian_proto::v1;
use prost::Message as _;

use crate::convert::{fix_from_log, position_from_fix, suppressed_from_log};
use crate::effect::{Applied, Effect, Reply};
use crate::event::{EventLog, event_id};
use crate::fences::{FenceCatalog, FenceStore};
use crate::keys;
use crate::log::{self, command::Body, event};
use crate::names::Names;
use crate::origins::Origins;
use crate::retained::RetainedMessages;
use crate::session::{QueueLimits, Session, Sessions};
use crate::store::{Reads, Writes};

/// A shard's state.
pub struct ShardState {
    shard: String,
    /// The log's clock.
    now_ms: i64,
    events: EventLog,
    next_epoch: u64,
    settings: log::Settings,
    /// By source shard: the first offset not yet handed over to sessions at home here.
    handed: BTreeMap<String, u64>,
    origins: Origins,
    fences: FenceStore,
    catalog: FenceCatalog,
    engine: GeoEngine,
    sessions: Sessions,
    retained: RetainedMessages,
    names: Names,
}

impl ShardState {
    /// The state that `store` holds; an empty store is a new shard.
    #[must_use]
    pub fn restore(shard: &str, catalog: FenceCatalog, store: &dyn Reads) -> Self {
        let mut meta = log::ShardMeta::default();
        store.scan(keys::META, &mut |_, value| {
            if let Ok(found) = log::ShardMeta::decode(value) {
                meta = found;
            }
        });
        let fences = FenceStore::restore(store, meta.fences_revision);
        let settings = meta.settings.unwrap_or_else(default_settings);
        let mut engine = GeoEngine::new(engine_settings(&settings));
        engine.set_fences(fences.index(&catalog));
        store.scan(keys::DEVICE, &mut |key, value| {
            if let Some(device) = keys::name(keys::DEVICE, key) {
                // A record that this version cannot read leaves the device unknown, as every replica will find.
                let _unknown = engine.restore_device(device, value);
            }
        });
        ShardState {
            shard: shard.to_owned(),
            now_ms: meta.now_ms,
            events: EventLog {
                first: meta.first_offset,
                next: meta.next_offset,
            },
            next_epoch: meta.next_epoch,
            settings,
            handed: meta.handed.into_iter().collect(),
            origins: Origins::restore(meta.origins),
            fences,
            catalog,
            engine,
            sessions: Sessions::restore(store, meta.subscriptions_revision),
            retained: RetainedMessages::restore(store),
            names: Names::restore(store),
        }
    }

    /// Applies one entry: the replies to its commands, in their order, and the effects in the order of the log. Commands
    /// that were applied before, because their node sent them twice, are passed over.
    ///
    /// Total: whatever was admitted can be applied.
    pub fn apply(
        &mut self,
        entry: log::Entry,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Applied {
        self.now_ms = self.now_ms.max(entry.proposed_at_ms);
        let admitted = self.origins.admit(&entry);
        let first = entry.first + admitted.start as u64;
        let replies = entry
            .commands
            .into_iter()
            .take(admitted.end)
            .skip(admitted.start)
            .map(|command| self.command(command, writes, effects))
            .collect();
        writes.put(keys::META, &self.meta().encode_to_vec());
        Applied { first, replies }
    }

    fn command(
        &mut self,
        command: log::Command,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        match command.body {
            Some(Body::Publish(publish)) => self.publish(publish, writes, effects),
            Some(Body::Fixes(fixes)) => self.fixes(fixes, writes, effects),
            Some(Body::LastSeen(seen)) => self.last_seen(&seen, writes),
            Some(Body::Tick(tick)) => {
                self.sessions.expire(self.now_ms, writes, effects);
                self.events.purge_below(tick.purge_events_below, writes);
                Reply::Done
            }
            Some(Body::OpenSession(open)) => {
                self.sessions
                    .open(&open, &mut self.next_epoch, self.now_ms, writes, effects)
            }
            Some(Body::CloseSession(close)) => {
                self.sessions.close(&close, self.now_ms, writes, effects)
            }
            Some(Body::Subscribe(subscribe)) => {
                let limits = self.queue_limits();
                self.sessions.subscribe(&subscribe, limits, writes, effects)
            }
            Some(Body::Unsubscribe(unsubscribe)) => {
                self.sessions.unsubscribe(&unsubscribe, writes, effects)
            }
            Some(Body::Enqueue(enqueue)) => self.enqueue(enqueue, writes, effects),
            Some(Body::Settle(settle)) => self.sessions.settle(&settle, writes),
            Some(Body::Release(release)) => {
                let known = release
                    .once
                    .as_ref()
                    .is_some_and(|once| self.names.release(once, writes));
                if known { Reply::Done } else { Reply::Stale }
            }
            Some(Body::Forget(forget)) => {
                self.names.forget(&forget.client_id, forget.epoch, writes);
                Reply::Done
            }
            Some(Body::PutFences(put)) => {
                if self.fences.put(&put, writes) {
                    self.engine.set_fences(self.fences.index(&self.catalog));
                }
                Reply::Done
            }
            Some(Body::WillPublished(done)) => {
                self.sessions.will_published(&done, writes);
                Reply::Done
            }
            Some(Body::Settings(settings)) => {
                self.engine.set_settings(engine_settings(&settings));
                self.settings = settings;
                Reply::Done
            }
            // A command of a newer version: a node that does not know it was kept out by the format check.
            None => Reply::Done,
        }
    }

    fn publish(
        &mut self,
        publish: log::Publish,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if let Some(once) = &publish.once
            && !self.names.claim(once, writes)
        {
            return Reply::Duplicate;
        }
        if let Some(message) = publish.message {
            self.message(message, writes, effects);
        }
        Reply::Done
    }

    fn message(
        &mut self,
        message: log::Message,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        if message.retain {
            self.retained.put_message(&message, writes);
        }
        self.events
            .append(self.now_ms, event::Body::Message(message), writes, effects);
    }

    fn fixes(
        &mut self,
        fixes: log::Fixes,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if let Some(once) = &fixes.once
            && !self.names.claim(once, writes)
        {
            return Reply::Duplicate;
        }
        let received_ms = fixes
            .raw
            .as_ref()
            .map_or(self.now_ms, |raw| raw.received_ms);
        if let Some(raw) = fixes.raw {
            self.message(raw, writes, effects);
        }
        let mut pending = fixes.pending.as_ref().and_then(suppressed_from_log);
        for fix in fixes.fixes.iter().filter_map(fix_from_log) {
            let pending = pending.take();
            let observation = self.engine.observe(
                &fixes.device,
                &fixes.region,
                &fix,
                pending.as_ref(),
                fixes.resend,
                self.now_ms,
            );
            self.observed(
                &fixes.device,
                &fixes.region,
                &fix,
                received_ms,
                observation,
                writes,
                effects,
            );
        }
        self.save_device(&fixes.device, writes);
        Reply::Done
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one fix and all that is known of it"
    )]
    fn observed(
        &mut self,
        device: &str,
        region: &str,
        fix: &Fix,
        received_ms: i64,
        observation: Observation,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Classified {
            result: match &observation.class {
                Class::Accepted if observation.report.is_some() => "reported",
                Class::Accepted => "filtered",
                Class::Late => "late",
                Class::Duplicate => "duplicate",
                Class::Rejected(_) => "rejected",
            },
        });
        if let Class::Rejected(reason) = &observation.class {
            effects.push(Effect::Rejected {
                device: device.to_owned(),
                region: region.to_owned(),
                ts_ms: fix.ts_ms,
                reason: reason.to_string(),
            });
        }
        if let Some(report) = observation.report {
            let position = self.enrich(device, region, fix, received_ms, report);
            if !position.late {
                self.retained.put_position(
                    &format!("geo/{region}/{device}/position"),
                    &position,
                    writes,
                );
            }
            self.events.append(
                self.now_ms,
                event::Body::Position(position),
                writes,
                effects,
            );
        }
        for facts in observation.alerts {
            let alert = self.alert(device, region, fix, received_ms, facts);
            self.events
                .append(self.now_ms, event::Body::Alert(alert), writes, effects);
        }
    }

    fn enrich(
        &self,
        device: &str,
        region: &str,
        fix: &Fix,
        received_ms: i64,
        report: Report,
    ) -> v1::EnrichedPosition {
        v1::EnrichedPosition {
            position: Some(position_from_fix(fix)),
            event_id: event_id(&self.shard, self.events.next),
            device: device.to_owned(),
            region: region.to_owned(),
            shard: self.shard.clone(),
            offset: self.events.next,
            received_ts_ms: received_ms,
            distance_m: report.distance_m,
            speed_calc_mps: report.speed_calc_mps,
            odometer_calc_m: report.odometer_calc_m,
            fences: report.fences.iter().map(ToString::to_string).collect(),
            suppressed: report.suppressed,
            late: report.late,
        }
    }

    fn alert(
        &self,
        device: &str,
        region: &str,
        fix: &Fix,
        received_ms: i64,
        facts: AlertFacts,
    ) -> v1::Alert {
        v1::Alert {
            event_id: event_id(&self.shard, self.events.next),
            r#type: facts.kind.as_str().to_owned(),
            ts_ms: fix.ts_ms,
            device: device.to_owned(),
            region: region.to_owned(),
            shard: self.shard.clone(),
            offset: self.events.next,
            fence: facts.fence.map(|fence| v1::FenceRef {
                id: fence.id.to_string(),
                name: fence.name.to_string(),
                rev: fence.rev,
            }),
            position: Some(position_from_fix(fix)),
            previous: facts.previous.as_ref().map(position_from_fix),
            dwell_ms: facts.dwell_ms,
            limit_mps: facts.limit_mps,
            value_mps: facts.value_mps,
            reason: facts.reason,
            received_ts_ms: received_ms,
        }
    }

    fn last_seen(&mut self, seen: &log::LastSeen, writes: &mut dyn Writes) -> Reply {
        for device in &seen.devices {
            if let Some(pending) = device.pending.as_ref().and_then(suppressed_from_log) {
                self.engine.touch(&device.device, &pending);
                self.save_device(&device.device, writes);
            }
        }
        Reply::Done
    }

    fn enqueue(
        &mut self,
        enqueue: log::Enqueue,
        writes: &mut dyn Writes,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let handed = self.handed(&enqueue.source);
        if enqueue.upto <= handed {
            return Reply::Duplicate;
        }
        // Whoever hands over may look at an older state than this one: then it looks again.
        let missed = self
            .sessions
            .newer_sees(enqueue.revision, &enqueue.source, enqueue.upto);
        if enqueue.from != handed || missed {
            return Reply::Stale;
        }
        self.handed.insert(enqueue.source, enqueue.upto);
        let limits = self.queue_limits();
        for item in enqueue.items {
            self.sessions.enqueue(item, limits, writes, effects);
        }
        Reply::Done
    }

    fn save_device(&self, device: &str, writes: &mut dyn Writes) {
        if let Some(state) = self.engine.device_state(device) {
            writes.put(&keys::named(keys::DEVICE, device), &state);
        }
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            messages_max: self.settings.queue_messages_max,
            bytes_max: self.settings.queue_bytes_max,
        }
    }

    fn meta(&self) -> log::ShardMeta {
        log::ShardMeta {
            now_ms: self.now_ms,
            next_offset: self.events.next,
            first_offset: self.events.first,
            fences_revision: self.fences.revision,
            next_epoch: self.next_epoch,
            settings: Some(self.settings),
            handed: self
                .handed
                .iter()
                .map(|(shard, offset)| (shard.clone(), *offset))
                .collect(),
            origins: self.origins.records().collect(),
            subscriptions_revision: self.sessions.revision(),
        }
    }
}

/// What the leader, the router and the queries ask. None of it changes what is replicated.
impl ShardState {
    /// What would this fix change? Leader side; see [`crate::Admission`].
    #[must_use]
    pub fn judge(
        &self,
        device: &str,
        region: &str,
        fix: &Fix,
        pending: Option<&meridian_geo_engine::Suppressed>,
        now_ms: i64,
    ) -> Verdict {
        self.engine.admit(device, region, fix, pending, now_ms)
    }

    /// A fix was suppressed: queries on this replica know it all the same.
    pub fn saw(&mut self, device: &str, region: &str, fix: &Fix) {
        self.engine.positions_mut().update(device, region, fix);
    }

    /// The shard's name.
    #[must_use]
    pub fn shard(&self) -> &str {
        &self.shard
    }

    /// The log's clock, epoch milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The offset that the next event will have.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.events.next
    }

    /// The oldest offset still in the event log.
    #[must_use]
    pub fn first_offset(&self) -> u64 {
        self.events.first
    }

    /// The first offset of shard `source` not yet handed over to the sessions at home here.
    #[must_use]
    pub fn handed(&self, source: &str) -> u64 {
        self.handed.get(source).copied().unwrap_or_default()
    }

    /// How often the sessions at home here have subscribed; see [`log::Enqueue`].
    #[must_use]
    pub fn subscriptions_revision(&self) -> u64 {
        self.sessions.revision()
    }

    /// The number that the next command of run `boot` of `node` bears; those before it are applied.
    #[must_use]
    pub fn next_of(&self, node: u64, boot: u64) -> u64 {
        self.origins.next(node, boot)
    }

    /// What `apply` measures by.
    #[must_use]
    pub fn settings(&self) -> &log::Settings {
        &self.settings
    }

    /// The fences of this shard.
    #[must_use]
    pub fn fences(&self) -> &FenceStore {
        &self.fences
    }

    /// When a `Tick` is next needed, epoch milliseconds.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<i64> {
        self.sessions.next_due_ms()
    }

    /// The sessions at home here.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter()
    }

    /// One session.
    #[must_use]
    pub fn session(&self, client_id: &str) -> Option<&Session> {
        self.sessions.get(client_id)
    }

    /// The names of the wills on their way to their topic's shard.
    pub fn leaving_wills(&self) -> impl Iterator<Item = log::Once> {
        self.sessions.leaving()
    }

    /// The will of this name, as long as it is on its way and not confirmed.
    #[must_use]
    pub fn leaving_will(&self, once: &log::Once) -> Option<&log::Message> {
        self.sessions.leaving_will(&once.client_id, once.epoch)
    }

    /// The names that await their release here: QoS 2 publications, and wills.
    pub fn names(&self) -> impl Iterator<Item = log::Once> {
        self.names.iter()
    }

    /// Whether a publication of `client_id` awaits its release here.
    #[must_use]
    pub fn knows_names_of(&self, client_id: &str) -> bool {
        self.names.knows(client_id)
    }

    /// Whether the QoS 2 publication of this name was applied and not yet released.
    #[must_use]
    pub fn holds_name(&self, client_id: &str, epoch: u64, packet_id: u16) -> bool {
        self.names.holds(client_id, epoch, u32::from(packet_id))
    }

    /// Visits the retained messages that `filter` matches.
    pub fn for_each_retained(
        &self,
        filter: &TopicFilter,
        now_ms: i64,
        visit: impl FnMut(&TopicName, &log::Retained),
    ) {
        self.retained.for_each_match(filter, now_ms, visit);
    }

    /// How many messages are retained.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.len()
    }

    /// The last position of every device of the shard.
    #[must_use]
    pub fn positions(&self) -> &PositionCache {
        self.engine.positions()
    }

    /// The devices inside fence `id` now.
    #[must_use]
    pub fn positions_in_fence(&self, id: &str) -> Vec<Located> {
        let Some((_, fence)) = self.fences.get(id) else {
            return Vec::new();
        };
        self.engine.positions().in_fence(&Arc::clone(fence))
    }
}

fn engine_settings(settings: &log::Settings) -> Settings {
    Settings {
        min_distance_m: settings.min_distance_m,
        max_silence_ms: settings.max_silence_ms,
        max_speed_mps: settings.max_speed_mps,
        max_future_ms: settings.max_future_ms,
    }
}

/// Those of the configuration's defaults; the leader's own come with its first entry.
fn default_settings() -> log::Settings {
    log::Settings {
        min_distance_m: 50.0,
        max_silence_ms: Some(300_000),
        max_speed_mps: Some(100.0),
        max_future_ms: 120_000,
        queue_messages_max: 1000,
        queue_bytes_max: 64 << 20,
    }
}
