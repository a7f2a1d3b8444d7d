//! Reads a group's state as it is at one moment, in chunks.

use std::io;

use bytes::Bytes;
use meridian_proto::raft::v1;
use prost::Message as _;
use rocksdb::{Direction, IteratorMode, ReadOptions};
use tokio::sync::mpsc;

use super::CHUNK_BYTES;
use crate::storage::{Column, STATE_COLUMNS, Storage, applied_key, prefix};

/// What [`produce`] makes, in this order.
pub(crate) enum Piece {
    Begin(v1::Applied),
    Chunk { number: u64, rows: Bytes },
    End { chunks: u64, checksum: u32 },
}

/// Reads the state of `group` and hands out its pieces as fast as they are taken. Blocks. Ends early, without an error,
/// when nobody takes them any more.
pub(crate) fn produce(
    storage: &Storage,
    group: &str,
    pieces: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let db = &storage.inner.db;
    let snapshot = db.snapshot();
    let applied = snapshot
        .get_cf(&storage.inner.column(Column::State), applied_key(group))
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::other("the group has no state to send"))?;
    let applied = v1::Applied::decode(&applied[..]).map_err(io::Error::other)?;
    if pieces.blocking_send(Piece::Begin(applied)).is_err() {
        return Ok(());
    }
    let mut checksum = crc32fast::Hasher::new();
    let mut chunks = 0;
    let mut rows = v1::SnapshotRows::default();
    let mut bytes = 0;
    let mut hand_out = |rows: &mut v1::SnapshotRows| {
        let rows = Bytes::from(std::mem::take(rows).encode_to_vec());
        checksum.update(&rows);
        let number = chunks;
        chunks += 1;
        pieces.blocking_send(Piece::Chunk { number, rows }).is_ok()
    };
    let own = prefix(group);
    for (number, column) in (0..).zip(STATE_COLUMNS) {
        let mut options = ReadOptions::default();
        options.set_snapshot(&snapshot);
        options.set_total_order_seek(true);
        options.fill_cache(false);
        let from = IteratorMode::From(&own, Direction::Forward);
        for row in db.iterator_cf_opt(&storage.inner.column(column), options, from) {
            let (key, value) = row.map_err(io::Error::other)?;
            let Some(rest) = key.strip_prefix(&own[..]) else {
                break;
            };
            // It was sent first, and is written last.
            if column == Column::State && *key == *applied_key(group) {
                continue;
            }
            bytes += key.len() + value.len();
            rows.rows.push(v1::SnapshotRow {
                column: number,
                key: Bytes::copy_from_slice(rest),
                value: value.into_vec().into(),
            });
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                if !hand_out(&mut rows) {
                    return Ok(());
                }
            }
        }
    }
    if !rows.rows.is_empty() && !hand_out(&mut rows) {
        return Ok(());
    }
    let checksum = checksum.finalize();
    let _gone = pieces.blocking_send(Piece::End { chunks, checksum });
    Ok(())
}
