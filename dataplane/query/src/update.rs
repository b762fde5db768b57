//! Statements that change something: tables and databases through the catalog, rows through the
//! [`TableWriter`](crate::TableWriter).
//!
//! # Caveats
//! `CREATE TABLE … AS` creates the table first and then writes its rows. When writing fails, a table
//! that did not exist before is dropped again; one that was replaced keeps the rows written so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array as _, RecordBatch};
use arrow_schema::SchemaRef;
use flightcluster_catalog::{CreateTable, IfExists, TableName};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tracing::warn;

use crate::engine::{ExecuteOptions, Inner};
use crate::execute::{Control, conform, rows};
use crate::plan::{Action, Plan, Ready};
use crate::schema::encode_schema;
use crate::{BatchStream, Error};

/// Runs a statement that changes something; returns how many rows it wrote.
pub(crate) async fn run(
    inner: Arc<Inner>,
    plan: Plan,
    options: ExecuteOptions,
) -> Result<u64, Error> {
    plan.check_bound()?;
    let control = Control::new(&inner, &plan, &options);
    apply(inner, plan.action, control, options).await
}

/// The same under a control that is there already.
pub(crate) async fn apply(
    inner: Arc<Inner>,
    action: Action,
    control: Control,
    options: ExecuteOptions,
) -> Result<u64, Error> {
    let change = Change {
        inner,
        control: control.clone(),
        key: options.idempotency_key,
    };
    let result = control.limit(change.apply(action)).await;
    control.ended(&result);
    result
}

struct Change {
    inner: Arc<Inner>,
    control: Control,
    key: Option<u128>,
}

impl Change {
    async fn apply(&self, action: Action) -> Result<u64, Error> {
        match action {
            Action::Query(_) => Err(Error::Unsupported {
                statement: "a query as an update".to_owned(),
                cure: "run it as a query: it gives rows",
            }),
            Action::DropTable { name, if_exists } => self.drop_table(&name, if_exists).await,
            Action::CreateDatabase {
                name,
                if_not_exists,
            } => self.create_database(&name, if_not_exists).await,
            Action::CreateTable {
                name,
                schema,
                if_exists,
                rows: None,
            } => {
                self.create_table(&name, &schema, if_exists).await?;
                Ok(0)
            }
            Action::CreateTable {
                name,
                schema,
                if_exists,
                rows: Some(ready),
            } => {
                self.create_with_rows(&name, &schema, if_exists, ready)
                    .await
            }
            Action::Insert {
                table,
                schema,
                rows: ready,
            } => {
                let rows = rows(Arc::clone(&self.inner), ready, self.control.clone()).await?;
                self.write(&table, schema, rows).await
            }
        }
    }

    async fn drop_table(&self, name: &TableName, if_exists: bool) -> Result<u64, Error> {
        let dropped = self.inner.catalog.drop_table(name, if_exists).await;
        dropped
            .map(|_| 0)
            .map_err(|source| Error::from_catalog("dropping a table", source))
    }

    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<u64, Error> {
        let created = self
            .inner
            .catalog
            .create_database(name, if_not_exists)
            .await;
        created
            .map(|_| 0)
            .map_err(|source| Error::from_catalog("creating a database", source))
    }

    async fn create_table(
        &self,
        name: &TableName,
        schema: &SchemaRef,
        if_exists: IfExists,
    ) -> Result<(), Error> {
        let request = CreateTable {
            name: name.clone(),
            schema: encode_schema(schema)?,
            options: BTreeMap::new(),
            if_exists,
            // As with every other way to write: the first table makes its database.
            create_database: true,
        };
        let created = self.inner.catalog.create_table(request).await;
        created
            .map(|_| ())
            .map_err(|source| Error::from_catalog("creating a table", source))
    }

    async fn create_with_rows(
        &self,
        name: &TableName,
        schema: &SchemaRef,
        if_exists: IfExists,
        ready: Ready,
    ) -> Result<u64, Error> {
        if self.inner.writer.is_none() {
            return Err(Error::NoWriter);
        }
        // The rows are fixed before the table is touched: they may come from the one it replaces.
        let rows = rows(Arc::clone(&self.inner), ready, self.control.clone()).await?;
        let create = match if_exists {
            // Keeping means that this statement writes nothing, so it must know that it lost.
            IfExists::Keep => IfExists::Fail,
            other => other,
        };
        match self.create_table(name, schema, create).await {
            Err(Error::TableExists { .. }) if if_exists == IfExists::Keep => return Ok(0),
            created => created?,
        }
        let written = self.write(name, Arc::clone(schema), rows).await;
        if written.is_err()
            && create == IfExists::Fail
            && let Err(error) = self.inner.catalog.drop_table(name, true).await
        {
            warn!(table = %name, %error, "dropping a half filled table failed");
        }
        written
    }

    async fn write(
        &self,
        table: &TableName,
        schema: SchemaRef,
        rows: BatchStream,
    ) -> Result<u64, Error> {
        let Some(writer) = &self.inner.writer else {
            return Err(Error::NoWriter);
        };
        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        let into = table.clone();
        let rows = rows.map(move |batch| {
            let batch = batch.and_then(|batch| fit(batch, &into, &schema));
            // The writer only learns that the rows ended early; why is told to our caller.
            batch.map_err(|error| {
                *slot.lock() = Some(error);
                Error::Cancelled
            })
        });
        let mut rows = Box::pin(rows.peekable());
        if rows.as_mut().peek().await.is_none() {
            return Ok(0);
        }
        let written = writer.append(table, self.key, rows).await;
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        written.map_err(|source| Error::Write {
            table: table.to_string(),
            source,
        })
    }
}

/// The rows in the schema of the table; a null where none may be is the caller's mistake.
fn fit(batch: RecordBatch, table: &TableName, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        if !field.is_nullable() && column.logical_null_count() > 0 {
            return Err(Error::NullValue {
                table: table.to_string(),
                column: field.name().clone(),
            });
        }
    }
    conform(batch, schema).map_err(|source| Error::WrongSchema { source })
}
