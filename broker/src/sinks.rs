//! The sinks that run on this node: started from the configuration, paused and resumed by operators.
//!
//! `event log ─► **sinks** ─► one pipeline a sink`. What is paused stays so over a restart: a file in the data folder
//! says it. Nothing here waits for a far side, so one that is away is no reason not to start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_sinks::file::FileSink;
use meridian_sinks::kafka::KafkaSink;
use meridian_sinks::timescale::TimescaleSink;
use meridian_sinks::webhook::WebhookSink;
use meridian_sinks::{DeadLetters, Pipeline, PipelineOptions, Sink, SinkStatus};

use crate::config::{Config, SINKS_FOLDER, SinkConfig, SinkKind};
use crate::shards::Shards;
use crate::sources::ShardEvents;

/// See the module.
pub struct Sinks {
    pipelines: Vec<Pipeline>,
    folder: PathBuf,
}

impl Sinks {
    /// Starts all sinks of `config`.
    pub fn start(config: &Config, shards: &Arc<Shards>) -> Self {
        let folder = config.node.data_dir.join(SINKS_FOLDER);
        let start = |(name, sink): (&String, &SinkConfig)| {
            let options = PipelineOptions {
                filter: sink.filter.clone(),
                paused: marker(&folder, name).exists(),
                batch_max: sink.batch_max,
                write_timeout: sink.timeout,
                ..PipelineOptions::default()
            };
            let dead_letters = DeadLetters::new(folder.join(format!("{name}.dead-letters.ndjson")));
            match sink.kind.clone() {
                SinkKind::File(file) => drive(name, FileSink::new(file), shards, options),
                SinkKind::Kafka(cluster) => {
                    let sink = KafkaSink::new(*cluster, dead_letters);
                    drive(name, sink, shards, options)
                }
                SinkKind::Timescale(database) => {
                    drive(name, TimescaleSink::new(*database), shards, options)
                }
                SinkKind::Webhook(hook) => {
                    let sink = WebhookSink::new(*hook, dead_letters);
                    drive(name, sink, shards, options)
                }
            }
        };
        let pipelines = config.sinks.iter().map(start).collect();
        Sinks { pipelines, folder }
    }

    /// How they stand, by name.
    #[must_use]
    pub fn status(&self) -> Vec<SinkStatus> {
        self.pipelines.iter().map(Pipeline::status).collect()
    }

    /// Stops a sink from reading, or lets it go on; from now on, restarts included. `false` if there is none of that name.
    ///
    /// # Errors
    /// The note of it could not be written; nothing has changed then.
    pub fn set_paused(&self, name: &str, paused: bool) -> io::Result<bool> {
        let of_the_name = |sink: &&Pipeline| sink.status().name == name;
        let Some(sink) = self.pipelines.iter().find(of_the_name) else {
            return Ok(false);
        };
        let marker = marker(&self.folder, name);
        if paused {
            std::fs::create_dir_all(&self.folder)?;
            std::fs::File::create(&marker)?.sync_all()?;
        } else {
            match std::fs::remove_file(&marker) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sink.set_paused(paused);
        Ok(true)
    }

    /// Ends all, at the same time.
    pub async fn stop(&self) {
        futures::future::join_all(self.pipelines.iter().map(Pipeline::stop)).await;
    }
}

fn drive<S: Sink>(name: &str, sink: S, shards: &Arc<Shards>, options: PipelineOptions) -> Pipeline {
    let source = Arc::new(ShardEvents::new(Arc::clone(shards), S::FAR_SIDE));
    Pipeline::start(name, sink, source, options)
}

fn marker(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.paused"))
}
