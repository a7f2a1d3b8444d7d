//! Messages on a stream: a four-byte big-endian length, then the message.
//!
//! A length is a claim: memory grows with what has arrived, never with what a header announces.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The largest message, in bytes. Larger ones end the connection.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;
/// The same before a peer has said who it is.
pub(crate) const HELLO_BYTES_MAX: usize = 4 << 10;

const HEADER_BYTES: usize = 4;
/// What is read at once.
const READ_BYTES: usize = 64 << 10;

/// A message with its length before it.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + length);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message
        .encode(&mut frame)
        .expect("a BytesMut grows as it must");
    frame.freeze()
}

/// Reads messages from a stream, from which nobody else reads.
pub(crate) struct FrameReader<R> {
    stream: R,
    idle_max: Duration,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Gives up where no byte comes for `idle_max`.
    pub(crate) fn new(stream: R, idle_max: Duration) -> Self {
        FrameReader {
            stream,
            idle_max,
            buffer: BytesMut::new(),
        }
    }

    /// The next message, `None` where the stream ends between two. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The stream's; `InvalidData` for a message that is too long or none; `TimedOut`.
    pub(crate) async fn next<M: Message + Default>(
        &mut self,
        bytes_max: usize,
    ) -> io::Result<Option<M>> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<HEADER_BYTES>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > bytes_max {
                    return Err(invalid(format!(
                        "a message of {length} bytes, where {bytes_max} are allowed"
                    )));
                }
                if self.buffer.len() >= HEADER_BYTES + length {
                    self.buffer.advance(HEADER_BYTES);
                    let message = self.buffer.split_to(length).freeze();
                    return M::decode(message)
                        .map(Some)
                        .map_err(|error| invalid(format!("a message cannot be read: {error}")));
                }
            }
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer);
            let read = tokio::time::timeout(self.idle_max, read).await;
            if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use meridian_proto::raft::v1;

    use super::*;

    #[tokio::test]
    async fn a_long_length_is_refused_from_the_header_and_nothing_is_reserved() {
        let mut reader = FrameReader::new(&[0xFF_u8, 0xFF, 0xFF, 0xFF, 0x0A][..], Duration::MAX);
        let refused = reader.next::<v1::Frame>(FRAME_BYTES_MAX).await;
        assert_eq!(
            refused.expect_err("4 GiB").kind(),
            io::ErrorKind::InvalidData
        );
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
        // Allowed by its length, but only five bytes of it ever come.
        let mut reader = FrameReader::new(&[0x03_u8, 0xFF, 0xFF, 0xFF, 0x0A][..], Duration::MAX);
        let cut = reader.next::<v1::Frame>(FRAME_BYTES_MAX).await;
        assert_eq!(cut.expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
    }

    #[tokio::test]
    async fn messages_come_back_however_the_stream_cuts_them() {
        let frames: Vec<v1::Frame> = (0..50)
            .map(|id| v1::Frame {
                id,
                body: Some(v1::frame::Body::Request(vec![7; id as usize * 100].into())),
            })
            .collect();
        let stream: Vec<u8> = frames.iter().flat_map(encode).collect();
        for step in [1, 3, 1000, 1 << 20] {
            let (mut far, near) = tokio::io::duplex(step);
            let bytes = stream.clone();
            tokio::spawn(
                async move { tokio::io::AsyncWriteExt::write_all(&mut far, &bytes).await },
            );
            let mut reader = FrameReader::new(near, Duration::MAX);
            let mut read: Vec<v1::Frame> = Vec::new();
            while let Some(frame) = reader.next(FRAME_BYTES_MAX).await.expect("whole") {
                read.push(frame);
            }
            assert_eq!(read, frames);
        }
    }
}
