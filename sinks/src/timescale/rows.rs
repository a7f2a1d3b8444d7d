//! Events as rows, by binary COPY into a staging table and from there into the real one.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use meridian_proto::v1::{Alert, EnrichedPosition};
use serde_json::value::RawValue;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, Json, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Transaction};

type Value = Box<dyn ToSql + Sync + Send>;
/// Values in the order of the table's columns.
pub(super) type Row = Vec<Value>;

/// A table and its columns, in the order of the migration.
pub(super) struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Type)],
}

pub(super) const POSITIONS: Table = Table {
    name: "positions",
    columns: &[
        ("time", Type::TIMESTAMPTZ),
        ("device", Type::TEXT),
        ("region", Type::TEXT),
        ("lat", Type::FLOAT8),
        ("lon", Type::FLOAT8),
        ("speed_mps", Type::FLOAT8),
        ("course_deg", Type::FLOAT8),
        ("accuracy_m", Type::FLOAT8),
        ("alt_m", Type::FLOAT8),
        ("battery_pct", Type::FLOAT8),
        ("ignition", Type::BOOL),
        ("odometer_m", Type::FLOAT8),
        ("alarm", Type::TEXT),
        ("attrs", Type::JSONB),
        ("distance_m", Type::FLOAT8),
        ("speed_calc_mps", Type::FLOAT8),
        ("odometer_calc_m", Type::FLOAT8),
        ("fences", Type::TEXT_ARRAY),
        ("suppressed", Type::INT8),
        ("late", Type::BOOL),
        ("received", Type::TIMESTAMPTZ),
        ("event_id", Type::TEXT),
        ("shard", Type::TEXT),
        ("offset", Type::INT8),
    ],
};

pub(super) const ALERTS: Table = Table {
    name: "alerts",
    columns: &[
        ("time", Type::TIMESTAMPTZ),
        ("device", Type::TEXT),
        ("region", Type::TEXT),
        ("type", Type::TEXT),
        ("fence_id", Type::TEXT),
        ("fence_name", Type::TEXT),
        ("fence_rev", Type::INT8),
        ("lat", Type::FLOAT8),
        ("lon", Type::FLOAT8),
        ("previous_time", Type::TIMESTAMPTZ),
        ("previous_lat", Type::FLOAT8),
        ("previous_lon", Type::FLOAT8),
        ("dwell_ms", Type::INT8),
        ("limit_mps", Type::FLOAT8),
        ("value_mps", Type::FLOAT8),
        ("reason", Type::TEXT),
        ("received", Type::TIMESTAMPTZ),
        ("event_id", Type::TEXT),
        ("shard", Type::TEXT),
        ("offset", Type::INT8),
    ],
};

impl Table {
    /// Makes the connection's staging table, emptied by each commit.
    pub(super) async fn stage(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let name = self.name;
        let create = format!(
            "create temporary table meridian_{name}_in (like {name}) on commit delete rows"
        );
        client.batch_execute(&create).await
    }

    /// Adds rows; those that are there already stay as they are.
    pub(super) async fn insert(
        &self,
        work: &Transaction<'_>,
        rows: &[&Row],
    ) -> Result<(), tokio_postgres::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let name = self.name;
        let quoted = |(column, _): &(&str, Type)| format!("\"{column}\"");
        let columns = self
            .columns
            .iter()
            .map(quoted)
            .collect::<Vec<_>>()
            .join(", ");
        let copy = format!("copy meridian_{name}_in ({columns}) from stdin (format binary)");
        let types: Vec<Type> = self.columns.iter().map(|(_, of)| of.clone()).collect();
        let writer = BinaryCopyInWriter::new(work.copy_in(&copy).await?, &types);
        let mut writer = std::pin::pin!(writer);
        for row in rows {
            let mut values: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(row.len());
            for value in *row {
                values.push(&**value);
            }
            writer.as_mut().write(&values).await?;
        }
        writer.finish().await?;
        let insert = format!(
            "insert into {name} ({columns}) select {columns} from meridian_{name}_in on conflict do nothing"
        );
        work.batch_execute(&insert).await?;
        work.batch_execute(&format!("delete from meridian_{name}_in"))
            .await
    }
}

