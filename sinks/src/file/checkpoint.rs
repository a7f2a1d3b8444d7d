//! How far the files hold what was confirmed: the length of the open file, and the cursor of each shard.
//!
//! Written beside the data by rename, after the data was flushed. On open the file is cut to the length that stands
//! here: what lies behind was never confirmed, and comes again from the log.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cursor_file::replace;
use crate::sink::Cursors;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) format: u32,
    /// Bytes of the open file that are confirmed.
    pub(super) length: u64,
    /// How many files were rotated away; the next one's number.
    pub(super) rotated: u64,
    pub(super) cursors: Cursors,
}

const FORMAT: u32 = 1;

impl Checkpoint {
    pub(super) fn empty() -> Self {
        Checkpoint {
            format: FORMAT,
            length: 0,
            rotated: 0,
            cursors: Cursors::new(),
        }
    }

    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |what: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {what}", path.display()),
            )
        };
        let checkpoint: Checkpoint =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if checkpoint.format != FORMAT {
            return Err(invalid(format!(
                "format {} is not known to this version",
                checkpoint.format
            )));
        }
        Ok(Some(checkpoint))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}
