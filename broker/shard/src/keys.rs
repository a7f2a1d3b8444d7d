//! The keys of a shard's durable state: one letter for the kind, then what names the record.
//!
//! Client ids, topics and device ids hold no U+0000 [MQTT-1.5.4-2], so that it can end them.

pub(crate) const META: &[u8] = b"m";
pub(crate) const FENCE: &[u8] = b"f/";
pub(crate) const DEVICE: &[u8] = b"d/";
pub(crate) const SESSION: &[u8] = b"s/";
pub(crate) const QUEUE: &[u8] = b"q/";
pub(crate) const NEXT_SEQ: &[u8] = b"n/";
pub(crate) const WILL: &[u8] = b"w/";
pub(crate) const RETAINED: &[u8] = b"r/";
pub(crate) const NAME: &[u8] = b"o/";

/// `kind` and a name.
pub(crate) fn named(kind: &[u8], name: &str) -> Vec<u8> {
    [kind, name.as_bytes()].concat()
}

/// The name of a key made by [`named`].
pub(crate) fn name<'a>(kind: &[u8], key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key.strip_prefix(kind)?).ok()
}

/// `kind`, a name, and a number below it that sorts as a number.
pub(crate) fn numbered(kind: &[u8], name: &str, number: u64) -> Vec<u8> {
    [kind, name.as_bytes(), &[0], &number.to_be_bytes()].concat()
}

/// `kind`, a name, an epoch and a packet identifier.
pub(crate) fn once(name: &str, epoch: u64, packet_id: u32) -> Vec<u8> {
    let mut key = numbered(NAME, name, epoch);
    key.extend_from_slice(&packet_id.to_be_bytes());
    key
}

/// The name and the number of a key made by [`numbered`].
pub(crate) fn split_numbered<'a>(kind: &[u8], key: &'a [u8]) -> Option<(&'a str, u64)> {
    let rest = key.strip_prefix(kind)?;
    let (rest, number) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
    let name = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    Some((name, u64::from_be_bytes(number.try_into().ok()?)))
}

/// The parts of a key made by [`once`].
pub(crate) fn split_once(key: &[u8]) -> Option<(&str, u64, u32)> {
    let (rest, packet_id) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let (name, epoch) = split_numbered(NAME, rest)?;
    Some((name, epoch, u32::from_be_bytes(packet_id.try_into().ok()?)))
}