/// # Errors
/// Why it can never be a row.
pub(super) fn position_row(position: &EnrichedPosition) -> Result<Row, String> {
    let fix = position
        .position
        .as_ref()
        .ok_or("the position has no coordinate")?;
    let attrs = match &fix.attrs_json {
        None => None,
        Some(text) => {
            let raw = RawValue::from_string(text.clone());
            Some(Json(raw.map_err(|error| format!("attrs: {error}"))?))
        }
    };
    Ok(vec![
        value(Timestamp::new(fix.ts_ms)?),
        value(position.device.clone()),
        value(position.region.clone()),
        value(fix.lat_deg),
        value(fix.lon_deg),
        value(fix.speed_mps),
        value(fix.course_deg),
        value(fix.accuracy_m),
        value(fix.alt_m),
        value(fix.battery_pct),
        value(fix.ignition),
        value(fix.odometer_m),
        value(fix.alarm.clone()),
        value(attrs),
        value(position.distance_m),
        value(position.speed_calc_mps),
        value(position.odometer_calc_m),
        value(position.fences.clone()),
        value(whole("suppressed", position.suppressed)?),
        value(position.late),
        value(Timestamp::new(position.received_ts_ms)?),
        value(position.event_id.clone()),
        value(position.shard.clone()),
        value(whole("offset", position.offset)?),
    ])
}

/// # Errors
/// Why it can never be a row.
pub(super) fn alert_row(alert: &Alert) -> Result<Row, String> {
    let fence = alert.fence.as_ref();
    let fence_rev = fence
        .map(|fence| whole("fence_rev", fence.rev))
        .transpose()?;
    let (position, previous) = (alert.position.as_ref(), alert.previous.as_ref());
    let previous_time = previous.map(|fix| Timestamp::new(fix.ts_ms)).transpose()?;
    Ok(vec![
        value(Timestamp::new(alert.ts_ms)?),
        value(alert.device.clone()),
        value(alert.region.clone()),
        value(alert.r#type.clone()),
        value(fence.map(|fence| fence.id.clone())),
        value(fence.map(|fence| fence.name.clone())),
        value(fence_rev),
        value(position.map(|fix| fix.lat_deg)),
        value(position.map(|fix| fix.lon_deg)),
        value(previous_time),
        value(previous.map(|fix| fix.lat_deg)),
        value(previous.map(|fix| fix.lon_deg)),
        value(alert.dwell_ms),
        value(alert.limit_mps),
        value(alert.value_mps),
        value(alert.reason.clone()),
        value(Timestamp::new(alert.received_ts_ms)?),
        value(alert.event_id.clone()),
        value(alert.shard.clone()),
        value(whole("offset", alert.offset)?),
    ])
}

fn value(of: impl ToSql + Sync + Send + 'static) -> Value {
    Box::new(of)
}

fn whole(what: &str, number: u64) -> Result<i64, String> {
    i64::try_from(number).map_err(|_| format!("{what} {number} is beyond bigint"))
}

/// Microseconds since 2000-01-01, as PostgreSQL sends and stores them.
#[derive(Debug)]
struct Timestamp(i64);

impl Timestamp {
    /// 2000-01-01T00:00:00Z, epoch milliseconds.
    const EPOCH_MS: i64 = 946_684_800_000;

    fn new(epoch_ms: i64) -> Result<Self, String> {
        let micros = epoch_ms
            .checked_sub(Self::EPOCH_MS)
            .and_then(|ms| ms.checked_mul(1000));
        micros
            .map(Timestamp)
            .ok_or_else(|| format!("the time {epoch_ms} ms is beyond timestamptz"))
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
