//! Drives one sink: reads, filters, batches, retries, and moves the cursor when the far side has confirmed.
//!
//! One task a sink, so that none waits for another, and nothing that acknowledges waits for any. Order per device is the
//! order of its shard's log, since a batch is written whole before the next.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::filter::Filter;
use crate::sink::{Cursors, EventRecord, EventSource, Growth as _, Sink, SinkError};
use crate::status::{Lag, SinkState, SinkStatus};

/// How often the lag is measured for the metrics.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// How long a write that is under way may go on after [`Pipeline::stop`].
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Records that are no business of a sink, after which its cursor is moved over them all the same.
const PASSED_OVER_MAX: u64 = 10_000;

/// How a sink is driven.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Which events the sink gets.
    pub filter: Filter,
    /// Whether it waits for [`Pipeline::set_paused`] before the first write.
    pub paused: bool,
    /// Records of one batch.
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
            filter: Filter::default(),
            paused: false,
            batch_max: 2000,
            write_timeout: Duration::from_secs(30),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// A sink that is being driven. Dropping it does not stop the task; [`Pipeline::stop`] does.
#[derive(Clone)]
pub struct Pipeline {
    status: Arc<Mutex<SinkStatus>>,
    lag: Arc<dyn Fn(&Cursors) -> Lag + Send + Sync>,
    paused: Arc<watch::Sender<bool>>,
    stop: Arc<watch::Sender<bool>>,
    task: Arc<tokio::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl Pipeline {
    /// Starts driving `sink` with the events of `source`.
    pub fn start<S: Sink, E: EventSource>(
        name: &str,
        sink: S,
        source: Arc<E>,
        options: PipelineOptions,
    ) -> Self {
        let status = Arc::new(Mutex::new(SinkStatus::new(name, S::KIND)));
        let (paused, pause) = watch::channel(options.paused);
        let (stop, stopped) = watch::channel(false);
        let lag = {
            let source = Arc::clone(&source);
            Arc::new(move |cursors: &Cursors| Lag::of(&*source, cursors))
        };
        let driver = Driver {
            name: name.to_owned(),
            sink,
            source,
            options,
            status: Arc::clone(&status),
            pause,
            stopped,
            turn: 0,
        };
        let pipeline = Pipeline {
            status,
            lag,
            paused: Arc::new(paused),
            stop: Arc::new(stop),
            task: Arc::new(tokio::sync::Mutex::new(Some(tokio::spawn(driver.run())))),
        };
        tokio::spawn(measure_lag(pipeline.clone()));
        pipeline
    }

    /// How the sink stands.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        let mut status = lock(&self.status).clone();
        if *self.paused.borrow() {
            status.state = SinkState::Paused;
        }
        status.lag = (self.lag)(&status.cursors);
        status
    }

    /// Stops reading after the batch that is under way, or goes on.
    pub fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Ends after the batch that is under way, or without it if the far side does not take it soon.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "A sink's task ended badly.");
        }
    }
}

