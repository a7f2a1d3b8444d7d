//! The fixed header: packet type, flags, remaining length (5.0 §2.1).

use super::error::CodecError;
use crate::packet::Version;

/// Largest variable byte integer (5.0 table 1.1).
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// The upper four bits of the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PacketType {
    Connect = 1,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    PingReq,
    PingResp,
    Disconnect,
    Auth,
}

impl PacketType {
    /// The type in a first byte whose flags are legal for it.
    pub(super) fn of(first: u8, version: Option<Version>) -> Result<Self, CodecError> {
        let packet_type = match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 if version != Some(Version::V311) => Self::Auth,
            _ => return Err(CodecError::malformed("a reserved packet type [table 2.1]")),
        };
        packet_type.check_flags(first & 0x0F)?;
        Ok(packet_type)
    }

    /// The lower four bits of the first byte where they are fixed; PUBLISH has its own.
    pub(super) const fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    fn check_flags(self, flags: u8) -> Result<(), CodecError> {
        if self == Self::Publish {
            if flags & 0b0110 == 0b0110 {
                return Err(CodecError::malformed(
                    "both QoS bits of a PUBLISH are set [MQTT-3.3.1-4]",
                ));
            }
            if flags & 0b1110 == 0b1000 {
                return Err(CodecError::malformed(
                    "DUP is set on a QoS 0 PUBLISH [MQTT-3.3.1-2]",
                ));
            }
        } else if flags != self.fixed_flags() {
            return Err(CodecError::malformed(
                "reserved flags of the fixed header are wrong [MQTT-2.1.3-1]",
            ));
        }
        Ok(())
    }

    pub(super) const fn is_from_server_only(self) -> bool {
        matches!(
            self,
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp
        )
    }

    pub(super) const fn is_from_client_only(self, version: Option<Version>) -> bool {
        matches!(
            self,
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq
        ) || (matches!(self, Self::Disconnect) && matches!(version, Some(Version::V311)))
    }
}

/// A fixed header that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct FixedHeader {
    pub(super) flags: u8,
    /// Of the fixed header itself: 2 to 5.
    pub(super) header_bytes: usize,
    remaining: u32,
}

impl FixedHeader {
    /// `None` while the length is not complete.
    pub(super) fn read(packet_type: PacketType, buffer: &[u8]) -> Result<Option<Self>, CodecError> {
        debug_assert_eq!(
            buffer[0] >> 4,
            packet_type as u8,
            "the type was read from the same byte"
        );
        let length = read_varint(&buffer[1..])?;
        Ok(length.map(|(remaining, bytes)| Self {
            flags: buffer[0] & 0x0F,
            header_bytes: 1 + bytes,
            remaining,
        }))
    }

    /// Of the whole packet.
    pub(super) const fn packet_bytes(self) -> u32 {
        self.header_bytes as u32 + self.remaining
    }

    /// 5.0 only: 3.1.1 does not forbid padded lengths.
    pub(super) fn check_minimal(self) -> Result<(), CodecError> {
        check_minimal(self.remaining, self.header_bytes - 1)
    }
}

/// A variable byte integer and its length in bytes, or `None` while it is incomplete.
pub(super) fn read_varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, CodecError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(CodecError::malformed(
            "a variable byte integer of more than four bytes [§1.5.5]",
        ));
    }
    Ok(None)
}

pub(super) fn check_minimal(value: u32, bytes: usize) -> Result<(), CodecError> {
    if bytes > varint_bytes(value) {
        return Err(CodecError::malformed(
            "a variable byte integer is longer than it must be [MQTT-1.5.5-1]",
        ));
    }
    Ok(())
}

/// How many bytes `value` takes.
pub(super) const fn varint_bytes(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}
