//! The output format of `meridian sub -F`, in mosquitto_sub's letters.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_mqtt::packet::Publish;
use serde_json::{Value, json};

use super::terminal::printable;

/// What `-F` says, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// `%t`, with what a terminal would obey escaped.
    Topic,
    /// `%p`, as it came.
    Payload,
    /// `%x`, `%X`.
    Hex {
        upper: bool,
    },
    /// `%l`, bytes.
    Length,
    /// `%q`.
    Qos,
    /// `%r`: 1 or 0.
    Retain,
    /// `%m`: the packet identifier, 0 at QoS 0.
    PacketId,
    /// `%I`: ISO 8601, UTC.
    IsoTime,
    /// `%U`: Unix time with nine decimals.
    UnixTime,
    /// `%j`: JSON with the payload as a string; `%J`: with the payload as the JSON that it is.
    Json {
        parse: bool,
    },
}

impl Format {
    /// Reads what `-F` says.
    ///
    /// # Errors
    /// Says which letter is none.
    pub(super) fn read(text: &str) -> Result<Format, String> {
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            match c {
                '%' => parts.push(match characters.next() {
                    Some('%') => Part::Byte(b'%'),
                    Some('t') => Part::Topic,
                    Some('p') => Part::Payload,
                    Some('x') => Part::Hex { upper: false },
                    Some('X') => Part::Hex { upper: true },
                    Some('l') => Part::Length,
                    Some('q') => Part::Qos,
                    Some('r') => Part::Retain,
                    Some('m') => Part::PacketId,
                    Some('I') => Part::IsoTime,
                    Some('U') => Part::UnixTime,
                    Some('j') => Part::Json { parse: false },
                    Some('J') => Part::Json { parse: true },
                    other => {
                        let letter = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "%{letter} is no format: there are %t %p %x %X %l %q %r %m %I %U %j %J %%"
                        ));
                    }
                }),
                '\\' => parts.push(Part::Byte(match characters.next() {
                    Some('n') => b'\n',
                    Some('r') => b'\r',
                    Some('t') => b'\t',
                    Some('0') => 0,
                    Some('e') => 0x1b,
                    Some('a') => 7,
                    Some('v') => 0x0b,
                    Some('\\') => b'\\',
                    other => {
                        let letter = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "\\{letter} is no escape: there are \\n \\r \\t \\0 \\e \\a \\v \\\\"
                        ));
                    }
                })),
                other => {
                    let mut bytes = [0; 4];
                    parts.extend(other.encode_utf8(&mut bytes).bytes().map(Part::Byte));
                }
            }
        }
        Ok(Format(parts))
    }

    /// One message that came at `at`, with a line break behind it.
    ///
    /// # Errors
    /// With `%J`, a payload that is no JSON.
    pub(super) fn line(&self, message: &Publish, at: SystemTime) -> Result<Vec<u8>, String> {
        let topic = message.topic.as_ref().map_or("", |topic| topic.as_str());
        let mut out = Vec::with_capacity(topic.len() + message.payload.len() + 64);
        for part in &self.0 {
            match part {
                Part::Byte(byte) => out.push(*byte),
                Part::Topic => out.extend_from_slice(printable(topic).as_bytes()),
                Part::Payload => out.extend_from_slice(&message.payload),
                Part::Hex { upper } => {
                    for byte in &message.payload {
                        if *upper {
                            write!(out, "{byte:02X}")
                        } else {
                            write!(out, "{byte:02x}")
                        }
                        .expect("a vector takes all");
                    }
                }
                Part::Length => out.extend_from_slice(message.payload.len().to_string().as_bytes()),
                Part::Qos => out.extend_from_slice((message.qos as u8).to_string().as_bytes()),
                Part::Retain => out.push(if message.retain { b'1' } else { b'0' }),
                Part::PacketId => out.extend_from_slice(packet_id(message).to_string().as_bytes()),
                Part::IsoTime => {
                    let time = humantime::format_rfc3339_seconds(at).to_string();
                    out.extend_from_slice(time.as_bytes());
                }
                Part::UnixTime => {
                    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                    let time = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
                    out.extend_from_slice(time.as_bytes());
                }
                Part::Json { parse } => {
                    let object = json(message, topic, at, *parse)?;
                    out.extend_from_slice(object.to_string().as_bytes());
                }
            }
        }
        out.push(b'\n');
        Ok(out)
    }
}

fn packet_id(message: &Publish) -> u16 {
    message.packet_id.map_or(0, |id| id.0.get())
}

/// mosquitto_sub's object. A payload that is no UTF-8 is in `payload_base64`.
fn json(message: &Publish, topic: &str, at: SystemTime, parse: bool) -> Result<Value, String> {
    let mut object = json!({
        "tst": humantime::format_rfc3339_micros(at).to_string(),
        "topic": topic,
        "qos": message.qos as u8,
        "retain": u8::from(message.retain),
        "payloadlen": message.payload.len(),
    });
    if message.packet_id.is_some() {
        object["mid"] = packet_id(message).into();
    }
    if parse {
        object["payload"] = serde_json::from_slice(&message.payload)
            .map_err(|error| format!("the payload of {topic} is no JSON: {error}"))?;
    } else if let Ok(text) = std::str::from_utf8(&message.payload) {
        object["payload"] = text.into();
    } else {
        object["payload_base64"] = STANDARD.encode(&message.payload).into();
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use meridian_mqtt::packet::{PacketId, PublishProperties, QoS};

    use super::*;

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: crate::router::topic(topic),
            packet_id: PacketId::new(7),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: PublishProperties::default(),
            payload: Bytes::copy_from_slice(payload),
        }
    }

    fn shown(format: &str, message: &Publish) -> Vec<u8> {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        Format::read(format).unwrap().line(message, at).unwrap()
    }

    #[test]
    fn each_letter_stands_for_its_part_of_the_message() {
        let message = message("a/b", b"\xffhi");
        for (format, line) in [
            ("%t %q %r %m %l", &b"a/b 1 1 7 3\n"[..]),
            ("%p", b"\xffhi\n"),
            ("%x %X", b"ff6869 FF6869\n"),
            ("%I %U", b"2023-11-14T22:13:20Z 1700000000.000000005\n"),
            ("100%% \\t\\\\ é", "100% \t\\ é\n".as_bytes()),
        ] {
            assert_eq!(shown(format, &message), line, "{format}");
        }
    }

    #[test]
    fn a_topic_cannot_write_to_the_terminal_and_a_payload_may() {
        let message = message("a\u{1b}[2J", b"\x1b[2J");
        assert_eq!(shown("%t %p", &message), b"a\\x1b[2J \x1b[2J\n");
    }

    #[test]
    fn json_holds_the_payload_as_text_as_json_or_as_base64() {
        let read = |format: &str, payload: &[u8]| -> Value {
            serde_json::from_slice(&shown(format, &message("a", payload))).unwrap()
        };
        let text = read("%j", b"{\"x\":1}");
        assert_eq!(text["payload"], "{\"x\":1}");
        assert_eq!((&text["qos"], &text["mid"]), (&json!(1), &json!(7)));
        assert_eq!(text["tst"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(read("%J", b"{\"x\":1}")["payload"]["x"], 1);
        assert_eq!(read("%j", b"\xff")["payload_base64"], "/w==");
        let none = Format::read("%J").unwrap();
        assert!(none.line(&message("a", b"no"), UNIX_EPOCH).is_err());
    }

    #[test]
    fn a_letter_that_is_none_is_refused() {
        for wrong in ["%", "%z", "\\", "\\q"] {
            assert!(Format::read(wrong).is_err(), "{wrong}");
        }
    }
}
