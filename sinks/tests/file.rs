//! The file sink over kills at every moment that matters, and the pipeline over a far side that fails or hangs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_proto::v1::Alert;
use meridian_sinks::file::{FileOptions, FileSink};
use meridian_sinks::{
    Cursors, Event, EventRecord, EventSource, Pipeline, PipelineOptions, ReadError, Sink,
    SinkError, SinkState,
};

fn record(offset: u64) -> EventRecord {
    let alert = Alert {
        event_id: format!("s-{offset}"),
        r#type: "alarm".into(),
        ..Default::default()
    };
    EventRecord {
        shard: "s".into(),
        offset,
        at_ms: 0,
        event: Event::Alert(alert),
    }
}

fn cursors(next: u64) -> Cursors {
    Cursors::from([("s".to_owned(), next)])
}

fn options(folder: &Path) -> FileOptions {
    FileOptions::new(folder.join("events.ndjson"))
}

/// The ids in all files, in the order of writing.
fn ids(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.retain(|path| !path.to_string_lossy().contains("cursor"));
    // The open file has no number and comes last.
    files.sort_by_key(|path| {
        (
            path.extension().is_some_and(|end| end == "ndjson"),
            path.clone(),
        )
    });
    let text: String = files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let id = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["event_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    text.lines().map(id).collect()
}

fn expected(count: u64) -> Vec<String> {
    (0..count).map(|offset| format!("s-{offset}")).collect()
}

async fn write(sink: &mut FileSink, from: u64, to: u64) {
    let batch: Vec<EventRecord> = (from..to).map(record).collect();
    sink.write(&batch, &cursors(to)).await.unwrap();
}

#[tokio::test]
async fn a_line_that_was_torn_by_a_kill_is_cut_off_and_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = FileSink::new(options(folder.path()));
    assert!(sink.open().await.unwrap().is_empty());
    write(&mut sink, 0, 3).await;
    // Killed between the write and the note of the cursor.
    let path = folder.path().join("events.ndjson");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"event_id\":\"s-3\"}\n{\"event_id\":\"s-");
    std::fs::write(&path, text).unwrap();
    let mut again = FileSink::new(options(folder.path()));
    assert_eq!(again.open().await.unwrap(), cursors(3));
    write(&mut again, 3, 6).await;
    assert_eq!(ids(folder.path()), expected(6));
}

#[tokio::test]
async fn files_rotate_between_batches_and_sort_in_the_order_of_writing() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = FileSink::new(FileOptions {
        rotate_bytes: 300,
        ..options(folder.path())
    });
    sink.open().await.unwrap();
    for from in 0..30 {
        write(&mut sink, from, from + 1).await;
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().count() > 5);
    assert_eq!(ids(folder.path()), expected(30));
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = FileSink::new(options(folder.path()));
    sink.open().await.unwrap();
    write(&mut sink, 0, 4).await;
    drop(sink);
    // Killed after the rename, before the new file's checkpoint.
    let path = folder.path().join("events.ndjson");
    std::fs::rename(&path, folder.path().join("events.ndjson.000000")).unwrap();
    let mut again = FileSink::new(options(folder.path()));
    assert_eq!(again.open().await.unwrap(), cursors(4));
    write(&mut again, 4, 6).await;
    assert_eq!(ids(folder.path()), expected(6));
}

#[tokio::test]
async fn old_files_go_when_only_some_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = FileSink::new(FileOptions {
        rotate_bytes: 1,
        keep: Some(2),
        ..options(folder.path())
    });
    sink.open().await.unwrap();
    for from in 0..6 {
        write(&mut sink, from, from + 1).await;
    }
    assert_eq!(ids(folder.path()), ["s-3", "s-4", "s-5"]);
}

#[tokio::test]
async fn foreign_or_damaged_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, "somebody's notes\n").unwrap();
    let refused = FileSink::new(options(folder.path())).open().await;
    assert!(matches!(refused, Err(SinkError::Blocked(_))));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "somebody's notes\n"
    );
    std::fs::write(folder.path().join("events.ndjson.cursor"), "garbage").unwrap();
    let Err(SinkError::Blocked(why)) = FileSink::new(options(folder.path())).open().await else {
        panic!()
    };
    assert!(why.contains("events.ndjson.cursor"), "{why}");
}

/// A log of so many events.
struct Log(u64);

impl EventSource for Log {
    fn shards(&self) -> Vec<String> {
        vec!["s".into()]
    }
    fn bounds(&self, _shard: &str) -> (u64, u64) {
        (0, self.0)
    }
    fn read(
        &self,
        _shard: &str,
        from: u64,
        max: usize,
    ) -> Result<(Vec<EventRecord>, u64), ReadError> {
        let to = self.0.min(from + max as u64);
        Ok(((from..to).map(record).collect(), to))
    }
    async fn grown(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

enum Fault {
    Refuse,
    /// It takes the batch, and the answer is lost.
    LoseAnswer,
    Hang,
}

/// A far side that keeps what it confirmed, and fails as it is told.
#[derive(Clone)]
struct Far {
    got: Arc<Mutex<BTreeMap<u64, usize>>>,
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
    async fn open(&mut self) -> Result<Cursors, SinkError> {
        Ok(self.kept.lock().unwrap().clone())
    }
    async fn write(&mut self, batch: &[EventRecord], cursors: &Cursors) -> Result<(), SinkError> {
        let fault = (self.fails)(self.calls.fetch_add(1, Ordering::Relaxed));
        match fault {
            Some(Fault::Refuse) => return Err(SinkError::Retry("refused".into())),
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        for record in batch {
            *self.got.lock().unwrap().entry(record.offset).or_default() += 1;
        }
        self.kept.lock().unwrap().clone_from(cursors);
        if fault.is_some() {
            Err(SinkError::Retry("the answer is lost".into()))
        } else {
            Ok(())
        }
    }
}

fn quick() -> PipelineOptions {
    PipelineOptions {
        batch_max: 7,
        write_timeout: Duration::from_millis(50),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(5),
    }
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to pass");
}

#[tokio::test]
async fn a_far_side_that_refuses_hangs_and_loses_answers_gets_everything_once() {
    let far = Far::that(|call| match call % 5 {
        1 => Some(Fault::Refuse),
        2 => Some(Fault::LoseAnswer),
        3 => Some(Fault::Hang),
        _ => None,
    });
    let pipeline = Pipeline::start("far", far.clone(), Arc::new(Log(200)), quick());
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
        Arc::new(Log(100)),
        quick(),
    );
    let fine = Pipeline::start("fine", healthy.clone(), Arc::new(Log(100)), quick());
    until(|| healthy.got.lock().unwrap().len() == 100).await;
    until(|| stuck.status().state == SinkState::Retrying).await;
    assert!(stuck.status().last_error.unwrap().contains("too long"));
    stuck.stop().await;
    fine.stop().await;
}
