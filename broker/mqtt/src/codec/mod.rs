//! The wire format of MQTT 3.1.1 and 5.0, both directions, without a socket.
//!
//! `bytes ─► **codec** ─► packet ─► session`, and back. Strict: what a statement forbids is an error that carries the
//! [`ReasonCode`] to answer with, and a frame that is merely *incomplete* is no error. Strings, payloads and binary
//! properties are slices of the read buffer; nothing is reserved because a header announces it. What needs memory
//! of earlier packets (packet identifiers in use, topic aliases, receive maximum) is the session's business.
//!
//! - `frame` the fixed header: type, flags, length. `reader` the primitive types of §1.5, bounds checked.
//! - `property` the one table of what properties are and where they may stand.
//! - `decode`, `connect` the bodies of packets. `encode`, `writer` the way out.

mod connect;
mod decode;
mod encode;
mod error;
mod frame;
mod property;
mod reader;
mod writer;

use bytes::BytesMut;

pub use encode::{EncodeError, PublishHeader, encode, encode_publish_header};
pub use error::CodecError;

use crate::packet::{Packet, Version};
use crate::reason::ReasonCode;
use frame::{FixedHeader, PacketType};
use reader::Reader;

/// Largest CONNECT that is read, bytes: until one was accepted, nobody has a claim to more memory.
pub const CONNECT_BYTES_MAX: u32 = 64 * 1024;

/// Largest control packet of the protocol, bytes: one header byte, four of length, 268,435,455 of the rest.
pub const PACKET_BYTES_MAX: u32 = 5 + frame::VARINT_MAX;

/// Which side reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What arrives comes from a client.
    Server,
    /// What arrives comes from a server.
    Client,
}

/// Cuts packets from the front of a read buffer.
///
/// After an error the stream has no defined position any more: answer, close, and drop the decoder [MQTT-4.13.1-1].
#[derive(Debug, Clone)]
pub struct Decoder {
    role: Role,
    version: Option<Version>,
    packet_bytes_max: u32,
}

impl Decoder {
    /// Reads what a client sends. The first packet must be a CONNECT, which settles the version; until then packets
    /// are limited to [`CONNECT_BYTES_MAX`], afterwards to `packet_bytes_max` (whole packets, fixed header included).
    pub const fn server(packet_bytes_max: u32) -> Self {
        Self {
            role: Role::Server,
            version: None,
            packet_bytes_max,
        }
    }

    /// Reads what a server sends to a client that asked for `version`.
    pub const fn client(version: Version, packet_bytes_max: u32) -> Self {
        Self {
            role: Role::Client,
            version: Some(version),
            packet_bytes_max,
        }
    }

    /// The version of the connection, once a CONNECT was read.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The next packet, or `None` while its last byte has not arrived.
    ///
    /// Every check needs only the bytes before it, so the result does not depend on how the stream was cut. An error
    /// in the fixed header is reported before the rest of the packet is awaited.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let version = self.version;
        self.next(buffer).map_err(|error| CodecError {
            version: error.version.or(version),
            ..error
        })
    }

    #[inline]
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, CodecError> {
        let Some(&first) = buffer.first() else {
            return Ok(None);
        };
        let packet_type = PacketType::of(first, self.version)?;
        self.check_turn(packet_type)?;
        let Some(header) = FixedHeader::read(packet_type, buffer)? else {
            return Ok(None);
        };
        if self.version == Some(Version::V5) {
            header.check_minimal()?;
        }
        if header.packet_bytes() > self.bytes_max() {
            return Err(CodecError::new(
                ReasonCode::PacketTooLarge,
                "a packet exceeds the maximum size [MQTT-3.1.2-24]",
            ));
        }
        if buffer.len() < header.packet_bytes() as usize {
            return Ok(None);
        }
        let frame = buffer.split_to(header.packet_bytes() as usize).freeze();
        let body = Reader::new(frame, header.header_bytes);
        if packet_type == PacketType::Connect {
            let connect = connect::read_connect(body)?;
            if connect.version == Version::V5 {
                header
                    .check_minimal()
                    .map_err(|error| error.answered_in(Version::V5))?;
            }
            self.version = Some(connect.version);
            return Ok(Some(Packet::Connect(Box::new(connect))));
        }
        let version = self
            .version
            .expect("no packet but CONNECT passes before the version is known");
        decode::read_body(packet_type, header.flags, body, version, self.role).map(Some)
    }

    fn bytes_max(&self) -> u32 {
        match self.version {
            None => CONNECT_BYTES_MAX.min(self.packet_bytes_max),
            Some(_) => self.packet_bytes_max,
        }
    }

    /// Whether the other side may send this packet, as far as one packet can tell.
    fn check_turn(&self, packet_type: PacketType) -> Result<(), CodecError> {
        match self.role {
            Role::Server if packet_type.is_from_server_only() => Err(CodecError::protocol(
                "a packet that only servers send came from a client [table 2.1]",
            )),
            Role::Client if packet_type.is_from_client_only(self.version) => {
                Err(CodecError::protocol(
                    "a packet that only clients send came from a server [table 2.1]",
                ))
            }
            Role::Server if self.version.is_none() && packet_type != PacketType::Connect => Err(
                CodecError::protocol("the first packet is not a CONNECT [MQTT-3.1.0-1]"),
            ),
            Role::Server if self.version.is_some() && packet_type == PacketType::Connect => {
                Err(CodecError::protocol("a second CONNECT [MQTT-3.1.0-2]"))
            }
            Role::Server | Role::Client => Ok(()),
        }
    }
}
