//! A group's whole state on its way to another node.
//!
//! `store at one moment ─► **rows in chunks** ─► transport ─► **file** ─► checked, synced ─► **installed**`. Never more
//! than a few chunks are in memory, whatever the state's size. What a follower gets is the sender's state as it is when
//! the sending begins, with the applied index that belongs to it: at least what openraft asked for.

mod file;
mod install;
mod send;

use std::path::PathBuf;

pub(crate) use file::Incoming;
pub(crate) use install::{finish_interrupted, install};
pub(crate) use send::{Piece, produce};

/// The size of a chunk, at which it is closed; a single row may make it larger.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// What openraft carries as a snapshot.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// This node's own state, in the store.
    Own,
    /// A file that another node sent, whole and synced.
    Received(Received),
}

/// A received file, which goes when nobody wants to install it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) path: PathBuf,
    /// From when the store says that it is being installed, the file is needed.
    pub(crate) kept: bool,
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is removed when the group is opened the next time.
            let _stays = std::fs::remove_file(&self.path);
        }
    }
}
