//! What the engine keeps of one device, and its bytes.
//!
//! The bytes are canonical: equal states have equal bytes, so replicas can compare hashes. Reading is total: any bytes
//! give a state or an error.

use std::sync::Arc;

use crate::bytes::{Reader, Writer};
use crate::distance::distance_m;
use crate::engine::Suppressed;
use crate::fix::Fix;
use crate::movement::{Moment, Stop};
use crate::visit::Visit;

/// How many fixes are remembered for the recognition of a resend.
pub(crate) const RECENT_MAX: usize = 32;

const VERSION: u8 = 1;

/// Why bytes are no device state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by a newer version.
    #[error("device state of unknown version {0}")]
    UnknownVersion(u8),
    /// Cut off, too long, or not what was written.
    #[error("malformed device state")]
    Malformed,
}

/// A device after its last accepted fix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    pub(crate) region: Box<str>,
    pub(crate) last: Fix,
    /// The last reported position.
    pub(crate) reported: Moment,
    pub(crate) stop: Stop,
    /// Sum of the distances between accepted fixes, metres.
    pub(crate) odometer_m: f64,
    /// Accepted fixes since the last reported one.
    pub(crate) suppressed: u64,
    pub(crate) ignition: Option<bool>,
    pub(crate) alarm: Option<Box<str>>,
    pub(crate) visits: Vec<Visit>,
    /// Hashes of the last fixes, oldest first.
    pub(crate) recent: Vec<u32>,
}

impl Device {
    pub(crate) fn first(region: &str, fix: &Fix) -> Self {
        Device {
            region: region.into(),
            last: fix.clone(),
            reported: Moment::of(fix),
            stop: Stop::new(fix),
            odometer_m: 0.0,
            suppressed: 0,
            ignition: None,
            alarm: None,
            visits: Vec::new(),
            recent: Vec::new(),
        }
    }

    /// Takes in fixes that changed nothing and were acknowledged without an entry.
    pub(crate) fn merge(&mut self, pending: &Suppressed) {
        if pending.last.ts_ms > self.last.ts_ms {
            self.last = pending.last.clone();
            self.odometer_m += pending.distance_m;
            self.suppressed += pending.count;
            self.remember(&pending.last);
        }
    }

    pub(crate) fn remember(&mut self, fix: &Fix) {
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(hash(fix));
    }

    pub(crate) fn remembers(&self, fix: &Fix) -> bool {
        self.recent.contains(&hash(fix))
    }

    /// Metres and milliseconds from the last accepted fix to `fix`.
    pub(crate) fn step(last: &Fix, fix: &Fix) -> (f64, i64) {
        (distance_m(last.at, fix.at), fix.ts_ms - last.ts_ms)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(VERSION);
        writer.text(&self.region);
        writer.fix(&self.last);
        writer.moment(self.reported);
        writer.moment(self.stop.anchor);
        writer.bool(self.stop.stopped);
        writer.f64(self.odometer_m);
        writer.u64(self.suppressed);
        writer.option(self.ignition, Writer::bool);
        writer.option(self.alarm.as_deref(), Writer::text);
        writer.u32(self.visits.len() as u32);
        for visit in &self.visits {
            writer.text(&visit.fence);
            writer.u8(u8::from(visit.inside)
                | u8::from(visit.dwelt) << 1
                | u8::from(visit.speeding) << 2);
            writer.i64(visit.entered_ms);
            writer.u32(visit.against);
        }
        writer.u8(self.recent.len() as u8);
        self.recent.iter().for_each(|hash| writer.u32(*hash));
        writer.finish()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.first() {
            Some(&VERSION) => {
                Self::read(&mut Reader::new(&bytes[1..])).ok_or(StateError::Malformed)
            }
            Some(version) => Err(StateError::UnknownVersion(*version)),
            None => Err(StateError::Malformed),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut device = Device {
            region: reader.text()?.into(),
            last: reader.fix()?,
            reported: reader.moment()?,
            stop: Stop {
                anchor: reader.moment()?,
                stopped: reader.bool()?,
            },
            odometer_m: reader.f64()?,
            suppressed: reader.u64()?,
            ignition: reader.option(Reader::bool)?,
            alarm: reader.option(Reader::text)?.map(Into::into),
            visits: Vec::new(),
            recent: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            let fence: Arc<str> = reader.text()?.into();
            let flags = reader.u8()?;
            let (entered_ms, against) = (reader.time_ms()?, reader.u32()?);
            let in_order = device
                .visits
                .last()
                .is_none_or(|before: &Visit| before.fence < fence);
            if flags > 0b111 || !in_order {
                return None;
            }
            let [inside, dwelt, speeding] = [1, 2, 4].map(|flag| flags & flag != 0);
            device.visits.push(Visit {
                fence,
                inside,
                entered_ms,
                dwelt,
                speeding,
                against,
            });
        }
        let recent = reader.u8()?;
        if usize::from(recent) > RECENT_MAX {
            return None;
        }
        for _ in 0..recent {
            device.recent.push(reader.u32()?);
        }
        reader.is_empty().then_some(device)
    }
}

/// FNV-1a over a fix's bytes, folded to 32 bits.
fn hash(fix: &Fix) -> u32 {
    let mut writer = Writer::default();
    writer.fix(fix);
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = writer.finish().iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ (hash >> 32)) as u32
}
