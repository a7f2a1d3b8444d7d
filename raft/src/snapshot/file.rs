//! A received snapshot on disk: a header, chunks, and a checksum over all of it.
//!
//! Written beside the store and synced before anybody counts on it; read back only whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use meridian_proto::raft::v1;
use prost::Message as _;

use super::{CHUNK_BYTES, Received};

const MAGIC: &[u8; 8] = b"MRDNSNP1";
/// A chunk of one row as large as a message may be, and what surrounds it.
const CHUNK_BYTES_MAX: usize = 80 << 20;

/// Where received snapshots of a store lie until they are installed.
pub(crate) fn incoming_folder(store: &Path) -> PathBuf {
    store.join("incoming")
}

/// The beginning of the names of a group's files; no other group's files begin so.
pub(super) fn file_prefix(group: &str) -> String {
    let mut prefix = String::new();
    for byte in group.bytes() {
        if byte.is_ascii_alphanumeric() {
            prefix.push(char::from(byte));
        } else {
            prefix.push_str(&format!("%{byte:02x}"));
        }
    }
    prefix + "-"
}

/// A snapshot that is arriving.
pub(crate) struct Incoming {
    /// The sender's number for it.
    pub(crate) snapshot: u64,
    pub(crate) applied: v1::Applied,
    pub(crate) vote: v1::Vote,
    file: BufWriter<File>,
    received: Received,
    /// Over all that was written.
    written: crc32fast::Hasher,
    /// Over the chunks, as the sender has it.
    rows: crc32fast::Hasher,
    chunks: u64,
}

impl Incoming {
    pub(crate) fn create(store: &Path, group: &str, begin: v1::SnapshotBegin) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a snapshot lacks its header");
        let applied = begin.applied.ok_or_else(invalid)?;
        let vote = begin.vote.ok_or_else(invalid)?;
        let folder = incoming_folder(store);
        std::fs::create_dir_all(&folder)?;
        let name = format!("{}{:016x}.snapshot", file_prefix(group), begin.snapshot);
        let path = folder.join(name);
        let file = File::create(&path)?;
        let mut incoming = Incoming {
            snapshot: begin.snapshot,
            applied,
            vote,
            file: BufWriter::with_capacity(CHUNK_BYTES, file),
            received: Received { path, kept: false },
            written: crc32fast::Hasher::new(),
            rows: crc32fast::Hasher::new(),
            chunks: 0,
        };
        incoming.write(MAGIC)?;
        let header = incoming.applied.encode_to_vec();
        incoming.write_sized(&header)?;
        Ok(incoming)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written.update(bytes);
        self.file.write_all(bytes)
    }

    fn write_sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.write(&length.to_be_bytes())?;
        self.write(bytes)
    }

    /// Takes the next chunk.
    pub(crate) fn chunk(&mut self, chunk: &v1::SnapshotChunk) -> io::Result<()> {
        if chunk.number != self.chunks || chunk.rows.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "chunk {} came where {} was expected",
                    chunk.number, self.chunks
                ),
            ));
        }
        self.chunks += 1;
        self.rows.update(&chunk.rows);
        self.write_sized(&chunk.rows)
    }

    /// The sender has sent all: checks that all of it is here, and syncs it.
    pub(crate) fn finish(mut self, end: &v1::SnapshotEnd) -> io::Result<Received> {
        if end.chunks != self.chunks || end.checksum != self.rows.clone().finalize() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot arrived incomplete or altered",
            ));
        }
        self.write(&0_u32.to_be_bytes())?;
        let checksum = self.written.clone().finalize();
        self.file.write_all(&checksum.to_be_bytes())?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        if let Some(folder) = self.received.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(self.received)
    }
}

/// Reads a file: the header, then each chunk's rows. Nothing is reserved on the word of a length.
pub(super) struct Reader {
    file: BufReader<File>,
    read: crc32fast::Hasher,
    path: PathBuf,
}

