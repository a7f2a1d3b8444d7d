//! What is worth an alert.

use std::sync::Arc;

use crate::fence::Fence;
use crate::fix::Fix;

/// Kinds of alerts, in Traccar's spelling and in the order in which the alerts of one fix are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// Outside a fence now.
    GeofenceExit,
    /// Inside a fence now.
    GeofenceEnter,
    /// Inside a fence for its dwell time.
    GeofenceDwell,
    /// Faster than a fence allows.
    DeviceOverspeed,
    /// Gone from where it stood.
    DeviceMoving,
    /// In one place for long.
    DeviceStopped,
    /// The device raises an alarm of its own.
    Alarm,
}

impl AlertKind {
    /// The word for topics and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AlertKind::GeofenceExit => "geofenceExit",
            AlertKind::GeofenceEnter => "geofenceEnter",
            AlertKind::GeofenceDwell => "geofenceDwell",
            AlertKind::DeviceOverspeed => "deviceOverspeed",
            AlertKind::DeviceMoving => "deviceMoving",
            AlertKind::DeviceStopped => "deviceStopped",
            AlertKind::Alarm => "alarm",
        }
    }
}

/// The version of a fence that an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FenceName {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its revision.
    pub rev: u64,
}

/// An alert, as far as the geo-engine knows it. The fix that decided it is the caller's.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertFacts {
    /// What happened.
    pub kind: AlertKind,
    /// The fence, where it is about one.
    pub fence: Option<FenceName>,
    /// The accepted fix before.
    pub previous: Option<Fix>,
    /// Since the visit began, or since the device came to where it stands or stood; milliseconds.
    pub dwell_ms: Option<i64>,
    /// The speed that is allowed, metres per second.
    pub limit_mps: Option<f64>,
    /// The speed that was driven, metres per second.
    pub value_mps: Option<f64>,
    /// The device's own word for it.
    pub reason: Option<String>,
}

impl AlertFacts {
    pub(crate) fn new(kind: AlertKind, previous: Option<&Fix>) -> Self {
        let previous = previous.cloned();
        AlertFacts {
            kind,
            fence: None,
            previous,
            dwell_ms: None,
            limit_mps: None,
            value_mps: None,
            reason: None,
        }
    }

    pub(crate) fn of_fence(kind: AlertKind, fence: &Fence, previous: Option<&Fix>) -> Self {
        let name = FenceName {
            id: Arc::clone(&fence.id),
            name: Arc::clone(&fence.name),
            rev: fence.rev,
        };
        AlertFacts {
            fence: Some(name),
            ..AlertFacts::new(kind, previous)
        }
    }
}
