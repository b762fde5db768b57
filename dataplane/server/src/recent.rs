//! Fresh rows for queries: from the ingester in this process, or over the internal port.
//!
//! This is the adapter of [`flightcluster_query::ports::RecentRows`], and the ticket with which one
//! pod asks another.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow_flight::Ticket;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use async_trait::async_trait;
use flightcluster_catalog::{
    Epoch, Ingester, IngesterId, SchemaBytes, SequenceNumber, Table, TableId,
};
use flightcluster_ingest::{Ingest, Piece, Recent, compact_read};
use flightcluster_query::ports::{Budget, RecentRows, RecentRowsError, Silence, Silent};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::call::pass_on_request_id;
use crate::peers::Peers;

/// What one pod asks another for, as JSON in a ticket on the internal port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecentRequest {
    /// Whom the question is for.
    pub(crate) ingester: IngesterId,
    /// In which life. Another life holds other rows.
    pub(crate) epoch: Epoch,
    /// The table.
    pub(crate) table: TableId,
    /// Only rows with a higher sequence number.
    pub(crate) after: SequenceNumber,
    /// The schema the rows are to have.
    pub(crate) schema: SchemaBytes,
    /// Which of its columns are wanted; all when missing.
    pub(crate) projection: Option<Vec<usize>>,
}

/// The fresh rows of the whole cluster, as seen from this process.
#[derive(Debug)]
pub struct FreshRows {
    /// The ingester in this process, if there is one.
    pub local: Option<Arc<Ingest>>,
    /// The way to all others.
    pub peers: Arc<Peers>,
}

#[async_trait]
impl RecentRows for FreshRows {
    async fn recent_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let local = self
            .local
            .as_ref()
            .filter(|local| local.ingester().id == ingester.id);
        match local {
            Some(local) => {
                let rows =
                    LocalRows::of(local, ingester.epoch, table.id, schema, after, projection)?;
                rows.all(budget).await
            }
            None => {
                self.remote_rows(ingester, table, &schema, after, projection, budget)
                    .await
            }
        }
    }
}

/// Rows of the ingester in this process, adapted to a schema.
pub(crate) struct LocalRows {
    recent: Recent,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    ingester: Ingester,
    after: SequenceNumber,
}

impl LocalRows {
    /// The rows of now; those that are in memory are not copied, the others are read from the log one by one.
    pub(crate) fn of(
        ingest: &Ingest,
        epoch: Epoch,
        table: TableId,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
    ) -> Result<Self, RecentRowsError> {
        let too_old = || RecentRowsError::TooOld {
            ingester: ingest.ingester().name.clone(),
            after,
        };
        // Asked by someone who knows another life of this ingester: its snapshot and our rows don't
        // belong together.
        if ingest.ingester().epoch != epoch {
            return Err(too_old());
        }
        let recent = ingest.recent(table, after).map_err(|_| too_old())?;
        // The asker's snapshot is of before a column grew that it wants: its next one tells it.
        let mut held = each_once(recent.schemas());
        if held.any(|held| holds_more(held, &schema, projection)) {
            return Err(too_old());
        }
        drop(held);
        Ok(Self {
            recent,
            schema,
            projection: projection.map(<[usize]>::to_vec),
            ingester: ingest.ingester().clone(),
            after,
        })
    }

    /// The next batches, and whether they are the ingester's own no more; `None` after the last.
    pub(crate) async fn next(
        &mut self,
    ) -> Result<Option<(Vec<RecordBatch>, bool)>, RecentRowsError> {
        let piece = self.recent.next().await;
        let Some(Piece { rows, from_log }) = piece.map_err(|error| self.unreadable(error))? else {
            return Ok(None);
        };
        let adapted = rows.iter().map(|(_, batch)| {
            let batch = adapt(batch, &self.schema, self.projection.as_deref());
            let batch = batch.map_err(|source| RecentRowsError::BadAnswer {
                ingester: self.ingester.name.clone(),
                source: source.into(),
            })?;
            match from_log {
                true => compact_read(batch).map_err(|error| self.unreadable(error)),
                false => Ok(batch),
            }
        });
        let adapted = adapted.collect::<Result<Vec<_>, _>>()?;
        Ok(Some((adapted, from_log)))
    }

    async fn all(mut self, budget: &Budget) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let mut all = Vec::new();
        while let Some((batches, from_log)) = self.next().await? {
            if from_log {
                batches.iter().try_for_each(|batch| budget.take(batch))?;
            }
            all.extend(batches);
        }
        Ok(all)
    }

    fn unreadable(&self, error: flightcluster_ingest::Error) -> RecentRowsError {
        match error {
            // The log was closed: its rows are in files now.
            flightcluster_ingest::Error::Draining => RecentRowsError::TooOld {
                ingester: self.ingester.name.clone(),
                after: self.after,
            },
            error => RecentRowsError::Unreachable {
                ingester: self.ingester.name.clone(),
                url: self.ingester.url.clone(),
                source: error.into(),
            },
        }
    }
}

