//! What the session tells the shell around it to do.

use crate::packet::{Connect, Packet, PacketId, Publish, Subscribe, Unsubscribe};

/// What is to become of the will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillFate {
    /// It is published, after its delay [MQTT-3.1.2-8].
    Publish,
    /// The client left in order [MQTT-3.14.4-3].
    Discard,
}

/// What the shell has to do. Links name the call that answers.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Send(Packet),
    /// Decide about this: [`accept`](super::Session::accept) or [`refuse`](super::Session::refuse).
    Connect(Box<Connect>),
    /// Publish this; its topic is there. At QoS 1 and 2: [`published`](super::Session::published).
    Publish {
        /// The publication.
        publish: Publish,
    },
    /// Let go of the name of a QoS 2 publication: [`released`](super::Session::released) or
    /// [`not_found`](super::Session::not_found).
    Release(PacketId),
    /// Subscribe: [`subscribed`](super::Session::subscribed).
    Subscribe(Subscribe),
    /// Unsubscribe: [`unsubscribed`](super::Session::unsubscribed).
    Unsubscribe(Unsubscribe),
    /// The client has the message, or refused it, or cannot take it: it is owed no more.
    Acknowledged {
        /// Of the delivery.
        handle: u64,
    },
    /// The client has the message of a QoS 2 flow that a replicated queue keeps. Note it there:
    /// [`receipt_committed`](super::Session::receipt_committed), before which no PUBREL goes.
    Received {
        /// Of the delivery, not 0.
        handle: u64,
        /// Of the flow.
        packet_id: PacketId,
    },
    /// Send what is left, and close. The last output there is.
    Close {
        /// The will's fate.
        will: WillFate,
        /// The session's expiry, as DISCONNECT may have changed it.
        session_expiry_s: u32,
    },
}
