//! Puts a received state in the place of a group's own one: all of it or nothing, whenever the process ends.
//!
//! First the store is told, synced, that a file is being installed; then the old state goes and the new one comes, in
//! batches that a crash may leave half done; then all is flushed, and only then the store is told that it is finished.
//! Whoever opens the group and finds it unfinished begins again from the file.

use std::io;
use std::path::Path;

use meridian_proto::raft::v1;
use prost::Message as _;
use rocksdb::{WriteBatch, WriteOptions};

use super::Received;
use super::file::{self, Reader, incoming_folder};
use crate::storage::{Column, STATE_COLUMNS, Storage, applied_key, prefix, prefix_end};
use crate::writer::Change;

const INSTALLING: &[u8] = b"installing";

fn mark(group: &str) -> Vec<u8> {
    [&prefix(group), INSTALLING].concat()
}

/// Installs a received file as the state of `group`; says what was applied by it. Blocks.
pub(crate) fn install(
    storage: &Storage,
    group: &str,
    mut received: Received,
) -> io::Result<v1::Applied> {
    file::verify(&received.path)?;
    let name = received
        .path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| io::Error::other("a snapshot's file has no name"))?
        .as_bytes()
        .to_vec();
    received.kept = true;
    storage.write_blocking(vec![Change::Put(Column::Meta, mark(group), name)])?;
    replace(storage, group, &received.path)
}

/// At the opening of a group: finishes what a crash has interrupted, and removes files that nobody needs.
pub(crate) fn finish_interrupted(storage: &Storage, group: &str) -> io::Result<()> {
    let marked = storage
        .inner
        .db
        .get_cf(&storage.inner.column(Column::Meta), mark(group))
        .map_err(io::Error::other)?;
    let folder = incoming_folder(&storage.inner.path);
    if let Some(name) = marked {
        let name = String::from_utf8(name).map_err(io::Error::other)?;
        let path = folder.join(&name);
        // The state may be half the old and half the new one: without the file there is none.
        file::verify(&path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "the state of {group} was being replaced by {} when this node ended, and that file cannot be used: \
                     {error}",
                    path.display()
                ),
            )
        })?;
        tracing::info!(
            group,
            file = name,
            "An interrupted installation is repeated."
        );
        replace(storage, group, &path)?;
    }
    let own = file::file_prefix(group);
    let files = match std::fs::read_dir(&folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for left in files {
        let left = left?;
        if left.file_name().to_string_lossy().starts_with(&own) {
            std::fs::remove_file(left.path())?;
        }
    }
    Ok(())
}