impl Reader {
    pub(super) fn open(path: &Path) -> io::Result<(Self, v1::Applied)> {
        let mut reader = Reader {
            file: BufReader::with_capacity(CHUNK_BYTES, File::open(path)?),
            read: crc32fast::Hasher::new(),
            path: path.to_owned(),
        };
        let mut magic = [0; MAGIC.len()];
        reader.file.read_exact(&mut magic)?;
        reader.read.update(&magic);
        if magic != *MAGIC {
            return Err(reader.damaged("it is not of a format that this version reads"));
        }
        let header = reader
            .sized()?
            .ok_or_else(|| reader.damaged("it has no header"))?;
        let applied =
            v1::Applied::decode(&header[..]).map_err(|error| reader.damaged(&error.to_string()))?;
        Ok((reader, applied))
    }

    /// The next chunk; `None` at the end, once the checksum was found to be right.
    pub(super) fn next(&mut self) -> io::Result<Option<v1::SnapshotRows>> {
        if let Some(rows) = self.sized()? {
            let rows = v1::SnapshotRows::decode(&rows[..])
                .map_err(|error| self.damaged(&error.to_string()))?;
            return Ok(Some(rows));
        }
        let mut checksum = [0; 4];
        self.file.read_exact(&mut checksum)?;
        if u32::from_be_bytes(checksum) != self.read.clone().finalize() {
            return Err(self.damaged("its checksum is wrong"));
        }
        Ok(None)
    }

    fn sized(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        self.read.update(&length);
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > CHUNK_BYTES_MAX {
            return Err(self.damaged("a chunk is too long"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file)
            .take(length as u64)
            .read_to_end(&mut bytes)?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read.update(&bytes);
        Ok(Some(bytes))
    }

    fn damaged(&self, reason: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the snapshot {} is damaged: {reason}", self.path.display()),
        )
    }
}

/// Reads all of a file, so that it is known to be whole before anything is done with it.
pub(super) fn verify(path: &Path) -> io::Result<v1::Applied> {
    let (mut reader, applied) = Reader::open(path)?;
    while reader.next()?.is_some() {}
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(folder: &Path) -> Received {
        let begin = v1::SnapshotBegin {
            snapshot: 7,
            vote: Some(v1::Vote::default()),
            applied: Some(v1::Applied {
                last: Some(v1::LogId::default()),
                ..v1::Applied::default()
            }),
        };
        let mut incoming = Incoming::create(folder, "a/b", begin).expect("created");
        let mut checksum = crc32fast::Hasher::new();
        for number in 0..3 {
            let row = v1::SnapshotRow {
                column: 0,
                key: vec![7; 300].into(),
                value: vec![u8::try_from(number).expect("small"); 5000].into(),
            };
            let rows = v1::SnapshotRows { rows: vec![row] }.encode_to_vec();
            checksum.update(&rows);
            let chunk = v1::SnapshotChunk {
                snapshot: 7,
                number,
                rows: rows.into(),
            };
            incoming.chunk(&chunk).expect("written");
            assert!(incoming.chunk(&chunk).is_err(), "not twice");
        }
        let end = v1::SnapshotEnd {
            snapshot: 7,
            chunks: 3,
            checksum: checksum.finalize(),
        };
        incoming.finish(&end).expect("whole")
    }

    #[test]
    fn a_file_with_any_byte_altered_or_cut_off_is_found_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let received = received(folder.path());
        assert!(verify(&received.path).is_ok());
        let whole = std::fs::read(&received.path).expect("readable");
        for place in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let mut altered = whole.clone();
            altered[place] ^= 0x10;
            std::fs::write(&received.path, &altered).expect("written");
            assert!(verify(&received.path).is_err(), "byte {place}");
            std::fs::write(&received.path, &whole[..place]).expect("written");
            assert!(verify(&received.path).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_file_that_nobody_keeps_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let received = received(folder.path());
        let path = received.path.clone();
        assert!(path.exists());
        drop(received);
        assert!(!path.exists());
    }
}
