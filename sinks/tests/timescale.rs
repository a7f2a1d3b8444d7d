//! The PostgreSQL sink against a real server, which is killed, frozen and started anew.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian_proto::v1::Alert;
use meridian_sinks::timescale::{TimescaleOptions, TimescaleSink};
use meridian_sinks::{Cursors, Event, EventRecord, Pipeline, Sink, SinkError, SinkState};
use serde_json::{Value, json};
use support::postgres::Postgres;
use support::{Logs, quick, record, records, until};

fn options(postgres: &Postgres) -> TimescaleOptions {
    let mut options = TimescaleOptions::new("history", &postgres.url(), None).unwrap();
    options.timeout = Duration::from_secs(1);
    options
}

fn sink(postgres: &Postgres) -> TimescaleSink {
    TimescaleSink::new(options(postgres))
}

fn cursors(next: u64) -> Cursors {
    Cursors::from([("s".to_owned(), next)])
}

async fn write(sink: &mut TimescaleSink, from: u64, to: u64) -> Result<u64, SinkError> {
    let confirmed = sink.write(&records("s", from, to), &cursors(to)).await?;
    Ok(confirmed.dead_letters)
}

/// Shards and offsets of all rows of both tables, in order, each as often as it is there.
fn places(postgres: &Postgres) -> Vec<String> {
    let rows = postgres.query(
        "select shard || '-' || \"offset\" from (select shard, \"offset\" from positions union all \
         select shard, \"offset\" from alerts) e order by shard, \"offset\"",
    );
    rows.lines().map(str::to_owned).collect()
}

fn expected(shard: &str, count: u64) -> Vec<String> {
    (0..count)
        .map(|offset| format!("{shard}-{offset}"))
        .collect()
}

#[tokio::test]
async fn every_field_stands_in_its_column() {
    let postgres = Postgres::start();
    let mut sink = sink(&postgres);
    assert_eq!(sink.open(&[]).await.unwrap(), Cursors::new());
    assert_eq!(write(&mut sink, 0, 3).await.unwrap(), 0);
    let row = |sql: &str| -> Value { serde_json::from_str(&postgres.query(sql)).unwrap() };
    assert_eq!(
        row("select row_to_json(p) from positions p where \"offset\" = 1"),
        json!({
            "time": "2025-11-24T16:00:00.124+00:00", "device": "truck-1", "region": "us-east", "lat": 40.7128, "lon": -74.006,
            "speed_mps": 12.4, "course_deg": null, "accuracy_m": null, "alt_m": null, "battery_pct": null, "ignition": null,
            "odometer_m": null, "alarm": null, "attrs": {"driver": "ann", "load": [1, 2.5]}, "distance_m": 51.5,
            "speed_calc_mps": null, "odometer_calc_m": 1_000_000, "fences": ["depot-3", "town"], "suppressed": 3,
            "late": false, "received": "2025-11-24T16:00:00.132+00:00", "event_id": "s-1", "shard": "s", "offset": 1,
        })
    );
    assert_eq!(
        row("select row_to_json(a) from alerts a"),
        json!({
            "time": "2025-11-24T16:00:00.125+00:00", "device": "truck-2", "region": "us-east", "type": "geofenceEnter",
            "fence_id": "depot-3", "fence_name": "Depot 3", "fence_rev": 7, "lat": 40.7128, "lon": -74.006,
            "previous_time": "2025-11-24T16:00:00.125+00:00", "previous_lat": 40.7128, "previous_lon": -74.006,
            "dwell_ms": null, "limit_mps": null, "value_mps": null, "reason": null,
            "received": "2025-11-24T16:00:00.132+00:00", "event_id": "s-2", "shard": "s", "offset": 2,
        })
    );
}

#[tokio::test]
async fn the_cursor_stands_beside_the_rows_and_is_read_back() {
    let postgres = Postgres::start();
    let mut first = sink(&postgres);
    first.open(&[]).await.unwrap();
    write(&mut first, 0, 10).await.unwrap();
    first.write(&[], &cursors(400)).await.unwrap();
    drop(first);
    let mut second = sink(&postgres);
    assert_eq!(second.open(&[]).await.unwrap(), cursors(400));
    assert_eq!(
        postgres.query("select sink, shard, next_offset from meridian_cursors"),
        "history|s|400"
    );
    // Another sink has a cursor of its own, and adds no row that is there.
    let mut other =
        TimescaleSink::new(TimescaleOptions::new("other", &postgres.url(), None).unwrap());
    assert_eq!(other.open(&[]).await.unwrap(), Cursors::new());
    write(&mut other, 0, 10).await.unwrap();
    assert_eq!(places(&postgres), expected("s", 10));
}

