//! Properties of MQTT 5.0 (§2.2.2): one table says what each is and where it may stand.
//!
//! No packet checks its properties itself: [`read`] gives each value to the packet only after the table has agreed.
//! What concerns two properties at once (authentication data without a method) is the packet's.

use bytes::Bytes;

use super::Role;
use super::error::CodecError;
use super::reader::Reader;
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::topic::TopicName;

/// What carries properties, the two directions told apart where the rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Carrier {
    Connect = 1,
    Will = 1 << 1,
    ConnAck = 1 << 2,
    PublishToServer = 1 << 3,
    PublishToClient = 1 << 4,
    /// PUBACK, PUBREC, PUBREL and PUBCOMP have the same.
    Ack = 1 << 5,
    Subscribe = 1 << 6,
    SubAck = 1 << 7,
    Unsubscribe = 1 << 8,
    UnsubAck = 1 << 9,
    DisconnectToServer = 1 << 10,
    DisconnectToClient = 1 << 11,
    Auth = 1 << 12,
}

impl Carrier {
    pub(super) const fn publish(reader: Role) -> Self {
        match reader {
            Role::Server => Self::PublishToServer,
            Role::Client => Self::PublishToClient,
        }
    }

    pub(super) const fn disconnect(reader: Role) -> Self {
        match reader {
            Role::Server => Self::DisconnectToServer,
            Role::Client => Self::DisconnectToClient,
        }
    }

    /// The same packet in the other direction.
    const fn reversed(self) -> Self {
        match self {
            Self::PublishToServer => Self::PublishToClient,
            Self::PublishToClient => Self::PublishToServer,
            Self::DisconnectToServer => Self::DisconnectToClient,
            Self::DisconnectToClient => Self::DisconnectToServer,
            other => other,
        }
    }
}

/// The data type of a value (5.0 table 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Byte,
    TwoBytes,
    FourBytes,
    VarInt,
    Text,
    /// A string that must be a topic name.
    Topic,
    Binary,
    Pair,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) property: Property,
    pub(super) kind: Kind,
    /// Set of [`Carrier`]s. Elsewhere it makes the packet malformed (0x81, §2.2.2.2), or a protocol error (0x82)
    /// where only the direction is wrong.
    carriers: u32,
    /// Set of [`Carrier`]s in which it may be repeated. Elsewhere a second one is a protocol error (0x82).
    repeats: u32,
    /// Numbers: smallest and largest legal value.
    range: (u32, u32),
    /// What a value outside `range`, or no topic name, is answered with.
    out_of_range: ReasonCode,
}

macro_rules! properties {
    ($($name:ident = $id:literal $kind:ident [$($carrier:ident)+] repeats [$($repeat:ident)*]
       $min:literal..=$max:literal else $error:ident;)+) => {
        /// The identifier of a property (5.0 table 2.4).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Property { $($name = $id,)+ }

        /// Every property, by ascending identifier.
        pub(super) const TABLE: &[Rule] = &[$(Rule {
            property: Property::$name,
            kind: Kind::$kind,
            carriers: 0 $(| Carrier::$carrier as u32)+,
            repeats: 0 $(| Carrier::$repeat as u32)*,
            range: ($min, $max),
            out_of_range: ReasonCode::$error,
        },)+];
    };
}