/// The gauges move while the sink itself hangs.
async fn measure_lag(pipeline: Pipeline) {
    let name = lock(&pipeline.status).name.clone();
    let events = metrics::gauge!("meridian_sink_lag_events", "sink" => name.clone());
    let seconds = metrics::gauge!("meridian_sink_lag_seconds", "sink" => name);
    let mut stopped = pipeline.stop.subscribe();
    let mut tick = tokio::time::interval(LAG_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        let lag = pipeline.status().lag;
        events.set(lag.events as f64);
        seconds.set(lag.seconds);
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
    /// Which shard is read first, so that a busy one does not starve the others.
    turn: usize,
}

impl<S: Sink, E: EventSource> Driver<S, E> {
    async fn run(mut self) {
        let mut pause = self.options.retry_min;
        loop {
            self.wait_while_paused().await;
            if *self.stopped.borrow() {
                return;
            }
            let Err(error) = Box::pin(self.session(&mut pause)).await else {
                continue;
            };
            metrics::counter!("meridian_sink_failed_total", "sink" => self.name.clone())
                .increment(1);
            {
                let mut status = lock(&self.status);
                status.failed += 1;
                status.state = match error {
                    SinkError::Blocked(_) => SinkState::Blocked,
                    SinkError::Retry(_) => SinkState::Retrying,
                };
                status.last_error = Some(error.to_string());
            }
            tracing::warn!(sink = %self.name, %error, retry_ms = pause.as_millis(), "The sink could not write.");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopped.wait_for(|stopped| *stopped) => {}
            }
            pause = (pause * 2).min(self.options.retry_max);
        }
    }

    async fn wait_while_paused(&mut self) {
        tokio::select! {
            // The senders live as long as the pipeline; without one there is nobody left to resume.
            _ = self.pause.wait_for(|paused| !*paused) => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    /// From `open` to the first failure; or to a pause, to the end, or to a change of this node's shards.
    async fn session(&mut self, pause: &mut Duration) -> Result<(), SinkError> {
        let shards = self.source.shards();
        let mut growth = self.source.growth();
        let mut confirmed = {
            let limit = self.options.write_timeout;
            let open = self.sink.open(&shards);
            bounded("opening", limit, self.stopped.clone(), open).await?
        };
        let mut cursors = confirmed.clone();
        self.note(&cursors);
        loop {
            growth.mark_seen();
            if *self.stopped.borrow() || *self.pause.borrow() || self.source.shards() != shards {
                return Ok(());
            }
            let (batch, next) = self.collect(&shards, &cursors).await?;
            if next == cursors {
                tokio::select! {
                    () = growth.changed() => {}
                    _ = self.pause.changed() => {}
                    _ = self.stopped.changed() => {}
                }
                continue;
            }
            if !batch.is_empty() || passed(&confirmed, &next) >= PASSED_OVER_MAX {
                self.write(&batch, &next).await?;
                confirmed.clone_from(&next);
            }
            *pause = self.options.retry_min;
            cursors = next;
            self.note(&cursors);
        }
    }

    async fn write(&mut self, batch: &[EventRecord], next: &Cursors) -> Result<(), SinkError> {
        let limit = self.options.write_timeout;
        let write = self.sink.write(batch, next);
        let confirmed = bounded("writing", limit, self.stopped.clone(), write).await?;
        let written = batch.len() as u64 - confirmed.dead_letters;
        let count = |name: &'static str, count: u64| {
            metrics::counter!(name, "sink" => self.name.clone()).increment(count);
        };
        count("meridian_sink_written_total", written);
        count("meridian_sink_dead_letters_total", confirmed.dead_letters);
        let mut status = lock(&self.status);
        status.written += written;
        status.dead_letters += confirmed.dead_letters;
        Ok(())
    }

    /// The next batch, and the cursors behind it. Reads may come from disk, so they get a thread that may wait.
    async fn collect(
        &mut self,
        shards: &[String],
        cursors: &Cursors,
    ) -> Result<(Vec<EventRecord>, Cursors), SinkError> {
        let mut order = shards.to_vec();
        if !order.is_empty() {
            self.turn = (self.turn + 1) % order.len();
            order.rotate_left(self.turn);
        }
        let (source, from, options) = (
            Arc::clone(&self.source),
            cursors.clone(),
            self.options.clone(),
        );
        let collect = move || collect(&*source, &order, from, &options);
        let collected = tokio::task::spawn_blocking(collect)
            .await
            .map_err(|error| SinkError::Retry(error.to_string()))??;
        if collected.missed > 0 {
            let missed = collected.missed;
            lock(&self.status).missed += missed;
            metrics::counter!("meridian_sink_missed_total", "sink" => self.name.clone())
                .increment(missed);
            tracing::error!(sink = %self.name, missed, "Events were gone before the sink could read them.");
        }
        Ok((collected.batch, collected.next))
    }

    fn note(&self, cursors: &Cursors) {
        let mut status = lock(&self.status);
        status.state = SinkState::Running;
        status.last_error = None;
        status.cursors.clone_from(cursors);
    }
}

struct Collected {
    batch: Vec<EventRecord>,
    next: Cursors,
    missed: u64,
}

fn collect<E: EventSource>(
    source: &E,
    order: &[String],
    cursors: Cursors,
    options: &PipelineOptions,
) -> Result<Collected, SinkError> {
    let mut collected = Collected {
        batch: Vec::new(),
        next: cursors,
        missed: 0,
    };
    let mut room = options.batch_max;
    for shard in order {
        let (first, head) = source.bounds(shard);
        let cursor = collected.next.get(shard).copied().unwrap_or(0);
        let mut from = cursor.max(first);
        collected.missed += from - cursor;
        if from < head && room > 0 {
            let (records, next) = source
                .read(shard, from, room)
                .map_err(|error| SinkError::Retry(error.to_string()))?;
            let read = usize::try_from(next.saturating_sub(from)).unwrap_or(usize::MAX);
            room = room.saturating_sub(read);
            let wanted = records
                .into_iter()
                .filter(|record| options.filter.passes(record));
            collected.batch.extend(wanted);
            from = next;
        }
        if from > cursor {
            collected.next.insert(shard.clone(), from);
        }
    }
    Ok(collected)
}

/// Records between two cursors.
fn passed(from: &Cursors, to: &Cursors) -> u64 {
    let of = |(shard, to): (&String, &u64)| to - from.get(shard).copied().unwrap_or(0).min(*to);
    to.iter().map(of).sum()
}

/// Bounds what a far side may take, while things go on and when they end.
async fn bounded<T>(
    what: &str,
    limit: Duration,
    mut stopped: watch::Receiver<bool>,
    work: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    let given_up = async {
        // Gone means the same: nobody is there who could still want it.
        drop(stopped.wait_for(|stopped| *stopped).await);
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        done = tokio::time::timeout(limit, work) => {
            done.unwrap_or_else(|_| Err(SinkError::Retry(format!("{what} took longer than {limit:?}"))))
        }
        () = given_up => Err(SinkError::Retry(format!("stopped while {what}"))),
    }
}

fn lock(status: &Mutex<SinkStatus>) -> MutexGuard<'_, SinkStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
