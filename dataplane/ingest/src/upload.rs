//! Uploads: rows of many streams, through any ingesters, that appear together or never.
//!
//! # Flow
//! The rows of an upload go, like all others, through log and buffer into files, but of a staging
//! table that nobody reads. To end it: the catalog lets no stream begin any more; every ingester that
//! took one lets no batch in any more, waits for those under way, and flushes
//! ([`Ingest::flush_upload`]); the catalog moves the files to the target in one transaction. So all
//! that was acknowledged is in that transaction, and nothing else is.
//!
//! # Crash
//! Of an ingester: its rows are in its log, and the end waits until it is back. After it has flushed
//! it may start again: the streams it had are gone, and new ones can't begin.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::{DataType, Field, Schema};
use flightcluster_catalog::{Epoch, JoinUpload, SchemaBytes, TableId, TableName};
use flightcluster_keys::{Key, take_declared, time_column};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::adapt::{evolved, grown};
use crate::error::Error;
use crate::flush::Scope;
use crate::gate::normalise_schema;
use crate::ingest::{Core, Ingest};
use crate::schema::{decode_schema, encode_schema};
use crate::table::{check_key, evolve, failed};
use crate::writer::TableWriter;

/// Time a sealed staging table is remembered: longer than a stream can need to begin.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The writes under way into each staging table. A closed tracker is a sealed table.
#[derive(Debug, Default)]
pub(crate) struct Staging(Mutex<HashMap<TableId, (Arc<TaskTracker>, Instant)>>);

impl Staging {
    pub(crate) fn of(&self, table: TableId, now: Instant) -> Arc<TaskTracker> {
        let mut known = self.0.lock();
        known.retain(|id, (tracker, used)| {
            let age = now.saturating_duration_since(*used);
            // A writer that has it may come with a batch at any time.
            *id == table || Arc::strong_count(tracker) > 1 || age < REMEMBERED
        });
        let (tracker, used) = known.entry(table).or_insert_with(|| (Arc::default(), now));
        *used = now;
        Arc::clone(tracker)
    }
}

impl Ingest {
    /// Prepares writing one stream of an upload to `target`.
    ///
    /// The rows are prepared for the primary key the target has now; a target that is not there yet gets
    /// none.
    ///
    /// - Errors: those of [`Ingest::writer`]; those of [`Catalog::join_upload`], as
    ///   [`Error::Catalog`].
    ///
    /// [`Catalog::join_upload`]: flightcluster_catalog::Catalog::join_upload
    pub async fn upload_writer(
        &self,
        upload: &str,
        target: &TableName,
        incoming: &Schema,
    ) -> Result<TableWriter, Error> {
        let core = &self.core;
        core.check_open()?;
        let (normalised, declared) =
            take_declared(normalise_schema(incoming)?).map_err(Error::Key)?;
        let normalised = Arc::new(normalised);
        let request = JoinUpload {
            id: upload.to_owned(),
            target: target.clone(),
            ingester: core.ingester.id,
            epoch: core.ingester.epoch,
            schema: encode_schema(&normalised),
            ttl: core.config.upload_ttl,
        };
        let staging = core.catalog.join_upload(request).await;
        let staging = staging.map_err(failed("taking the stream into an upload"))?;
        check_key(&staging, target, declared.as_deref())?;
        let under_way = core.staging.of(staging.id, core.clock.now());
        let resolved = evolve(core.catalog.as_ref(), staging, target, &normalised).await?;
        let writer = TableWriter::new(Arc::clone(core), resolved, incoming, normalised).await?;
        Ok(writer.into_staging(under_way))
    }

    /// Lets no batch of an upload in any more, and puts all it has of it into files.
    ///
    /// - `epoch`: the life that is asked.
    /// - Errors: [`Error::OtherLife`], [`Error::OutOfService`], those of [`Ingest::flush`].
    /// - Retry: safe.
    pub async fn flush_upload(&self, epoch: Epoch, staging: TableId) -> Result<(), Error> {
        let core = &self.core;
        if core.ingester.epoch != epoch {
            let ingester = core.ingester.name.clone();
            return Err(Error::OtherLife { ingester });
        }
        let under_way = core.staging.of(staging, core.clock.now());
        under_way.close();
        under_way.wait().await;
        if let Some(fatal) = core.fatal.get() {
            return Err(Error::OutOfService(fatal));
        }
        core.flush_all(Scope::Table(staging)).await
    }
}

impl Core {
    /// Lets the catalog end some of the uploads nobody went on with.
    pub(crate) async fn expire_uploads(&self) {
        match self.catalog.expire_uploads().await {
            Ok(0) => {}
            Ok(expired) => tracing::info!(expired, "abandoned uploads have expired"),
            // The next attempt is as good.
            Err(error) => tracing::debug!(%error, "can't end abandoned uploads"),
        }
    }
}

/// The schema a target must get before it can hold the rows of an upload; `None` when it can as it is.
/// `options` are those of the target.
///
/// # Errors
/// [`Error::Key`] when this release can't use the target's key. [`Error::TypeConflict`],
/// [`Error::MissingColumn`], [`Error::NullableColumn`]: the target was created, or replaced, while the
/// upload ran.
pub fn merged(
    target: &TableName,
    existing: &SchemaBytes,
    options: &BTreeMap<String, String>,
    staging: &SchemaBytes,
) -> Result<Option<SchemaBytes>, Error> {
    let (existing, incoming) = (decode_schema(existing)?, decode_schema(staging)?);
    let key = Key::of(options).map_err(Error::Key)?;
    let key = key.as_ref().map_or(&[][..], Key::columns);
    for field in existing.fields() {
        let found = incoming.field_with_name(field.name()).ok();
        check_column(target, field, found, key.contains(field.name()))?;
    }
    Ok(evolved(&existing, &incoming, key).map(|schema| encode_schema(&schema)))
}

/// Whether the time ranges of an upload's files are of the time column of its target, which has this schema
/// in the end. They are not when somebody created the target meanwhile and marked another column.
///
/// # Errors
/// A schema that can't be read.
pub fn has_same_times(target: &SchemaBytes, staging: &SchemaBytes) -> Result<bool, Error> {
    let (target, staging) = (decode_schema(target)?, decode_schema(staging)?);
    let name = |schema: &Schema| time_column(schema).map(|at| schema.field(at).name().clone());
    let written = name(&staging);
    Ok(written.is_none() || written == name(&target))
}

/// `keyed`: it is a column of the primary key. Such a one never grows: files are sorted by it.
fn check_column(
    target: &TableName,
    field: &Field,
    found: Option<&Field>,
    keyed: bool,
) -> Result<(), Error> {
    let existing = field.data_type();
    let fits = |found: &DataType| {
        // What `evolved` gives it. Either may have grown inside where the other did not.
        let becomes = grown(existing, found).unwrap_or_else(|| existing.clone());
        found == existing
            || (!keyed && (*found == becomes || grown(found, &becomes).as_ref() == Some(&becomes)))
    };
    let (table, column) = (target.clone(), field.name().clone());
    match found {
        None if field.is_nullable() => Ok(()),
        None => Err(Error::MissingColumn { table, column }),
        // Files are not written again: their columns have to be what the table's become, or what grows
        // into that.
        Some(found) if !fits(found.data_type()) => Err(Error::TypeConflict {
            table,
            column,
            expected: Box::new(existing.clone()),
            found: Box::new(found.data_type().clone()),
        }),
        Some(found) if found.is_nullable() && !field.is_nullable() => {
            Err(Error::NullableColumn { table, column })
        }
        Some(_) => Ok(()),
    }
}