/// Schemas of batches, the same one not twice in a row: batches of one writer share theirs.
fn each_once<'a>(
    schemas: impl Iterator<Item = &'a SchemaRef>,
) -> impl Iterator<Item = &'a SchemaRef> {
    let mut before: Option<&SchemaRef> = None;
    schemas.filter(move |schema| {
        let same = before.replace(schema);
        !same.is_some_and(|before| Arc::ptr_eq(before, schema))
    })
}

/// Whether a wanted column of `held` may have values that its type in `schema` can't hold.
fn holds_more(held: &Schema, schema: &Schema, projection: Option<&[usize]>) -> bool {
    let narrow = |(at, field): (usize, &Field)| {
        // Columns are added at the end: most are found at their place, however many there are.
        let same_place = held.fields().get(at).map(Arc::as_ref);
        let held = same_place
            .filter(|held| held.name() == field.name())
            .or_else(|| held.field_with_name(field.name()).ok());
        held.is_some_and(|held| !flightcluster_ingest::widens(held.data_type(), field.data_type()))
    };
    let fields = schema.fields();
    match projection {
        None => fields.iter().map(Arc::as_ref).enumerate().any(narrow),
        Some(places) => places
            .iter()
            .filter_map(|at| fields.get(*at).map(|field| (*at, field.as_ref())))
            .any(narrow),
    }
}

