//! Events as newline-delimited JSON in files that rotate. No line is lost, torn or doubled over a kill.

mod checkpoint;
mod sink;

pub use sink::{FileOptions, FileSink};
