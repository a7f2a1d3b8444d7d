//! The sink.

use tokio_postgres::Transaction;

use super::TimescaleOptions;
use super::connection::{Connection, connect};
use super::failure::{is_of_the_data, sink_error, words};
use super::rows::{ALERTS, POSITIONS, Row, alert_row, position_row};
use super::schema::{extend, migrate};
use crate::json;
use crate::sink::{Confirmed, Cursors, Event, EventRecord, FarSide, Sink, SinkError};

/// Writes events to PostgreSQL, exactly once.
pub struct TimescaleSink {
    options: TimescaleOptions,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    /// As the database has them.
    cursors: Cursors,
}

impl TimescaleSink {
    /// A sink to the database that `options` name; nothing is touched before [`Sink::open`].
    #[must_use]
    pub fn new(options: TimescaleOptions) -> Self {
        TimescaleSink {
            options,
            open: None,
        }
    }
}

impl Sink for TimescaleSink {
    const KIND: &'static str = "timescale";
    const FAR_SIDE: FarSide = FarSide::Shared;

    async fn open(&mut self, _shards: &[String]) -> Result<Cursors, SinkError> {
        self.open = None;
        let mut connection = connect(&self.options).await?;
        let client = &mut connection.client;
        migrate(client, &self.options).await?;
        extend(client, &self.options).await?;
        let error = |error| sink_error(&error);
        for table in [POSITIONS, ALERTS] {
            table.stage(client).await.map_err(error)?;
        }
        let select = "select shard, next_offset from meridian_cursors where sink = $1";
        let rows = client.query(select, &[&self.options.sink]).await;
        let mut cursors = Cursors::new();
        for row in rows.map_err(error)? {
            let next = u64::try_from(row.get::<_, i64>(1)).map_err(|_| {
                SinkError::Blocked("meridian_cursors has an offset below zero".into())
            })?;
            cursors.insert(row.get(0), next);
        }
        self.open = Some(Open {
            connection,
            cursors: cursors.clone(),
        });
        Ok(cursors)
    }

    async fn write(
        &mut self,
        batch: &[EventRecord],
        cursors: &Cursors,
    ) -> Result<Confirmed, SinkError> {
        // Taken: a write that is dropped halfway leaves no connection behind that still holds its transaction.
        let Some(mut open) = self.open.take() else {
            return Err(SinkError::Retry("the connection is closed".into()));
        };
        let work = open.connection.client.transaction().await;
        let work = work.map_err(|error| sink_error(&error))?;
        // First, because its row locks make others wait who write under the same name.
        move_cursors(&work, &self.options.sink, &open.cursors, cursors).await?;
        let dead = insert(work, &self.options.sink, batch).await;
        let dead_letters = dead.map_err(|error| sink_error(&error))?;
        open.cursors.clone_from(cursors);
        self.open = Some(open);
        Ok(Confirmed { dead_letters })
    }
}

/// Moves the cursors from where we believe them to be, and refuses if they are elsewhere.
async fn move_cursors(
    work: &Transaction<'_>,
    sink: &str,
    from: &Cursors,
    to: &Cursors,
) -> Result<(), SinkError> {
    for (shard, next) in to
        .iter()
        .filter(|(shard, next)| from.get(*shard) != Some(next))
    {
        let offset = |offset: u64| {
            i64::try_from(offset)
                .map_err(|_| SinkError::Blocked(format!("offset {offset} is beyond bigint")))
        };
        let next = offset(*next)?;
        let moved = match from.get(shard) {
            None => {
                let insert = "insert into meridian_cursors (sink, shard, next_offset) values ($1, $2, $3) \
                              on conflict do nothing";
                work.execute(insert, &[&sink, shard, &next]).await
            }
            Some(before) => {
                let update = "update meridian_cursors set next_offset = $3, updated = now() \
                              where sink = $1 and shard = $2 and next_offset = $4";
                work.execute(update, &[&sink, shard, &next, &offset(*before)?])
                    .await
            }
        };
        if moved.map_err(|error| sink_error(&error))? != 1 {
            return Err(SinkError::Retry(format!(
                "another writer has moved the cursor of {shard}; where it is now is read again"
            )));
        }
    }
    Ok(())
}

/// Inserts and commits. Rows that the database refuses are found by halving, and put aside in the same transaction.
async fn insert(
    mut work: Transaction<'_>,
    sink: &str,
    batch: &[EventRecord],
) -> Result<u64, tokio_postgres::Error> {
    let mut dead: Vec<(&EventRecord, String)> = Vec::new();
    let mut rows: Vec<(&EventRecord, Row)> = Vec::with_capacity(batch.len());
    for record in batch {
        let row = match &record.event {
            Event::Position(position) => position_row(position),
            Event::Alert(alert) => alert_row(alert),
        };
        match row {
            Ok(row) => rows.push((record, row)),
            Err(reason) => dead.push((record, reason)),
        }
    }
    let mut pieces: Vec<&[(&EventRecord, Row)]> = vec![&rows];
    while let Some(piece) = pieces.pop() {
        let savepoint = work.transaction().await?;
        match insert_piece(&savepoint, piece).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if is_of_the_data(&error) => {
                savepoint.rollback().await?;
                match piece {
                    [(record, _)] => dead.push((record, words(&error))),
                    more => {
                        let (left, right) = more.split_at(more.len() / 2);
                        pieces.extend([right, left]);
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    for (record, reason) in &dead {
        bury(&work, sink, record, reason).await?;
    }
    work.commit().await?;
    Ok(dead.len() as u64)
}

async fn insert_piece(
    work: &Transaction<'_>,
    piece: &[(&EventRecord, Row)],
) -> Result<(), tokio_postgres::Error> {
    let of = |wanted: fn(&Event) -> bool| -> Vec<&Row> {
        let chosen = piece.iter().filter(|(record, _)| wanted(&record.event));
        chosen.map(|(_, row)| row).collect()
    };
    let positions = of(|event| matches!(event, Event::Position(_)));
    let alerts = of(|event| matches!(event, Event::Alert(_)));
    POSITIONS.insert(work, &positions).await?;
    ALERTS.insert(work, &alerts).await
}

async fn bury(
    work: &Transaction<'_>,
    sink: &str,
    record: &EventRecord,
    reason: &str,
) -> Result<(), tokio_postgres::Error> {
    tracing::error!(
        sink,
        shard = record.shard,
        offset = record.offset,
        reason,
        "An event cannot be a row."
    );
    let mut event = Vec::new();
    json::write_event(&mut event, &record.event);
    let offset = i64::try_from(record.offset).unwrap_or(i64::MAX);
    let insert = "insert into meridian_dead_letters (sink, shard, \"offset\", reason, event) \
                  values ($1, $2, $3, $4, $5) on conflict do nothing";
    work.execute(insert, &[&sink, &record.shard, &offset, &reason, &event])
        .await
        .map(|_| ())
}
