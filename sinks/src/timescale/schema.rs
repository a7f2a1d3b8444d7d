//! The tables: numbered migrations, and what extensions add.

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use super::TimescaleOptions;
use super::failure::{sink_error, words};
use crate::sink::SinkError;

/// In their order; the first is number 1. What was released is never changed.
const MIGRATIONS: [(&str, &str); 1] = [("tables", include_str!("migrations/0001_tables.sql"))];

/// Names the lock under which the schema is changed: `MERIDIAN` in ASCII.
const LOCK: i64 = 0x4d45_5249_4449_414e;

/// Brings the schema to this version. Nodes that start together wait for one another.
pub(super) async fn migrate(
    client: &mut Client,
    options: &TimescaleOptions,
) -> Result<(), SinkError> {
    let migrated = async {
        let work = client.transaction().await?;
        work.execute("select pg_advisory_xact_lock($1)", &[&LOCK])
            .await?;
        let version = version(&work).await?;
        let known = MIGRATIONS.len();
        if version > known {
            return Ok(Err(SinkError::Blocked(format!(
                "the tables are of version {version}, and this Meridian knows versions up to {known}: update it"
            ))));
        }
        for (at, (name, sql)) in MIGRATIONS.iter().enumerate().skip(version) {
            let number = i32::try_from(at + 1).unwrap_or(i32::MAX);
            work.batch_execute(sql).await?;
            work.execute(
                "insert into meridian_migrations (version, name) values ($1, $2)",
                &[&number, name],
            )
            .await?;
            tracing::info!(sink = %options.sink, number, name, "The database's tables were migrated.");
        }
        work.commit().await?;
        Ok(Ok(()))
    };
    migrated.await.map_err(|error| sink_error(&error))?
}

async fn version(work: &Transaction<'_>) -> Result<usize, tokio_postgres::Error> {
    let there = "select to_regclass('meridian_migrations') is not null";
    if !work.query_one(there, &[]).await?.get::<_, bool>(0) {
        let create = "create table meridian_migrations (version integer primary key, name text not null, \
                      applied timestamptz not null default now())";
        work.batch_execute(create).await?;
    }
    let newest = "select coalesce(max(version), 0) from meridian_migrations";
    let version: i32 = work.query_one(newest, &[]).await?.get(0);
    Ok(usize::try_from(version).unwrap_or(0))
}

/// Uses the extensions that are there. What an extension refuses is said, and rows are written all the same.
pub(super) async fn extend(
    client: &mut Client,
    options: &TimescaleOptions,
) -> Result<(), SinkError> {
    let error = |error| sink_error(&error);
    let extensions = client
        .query(
            "select extname::text from pg_extension where extname in ('timescaledb', 'postgis')",
            &[],
        )
        .await
        .map_err(error)?;
    let has = |name: &str| extensions.iter().any(|row| row.get::<_, String>(0) == name);
    if has("timescaledb") {
        for (what, sql) in timescale_steps(options) {
            step(client, options, what, &sql).await?;
        }
    } else if options.retention.is_some() {
        tracing::warn!(
            sink = %options.sink,
            "The database has no TimescaleDB extension, so nothing is dropped: retention has no effect."
        );
    }
    if has("postgis") {
        step(client, options, "the column location", POSTGIS).await?;
    }
    Ok(())
}

/// Only while the table is empty: a rewrite of a large one is for a person to plan.
const POSTGIS: &str = "do $$ begin
    if not exists (select from pg_attribute where attrelid = 'positions'::regclass and attname = 'location')
        and not exists (select from positions) then
        alter table positions add column location geography(Point, 4326)
            generated always as (st_setsrid(st_makepoint(lon, lat), 4326)::geography) stored;
        create index positions_location on positions using gist (location);
    end if;
end $$";

fn timescale_steps(options: &TimescaleOptions) -> Vec<(&'static str, String)> {
    let mut steps = vec![(
        "hypertables",
        "do $$ declare t text; begin
            foreach t in array array['positions', 'alerts'] loop
                if not exists (select from timescaledb_information.hypertables
                        where hypertable_schema = current_schema() and hypertable_name = t) then
                    -- Refused while the table has rows: moving many is for a person to plan.
                    perform create_hypertable(t::regclass, 'time', chunk_time_interval => interval '1 day');
                end if;
            end loop;
        end $$"
            .to_owned(),
    )];
    let policy = |kind: &str, add: &str, after: Option<Duration>| {
        let mut sql = String::new();
        for table in ["positions", "alerts"] {
            sql += &format!("select remove_{kind}_policy('{table}', if_exists => true);\n");
            if let Some(after) = after {
                let seconds = after.as_secs();
                sql += &format!(
                    "select add_{kind}_policy('{table}', {add} => make_interval(secs => {seconds}));\n"
                );
            }
        }
        sql
    };
    if options.compress_after.is_some() {
        let compress = |table| {
            format!(
                "alter table {table} set (timescaledb.compress, timescaledb.compress_segmentby = 'device', \
                 timescaledb.compress_orderby = 'time desc');\n"
            )
        };
        let sql = compress("positions") + &compress("alerts");
        steps.push((
            "compression",
            // A table with compressed chunks keeps its settings.
            format!(
                "do $$ begin if not exists (select from timescaledb_information.compression_settings
                    where hypertable_schema = current_schema() and hypertable_name in ('positions', 'alerts')) then
                 {sql} end if; end $$"
            ),
        ));
        steps.push((
            "the compression policy",
            policy("compression", "compress_after", options.compress_after),
        ));
    }
    steps.push((
        "the retention policy",
        policy("retention", "drop_after", options.retention),
    ));
    steps.push((
        "the hourly aggregate",
        "create materialized view if not exists positions_hourly with (timescaledb.continuous) as
            select device, region, time_bucket(interval '1 hour', time) as hour, count(*) as reports,
                sum(distance_m) as distance_m, max(coalesce(speed_mps, speed_calc_mps)) as speed_max_mps,
                last(lat, time) as lat, last(lon, time) as lon
            from positions group by device, region, hour
            with no data;
         select add_continuous_aggregate_policy('positions_hourly', start_offset => interval '7 days',
            end_offset => interval '1 hour', schedule_interval => interval '30 minutes', if_not_exists => true)"
            .to_owned(),
    ));
    steps
}

/// One transaction; a refusal of the server is a warning, a lost connection an error.
async fn step(
    client: &mut Client,
    options: &TimescaleOptions,
    what: &str,
    sql: &str,
) -> Result<(), SinkError> {
    let done = async {
        let work = client.transaction().await?;
        work.execute("select pg_advisory_xact_lock($1)", &[&LOCK])
            .await?;
        work.batch_execute(sql).await?;
        work.commit().await
    };
    match done.await {
        Err(error) if error.as_db_error().is_none() => Err(sink_error(&error)),
        Err(error) => {
            let error = words(&error);
            tracing::warn!(sink = %options.sink, error, "The database does without {what}.");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
