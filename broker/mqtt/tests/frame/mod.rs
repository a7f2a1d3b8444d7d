//! A notation for frames, shared by the tests of the codec.
//!
//! Tokens: `82` or `0001` hexadecimal bytes · `'a/b'` a string with its two bytes of length · `L` the remaining length
//! of what follows, in its shortest form · `{…}` properties behind their length.

use bytes::BytesMut;
use meridian_mqtt::codec::{CodecError, Decoder, PACKET_BYTES_MAX};
use meridian_mqtt::packet::{Packet, Version};

/// Who reads the frame, and what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test file reads in every role")]
pub(crate) enum Reader {
    /// A server, nothing came before.
    Fresh,
    /// A server, after a CONNECT of this version.
    Server(Version),
    /// A client of this version.
    Client(Version),
}

impl Reader {
    pub(crate) fn decoder(self) -> Decoder {
        match self {
            Self::Fresh => Decoder::server(PACKET_BYTES_MAX),
            Self::Client(version) => Decoder::client(version, PACKET_BYTES_MAX),
            Self::Server(version) => {
                let mut decoder = Decoder::server(PACKET_BYTES_MAX);
                let connect = match version {
                    Version::V311 => "10 L 'MQTT' 04 02 003c 'c'",
                    Version::V5 => "10 L 'MQTT' 05 02 003c 00 'c'",
                };
                let packet = decoder.decode(&mut BytesMut::from(&bytes(connect)[..]));
                assert!(matches!(packet, Ok(Some(Packet::Connect(_)))), "{packet:?}");
                decoder
            }
        }
    }
}

/// The bytes of a frame in the notation above.
pub(crate) fn bytes(frame: &str) -> Vec<u8> {
    match frame.split_once(" L") {
        Some((head, body)) => [plain(head), counted(&plain(body))].concat(),
        None => plain(frame),
    }
}

fn counted(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut length = body.len();
    while length >= 128 {
        out.push((length % 128) as u8 | 0x80);
        length /= 128;
    }
    out.push(length as u8);
    out.extend(body);
    out
}

fn plain(tokens: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = tokens.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = match first {
            '\'' => {
                let (text, after) = rest[1..].split_once('\'').expect("a closing quote");
                out.extend((text.len() as u16).to_be_bytes());
                out.extend(text.as_bytes());
                after
            }
            '{' => {
                let (properties, after) = rest[1..].split_once('}').expect("a closing brace");
                out.extend(counted(&plain(properties)));
                after
            }
            _ => {
                let (pair, after) = rest.split_at(2);
                out.push(
                    u8::from_str_radix(pair, 16)
                        .unwrap_or_else(|_| panic!("{pair:?} in {tokens:?}")),
                );
                after
            }
        };
        rest = after.trim_start();
    }
    out
}

/// What the decoder makes of `bytes` when all arrive at once.
pub(crate) fn decode(reader: Reader, bytes: &[u8]) -> Result<Option<Packet>, CodecError> {
    reader.decoder().decode(&mut BytesMut::from(bytes))
}

/// The same when they arrive one by one. An error may come before the last byte.
#[allow(dead_code, reason = "not every test file cuts its frames")]
pub(crate) fn decode_byte_by_byte(
    reader: Reader,
    bytes: &[u8],
) -> Result<Option<Packet>, CodecError> {
    let mut decoder = reader.decoder();
    let mut buffer = BytesMut::new();
    for byte in bytes {
        buffer.extend_from_slice(&[*byte]);
        if let Some(packet) = decoder.decode(&mut buffer)? {
            return Ok(Some(packet));
        }
    }
    Ok(None)
}
