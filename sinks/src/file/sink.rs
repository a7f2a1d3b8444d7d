//! The file sink.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::checkpoint::Checkpoint;
use crate::cursor_file::{blocking, sync_directory};
use crate::json;
use crate::sink::{Confirmed, Cursors, EventRecord, FarSide, Sink, SinkError};

/// How the files are kept.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// The open file; rotated ones are named `{path}.{number}`, and the cursors are in `{path}.cursor`.
    pub path: PathBuf,
    /// The open file is rotated when it is longer, bytes.
    pub rotate_bytes: u64,
    /// The open file is rotated when it is older.
    pub rotate_age: Option<Duration>,
    /// Rotated files kept; `None` keeps all.
    pub keep: Option<u64>,
}

impl FileOptions {
    /// Rotates at 256 MiB and keeps all files.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileOptions {
            path: path.into(),
            rotate_bytes: 256 << 20,
            rotate_age: None,
            keep: None,
        }
    }
}

/// Appends events to a file, one JSON object a line.
#[derive(Debug)]
pub struct FileSink {
    options: FileOptions,
    open: Arc<Mutex<Option<Open>>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    since: SystemTime,
    checkpoint: Checkpoint,
}

impl FileSink {
    /// A sink to the file that `options` name; nothing is touched before [`Sink::open`].
    #[must_use]
    pub fn new(options: FileOptions) -> Self {
        FileSink {
            options,
            open: Arc::default(),
        }
    }
}

impl Sink for FileSink {
    const KIND: &'static str = "file";
    const FAR_SIDE: FarSide = FarSide::Own;

    async fn open(&mut self, _shards: &[String]) -> Result<Cursors, SinkError> {
        let (options, open) = (self.options.clone(), Arc::clone(&self.open));
        blocking(move || {
            // A write that was given up may still be in the disk's hands: it ends before the file is looked at again.
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let opened = Open::new(&options)?;
            let cursors = opened.checkpoint.cursors.clone();
            *open = Some(opened);
            Ok(cursors)
        })
        .await
    }

    async fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> Result<Confirmed, SinkError> {
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for record in batch {
            json::write_event(&mut lines, &record.event);
            lines.push(b'\n');
        }
        let (options, open, cursors) = (
            self.options.clone(),
            Arc::clone(&self.open),
            cursors.clone(),
        );
        blocking(move || {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let open = open
                .as_mut()
                .ok_or_else(|| io::Error::other("the file is not open"))?;
            open.append(&options, &lines, cursors)
        })
        .await?;
        Ok(Confirmed::default())
    }
}

impl Open {
    fn new(options: &FileOptions) -> io::Result<Self> {
        if let Some(parent) = options
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(parent)?;
        }
        let cursor_path = cursor_path(&options.path);
        let known = Checkpoint::read(&cursor_path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&options.path)?;
        let length = file.metadata()?.len();
        let mut checkpoint = match known {
            Some(checkpoint) => checkpoint,
            None if length == 0 => Checkpoint::empty(),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} is not empty, but {} is missing: move the file away, or name another one",
                        options.path.display(),
                        cursor_path.display()
                    ),
                ));
            }
        };
        if length < checkpoint.length {
            // A rotation was under way: the confirmed lines are in the rotated file, and this one is new.
            let rotated = rotated_path(&options.path, checkpoint.rotated);
            let moved =
                std::fs::metadata(&rotated).is_ok_and(|found| found.len() >= checkpoint.length);
            if !moved {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} is shorter than what was confirmed of it",
                        options.path.display()
                    ),
                ));
            }
            OpenOptions::new()
                .write(true)
                .open(&rotated)?
                .set_len(checkpoint.length)?;
            checkpoint.rotated += 1;
            checkpoint.length = 0;
        }
        file.set_len(checkpoint.length)?;
        file.sync_all()?;
        sync_directory(&options.path)?;
        checkpoint.write(&cursor_path)?;
        let mut file = file;
        file.seek(SeekFrom::End(0))?;
        Ok(Open {
            file,
            since: SystemTime::now(),
            checkpoint,
        })
    }

    /// Appends, flushes, and only then notes the cursors.
    fn append(&mut self, options: &FileOptions, lines: &[u8], cursors: Cursors) -> io::Result<()> {
        let old = options
            .rotate_age
            .is_some_and(|age| self.since.elapsed().is_ok_and(|elapsed| elapsed > age));
        if self.checkpoint.length > 0
            && (old || self.checkpoint.length + lines.len() as u64 > options.rotate_bytes)
        {
            self.rotate(options)?;
        }
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.checkpoint.length += lines.len() as u64;
        self.checkpoint.cursors = cursors;
        self.checkpoint.write(&cursor_path(&options.path))
    }

    fn rotate(&mut self, options: &FileOptions) -> io::Result<()> {
        std::fs::rename(
            &options.path,
            rotated_path(&options.path, self.checkpoint.rotated),
        )?;
        self.file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&options.path)?;
        sync_directory(&options.path)?;
        self.since = SystemTime::now();
        self.checkpoint.rotated += 1;
        self.checkpoint.length = 0;
        self.checkpoint.write(&cursor_path(&options.path))?;
        if let Some(oldest) = options
            .keep
            .and_then(|keep| self.checkpoint.rotated.checked_sub(keep + 1))
        {
            match std::fs::remove_file(rotated_path(&options.path, oldest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn cursor_path(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.cursor", path.display()))
}

/// Sorts by name in the order of writing.
fn rotated_path(path: &Path, number: u64) -> PathBuf {
    PathBuf::from(format!("{}.{number:06}", path.display()))
}
