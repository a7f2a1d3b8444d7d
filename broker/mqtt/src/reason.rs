//! Reason codes: what one side tells the other about an outcome (5.0 §2.4), and what is left of them in 3.1.1.
//!
//! One set for every packet. Where the specification gives one number several names (0x00 is *Success*, *Normal
//! disconnection* and *Granted QoS 0*), the first stands for all of them.

use std::fmt;

use crate::packet::QoS;

macro_rules! reason_codes {
    ($($(#[doc = $doc:literal])? $name:ident = $value:literal $text:literal,)+) => {
        /// A reason code of MQTT 5.0. Below 0x80 it is a success.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the names are those of 5.0 §2.4")]
        pub enum ReasonCode { $($(#[doc = $doc])? $name = $value,)+ }

        impl ReasonCode {
            /// Every code, ascending.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$name,)+];

            /// The code of this number, if the specification has one.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }

            /// The specification's name, in lower case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reason_codes! {
    /// Also *Normal disconnection* and *Granted QoS 0*.
    Success = 0x00 "success",
    GrantedQoS1 = 0x01 "granted QoS 1",
    GrantedQoS2 = 0x02 "granted QoS 2",
    DisconnectWithWill = 0x04 "disconnect with will message",
    NoMatchingSubscribers = 0x10 "no matching subscribers",
    NoSubscriptionExisted = 0x11 "no subscription existed",
    ContinueAuthentication = 0x18 "continue authentication",
    ReAuthenticate = 0x19 "re-authenticate",
    UnspecifiedError = 0x80 "unspecified error",
    MalformedPacket = 0x81 "malformed packet",
    ProtocolError = 0x82 "protocol error",
    ImplementationSpecificError = 0x83 "implementation specific error",
    UnsupportedProtocolVersion = 0x84 "unsupported protocol version",
    ClientIdentifierNotValid = 0x85 "client identifier not valid",
    BadUserNameOrPassword = 0x86 "bad user name or password",
    NotAuthorized = 0x87 "not authorized",
    ServerUnavailable = 0x88 "server unavailable",
    ServerBusy = 0x89 "server busy",
    Banned = 0x8A "banned",
    ServerShuttingDown = 0x8B "server shutting down",
    BadAuthenticationMethod = 0x8C "bad authentication method",
    KeepAliveTimeout = 0x8D "keep alive timeout",
    SessionTakenOver = 0x8E "session taken over",
    TopicFilterInvalid = 0x8F "topic filter invalid",
    TopicNameInvalid = 0x90 "topic name invalid",
    PacketIdentifierInUse = 0x91 "packet identifier in use",
    PacketIdentifierNotFound = 0x92 "packet identifier not found",
    ReceiveMaximumExceeded = 0x93 "receive maximum exceeded",
    TopicAliasInvalid = 0x94 "topic alias invalid",
    PacketTooLarge = 0x95 "packet too large",
    MessageRateTooHigh = 0x96 "message rate too high",
    QuotaExceeded = 0x97 "quota exceeded",
    AdministrativeAction = 0x98 "administrative action",
    PayloadFormatInvalid = 0x99 "payload format invalid",
    RetainNotSupported = 0x9A "retain not supported",
    QoSNotSupported = 0x9B "QoS not supported",
    UseAnotherServer = 0x9C "use another server",
    ServerMoved = 0x9D "server moved",
    SharedSubscriptionsNotSupported = 0x9E "shared subscriptions not supported",
    ConnectionRateExceeded = 0x9F "connection rate exceeded",
    MaximumConnectTime = 0xA0 "maximum connect time",
    SubscriptionIdentifiersNotSupported = 0xA1 "subscription identifiers not supported",
    WildcardSubscriptionsNotSupported = 0xA2 "wildcard subscriptions not supported",
}

impl ReasonCode {
    /// The number on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// 0x80 and above: what was asked for did not happen.
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// The SUBACK code that grants this quality of service.
    pub const fn granted(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Success,
            QoS::AtLeastOnce => Self::GrantedQoS1,
            QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// The CONNACK return code of 3.1.1 (table 3.1), or `None` where 3.1.1 has no word for it: the server then
    /// closes the connection without a CONNACK [MQTT-3.2.2-6 v3.1.1].
    pub const fn connack_v311(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::QuotaExceeded
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => Some(4),
            Self::NotAuthorized | Self::Banned => Some(5),
            _ => None,
        }
    }

    /// The code that stands for a CONNACK return code of 3.1.1; 6 to 255 are reserved.
    pub const fn from_connack_v311(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// The SUBACK return code of 3.1.1: the granted QoS, or 0x80 for any failure [MQTT-3.9.3-2 v3.1.1].
    pub const fn suback_v311(self) -> u8 {
        match self {
            Self::Success | Self::GrantedQoS1 | Self::GrantedQoS2 => self.as_u8(),
            _ => 0x80,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.as_u8())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_code_and_no_other_number_does() {
        let known = (0..=u8::MAX)
            .filter_map(ReasonCode::from_u8)
            .collect::<Vec<_>>();
        assert_eq!(known, ReasonCode::ALL);
        assert!(
            known
                .iter()
                .all(|code| ReasonCode::from_u8(code.as_u8()) == Some(*code))
        );
        assert_eq!(known.len(), 43, "the rows of 5.0 table 2.6, one a number");
    }

    #[test]
    fn return_codes_of_v311_survive_the_way_there_and_back() {
        for code in 0..=5 {
            let reason = ReasonCode::from_connack_v311(code).expect("0 to 5 are defined");
            assert_eq!(reason.connack_v311(), Some(code));
        }
        assert_eq!(ReasonCode::from_connack_v311(6), None);
        assert_eq!(ReasonCode::MalformedPacket.connack_v311(), None);
        assert_eq!(ReasonCode::TopicFilterInvalid.suback_v311(), 0x80);
    }
}
