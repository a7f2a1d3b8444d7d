//! MQTT 3.1.1 and 5.0 without sockets: codec, topics, session flows.
//!
//! `bytes ─► codec ─► packet ─► session`. Nothing in here reads a socket, a clock or a lock, so the broker, its
//! command-line client and every test use the same code. What the codec lets through is valid: the types
//! ([`text::Text`], [`topic::TopicName`], [`packet::PacketId`] …) carry the proof inward.
#![forbid(unsafe_code)]

pub mod codec;
pub mod packet;
pub mod reason;
pub mod session;
pub mod text;
pub mod topic;
pub mod topic_map;
pub mod topic_tree;
