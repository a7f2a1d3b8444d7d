//! What is counted on the message path, cheaply: one relaxed addition each.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meridian_mqtt::packet::QoS;
use metrics::Histogram;

use crate::{clock, telemetry};

/// Counts since the start. The metrics are made from these when they are asked for.
#[derive(Debug)]
pub struct Counters {
    delivery: Histogram,
    connections: AtomicI64,
    connected: AtomicU64,
    received: [AtomicU64; 3],
    sent: [AtomicU64; 3],
}

impl Default for Counters {
    /// Of the recorder that is there now; without one, durations go nowhere.
    fn default() -> Self {
        Counters {
            delivery: telemetry::delivery(),
            connections: AtomicI64::default(),
            connected: AtomicU64::default(),
            received: Default::default(),
            sent: Default::default(),
        }
    }
}

impl Counters {
    /// A connection takes what waits for it, of which the first was received at `received_ms`, epoch milliseconds.
    pub fn delivered(&self, received_ms: i64) {
        let took_ms = clock::wall_ms().saturating_sub(received_ms);
        // A clock that was set back meanwhile tells nothing.
        if let Ok(took_ms) = u64::try_from(took_ms) {
            self.delivery.record(Duration::from_millis(took_ms));
        }
    }
    /// A connection began.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.connected.fetch_add(1, Relaxed);
    }
    /// A connection ended.
    pub fn disconnected(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }
    /// A PUBLISH came in.
    pub fn received(&self, qos: QoS) {
        self.received[qos as usize].fetch_add(1, Relaxed);
    }
    /// A PUBLISH went out.
    pub fn sent(&self, qos: QoS) {
        self.sent[qos as usize].fetch_add(1, Relaxed);
    }
    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.connections.load(Relaxed)
    }
    /// Connections since the start.
    #[must_use]
    pub fn connections_total(&self) -> u64 {
        self.connected.load(Relaxed)
    }
    /// PUBLISH packets received, by QoS.
    #[must_use]
    pub fn received_by_qos(&self) -> [u64; 3] {
        [0, 1, 2].map(|qos: usize| self.received[qos].load(Relaxed))
    }
    /// PUBLISH packets sent, by QoS.
    #[must_use]
    pub fn sent_by_qos(&self) -> [u64; 3] {
        [0, 1, 2].map(|qos: usize| self.sent[qos].load(Relaxed))
    }
}
