//! The primitive types of MQTT (5.0 §1.5) out of the body of one packet.
//!
//! The body is complete, so that a read past its end is *malformed*, never *incomplete*.

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};

use super::error::CodecError;
use super::frame::{check_minimal, read_varint};
use crate::packet::PacketId;
use crate::text::{Text, TextError};

const SHORT: CodecError =
    CodecError::malformed("a field runs past the end of its packet or properties [§1.2]");

/// A position in a body. Slices share its buffer.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    at: usize,
    end: usize,
}

impl Reader {
    /// The bytes of `frame` behind its fixed header.
    pub(super) fn new(frame: Bytes, header_bytes: usize) -> Self {
        Self {
            at: header_bytes,
            end: frame.len(),
            bytes: frame,
        }
    }

    pub(super) const fn remaining(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, bytes: usize) -> Result<std::ops::Range<usize>, CodecError> {
        if bytes > self.remaining() {
            return Err(SHORT);
        }
        let range = self.at..self.at + bytes;
        self.at = range.end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let range = self.take(N)?;
        Ok(self.bytes[range].try_into().expect("the range has N bytes"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Inside 5.0 packets only, hence minimal.
    pub(super) fn varint(&mut self) -> Result<u32, CodecError> {
        let (value, bytes) = read_varint(&self.bytes[self.at..self.end])?.ok_or(SHORT)?;
        check_minimal(value, bytes)?;
        self.at += bytes;
        Ok(value)
    }

    #[inline]
    pub(super) fn binary(&mut self) -> Result<Bytes, CodecError> {
        let bytes = self.u16()?;
        let range = self.take(bytes.into())?;
        Ok(self.bytes.slice(range))
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<Text, CodecError> {
        Text::new(self.binary()?).map_err(|error| match error {
            TextError::NotUtf8 => {
                CodecError::malformed("a string is not well-formed UTF-8 [MQTT-1.5.4-1]")
            }
            TextError::Nul => CodecError::malformed("a string contains U+0000 [MQTT-1.5.4-2]"),
            TextError::TooLong { .. } => unreachable!("its length was read from two bytes"),
        })
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, CodecError> {
        let id = NonZeroU16::new(self.u16()?);
        id.map(PacketId).ok_or(CodecError::malformed(
            "a packet identifier is 0 [MQTT-2.2.1-3]",
        ))
    }

    /// Narrows the reader to the next `bytes` until [`Self::widen`] is called with what this returns.
    pub(super) fn narrow(&mut self, bytes: u32) -> Result<usize, CodecError> {
        if bytes as usize > self.remaining() {
            return Err(SHORT);
        }
        let outer = self.end;
        self.end = self.at + bytes as usize;
        Ok(outer)
    }

    pub(super) fn widen(&mut self, outer: usize) {
        debug_assert_eq!(self.at, self.end, "the narrow part was read to its end");
        self.end = outer;
    }

    /// Everything that is left, without a copy.
    #[inline]
    pub(super) fn rest(mut self) -> Bytes {
        self.bytes.advance(self.at);
        self.bytes
    }

    /// Every packet ends where its header said.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(CodecError::malformed(
                "bytes are left behind the last field of a packet [§2.1.4]",
            )),
        }
    }
}
