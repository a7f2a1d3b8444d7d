//! UTF-8 strings of MQTT packets: slices of the read buffer, validated once.
//!
//! `bytes ─► **text** ─► topic, packet`. A [`Text`] shares the buffer that it arrived in, so decoding copies nothing;
//! what is kept for long should be [`Text::detach`]ed, or twenty bytes pin the whole buffer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

/// Longest string that the two-byte length can announce, in bytes (5.0 §1.5.4).
pub const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// A UTF-8 encoded string (5.0 §1.5.4): well formed [MQTT-1.5.4-1], without U+0000 [MQTT-1.5.4-2], at most
/// [`TEXT_BYTES_MAX`] bytes. A leading U+FEFF is kept [MQTT-1.5.4-3]. Cloning shares the bytes.
#[derive(Clone, Default)]
pub struct Text(ByteString);

/// Why some bytes are no [`Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Ill-formed UTF-8, surrogates included.
    #[error("a string is not well-formed UTF-8 [MQTT-1.5.4-1]")]
    NotUtf8,
    /// U+0000.
    #[error("a string contains U+0000 [MQTT-1.5.4-2]")]
    Nul,
    /// More bytes than the length field can count.
    #[error("a string of {bytes} bytes exceeds 65,535")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl Text {
    /// Checks `bytes` and keeps them, without a copy.
    pub fn new(bytes: Bytes) -> Result<Self, TextError> {
        check_content(&bytes)?;
        ByteString::try_from(bytes)
            .map(Self)
            .map_err(|_| TextError::NotUtf8)
    }

    /// A string of the program itself; costs nothing.
    ///
    /// # Panics
    /// When it breaks the rules of [`Text`]: the mistake is then in the source.
    pub const fn from_static(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        assert!(
            bytes.len() <= TEXT_BYTES_MAX,
            "a static text is at most 65,535 bytes"
        );
        let mut index = 0;
        while index < bytes.len() {
            assert!(bytes[index] != 0, "a static text has no U+0000");
            index += 1;
        }
        Self(ByteString::from_static(text))
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes behind it, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0.into_bytes()
    }

    /// The bytes behind it.
    pub fn bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// A copy that owns exactly its own bytes, so that storing it does not keep a read buffer alive.
    pub fn detach(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }

    /// A part of this text that shares its bytes.
    ///
    /// # Panics
    /// When `part` is not a slice of `self`.
    pub fn slice_ref(&self, part: &str) -> Self {
        Self(self.0.slice_ref(part))
    }
}

fn check_content(bytes: &[u8]) -> Result<(), TextError> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(TextError::TooLong { bytes: bytes.len() });
    }
    if bytes.iter().fold(false, |nul, byte| nul | (*byte == 0)) {
        return Err(TextError::Nul);
    }
    Ok(())
}

impl TryFrom<Bytes> for Text {
    type Error = TextError;
    fn try_from(bytes: Bytes) -> Result<Self, TextError> {
        Self::new(bytes)
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        check_content(text.as_bytes())?;
        Ok(Self(ByteString::from(text)))
    }
}

impl TryFrom<&str> for Text {
    type Error = TextError;
    fn try_from(text: &str) -> Result<Self, TextError> {
        check_content(text.as_bytes())?;
        Ok(Self(ByteString::from(text)))
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ill_formed_utf8_and_surrogates_are_refused_mqtt_1_5_4_1() {
        for bytes in [&b"\xff"[..], b"a\xed\xa0\x80b", b"\xc0\xaf", b"\xe2\x82"] {
            assert_eq!(
                Text::new(Bytes::from_static(bytes)),
                Err(TextError::NotUtf8),
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn u0000_is_refused_mqtt_1_5_4_2() {
        assert_eq!(Text::try_from("a\0b"), Err(TextError::Nul));
    }

    #[test]
    fn a_leading_byte_order_mark_is_kept_mqtt_1_5_4_3() {
        assert_eq!(Text::try_from("\u{feff}a").expect("valid").len(), 4);
    }

    #[test]
    fn sixty_five_thousand_five_hundred_and_thirty_five_bytes_are_the_most() {
        assert!(Text::try_from("a".repeat(65_535)).is_ok());
        assert_eq!(
            Text::try_from("a".repeat(65_536)),
            Err(TextError::TooLong { bytes: 65_536 })
        );
    }

    #[test]
    fn a_text_shares_its_buffer_until_it_is_detached() {
        let buffer = Bytes::from(b"hello world".to_vec());
        let text = Text::new(buffer.slice(0..5)).expect("valid");
        assert_eq!(text.as_ptr(), buffer.as_ptr());
        let kept = text.detach();
        assert_eq!(kept, text);
        assert_ne!(kept.as_ptr(), buffer.as_ptr());
    }
}