/// From a file that was verified and that the store names.
fn replace(storage: &Storage, group: &str, path: &Path) -> io::Result<v1::Applied> {
    let inner = &storage.inner;
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    let own = prefix(group);
    let mut batch = WriteBatch::default();
    for column in STATE_COLUMNS {
        batch.delete_range_cf(&inner.column(column), &own, &prefix_end(group));
    }
    inner
        .db
        .write_opt(batch, &unlogged)
        .map_err(io::Error::other)?;
    let (mut reader, applied) = Reader::open(path)?;
    while let Some(rows) = reader.next()? {
        let mut batch = WriteBatch::default();
        for row in rows.rows {
            let column = STATE_COLUMNS
                .get(row.column as usize)
                .ok_or_else(|| io::Error::other("a snapshot has rows of an unknown kind"))?;
            batch.put_cf(
                &inner.column(*column),
                [&own[..], &row.key].concat(),
                &row.value,
            );
        }
        inner
            .db
            .write_opt(batch, &unlogged)
            .map_err(io::Error::other)?;
    }
    let mut batch = WriteBatch::default();
    batch.put_cf(
        &inner.column(Column::State),
        applied_key(group),
        applied.encode_to_vec(),
    );
    inner
        .db
        .write_opt(batch, &unlogged)
        .map_err(io::Error::other)?;
    storage.flush_states().map_err(io::Error::other)?;
    storage.write_blocking(vec![Change::Delete(Column::Meta, mark(group))])?;
    // What stays is removed when the group is opened the next time.
    let _stays = std::fs::remove_file(path);
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::file::Incoming;
    use super::super::{Piece, produce};
    use super::*;
    use crate::storage::{StateWrites, StorageOptions};

    const GROUP: &str = "g";

    /// A store whose state is `rows` keys and events, each with `value`, applied up to `index`.
    fn store(path: &Path, rows: u64, value: &[u8], index: u64) -> Storage {
        let storage = Storage::open(path, StorageOptions::default()).expect("opens");
        for group in [GROUP, "another"] {
            for row in 0..rows {
                let mut writes = StateWrites::new(&storage, group);
                writes.put(&row.to_be_bytes(), value);
                writes.append_event(row, value);
                writes
                    .commit(&applied(index).encode_to_vec())
                    .expect("written");
            }
        }
        storage.flush_states().expect("flushed");
        storage
    }

    fn applied(index: u64) -> v1::Applied {
        let last = v1::LogId {
            term: 1,
            node: 1,
            index,
        };
        v1::Applied {
            last: Some(last),
            ..v1::Applied::default()
        }
    }

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn state(storage: &Storage, group: &str) -> (Rows, usize, Option<u64>) {
        let reader = storage.reader(group);
        let mut rows = Rows::new();
        reader.scan(b"", &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
        });
        let events = reader.events(0, usize::MAX).expect("readable");
        let applied = reader.applied().expect("readable").map(|applied| {
            let applied = v1::Applied::decode(&applied[..]).expect("applied");
            applied.last.expect("an entry").index
        });
        (rows, events.len(), applied)
    }

    /// What arrives at `to` of the state of `from`.
    fn transferred(from: &Storage, to: &Path) -> Received {
        let (sender, mut pieces) = tokio::sync::mpsc::channel(4);
        let from = from.clone();
        let producer = std::thread::spawn(move || produce(&from, GROUP, &sender));
        let mut incoming = None;
        let mut received = None;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Begin(applied) => {
                    let begin = v1::SnapshotBegin {
                        snapshot: 9,
                        vote: Some(v1::Vote::default()),
                        applied: Some(applied),
                    };
                    incoming = Some(Incoming::create(to, GROUP, begin).expect("created"));
                }
                Piece::Chunk { number, rows } => {
                    let chunk = v1::SnapshotChunk {
                        snapshot: 9,
                        number,
                        rows,
                    };
                    incoming
                        .as_mut()
                        .expect("begun")
                        .chunk(&chunk)
                        .expect("written");
                }
                Piece::End { chunks, checksum } => {
                    assert!(chunks > 2, "the state is larger than that");
                    let end = v1::SnapshotEnd {
                        snapshot: 9,
                        chunks,
                        checksum,
                    };
                    received = Some(incoming.take().expect("begun").finish(&end).expect("whole"));
                }
            }
        }
        producer.join().expect("no panic").expect("readable");
        received.expect("ended")
    }

    #[test]
    fn wherever_an_installation_is_interrupted_it_is_repeated_from_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = store(&folder.path().join("from"), 40, &[7; 50_000], 900);
        let expected = state(&from, GROUP);
        for stage in ["marked", "emptied", "half", "written"] {
            let path = folder.path().join(stage);
            let storage = store(&path, 100, b"old", 5);
            let mut received = transferred(&from, &path);
            let file = received.path.clone();
            let name = file.file_name().expect("named").to_str().expect("ascii");
            received.kept = true;
            let change = Change::Put(Column::Meta, mark(GROUP), name.as_bytes().to_vec());
            storage.write_blocking(vec![change]).expect("written");
            // A part of what `replace` does, and all of that on disk.
            let own = prefix(GROUP);
            let mut batch = WriteBatch::default();
            if stage != "marked" {
                for column in STATE_COLUMNS {
                    let column = storage.inner.column(column);
                    batch.delete_range_cf(&column, &own, &prefix_end(GROUP));
                }
            }
            storage.inner.db.write(batch).expect("written");
            let (mut reader, applied) = Reader::open(&file).expect("whole");
            let mut chunks = 0;
            while let Some(rows) = reader.next().expect("whole") {
                chunks += 1;
                if stage == "written" || stage == "half" && chunks <= 2 {
                    let mut batch = WriteBatch::default();
                    for row in rows.rows {
                        let column = storage.inner.column(STATE_COLUMNS[row.column as usize]);
                        batch.put_cf(&column, [&own[..], &row.key].concat(), &row.value);
                    }
                    storage.inner.db.write(batch).expect("written");
                }
            }
            drop(applied);
            storage.flush_states().expect("flushed");
            finish_interrupted(&storage, GROUP).expect("repeated");
            assert!(state(&storage, GROUP) == expected, "{stage}");
            assert_eq!(state(&storage, "another").2, Some(5), "{stage}: untouched");
            assert!(!file.exists(), "{stage}: the file is not needed any more");
            finish_interrupted(&storage, GROUP).expect("nothing left to do");
        }
    }

    #[test]
    fn without_its_file_an_interrupted_installation_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = store(&folder.path().join("from"), 40, &[7; 50_000], 900);
        let path = folder.path().join("to");
        let storage = store(&path, 10, b"old", 5);
        let mut received = transferred(&from, &path);
        received.kept = true;
        let name = received
            .path
            .file_name()
            .expect("named")
            .to_str()
            .expect("ascii");
        let change = Change::Put(Column::Meta, mark(GROUP), name.as_bytes().to_vec());
        storage.write_blocking(vec![change]).expect("written");
        let mut bytes = std::fs::read(&received.path).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&received.path, bytes).expect("written");
        let refused = finish_interrupted(&storage, GROUP).expect_err("damaged");
        assert!(refused.to_string().contains(name), "{refused}");
        assert!(received.path.exists(), "nothing is deleted");
        assert_eq!(state(&storage, GROUP).2, Some(5), "and nothing was changed");
    }

    #[test]
    fn a_file_that_was_not_installed_is_removed_and_others_files_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = store(&folder.path().join("to"), 1, b"old", 5);
        let incoming = incoming_folder(&storage.inner.path);
        std::fs::create_dir(&incoming).expect("made");
        for name in ["g-0.snapshot", "g%2d1-0.snapshot"] {
            std::fs::write(incoming.join(name), b"").expect("written");
        }
        finish_interrupted(&storage, GROUP).expect("cleaned");
        assert!(!incoming.join("g-0.snapshot").exists());
        assert!(incoming.join("g%2d1-0.snapshot").exists(), "of group g-1");
    }
}