properties! {
    PayloadFormat = 0x01 Byte [Will PublishToServer PublishToClient] repeats [] 0..=1 else ProtocolError;
    MessageExpiry = 0x02 FourBytes [Will PublishToServer PublishToClient] repeats [] 0..=0xFFFF_FFFF else ProtocolError;
    ContentType = 0x03 Text [Will PublishToServer PublishToClient] repeats [] 0..=0 else ProtocolError;
    ResponseTopic = 0x08 Topic [Will PublishToServer PublishToClient] repeats [] 0..=0 else ProtocolError;
    CorrelationData = 0x09 Binary [Will PublishToServer PublishToClient] repeats [] 0..=0 else ProtocolError;
    SubscriptionIdentifier = 0x0B VarInt [PublishToClient Subscribe] repeats [PublishToClient]
        1..=268_435_455 else ProtocolError;
    SessionExpiry = 0x11 FourBytes [Connect ConnAck DisconnectToServer] repeats [] 0..=0xFFFF_FFFF else ProtocolError;
    AssignedClientIdentifier = 0x12 Text [ConnAck] repeats [] 0..=0 else ProtocolError;
    ServerKeepAlive = 0x13 TwoBytes [ConnAck] repeats [] 0..=0xFFFF else ProtocolError;
    AuthenticationMethod = 0x15 Text [Connect ConnAck Auth] repeats [] 0..=0 else ProtocolError;
    AuthenticationData = 0x16 Binary [Connect ConnAck Auth] repeats [] 0..=0 else ProtocolError;
    RequestProblemInformation = 0x17 Byte [Connect] repeats [] 0..=1 else ProtocolError;
    WillDelay = 0x18 FourBytes [Will] repeats [] 0..=0xFFFF_FFFF else ProtocolError;
    RequestResponseInformation = 0x19 Byte [Connect] repeats [] 0..=1 else ProtocolError;
    ResponseInformation = 0x1A Text [ConnAck] repeats [] 0..=0 else ProtocolError;
    ServerReference = 0x1C Text [ConnAck DisconnectToClient] repeats [] 0..=0 else ProtocolError;
    ReasonString = 0x1F Text [ConnAck Ack SubAck UnsubAck DisconnectToServer DisconnectToClient Auth] repeats []
        0..=0 else ProtocolError;
    ReceiveMaximum = 0x21 TwoBytes [Connect ConnAck] repeats [] 1..=0xFFFF else ProtocolError;
    TopicAliasMaximum = 0x22 TwoBytes [Connect ConnAck] repeats [] 0..=0xFFFF else ProtocolError;
    TopicAlias = 0x23 TwoBytes [PublishToServer PublishToClient] repeats [] 1..=0xFFFF else TopicAliasInvalid;
    MaximumQoS = 0x24 Byte [ConnAck] repeats [] 0..=1 else ProtocolError;
    RetainAvailable = 0x25 Byte [ConnAck] repeats [] 0..=1 else ProtocolError;
    User = 0x26 Pair
        [Connect Will ConnAck PublishToServer PublishToClient Ack Subscribe SubAck Unsubscribe UnsubAck
         DisconnectToServer DisconnectToClient Auth]
        repeats
        [Connect Will ConnAck PublishToServer PublishToClient Ack Subscribe SubAck Unsubscribe UnsubAck
         DisconnectToServer DisconnectToClient Auth]
        0..=0 else ProtocolError;
    MaximumPacketSize = 0x27 FourBytes [Connect ConnAck] repeats [] 1..=0xFFFF_FFFF else ProtocolError;
    WildcardSubscriptionAvailable = 0x28 Byte [ConnAck] repeats [] 0..=1 else ProtocolError;
    SubscriptionIdentifiersAvailable = 0x29 Byte [ConnAck] repeats [] 0..=1 else ProtocolError;
    SharedSubscriptionAvailable = 0x2A Byte [ConnAck] repeats [] 0..=1 else ProtocolError;
}

const ID_MAX: usize = 0x2A;

/// Identifier to row of [`TABLE`].
const ROWS: [Option<&Rule>; ID_MAX + 1] = {
    let mut rows = [None; ID_MAX + 1];
    let mut row = 0;
    while row < TABLE.len() {
        rows[TABLE[row].property as usize] = Some(&TABLE[row]);
        row += 1;
    }
    rows
};

impl Property {
    pub(super) fn rule(self) -> &'static Rule {
        ROWS[self as usize].expect("every property has a row")
    }
}

