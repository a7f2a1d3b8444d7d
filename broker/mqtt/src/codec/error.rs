//! What the decoder refuses, and how to answer it.

use crate::packet::Version;
use crate::reason::ReasonCode;

/// Bytes that are no valid packet. Incomplete ones are not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {rule}")]
pub struct CodecError {
    /// The code for CONNACK (before it was sent) or DISCONNECT of 5.0. For 3.1.1 see
    /// [`ReasonCode::connack_v311`]; where that is `None` the connection is closed without a word.
    pub reason: ReasonCode,
    /// The rule that was broken, with its statement: statements are those of 5.0 unless marked v3.1.1.
    pub rule: &'static str,
    /// The version to answer in; `None` before a CONNECT told: then close without an answer [MQTT-3.1.4-1].
    pub version: Option<Version>,
}

impl CodecError {
    pub(super) const fn new(reason: ReasonCode, rule: &'static str) -> Self {
        Self {
            reason,
            rule,
            version: None,
        }
    }

    /// Cannot be parsed (5.0 §1.2 *Malformed Packet*).
    pub(super) const fn malformed(rule: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, rule)
    }

    /// Can be parsed, and is not allowed (5.0 §1.2 *Protocol Error*).
    pub(super) const fn protocol(rule: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, rule)
    }

    pub(super) const fn answered_in(self, version: Version) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }
}
