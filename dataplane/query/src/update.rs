//! Statements that change something: tables and databases through the catalog, rows through the
//! [`TableWriter`](crate::TableWriter).
//!
//! # `CREATE TABLE … AS`
//! The rows go into an unpublished table, which gets its name in one step when all of them are durable:
//! a statement that fails, is cancelled or dies with its process leaves what was there before, and
//! nobody sees a part of its rows. An unpublished table that is not wanted any more is dropped; should
//! that fail, the catalog does it after a day.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::SystemTime;

use arrow_array::{Array as _, RecordBatch};
use arrow_schema::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use flightcluster_catalog::{
    Catalog, CreateTable, IfExists, OptionsOf, Seen, SetOptions, Table, TableName,
    UNPUBLISHED_SCHEMA,
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tracing::warn;

use crate::engine::{ExecuteOptions, Inner};
use crate::execute::{Control, conform, rows};
use crate::options;
use crate::plan::{Action, Plan, Ready};
use crate::schema::{decode_schema, encode_schema};
use crate::statement::Effect;
use crate::{BatchStream, Error, StatementKey};

/// Plans a statement that needs nothing but names.
pub(crate) async fn planned(inner: &Inner, effect: &Effect) -> Result<Option<Action>, Error> {
    let action = match effect.clone() {
        Effect::DropTable { name, if_exists } => {
            // However long the drop takes to arrive, it ends this table or none.
            let seen = seen(inner, &name).await?;
            Action::DropTable {
                name,
                if_exists,
                seen,
            }
        }
        Effect::CreateDatabase {
            name,
            if_not_exists,
        } => Action::CreateDatabase {
            name,
            if_not_exists,
        },
        Effect::SetOptions(set) => {
            // Likewise: a later table of the name would lose rows to the retention of this one.
            let seen = match &set.of {
                OptionsOf::Table(name) => Some(seen(inner, name).await?),
                OptionsOf::Database(_) => None,
            };
            Action::SetOptions(SetOptions { seen, ..set })
        }
        Effect::Query | Effect::CreateTable { .. } | Effect::Insert(_) | Effect::Delete(_) => {
            return Ok(None);
        }
    };
    Ok(Some(action))
}

/// What has the name of a table now.
async fn seen(inner: &Inner, name: &TableName) -> Result<Seen, Error> {
    let found = inner.catalog.table(name).await;
    let found = found.map_err(|source| Error::from_catalog("looking a table up", source))?;
    Ok(Seen::of(found.as_ref()))
}

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

/// Rows of a statement that always come as one batch.
const MAX_WRITTEN_OUT: usize = 1_000;

/// Whether the rows of a plan are in the statement itself, few enough for one batch.
fn is_written_out(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Values(values) => values.values.len() <= MAX_WRITTEN_OUT,
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Projection(projection) => is_written_out(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_written_out(&alias.input),
        _ => false,
    }
}

/// A table to be created.
struct NewTable {
    name: TableName,
    schema: SchemaRef,
    options: BTreeMap<String, String>,
    if_exists: IfExists,
    /// What had the name when the statement was planned.
    seen: Seen,
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
            Action::DropTable {
                name,
                if_exists,
                seen,
            } => self.drop_table(&name, if_exists, seen).await,
            Action::CreateDatabase {
                name,
                if_not_exists,
            } => self.create_database(&name, if_not_exists).await,
            Action::CreateTable {
                name,
                schema,
                options,
                if_exists,
                seen,
                rows: None,
            } => {
                let new = NewTable {
                    name,
                    schema,
                    options,
                    if_exists,
                    seen,
                };
                self.create_table(&new, None).await?;
                Ok(0)
            }
            Action::SetOptions(set) => self.set_options(set).await,
            Action::CreateTable {
                name,
                schema,
                options,
                if_exists,
                seen,
                rows: Some(ready),
            } => {
                let new = NewTable {
                    name,
                    schema,
                    options,
                    if_exists,
                    seen,
                };
                self.create_with_rows(&new, ready).await
            }
            Action::Delete(deletion) => deletion.run(&self.inner, &self.control).await,
            Action::Insert {
                table,
                schema,
                rows: ready,
            } => {
                let key = self.key.map(|number| StatementKey {
                    number,
                    is_one_batch: is_written_out(&ready.plan),
                    begun: SystemTime::now(),
                });
                let rows = rows(Arc::clone(&self.inner), ready, self.control.clone()).await?;
                self.write(&table, &table, key, schema, rows).await
            }
        }
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Seen,
    ) -> Result<u64, Error> {
        let catalog = &self.inner.catalog;
        let dropped = catalog.drop_table(name, if_exists, Some(seen)).await;
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

    async fn set_options(&self, mut request: SetOptions) -> Result<u64, Error> {
        request.id = Some(uuid::Uuid::new_v4().to_string());
        let failed = |source| Error::from_catalog("setting options", source);
        options::check_owner(&request.of, &request.changes)?;
        if let OptionsOf::Table(name) = &request.of
            && let Some(table) = self.inner.catalog.table(name).await.map_err(failed)?
        {
            let set = request.changes.iter();
            let set = set.filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
            let schema = decode_schema(&table.schema)?;
            options::check(set, &schema, table.schema_version)?;
        }
        let set = self.inner.catalog.set_options(request).await;
        set.map(|()| 0).map_err(failed)
    }

    async fn create_table(
        &self,
        new: &NewTable,
        unpublished: Option<String>,
    ) -> Result<Table, Error> {
        let request = CreateTable {
            name: new.name.clone(),
            schema: encode_schema(&new.schema)?,
            options: new.options.clone(),
            if_exists: new.if_exists,
            // As with every other way to write: the first table makes its database.
            create_database: true,
            unpublished,
            seen: Some(new.seen),
        };
        let created = self.inner.catalog.create_table(request).await;
        created.map_err(|source| Error::from_catalog("creating a table", source))
    }

    async fn create_with_rows(&self, new: &NewTable, ready: Ready) -> Result<u64, Error> {
        if self.inner.writer.is_none() {
            return Err(Error::NoWriter);
        }
        // The rows are fixed before the table is touched: they may come from the one it replaces.
        let rows = rows(Arc::clone(&self.inner), ready, self.control.clone()).await?;
        let unpublished = unguessable();
        let mut guard = Unpublished {
            catalog: Arc::clone(&self.inner.catalog),
            name: TableName {
                database: new.name.database.clone(),
                schema: UNPUBLISHED_SCHEMA.to_owned(),
                table: unpublished.clone(),
            },
            remains: true,
        };
        let table = self.create_table(new, Some(unpublished)).await?;
        if table.name != guard.name {
            // There is one already, and it is to be kept.
            guard.remains = false;
            return Ok(0);
        }
        let written = self.fill(new, &table, rows).await;
        match written {
            Ok(_) => guard.remains = false,
            Err(_) => guard.drop_table().await,
        }
        written
    }

    /// Writes the rows of an unpublished table and gives it its name. The number of rows is 0 when
    /// somebody else made a table of that name meanwhile, which is kept.
    async fn fill(&self, new: &NewTable, table: &Table, rows: BatchStream) -> Result<u64, Error> {
        let name = &new.name;
        // No key: nothing was written to this table before.
        let written = self
            .write(&table.name, name, None, Arc::clone(&new.schema), rows)
            .await?;
        let catalog = &self.inner.catalog;
        let published = catalog
            .publish_table(table.id, name, new.if_exists, Some(new.seen))
            .await;
        let published =
            published.map_err(|source| Error::from_catalog("publishing a table", source))?;
        Ok(if published.id == table.id { written } else { 0 })
    }

    /// Appends rows to a table; `shown` is its name in messages.
    async fn write(
        &self,
        table: &TableName,
        shown: &TableName,
        key: Option<StatementKey>,
        schema: SchemaRef,
        rows: BatchStream,
    ) -> Result<u64, Error> {
        let Some(writer) = &self.inner.writer else {
            return Err(Error::NoWriter);
        };
        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        let into = shown.clone();
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
        let written = writer.append(table, key, rows).await;
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        written.map_err(|source| Error::Write {
            table: shown.to_string(),
            source,
        })
    }
}

/// Drops an unpublished table unless it is told that none remains. The name of such a table is used
/// once, so this is never somebody else's table, and does nothing to a published one.
struct Unpublished {
    catalog: Arc<dyn Catalog>,
    name: TableName,
    remains: bool,
}

impl Unpublished {
    async fn drop_table(&mut self) {
        drop_unpublished(self.catalog.as_ref(), &self.name).await;
        self.remains = false;
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // The statement was cancelled: nobody waits for this any more.
        if self.remains
            && let Ok(runtime) = Handle::try_current()
        {
            let (catalog, name) = (Arc::clone(&self.catalog), self.name.clone());
            runtime.spawn(async move { drop_unpublished(catalog.as_ref(), &name).await });
        }
    }
}

async fn drop_unpublished(catalog: &dyn Catalog, name: &TableName) {
    if let Err(error) = catalog.drop_table(name, true, None).await {
        warn!(table = %name, %error, "dropping a table that was not published failed");
    }
}

/// A name nobody uses by chance and nobody can guess.
fn unguessable() -> String {
    let [first, second] = [0, 1].map(|half| RandomState::new().hash_one(half));
    format!("{first:016x}{second:016x}")
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