/// A value that its row allows.
#[derive(Debug)]
pub(super) enum Value {
    Number(u32),
    Text(Text),
    Topic(TopicName),
    Binary(Bytes),
    Pair(Text, Text),
}

/// Reads the property length and the properties, and hands each to `accept`.
pub(super) fn read(
    reader: &mut Reader,
    carrier: Carrier,
    mut accept: impl FnMut(Property, Value),
) -> Result<(), CodecError> {
    let bytes = reader.varint()?;
    if bytes == 0 {
        return Ok(());
    }
    let outer = reader.narrow(bytes)?;
    let mut seen = 0_u64;
    while reader.remaining() > 0 {
        let id = reader.varint()?;
        let rule = ROWS
            .get(id as usize)
            .copied()
            .flatten()
            .ok_or(CodecError::malformed(
                "an unknown property identifier [§2.2.2.2]",
            ))?;
        rule.check_place(carrier, seen & (1 << id) != 0)?;
        seen |= 1 << id;
        accept(rule.property, rule.read_value(reader)?);
    }
    reader.widen(outer);
    Ok(())
}

impl Rule {
    fn check_place(&self, carrier: Carrier, seen: bool) -> Result<(), CodecError> {
        if self.carriers & carrier as u32 == 0 {
            return Err(match self.carriers & carrier.reversed() as u32 {
                0 => CodecError::malformed("a property that its packet cannot have [§2.2.2.2]"),
                _ => CodecError::protocol(
                    "a property that only the other side may send [MQTT-3.3.4-6], [MQTT-3.14.2-2], [§3.14.2.2.5]",
                ),
            });
        }
        if seen && self.repeats & carrier as u32 == 0 {
            return Err(CodecError::protocol(
                "a property is included more than once [§2.2.2.2]",
            ));
        }
        Ok(())
    }

    fn read_value(&self, reader: &mut Reader) -> Result<Value, CodecError> {
        let number = match self.kind {
            Kind::Byte => reader.u8()?.into(),
            Kind::TwoBytes => reader.u16()?.into(),
            Kind::FourBytes => reader.u32()?,
            Kind::VarInt => reader.varint()?,
            Kind::Text => return Ok(Value::Text(reader.text()?)),
            Kind::Binary => return Ok(Value::Binary(reader.binary()?)),
            Kind::Pair => return Ok(Value::Pair(reader.text()?, reader.text()?)),
            Kind::Topic => {
                let topic = TopicName::new(reader.text()?);
                return topic.map(Value::Topic).map_err(|_| {
                    CodecError::new(
                        self.out_of_range,
                        "a response topic is no topic name [MQTT-3.3.2-14]",
                    )
                });
            }
        };
        if number < self.range.0 || number > self.range.1 {
            return Err(CodecError::new(
                self.out_of_range,
                "a property's value is not allowed [§2.2.2.2]",
            ));
        }
        Ok(Value::Number(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ascending_and_complete_5_0_table_2_4() {
        let ids = TABLE
            .iter()
            .map(|rule| rule.property as u8)
            .collect::<Vec<_>>();
        assert!(ids.is_sorted());
        let expected = [
            1, 2, 3, 8, 9, 11, 17, 18, 19, 21, 22, 23, 24, 25, 26, 28, 31,
        ];
        assert_eq!(ids[..17], expected);
        assert_eq!(ids[17..], (33..=42).collect::<Vec<_>>());
    }

    #[test]
    fn only_pairs_and_subscription_identifiers_repeat_5_0_section_2_2_2_2() {
        for rule in TABLE {
            assert_eq!(
                rule.repeats & !rule.carriers,
                0,
                "{:?} repeats only where it may stand",
                rule.property
            );
            let repeats = matches!(
                rule.property,
                Property::User | Property::SubscriptionIdentifier
            );
            assert_eq!(rule.repeats != 0, repeats, "{:?}", rule.property);
        }
    }
}