#[tokio::test]
async fn a_deposed_writer_is_refused_and_finds_out_where_things_are() {
    let postgres = Postgres::start();
    let (mut old, mut new) = (sink(&postgres), sink(&postgres));
    old.open(&[]).await.unwrap();
    write(&mut old, 0, 5).await.unwrap();
    assert_eq!(new.open(&[]).await.unwrap(), cursors(5));
    write(&mut new, 5, 20).await.unwrap();
    let Err(SinkError::Retry(why)) = write(&mut old, 5, 9).await else {
        panic!("two writers moved one cursor")
    };
    assert!(why.contains("another writer"), "{why}");
    assert_eq!(old.open(&[]).await.unwrap(), cursors(20));
    assert_eq!(places(&postgres), expected("s", 20));
}

#[tokio::test]
async fn what_a_device_calls_itself_is_a_value_and_never_sql() {
    let postgres = Postgres::start();
    let names = [
        "'; DROP TABLE positions;--",
        "x'||pg_sleep(5)||'",
        "\\N",
        "tab\tline\nquote\"",
        "ünï😀",
        "",
    ];
    let batch: Vec<EventRecord> = (0..)
        .zip(names)
        .map(|(offset, name)| {
            let mut record = record("s", offset * 3);
            if let Event::Position(position) = &mut record.event {
                position.device = name.into();
                position.fences = vec![name.into(), "{a,b}".into()];
            }
            record
        })
        .collect();
    let mut sink = sink(&postgres);
    sink.open(&[]).await.unwrap();
    sink.write(&batch, &cursors(20)).await.unwrap();
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let expected: Vec<String> = names.map(|name| format!("{0}|{0}", hex(name))).into();
    let stored = postgres.query(
        "select encode(convert_to(device, 'UTF8'), 'hex'), encode(convert_to(fences[1], 'UTF8'), 'hex') \
         from positions order by \"offset\"",
    );
    assert_eq!(stored, expected.join("\n"));
}

#[tokio::test]
async fn rows_that_the_database_refuses_are_put_aside_and_hold_up_no_other() {
    let postgres = Postgres::start();
    let mut batch = records("s", 0, 200);
    let alert = |record: &mut EventRecord, change: fn(&mut Alert)| match &mut record.event {
        Event::Alert(alert) => change(alert),
        Event::Position(_) => panic!("no alert stands here"),
    };
    alert(&mut batch[2], |alert| alert.device = "nul\0byte".into());
    // A key longer than a B-tree takes, and of a kind that does not compress.
    alert(&mut batch[5], |alert| {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            char::from(b'!' + (state >> 8) as u8 % 90)
        });
        alert.device = noise.take(20_000).collect();
    });
    alert(&mut batch[101], |alert| alert.ts_ms = i64::MAX);
    // Before 4713 BC, where timestamptz begins.
    alert(&mut batch[104], |alert| alert.ts_ms = -300_000_000_000_000);
    if let Event::Position(position) = &mut batch[199].event {
        let fix = position.position.as_mut().unwrap();
        fix.attrs_json = Some(r#"{"a":"\u0000"}"#.into());
    }
    let mut sink = sink(&postgres);
    sink.open(&[]).await.unwrap();
    let confirmed = sink.write(&batch, &cursors(200)).await.unwrap();
    assert_eq!(confirmed.dead_letters, 5);
    let mut rest = expected("s", 200);
    rest.retain(|id| !["s-2", "s-5", "s-101", "s-104", "s-199"].contains(&&**id));
    let mut there = places(&postgres);
    there.sort_by_key(|id| id[2..].parse::<u64>().unwrap());
    assert_eq!(there, rest);
    let dead = postgres.query("select \"offset\", reason from meridian_dead_letters order by 1");
    for (line, (offset, reason)) in dead.lines().zip([
        (2, "invalid byte sequence"),
        (5, "index row"),
        (101, "timestamptz"),
        (104, "timestamp out of range"),
        (199, "unsupported Unicode escape"),
    ]) {
        assert!(
            line.starts_with(&format!("{offset}|")) && line.contains(reason),
            "{line} should be about {reason}"
        );
    }
    let event =
        "select convert_from(event, 'UTF8') from meridian_dead_letters where \"offset\" = 2";
    let event: Value = serde_json::from_str(&postgres.query(event)).unwrap();
    assert_eq!(event["device"], "nul\0byte");
    assert_eq!(sink.open(&[]).await.unwrap(), cursors(200));
}

#[tokio::test]
async fn nodes_that_start_together_migrate_once_and_a_newer_schema_is_left_alone() {
    let postgres = Postgres::start();
    let opened = (0..6).map(|_| {
        let mut sink = sink(&postgres);
        tokio::spawn(async move { sink.open(&[]).await.map_err(|error| error.to_string()) })
    });
    for opened in opened.collect::<Vec<_>>() {
        opened.await.unwrap().unwrap();
    }
    assert_eq!(
        postgres.query("select version, name from meridian_migrations"),
        "1|tables"
    );
    postgres.query("insert into meridian_migrations (version, name) values (99, 'later')");
    let Err(SinkError::Blocked(why)) = sink(&postgres).open(&[]).await else {
        panic!("a schema that nobody here knows was taken")
    };
    assert!(why.contains("version 99"), "{why}");
}

