//! Cursors in a file of this machine, for a far side that keeps none.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::sink::{Cursors, SinkError};

/// No file means no cursors; one that cannot be read needs a person.
pub(crate) async fn read(path: &Path) -> Result<Cursors, SinkError> {
    let path = path.to_owned();
    blocking(move || match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Cursors::new()),
        Err(error) => Err(error),
    })
    .await
}

/// Flushed when it comes back.
pub(crate) async fn write(path: &Path, cursors: &Cursors) -> Result<(), SinkError> {
    let path = path.to_owned();
    let bytes = serde_json::to_vec(cursors).map_err(|error| SinkError::Retry(error.to_string()))?;
    blocking(move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        replace(&path, &bytes)
    })
    .await
}

/// Puts `bytes` in the place of the file at `path`, whole and durably, or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    sync_directory(path)
}

/// Makes a rename in the directory of `path` durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Does what waits for the disk where waiting harms nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SinkError> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SinkError::Retry(error.to_string()))?;
    done.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied => {
            SinkError::Blocked(error.to_string())
        }
        _ => SinkError::Retry(error.to_string()),
    })
}
