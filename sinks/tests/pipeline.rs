//! The pipeline over a far side that fails or hangs, and over logs that grow.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meridian_sinks::{
    Confirmed, Cursors, EventRecord, FarSide, Filter, Pipeline, PipelineOptions, Sink, SinkError,
    SinkState,
};
use support::{Logs, until};

enum Fault {
    Refuse,
    /// It takes the batch, and the answer is lost.
    LoseAnswer,
    Hang,
}

/// A far side that keeps what it confirmed, and fails as it is told.
#[derive(Clone)]
struct Far {
    got: Arc<Mutex<BTreeMap<(String, u64), usize>>>,
    kept: Arc<Mutex<Cursors>>,
    calls: Arc<AtomicUsize>,
    fails: fn(usize) -> Option<Fault>,
}

impl Far {
    fn that(fails: fn(usize) -> Option<Fault>) -> Self {
        Far {
            got: Arc::default(),
            kept: Arc::default(),
            calls: Arc::default(),
            fails,
        }
    }
}

impl Sink for Far {
    const KIND: &'static str = "far";
    const FAR_SIDE: FarSide = FarSide::Shared;

    async fn open(&mut self, _shards: &[String]) -> Result<Cursors, SinkError> {
        Ok(self.kept.lock().unwrap().clone())
    }
    async fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> Result<Confirmed, SinkError> {
        let fault = (self.fails)(self.calls.fetch_add(1, Ordering::Relaxed));
        match fault {
            Some(Fault::Refuse) => return Err(SinkError::Retry("refused".into())),
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        for record in batch {
            let place = (record.shard.clone(), record.offset);
            *self.got.lock().unwrap().entry(place).or_default() += 1;
        }
        self.kept.lock().unwrap().clone_from(cursors);
        if fault.is_some() {
            Err(SinkError::Retry("the answer is lost".into()))
        } else {
            Ok(Confirmed::default())
        }
    }
}

fn quick() -> PipelineOptions {
    PipelineOptions {
        batch_max: 7,
        write_timeout: Duration::from_millis(50),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(5),
        ..PipelineOptions::default()
    }
}

#[tokio::test]
async fn a_far_side_that_refuses_hangs_and_loses_answers_gets_everything_once() {
    let far = Far::that(|call| match call % 5 {
        1 => Some(Fault::Refuse),
        2 => Some(Fault::LoseAnswer),
        3 => Some(Fault::Hang),
        _ => None,
    });
    let pipeline = Pipeline::start("far", far.clone(), Logs::of([("s", 200)]), quick());
    until(|| far.got.lock().unwrap().len() == 200 && pipeline.status().state == SinkState::Running)
        .await;
    assert!(
        far.got.lock().unwrap().values().all(|times| *times == 1),
        "the far side's own cursor is believed"
    );
    assert!(pipeline.status().failed > 0);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_sink_that_hangs_delays_no_other_and_says_so() {
    let healthy = Far::that(|_| None);
    let stuck = Pipeline::start(
        "stuck",
        Far::that(|_| Some(Fault::Hang)),
        Logs::of([("s", 100)]),
        quick(),
    );
    let fine = Pipeline::start("fine", healthy.clone(), Logs::of([("s", 100)]), quick());
    until(|| healthy.got.lock().unwrap().len() == 100).await;
    until(|| stuck.status().state == SinkState::Retrying).await;
    assert!(stuck.status().last_error.unwrap().contains("longer than"));
    stuck.stop().await;
    fine.stop().await;
}

#[tokio::test]
async fn an_event_that_comes_while_the_sink_waits_is_written_at_once_and_none_is_overlooked() {
    let far = Far::that(|_| None);
    let logs = Logs::of([("a", 0), ("b", 0)]);
    let pipeline = Pipeline::start("far", far.clone(), Arc::clone(&logs), quick());
    for round in 1..=300 {
        logs.grow("a", 1);
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        logs.grow("b", 1);
        until(|| far.got.lock().unwrap().len() == 2 * round).await;
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn a_busy_shard_does_not_starve_the_others() {
    let far = Far::that(|_| None);
    let logs = Logs::of([("busy", 1_000_000), ("quiet", 3)]);
    let pipeline = Pipeline::start("far", far.clone(), logs, quick());
    until(|| pipeline.status().cursors.get("quiet") == Some(&3)).await;
    assert!(pipeline.status().cursors["busy"] < 1_000_000);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_shard_that_comes_to_this_node_is_asked_for_at_the_far_side() {
    let far = Far::that(|_| None);
    let logs = Logs::of([("a", 5)]);
    let pipeline = Pipeline::start("far", far.clone(), Arc::clone(&logs), quick());
    until(|| far.got.lock().unwrap().len() == 5).await;
    // Another node has written the first two of it.
    far.kept.lock().unwrap().insert("b".into(), 2);
    logs.grow("b", 6);
    until(|| far.got.lock().unwrap().len() == 9).await;
    assert!(!far.got.lock().unwrap().contains_key(&("b".into(), 1)));
    pipeline.stop().await;
}

#[tokio::test]
async fn a_paused_sink_touches_nothing_and_goes_on_where_it_was() {
    let far = Far::that(|_| None);
    let options = PipelineOptions {
        paused: true,
        ..quick()
    };
    let pipeline = Pipeline::start("far", far.clone(), Logs::of([("s", 20)]), options);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(far.calls.load(Ordering::Relaxed), 0);
    let status = pipeline.status();
    assert_eq!((status.state, status.lag.events), (SinkState::Paused, 20));
    assert!(status.lag.seconds > 0.0);
    pipeline.set_paused(false);
    until(|| far.got.lock().unwrap().len() == 20).await;
    until(|| pipeline.status().lag.events == 0).await;
    assert_eq!(pipeline.status().state, SinkState::Running);
    pipeline.stop().await;
}

#[tokio::test]
async fn the_lag_grows_while_a_sink_hangs() {
    let logs = Logs::of([("s", 10)]);
    let far = Far::that(|_| Some(Fault::Hang));
    let pipeline = Pipeline::start("stuck", far, Arc::clone(&logs), quick());
    assert_eq!(pipeline.status().lag.events, 10);
    logs.grow("s", 7);
    assert_eq!(pipeline.status().lag.events, 17);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_far_side_that_hangs_does_not_hold_up_the_end() {
    let options = PipelineOptions {
        write_timeout: Duration::from_secs(600),
        ..quick()
    };
    let far = Far::that(|_| Some(Fault::Hang));
    let pipeline = Pipeline::start("stuck", far.clone(), Logs::of([("s", 10)]), options);
    until(|| far.calls.load(Ordering::Relaxed) == 1).await;
    let begun = Instant::now();
    pipeline.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn the_cursor_moves_over_what_the_filter_holds_back() {
    let far = Far::that(|_| None);
    let options = PipelineOptions {
        filter: Filter {
            events: vec!["deviceOverspeed".into()],
            ..Filter::default()
        },
        batch_max: 1000,
        ..quick()
    };
    let pipeline = Pipeline::start("far", far.clone(), Logs::of([("s", 25_500)]), options);
    until(|| pipeline.status().lag.events == 0).await;
    assert!(far.got.lock().unwrap().is_empty());
    assert_eq!(far.kept.lock().unwrap()["s"], 20_000);
    pipeline.stop().await;
}