/// Gives a batch the wanted columns: by name, null where the batch is older than the column.
fn adapt(
    batch: &RecordBatch,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, ArrowError> {
    let wanted = match projection {
        Some(columns) => Arc::new(schema.project(columns)?),
        None => Arc::clone(schema),
    };
    let columns = wanted
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => arrow_cast::cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    // A count needs no column, only the number of rows.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(wanted, columns, &options)
}

/// What a peer says next, or that it is silent.
async fn in_time<T>(
    silence: Silence,
    message: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let silent = |silent: Silent| Err(tonic::Status::deadline_exceeded(silent.to_string()));
    silence.in_time(message).await.unwrap_or_else(silent)
}

impl FreshRows {
    async fn remote_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: &Schema,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let unreachable =
            |source: Box<dyn std::error::Error + Send + Sync>| RecentRowsError::Unreachable {
                ingester: ingester.name.clone(),
                url: ingester.url.clone(),
                source,
            };
        let request = RecentRequest {
            ingester: ingester.id,
            epoch: ingester.epoch,
            table: table.id,
            after,
            schema: flightcluster_ingest::schema::encode_schema(schema),
            projection: projection.map(<[usize]>::to_vec),
        };
        let ticket = serde_json::to_vec(&request).map_err(|error| unreachable(error.into()))?;
        let mut client = self
            .peers
            .client(&ingester.url)
            .map_err(|error| unreachable(error.into()))?;
        let failed = |status: tonic::Status| match status.code() {
            Code::OutOfRange => RecentRowsError::TooOld {
                ingester: ingester.name.clone(),
                after,
            },
            _ => unreachable(status.into()),
        };
        let mut request = tonic::Request::new(Ticket::new(ticket));
        pass_on_request_id(&mut request);
        let silence = budget.silence();
        let answer = self.peers.answer(&ingester.url, client.do_get(request));
        let response = in_time(silence, answer).await.map_err(failed)?;
        let messages = response.into_inner();
        let messages = futures::stream::try_unfold(messages, move |mut messages| async move {
            let message = in_time(silence, messages.message()).await?;
            Ok::<_, FlightError>(message.map(|message| (message, messages)))
        });
        let unusable = |error: FlightError| match error {
            FlightError::Tonic(status) => failed(*status),
            other => RecentRowsError::BadAnswer {
                ingester: ingester.name.clone(),
                source: other.into(),
            },
        };
        let mut answer = FlightRecordBatchStream::new_from_flight_data(messages);
        let mut rows = Vec::new();
        while let Some(batch) = answer.try_next().await.map_err(unusable)? {
            if batch.num_rows() > 0 {
                budget.take(&batch)?;
                rows.push(batch);
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_array::{Array as _, Int32Array, Int64Array};
    use std::time::Duration;

    use arrow_schema::DataType;
    use flightcluster_catalog::{IngesterState, SchemaVersion, TableName};

    use super::*;

    /// Its kernel takes the connection and the question, as that of a paused process does.
    #[tokio::test]
    async fn an_ingester_that_says_nothing_is_out_of_reach() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ingester = Ingester {
            id: IngesterId(1),
            name: "i-1".to_owned(),
            url: format!("http://{}", listener.local_addr().unwrap()),
            epoch: Epoch(1),
            state: IngesterState::Active,
            changed_at_millis: 1,
            seen_at_millis: 1,
        };
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let table = Table {
            id: TableId(1),
            name: TableName::public("d", "t"),
            schema: flightcluster_ingest::schema::encode_schema(&schema),
            schema_version: SchemaVersion(1),
            options: std::collections::BTreeMap::new(),
            database_options: std::collections::BTreeMap::new(),
            created_at_millis: 1,
        };
        let fresh = FreshRows {
            local: None,
            peers: Arc::new(Peers::new(None)),
        };
        let budget = Budget::unlimited(Silence::up_to(Duration::from_millis(20)));
        let asked = fresh.recent_rows(&ingester, &table, schema, SequenceNumber(0), None, &budget);
        let problem = asked.await.unwrap_err();
        let RecentRowsError::Unreachable { source, .. } = problem else {
            panic!("{problem}");
        };
        assert!(source.to_string().contains("silent for 20ms"), "{source}");
    }

    /// S0-10: rows older than a column have nulls in it.
    #[test]
    fn a_batch_is_adapted_by_column_name() {
        let old = Schema::new(vec![
            Field::new("b", DataType::Int32, true),
            Field::new("a", DataType::Int64, true),
        ]);
        let batch = RecordBatch::try_new(
            Arc::new(old),
            vec![
                Arc::new(Int32Array::from(vec![1, 2])),
                Arc::new(Int64Array::from(vec![3, 4])),
            ],
        )
        .unwrap();
        let new = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Int64, true),
            Field::new("c", DataType::Utf8, true),
        ]));
        let all = adapt(&batch, &new, None).unwrap();
        assert_eq!(all.schema(), new);
        assert_eq!(all.column(1).as_ref(), &Int64Array::from(vec![1, 2]));
        assert_eq!(all.column(2).null_count(), 2);
        let none = adapt(&batch, &new, Some(&[])).unwrap();
        assert_eq!((none.num_columns(), none.num_rows()), (0, 2));
        let one = adapt(&batch, &new, Some(&[2])).unwrap();
        assert_eq!(one.schema().field(0).name(), "c");
    }

    /// Asked for in a type of before a column grew, rows would lose values.
    #[test]
    fn rows_of_a_wider_type_than_asked_for_are_noticed() {
        let schema = |of| Schema::new(vec![Field::new("a", of, true)]);
        let held = schema(DataType::Int64);
        for (asked, more) in [
            (DataType::Int64, false),
            (DataType::Int32, true),
            (DataType::Float64, true),
            (DataType::Null, true),
        ] {
            let asked = schema(asked);
            assert_eq!(holds_more(&held, &asked, None), more, "{asked}");
        }
        let other = Schema::new(vec![Field::new("b", DataType::Int8, true)]);
        assert!(!holds_more(&held, &other, None));
    }

    /// A query that does not read the column that grew needs no other snapshot.
    #[test]
    fn only_wanted_columns_are_looked_at() {
        let schema = |columns: &[(&str, DataType)]| {
            let field = |(name, of): &(&str, DataType)| Field::new(*name, of.clone(), true);
            Schema::new(columns.iter().map(field).collect::<Vec<_>>())
        };
        let asked = schema(&[("a", DataType::Int32), ("b", DataType::Int32)]);
        let grown = schema(&[("a", DataType::Int32), ("b", DataType::Int64)]);
        let moved = schema(&[("b", DataType::Int64), ("a", DataType::Int32)]);
        for held in [grown, moved] {
            assert!(holds_more(&held, &asked, None));
            assert!(holds_more(&held, &asked, Some(&[1])));
            assert!(holds_more(&held, &asked, Some(&[0, 1])));
            assert!(!holds_more(&held, &asked, Some(&[0])));
            assert!(!holds_more(&held, &asked, Some(&[])));
        }
    }

    #[test]
    fn a_schema_that_batches_share_is_looked_at_once() {
        let schema = |of| Arc::new(Schema::new(vec![Field::new("a", of, true)]));
        let (narrow, wide) = (schema(DataType::Int32), schema(DataType::Int64));
        let order = [&narrow, &narrow, &wide, &wide, &narrow];
        let batches = order.map(|schema| RecordBatch::new_empty(Arc::clone(schema)));
        let seen: Vec<_> = each_once(batches.iter().map(RecordBatch::schema_ref))
            .cloned()
            .collect();
        assert_eq!(seen, [Arc::clone(&narrow), wide, narrow]);
    }
}
