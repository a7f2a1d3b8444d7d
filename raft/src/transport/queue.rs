//! What waits to be sent to a peer: bounded by count and by bytes, and never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The queue is full, or nobody reads it any more.
#[derive(Debug)]
pub(crate) struct Full;

pub(crate) struct Sender {
    frames: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
}

pub(crate) struct Receiver {
    frames: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// A queue of at most `frames_max` frames and about `bytes_max` bytes: a single frame may be larger.
pub(crate) fn bounded(frames_max: usize, bytes_max: usize) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(frames_max);
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        Sender {
            frames: sender,
            waiting: Arc::clone(&waiting),
            bytes_max,
        },
        Receiver {
            frames: receiver,
            waiting,
        },
    )
}

impl Sender {
    pub(crate) fn push(&self, frame: Bytes) -> Result<(), Full> {
        let length = frame.len();
        let before = self.waiting.fetch_add(length, Ordering::Relaxed);
        let refused = (before > 0 && before + length > self.bytes_max)
            || self.frames.try_send(frame).is_err();
        if refused {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            return Err(Full);
        }
        Ok(())
    }
}

impl Receiver {
    /// `None` once all senders are gone and the queue is empty.
    pub(crate) async fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.recv().await?;
        self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }

    pub(crate) fn try_pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.try_recv().ok()?;
        self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bounded_by_frames_and_by_bytes() {
        let (sender, mut receiver) = bounded(3, 100);
        let frame = |length| Bytes::from(vec![0; length]);
        assert!(sender.push(frame(500)).is_ok(), "alone, whatever its size");
        assert!(sender.push(frame(1)).is_err(), "no byte more");
        assert_eq!(receiver.try_pop().map(|frame| frame.len()), Some(500));
        for _ in 0..3 {
            assert!(sender.push(frame(10)).is_ok());
        }
        assert!(sender.push(frame(10)).is_err(), "three frames");
        assert!(receiver.try_pop().is_some());
        assert!(sender.push(frame(80)).is_ok(), "exactly 100 bytes");
        assert!(receiver.try_pop().is_some());
        assert!(sender.push(frame(11)).is_err(), "one byte too many");
    }
}
