//! Bringing the log back into memory at start.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use flightcluster_catalog::{ProducerPosition, Registration, SchemaBytes, SequenceNumber, TableId};
use flightcluster_keys::with_order;
use flightcluster_wal::{
    self as wal, Identity, Place, Record, SchemaDefinition, Wal, WalDirectory,
};
use tracing::info;

use crate::buffer::{Buffer, Row};
use crate::current::catalog_state;
use crate::error::Error;
use crate::lag::Ages;
use crate::memory::needed_bytes;
use crate::message::decode_batch;
use crate::observe::{Observer, WalEvents};
use crate::producer::{Producer, Producers};
use crate::schema::decode_schema;
use crate::spill::Logged;

/// Everything a replay needs; blocking.
pub(crate) struct Replay {
    pub(crate) directory: WalDirectory,
    pub(crate) registration: Registration,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) producers: Arc<Producers>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) options: wal::WalOptions,
    pub(crate) ages: Ages,
}

impl Replay {
    /// Puts the rows that are in no file into the buffer and opens the log for writing. What is more than half of the
    /// buffer is spilled again at once.
    ///
    /// Rows of tables dropped meanwhile come back too: the first flush learns from the catalog that
    /// they can go. The catalog alone can tell a dropped table from one it never had.
    pub(crate) fn run(self) -> Result<Wal, Error> {
        let Self {
            directory,
            registration,
            buffer,
            producers,
            observer,
            options,
            ages,
        } = self;
        let watermarks: HashMap<TableId, SequenceNumber> =
            registration.watermarks.iter().copied().collect();
        buffer.restore(&registration.watermarks);
        let identity = Identity {
            ingester_id: registration.ingester.id.0,
            ingester_name: registration.ingester.name.clone(),
            epoch: registration.ingester.epoch.0,
            known: wal::SequenceNumber(registration.known.0),
            catalog: catalog_state(registration.newest),
        };
        let mut recovery = directory.recover(identity).map_err(Error::OpenWal)?;
        let mut schemas = Schemas::default();
        let (mut replayed, mut in_files) = (0_u64, 0_u64);
        while let Some((record, place)) = recovery.next_placed().map_err(Error::OpenWal)? {
            let (table, sequence) = (TableId(record.table), SequenceNumber(record.sequence.0));
            let producer = record.producer.clone();
            let producer = producer.map(|p| Producer {
                id: p.id,
                sequence: p.sequence,
                after: None,
            });
            if let Some(producer) = &producer {
                producers.stored(table, producer, sequence);
            }
            if watermarks
                .get(&table)
                .is_some_and(|watermark| sequence <= *watermark)
            {
                if let Some(producer) = producer {
                    producers.in_catalog(&[ProducerPosition {
                        table,
                        producer: producer.id,
                        sequence: producer.sequence,
                    }]);
                }
                buffer.skip(sequence);
                in_files += 1;
            } else {
                buffer.push(table, row(&mut schemas, (record, place), producer, ages)?);
                // So that writes have room before the first flush. Handles alone may take that much: nothing is left
                // to spill then.
                if buffer.held().unflushed_bytes > buffer.limit_bytes() / 4 {
                    buffer.spill(buffer.limit_bytes() / 2);
                }
                replayed += 1;
            }
        }
        info!(
            replayed,
            in_files, "rows of the write-ahead log are back in memory"
        );
        recovery
            .finish(options, Arc::new(WalEvents(observer)))
            .map_err(Error::OpenWal)
    }
}

fn row(
    schemas: &mut Schemas,
    (record, place): (Record, Place),
    producer: Option<Producer>,
    ages: Ages,
) -> Result<Row, Error> {
    let schema = schemas.get(&record.schema)?;
    let decoded = decode_batch(&schema, &record.messages);
    let numbered = decoded.and_then(|batch| match record.order {
        Some(first) => with_order(&batch, first),
        None => Ok(batch),
    });
    let batch = numbered.map_err(|source| Error::UnreadableRecord {
        sequence: record.sequence.0,
        source,
    })?;
    let encoded: usize = record
        .messages
        .iter()
        .map(|m| m.header.len() + m.body.len())
        .sum();
    Ok(Row {
        sequence: SequenceNumber(record.sequence.0),
        bytes: encoded.max(needed_bytes(&batch)) as u64,
        batch,
        stamp_nanos: record.stamp_nanos,
        since: ages.since(record.stamp_nanos),
        producer,
        logged: Some(Logged { place, schema }),
    })
}

/// Decoded schemas, so that all batches of one share it.
#[derive(Default)]
struct Schemas(HashMap<Arc<SchemaDefinition>, SchemaRef>);

impl Schemas {
    fn get(&mut self, definition: &Arc<SchemaDefinition>) -> Result<SchemaRef, Error> {
        if let Some(schema) = self.0.get(definition) {
            return Ok(Arc::clone(schema));
        }
        let schema = decode_schema(&SchemaBytes(definition.ipc.to_vec()))?;
        // The definition shares the memory of its segment: keep a copy.
        let ipc = bytes::Bytes::copy_from_slice(&definition.ipc);
        let owned = SchemaDefinition {
            version: definition.version,
            ipc,
        };
        self.0.insert(Arc::new(owned), Arc::clone(&schema));
        Ok(schema)
    }
}
