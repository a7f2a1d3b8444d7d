//! Events that a far side will never take, put aside in a file with the reason.

use std::io::Write as _;
use std::path::PathBuf;

use crate::json;
use crate::sink::{EventRecord, SinkError};

/// A file of newline-delimited JSON, `{"shard":…,"offset":…,"reason":…,"event":{…}}`. An event whose batch was tried again
/// can stand there twice.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    path: PathBuf,
}

impl DeadLetters {
    /// In the file at `path`, made with the first of them.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DeadLetters { path: path.into() }
    }

    /// Appends and flushes. Says how many there were.
    pub(crate) async fn bury(&self, dead: &[(&EventRecord, String)]) -> Result<u64, SinkError> {
        if dead.is_empty() {
            return Ok(0);
        }
        let mut lines = Vec::new();
        for (record, reason) in dead {
            let (shard, offset) = (&record.shard, record.offset);
            tracing::error!(
                shard,
                offset,
                reason,
                "An event is one that the sink's far side never takes."
            );
            let text = |text: &str| serde_json::Value::from(text).to_string();
            let head = format!(
                "{{\"shard\":{},\"offset\":{offset},\"reason\":{},\"event\":",
                text(shard),
                text(reason)
            );
            lines.extend_from_slice(head.as_bytes());
            json::write_event(&mut lines, &record.event);
            lines.extend_from_slice(b"}\n");
        }
        let path = self.path.clone();
        let append = move || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(&path)?;
            file.write_all(&lines)?;
            file.sync_data()
        };
        tokio::task::spawn_blocking(append)
            .await
            .map_err(|error| SinkError::Retry(error.to_string()))?
            .map_err(|error| {
                SinkError::Retry(format!("a dead letter could not be written: {error}"))
            })?;
        Ok(dead.len() as u64)
    }
}
