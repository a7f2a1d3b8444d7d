//! The leader's side before the log: which fixes change nothing, and so need no entry.
//!
//! `publish ─► decode ─► **admission** ─► log`. Volatile: a new leader starts with nothing suppressed, and measures
//! from what is committed. Compares with committed state only: while a fix of a device is on its way through the
//! log, the next ones of that device follow it there.

use std::collections::{BTreeMap, HashMap};

use meridian_geo_engine::{Fix, Suppressed, Verdict};

use crate::convert::{fix_to_log, suppressed_to_log};
use crate::log;
use crate::shard::ShardState;

/// A fix that is not taken, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// When the fix says that it was, epoch milliseconds.
    pub ts_ms: i64,
    /// A short word for machines.
    pub reason: String,
}

/// What is to become of the fixes of one publish.
#[derive(Debug, Default)]
pub struct Admitted {
    /// To be proposed: these could change something.
    pub command: Option<log::Fixes>,
    /// Acknowledged without an entry.
    pub suppressed: usize,
    /// The same as the device's last one: dropped without trace.
    pub duplicates: usize,
    /// Unusable.
    pub rejected: Vec<Rejected>,
}

/// What the leader of a shard knows beyond the log.
#[derive(Debug, Default)]
pub struct Admission {
    /// By device: what was acknowledged without an entry since its last entry.
    pending: BTreeMap<String, Suppressed>,
    /// By device: proposals that have not come back.
    in_flight: HashMap<String, u32>,
}

impl Admission {
    /// Judges the fixes of one publish, oldest first. A command that comes out must be proposed, and its end told to
    /// [`Admission::settled`].
    pub fn admit(
        &mut self,
        state: &mut ShardState,
        device: &str,
        region: &str,
        fixes: Vec<Fix>,
        resend: bool,
        now_ms: i64,
    ) -> Admitted {
        let mut admitted = Admitted::default();
        let mut fixes = fixes.into_iter().peekable();
        if !self.in_flight.contains_key(device) {
            while let Some(fix) = fixes.peek() {
                match state.judge(device, region, fix, self.pending.get(device), now_ms) {
                    Verdict::Log => break,
                    Verdict::Suppress(suppressed) => {
                        state.saw(device, region, fix);
                        self.pending.insert(device.to_owned(), suppressed);
                        admitted.suppressed += 1;
                    }
                    Verdict::Duplicate => admitted.duplicates += 1,
                    Verdict::Reject(reason) => {
                        admitted.rejected.push(Rejected {
                            ts_ms: fix.ts_ms,
                            reason: reason.to_string(),
                        });
                    }
                }
                fixes.next();
            }
        }
        if fixes.peek().is_some() {
            *self.in_flight.entry(device.to_owned()).or_default() += 1;
            admitted.command = Some(log::Fixes {
                device: device.to_owned(),
                region: region.to_owned(),
                fixes: fixes.map(|fix| fix_to_log(&fix)).collect(),
                pending: self.pending.remove(device).as_ref().map(suppressed_to_log),
                resend,
                raw: None,
                once: None,
            });
        }
        admitted
    }

    /// Marks that a publish of `device` goes through the log for another reason than its fixes, which all go along.
    pub fn follow(
        &mut self,
        device: &str,
        region: &str,
        fixes: &[Fix],
        resend: bool,
    ) -> log::Fixes {
        *self.in_flight.entry(device.to_owned()).or_default() += 1;
        log::Fixes {
            device: device.to_owned(),
            region: region.to_owned(),
            fixes: fixes.iter().map(fix_to_log).collect(),
            pending: self.pending.remove(device).as_ref().map(suppressed_to_log),
            resend,
            raw: None,
            once: None,
        }
    }

    /// Somebody else leads, or did: what was suppressed is not known there, and what was suppressed there is not known here.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// A proposal of [`Admission::admit`] is applied, or will never be.
    pub fn settled(&mut self, device: &str) {
        if let Some(count) = self.in_flight.get_mut(device) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(device);
            }
        }
    }

    /// Takes what is pending of up to `max` devices, for an entry that keeps their `last seen`. Its end is told to
    /// [`Admission::settled`], device by device.
    pub fn take_seen(&mut self, max: usize) -> Option<log::LastSeen> {
        let mut devices = Vec::new();
        while devices.len() < max
            && let Some((device, pending)) = self.pending.pop_first()
        {
            *self.in_flight.entry(device.clone()).or_default() += 1;
            devices.push(log::SeenDevice {
                device,
                pending: Some(suppressed_to_log(&pending)),
            });
        }
        (!devices.is_empty()).then_some(log::LastSeen { devices })
    }
}
