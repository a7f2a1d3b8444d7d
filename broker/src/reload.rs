//! Files that may change while the node runs: access rules, users, certificates, keys.
//!
//! Each is looked at every second, and read anew once it has stood still for one look, so that a file that is just being
//! written is not read half; SIGHUP reads all of them at once. What cannot be used is said and left aside: the old stays.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Between two looks. A change is in force after at most three of them.
const LOOK: Duration = Duration::from_secs(1);

/// One thing that is read from files.
pub struct Source {
    /// What it is, for the log.
    pub what: String,
    /// Where it is read from.
    pub files: Vec<PathBuf>,
    /// What the files looked like before they were read for the first time.
    pub read: Looks,
    /// Reads it and puts it in force, whole or not at all; says why not.
    pub reload: Box<dyn FnMut() -> Result<(), String> + Send>,
}

/// What a file looks like from outside: another one has other looks, also when it was renamed into place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// Of each file; `None` while there is no such file.
pub type Looks = Vec<Option<Look>>;

/// Looks at `files`. To be called before they are read, so that no change falls in between.
#[must_use]
pub fn look(files: &[PathBuf]) -> Looks {
    use std::os::unix::fs::MetadataExt as _;
    let one = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Look {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    };
    files.iter().map(one).collect()
}

struct Watched {
    source: Source,
    /// At the last look.
    last: Looks,
}

impl Watched {
    fn new(source: Source) -> Self {
        let last = look(&source.files);
        Watched { source, last }
    }

    /// Reads it if it has changed and stands still, or if it is `asked` for.
    fn look(&mut self, asked: bool) {
        let now = look(&self.source.files);
        let still = now == self.last;
        self.last.clone_from(&now);
        if !asked && (now == self.source.read || !still) {
            return;
        }
        self.source.read = now;
        let what = &self.source.what;
        match (self.source.reload)() {
            Ok(()) => {
                metrics::counter!("meridian_reloads_total", "result" => "done").increment(1);
                tracing::info!(what, "Read anew.");
            }
            Err(error) => {
                metrics::counter!("meridian_reloads_total", "result" => "refused").increment(1);
                tracing::error!(
                    what,
                    error,
                    "Could not be read anew: what was in force stays."
                );
            }
        }
    }
}

/// Watches `sources` until `stop` says so.
///
/// # Errors
/// The system's, if SIGHUP cannot be heard.
pub fn watch(
    sources: Vec<Source>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut watched: Vec<Watched> = sources.into_iter().map(Watched::new).collect();
    Ok(tokio::spawn(async move {
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                Some(()) = hangup.recv() => true,
                _ = stop.changed() => return,
            };
            // Files and certificates are work for a thread that may wait.
            let looked = tokio::task::spawn_blocking(move || {
                for source in &mut watched {
                    source.look(asked);
                }
                watched
            });
            match looked.await {
                Ok(back) => watched = back,
                Err(error) => {
                    tracing::error!(%error, "Files are not watched any more.");
                    return;
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_changed_file_is_read_once_and_only_when_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("acl.toml");
        std::fs::write(&file, "a").unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let mut watched = Watched::new(Source {
            what: "a file".into(),
            files: vec![file.clone()],
            read: look(std::slice::from_ref(&file)),
            reload: Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Err("refused".into())
            }),
        });
        let mut reads_after_look = |asked: bool| {
            watched.look(asked);
            reads.load(Ordering::Relaxed)
        };
        assert_eq!(reads_after_look(false), 0, "nothing has changed");
        std::fs::write(&file, "ab").unwrap();
        assert_eq!(reads_after_look(false), 0, "it may still be written");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(reads_after_look(false), 0, "it was");
        assert_eq!(reads_after_look(false), 1);
        assert_eq!(
            reads_after_look(false),
            1,
            "a refused file is not read again"
        );
        assert_eq!(reads_after_look(true), 2, "unless somebody asks");
        let other = folder.path().join("other");
        std::fs::write(&other, "xyz").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(reads_after_look(false), 2);
        assert_eq!(
            reads_after_look(false),
            3,
            "a file renamed into place is another one"
        );
        std::fs::remove_file(&file).unwrap();
        reads_after_look(false);
        assert_eq!(
            reads_after_look(false),
            4,
            "that it is gone is a change to be told"
        );
    }

    #[test]
    fn a_change_between_the_first_reading_and_the_first_look_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("acl.toml");
        std::fs::write(&file, "a").unwrap();
        let read = look(std::slice::from_ref(&file));
        std::fs::write(&file, "ab").unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        let mut watched = Watched::new(Source {
            what: "a file".into(),
            files: vec![file],
            read,
            reload: Box::new(move || told.send(()).map_err(|error| error.to_string())),
        });
        watched.look(false);
        assert!(heard.try_recv().is_ok());
        watched.look(false);
        assert!(heard.try_recv().is_err());
    }
}
