//! Drives one sink: reads, batches, retries, and moves the cursor when the far side has confirmed.
//!
//! One task a sink, so that none waits for another. Order per device is the order of its shard's log, since a batch is
//! written whole before the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::sink::{Cursors, EventRecord, EventSource, Sink, SinkError};

/// How a sink is driven.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Events of one batch.
    pub batch_max: usize,
    /// How long a write may take before it counts as hanging.
    pub write_timeout: Duration,
    /// The first pause after a failure; each further one is twice as long.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        PipelineOptions {
            batch_max: 2000,
            write_timeout: Duration::from_secs(30),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// What a sink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// It takes events.
    Running,
    /// The far side failed, and is being tried again.
    Retrying,
    /// It needs a person.
    Blocked,
    /// It was told to wait.
    Paused,
}

/// How a sink stands.
#[derive(Debug, Clone, Serialize)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it is doing.
    pub state: SinkState,
    /// Events that it does not have yet.
    pub lag_events: u64,
    /// Events that the far side has confirmed since the start.
    pub written: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Events that were no longer there when it came to read them.
    pub missed: u64,
    /// The last failure, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// By shard, the first offset that it does not have.
    pub cursors: Cursors,
}

/// A sink that is being driven. Dropping it does not stop the task; [`Pipeline::stop`] does.
#[derive(Debug, Clone)]
pub struct Pipeline {
    status: Arc<Mutex<SinkStatus>>,
    paused: Arc<watch::Sender<bool>>,
    stop: Arc<watch::Sender<bool>>,
    task: Arc<tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl Pipeline {
    /// Starts driving `sink` with the events of `source`.
    pub fn start<S: Sink, E: EventSource>(
        name: &str,
        sink: S,
        source: Arc<E>,
        options: PipelineOptions,
    ) -> Self {
        let status = Arc::new(Mutex::new(SinkStatus {
            name: name.to_owned(),
            state: SinkState::Running,
            lag_events: 0,
            written: 0,
            failed: 0,
            missed: 0,
            last_error: None,
            cursors: Cursors::new(),
        }));
        let (paused, pause) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let driver = Driver {
            name: name.to_owned(),
            sink,
            source,
            options,
            status: Arc::clone(&status),
            pause,
            stopped,
        };
        let task = tokio::spawn(driver.run());
        Pipeline {
            status,
            paused: Arc::new(paused),
            stop: Arc::new(stop),
            task: Arc::new(tokio::sync::Mutex::new(Some(task))),
        }
    }

    /// How the sink stands.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        lock(&self.status).clone()
    }

    /// Stops reading, or goes on.
    pub fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Ends after the batch that is under way.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "A sink's task ended badly.");
        }
    }
}

struct Driver<S, E> {
    name: String,
    sink: S,
    source: Arc<E>,
    options: PipelineOptions,
    status: Arc<Mutex<SinkStatus>>,
    pause: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
}

impl<S: Sink, E: EventSource> Driver<S, E> {
    async fn run(mut self) {
        let mut pause = self.options.retry_min;
        while !*self.stopped.borrow() {
            let Err(error) = self.session(&mut pause).await else {
                return;
            };
            metrics::counter!("meridian_sink_failed_total", "sink" => self.name.clone())
                .increment(1);
            let blocked = matches!(error, SinkError::Blocked(_));
            {
                let mut status = lock(&self.status);
                status.failed += 1;
                status.state = if blocked {
                    SinkState::Blocked
                } else {
                    SinkState::Retrying
                };
                status.last_error = Some(error.to_string());
            }
            tracing::warn!(sink = %self.name, %error, retry_ms = pause.as_millis(), "The sink could not write.");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopped.changed() => {}
            }
            pause = (pause * 2).min(self.options.retry_max);
        }
    }

    /// From `open` to the first failure, or to the end.
    async fn session(&mut self, pause: &mut Duration) -> Result<(), SinkError> {
        let opened = tokio::time::timeout(self.options.write_timeout, self.sink.open()).await;
        let mut cursors = opened.map_err(|_| hanging("opening"))??;
        loop {
            if *self.stopped.borrow() {
                return Ok(());
            }
            if *self.pause.borrow() {
                lock(&self.status).state = SinkState::Paused;
                tokio::select! {
                    _ = self.pause.changed() => {}
                    _ = self.stopped.changed() => {}
                }
                continue;
            }
            let (batch, next) = self.collect(&cursors)?;
            if next == cursors {
                self.note(&cursors);
                tokio::select! {
                    () = self.source.grown() => {}
                    _ = self.pause.changed() => {}
                    _ = self.stopped.changed() => {}
                }
                continue;
            }
            if !batch.is_empty() {
                let write = self.sink.write(&batch, &next);
                let written = tokio::time::timeout(self.options.write_timeout, write).await;
                written.map_err(|_| hanging("writing"))??;
                metrics::counter!("meridian_sink_written_total", "sink" => self.name.clone())
                    .increment(batch.len() as u64);
                lock(&self.status).written += batch.len() as u64;
            }
            *pause = self.options.retry_min;
            cursors = next;
            self.note(&cursors);
        }
    }

    /// The next batch, and the cursors behind it.
    fn collect(&self, cursors: &Cursors) -> Result<(Vec<EventRecord>, Cursors), SinkError> {
        let mut batch = Vec::new();
        let mut next = cursors.clone();
        for shard in self.source.shards() {
            let room = self.options.batch_max.saturating_sub(batch.len());
            if room == 0 {
                break;
            }
            let (first, head) = self.source.bounds(&shard);
            let cursor = cursors.get(&shard).copied().unwrap_or(0);
            if cursor < first {
                let missed = first - cursor;
                lock(&self.status).missed += missed;
                tracing::error!(sink = %self.name, shard, missed, "Events were gone before the sink could read them.");
            }
            let from = cursor.max(first);
            if from >= head {
                if from > cursor {
                    next.insert(shard, from);
                }
                continue;
            }
            let read = self
                .source
                .read(&shard, from, room)
                .map_err(|error| SinkError::Retry(error.to_string()))?;
            batch.extend(read.0);
            next.insert(shard, read.1);
        }
        Ok((batch, next))
    }

    fn note(&self, cursors: &Cursors) {
        let lag = |shard: &String| {
            self.source
                .bounds(shard)
                .1
                .saturating_sub(cursors.get(shard).copied().unwrap_or(0))
        };
        let lag = self.source.shards().iter().map(lag).sum();
        let mut status = lock(&self.status);
        status.state = SinkState::Running;
        status.last_error = None;
        status.lag_events = lag;
        status.cursors.clone_from(cursors);
        metrics::gauge!("meridian_sink_lag_events", "sink" => self.name.clone()).set(lag as f64);
    }
}

fn hanging(what: &str) -> SinkError {
    SinkError::Retry(format!("{what} took too long"))
}

fn lock(status: &Mutex<SinkStatus>) -> MutexGuard<'_, SinkStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