#[tokio::test]
async fn what_needs_a_person_says_so_in_the_servers_words() {
    let postgres = Postgres::start();
    for (url, word) in [
        (postgres.url().replace("/meridian", "/nowhere"), "nowhere"),
        (postgres.url().replace("meridian@", "nobody@"), "nobody"),
    ] {
        let options = TimescaleOptions::new("history", &url, None).unwrap();
        let Err(SinkError::Blocked(why)) = TimescaleSink::new(options).open(&[]).await else {
            panic!("{url} is no case for a person")
        };
        assert!(why.contains(word), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut postgres = Postgres::prepare();
    let logs = Logs::of([("s", 120)]);
    let pipeline = Pipeline::start("history", sink(&postgres), logs, quick());
    until(|| pipeline.status().state == SinkState::Retrying).await;
    assert!(pipeline.status().last_error.is_some());
    tokio::task::block_in_place(|| postgres.run());
    until(|| pipeline.status().lag.events == 0).await;
    assert_eq!(places(&postgres).len(), 120);
    pipeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_frozen_midstream_has_every_event_once() {
    let mut postgres = Postgres::start();
    let logs = Logs::of([("a", 0), ("b", 0)]);
    let pipeline = Pipeline::start("history", sink(&postgres), Arc::clone(&logs), quick());
    let over = Arc::new(AtomicBool::new(false));
    let feeder = tokio::spawn({
        let (logs, over) = (Arc::clone(&logs), Arc::clone(&over));
        async move {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                logs.grow("a", 7);
                logs.grow("b", 4);
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            rounds
        }
    });
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(500 + 37 * round)).await;
        if round % 2 == 0 {
            tokio::task::block_in_place(|| {
                postgres.kill();
                postgres.run();
            });
        } else {
            // Longer than the sink's patience: what it gave up may still be carried out when the server wakes.
            postgres.freeze();
            until(|| pipeline.status().state == SinkState::Retrying).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            postgres.thaw();
        }
    }
    over.store(true, Ordering::Relaxed);
    let rounds = feeder.await.unwrap();
    until(|| pipeline.status().lag.events == 0).await;
    let mut there = places(&postgres);
    let mut all = [expected("a", 7 * rounds), expected("b", 4 * rounds)].concat();
    there.sort();
    all.sort();
    assert_eq!(there, all);
    assert!(pipeline.status().failed >= 6, "the server was away");
    assert_eq!(
        postgres.query("select shard, next_offset from meridian_cursors order by 1"),
        format!("a|{}\nb|{}", 7 * rounds, 4 * rounds)
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn tls_is_verified() {
    let mut postgres = Postgres::prepare();
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = postgres.put("server.crt", &signed.cert.pem());
    let key = postgres.put("server.key", &signed.signing_key.serialize_pem());
    postgres.option("ssl=on");
    postgres.option(&format!("ssl_cert_file={}", certificate.display()));
    postgres.option(&format!("ssl_key_file={}", key.display()));
    postgres.run();
    let at = |host: &str| {
        let url = format!(
            "postgres://meridian@{host}:{}/meridian?sslmode=require",
            postgres.port
        );
        TimescaleSink::new(TimescaleOptions::new("history", &url, Some(&certificate)).unwrap())
    };
    let mut trusted = at("localhost");
    trusted.open(&[]).await.unwrap();
    write(&mut trusted, 0, 3).await.unwrap();
    assert_eq!(
        postgres.query(
            "select ssl, version from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'meridian'"
        ),
        "t|TLSv1.3"
    );
    // The certificate is for another name.
    assert!(at("127.0.0.1").open(&[]).await.is_err());
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca = postgres.put("stranger.crt", &stranger.cert.pem());
    let url = format!(
        "postgres://meridian@localhost:{}/meridian?sslmode=require",
        postgres.port
    );
    let options = TimescaleOptions::new("history", &url, Some(&ca)).unwrap();
    assert!(TimescaleSink::new(options).open(&[]).await.is_err());
}

#[tokio::test]
async fn with_postgis_positions_have_a_place_that_can_be_asked_for() {
    let postgres = Postgres::start();
    postgres.query("create extension postgis");
    let mut sink = sink(&postgres);
    sink.open(&[]).await.unwrap();
    write(&mut sink, 0, 9).await.unwrap();
    sink.open(&[]).await.unwrap();
    let near = "select count(*) from positions \
                where st_dwithin(location, st_point(-74.006, 40.7129)::geography, 12)";
    assert_eq!(postgres.query(near), "6");
    let far = near.replace(", 12)", ", 11)");
    assert_eq!(postgres.query(&far), "0");
}

#[tokio::test]
async fn an_extension_that_refuses_keeps_no_row_out() {
    let postgres = Postgres::start();
    // By name it is there, and it has none of its functions.
    postgres.query(
        "insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) \
         select 99999, 'timescaledb', extowner, extnamespace, false, '0' from pg_extension limit 1",
    );
    let mut sink = sink(&postgres);
    sink.open(&[]).await.unwrap();
    write(&mut sink, 0, 9).await.unwrap();
    assert_eq!(places(&postgres), expected("s", 9));
}
