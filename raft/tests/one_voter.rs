//! A group of one voter: what it acknowledged is there again, and a store that is not ours to open is left alone.
#![allow(missing_docs)]
#![allow(clippy::print_stdout, reason = "figures for who runs it by hand")]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_raft::{
    Birth, Committed, Group, GroupOptions, OpenError, StateMachine, StateReader, StateWrites,
    Storage, StorageOptions, Transport,
};

/// Chains all commands into one number, so that a lost, repeated or exchanged command shows.
#[derive(Default)]
struct Chain {
    value: u64,
    count: u64,
}

impl StateMachine for Chain {
    type Reply = (u64, u64);

    fn apply(&mut self, entries: &[Committed], writes: &mut StateWrites) -> Vec<(u64, u64)> {
        let mut replies = Vec::new();
        for entry in entries {
            for byte in &entry.payload {
                self.value = (self.value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            writes.append_event(self.count, &entry.payload);
            self.count += 1;
            replies.push((self.count, self.value));
        }
        writes.put(
            b"chain",
            &[self.count.to_be_bytes(), self.value.to_be_bytes()].concat(),
        );
        replies
    }

    fn restore(&mut self, reader: &StateReader) {
        reader.scan(b"chain", &mut |_, row| {
            self.count = u64::from_be_bytes(row[..8].try_into().expect("16 bytes"));
            self.value = u64::from_be_bytes(row[8..].try_into().expect("16 bytes"));
        });
    }
}

async fn open(storage: &Storage, flush_after_entries: u64) -> Group<Chain> {
    let options = GroupOptions {
        flush_after_entries,
        keep_entries: 10,
        ..GroupOptions::new(1)
    };
    let alone = Transport::alone(1);
    let group = Group::open(
        storage,
        "hel",
        &options,
        Chain::default(),
        &alone,
        Birth::Alone,
    )
    .await
    .expect("opens");
    group
        .wait_until_leader(Duration::from_secs(5))
        .await
        .expect("leads");
    group
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_100_proposers_were_told_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(folder.path(), StorageOptions::default()).expect("opens");
    let begun = Instant::now();
    // 3,000 entries to a flush: the log is purged on the way, and its end is replayed.
    let group = open(&storage, 3000).await;
    println!("led after {:?}", begun.elapsed());
    let begun = Instant::now();
    let proposers: Vec<_> = (0..100u8)
        .map(|proposer| {
            let group = group.clone();
            tokio::spawn(async move {
                let mut last = (0, 0);
                for _ in 0..100 {
                    last = group
                        .propose(Bytes::from(vec![proposer; 200]))
                        .await
                        .expect("applied");
                }
                last
            })
        })
        .collect();
    let mut last = (0, 0);
    for proposer in proposers {
        last = last.max(proposer.await.expect("no panic"));
    }
    assert_eq!(last.0, 10_000);
    println!(
        "10,000 proposals of 200 bytes from 100 proposers: {:.0}/s",
        10_000.0 / begun.elapsed().as_secs_f64()
    );
    group.shutdown().await;
    drop(group);
    copy(folder.path(), &folder.path().join("crashed"));

    let storage = Storage::open(&folder.path().join("crashed"), StorageOptions::default())
        .expect("opens the copy");
    let group = open(&storage, 3000).await;
    let again = group.propose(Bytes::new()).await.expect("applied");
    assert_eq!(
        again,
        (10_001, last.1),
        "an empty command leaves the chain as it was"
    );
    assert!(
        group.status().purged_index > 0,
        "the flush let the log be purged"
    );
    let events = storage.reader("hel").events(9_990, 100).expect("readable");
    assert_eq!(
        events.iter().map(|event| event.0).collect::<Vec<_>>(),
        (9_990..=10_000).collect::<Vec<_>>()
    );
}

/// The files as a kill would leave them: the first store is still open, its memory never flushed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for file in std::fs::read_dir(from).expect("listed") {
        let file = file.expect("readable");
        if file.path().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_second_process_is_refused_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = Storage::open(folder.path(), StorageOptions::default()).expect("opens");
    let second = Storage::open(folder.path(), StorageOptions::default()).err();
    assert!(
        matches!(second, Some(OpenError::InUse { .. })),
        "{second:?}"
    );
}
