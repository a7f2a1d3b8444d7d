//! The file sink over kills at every moment that matters.

use std::path::Path;

use meridian_proto::v1::Alert;
use meridian_sinks::file::{FileOptions, FileSink};
use meridian_sinks::{Cursors, Event, EventRecord, Sink, SinkError};

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
    assert!(sink.open(&[]).await.unwrap().is_empty());
    write(&mut sink, 0, 3).await;
    // Killed between the write and the note of the cursor.
    let path = folder.path().join("events.ndjson");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"event_id\":\"s-3\"}\n{\"event_id\":\"s-");
    std::fs::write(&path, text).unwrap();
    let mut again = FileSink::new(options(folder.path()));
    assert_eq!(again.open(&[]).await.unwrap(), cursors(3));
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
    sink.open(&[]).await.unwrap();
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
    sink.open(&[]).await.unwrap();
    write(&mut sink, 0, 4).await;
    drop(sink);
    // Killed after the rename, before the new file's checkpoint.
    let path = folder.path().join("events.ndjson");
    std::fs::rename(&path, folder.path().join("events.ndjson.000000")).unwrap();
    let mut again = FileSink::new(options(folder.path()));
    assert_eq!(again.open(&[]).await.unwrap(), cursors(4));
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
    sink.open(&[]).await.unwrap();
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
    let refused = FileSink::new(options(folder.path())).open(&[]).await;
    assert!(matches!(refused, Err(SinkError::Blocked(_))));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "somebody's notes\n"
    );
    std::fs::write(folder.path().join("events.ndjson.cursor"), "garbage").unwrap();
    let Err(SinkError::Blocked(why)) = FileSink::new(options(folder.path())).open(&[]).await else {
        panic!()
    };
    assert!(why.contains("events.ndjson.cursor"), "{why}");
}
