//! The primitive types of MQTT (5.0 §1.5) on their way out.
//!
//! A packet is described once and runs through two sinks: a [`Counter`] that tells its length, then the buffer.

use bytes::{BufMut, BytesMut};

use super::frame::varint_bytes;
use super::property::{Kind, Property};
use crate::text::{TEXT_BYTES_MAX, Text};

/// Takes the bytes of a packet.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        for _ in 1..varint_bytes(value) {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// Binary data or a string.
    fn binary(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).expect("the counter refused longer fields"));
        self.put(bytes);
    }
}

/// Counts, and notes fields that two bytes of length cannot announce.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) bytes: usize,
    pub(super) field_too_long: bool,
}

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn binary(&mut self, bytes: &[u8]) {
        self.field_too_long |= bytes.len() > TEXT_BYTES_MAX;
        self.bytes += 2 + bytes.len();
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

/// Writes the length of the properties that `write` produces, and then these.
pub(super) fn properties(sink: &mut dyn Sink, write: impl Fn(&mut Properties<'_>)) {
    let mut counter = Counter::default();
    write(&mut Properties(&mut counter));
    // A value too long was noted by the outer counter, which sees the same bytes.
    sink.varint(counter.bytes as u32);
    write(&mut Properties(sink));
}

/// Writes single properties; `None` writes nothing.
pub(super) struct Properties<'a>(pub(super) &'a mut dyn Sink);

impl Properties<'_> {
    pub(super) fn number(&mut self, property: Property, value: Option<impl Into<u32>>) {
        let Some(value) = value.map(Into::into) else {
            return;
        };
        self.0.u8(property as u8);
        match property.rule().kind {
            Kind::Byte => self.0.u8(value as u8),
            Kind::TwoBytes => self.0.u16(value as u16),
            Kind::FourBytes => self.0.put(&value.to_be_bytes()),
            Kind::VarInt => self.0.varint(value),
            kind @ (Kind::Text | Kind::Topic | Kind::Binary | Kind::Pair) => {
                unreachable!("{property:?} is a {kind:?}, not a number")
            }
        }
    }

    pub(super) fn bytes(&mut self, property: Property, value: Option<impl AsRef<[u8]>>) {
        if let Some(value) = value {
            self.0.u8(property as u8);
            self.0.binary(value.as_ref());
        }
    }

    pub(super) fn text(&mut self, property: Property, value: Option<&Text>) {
        self.bytes(property, value.map(|text| text.as_bytes()));
    }

    pub(super) fn user(&mut self, pairs: &[(Text, Text)]) {
        for (name, value) in pairs {
            self.0.u8(Property::User as u8);
            self.0.binary(name.as_bytes());
            self.0.binary(value.as_bytes());
        }
    }
}
