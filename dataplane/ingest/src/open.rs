//! Open tables: the catalog knows of which tables this ingester may have rows that are in no file.
//!
//! # Protocol
//! A writer opens its table before it takes the first batch, and keeps it open while it lives. A table
//! that no writer has and of which nothing is in memory is closed: rows leave memory after a flush and
//! `ingest.flushed_grace`. At the start, the tables of which the log brought rows back are opened, and the
//! list of the former life ends.
//!
//! # Guarantees
//! The catalog lists a table from before a row of it is acknowledged, and before the row gets its order number,
//! until all its rows are in committed files. So queries and deletions need not ask an ingester
//! for a table it does not have open: a row it acknowledges meanwhile is a later one.
//!
//! # Calls that get lost
//! Every opening has a higher number than those before, and a closing names the highest one of its table.
//! One that arrives late closes nothing that was opened after it. While a table is being opened it is not closed.

use std::collections::HashMap;
use std::sync::Arc;

use flightcluster_catalog::{
    self as catalog, CloseTables, OpenTables as Opening, ProducerPosition, TableId,
};
use parking_lot::Mutex;
use tracing::debug;

use crate::error::Error;
use crate::flusher::chain;
use crate::ingest::Core;

/// Positions of producers in one call: each is some statements, and writers wait meanwhile.
const POSITIONS: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OpenTables(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    tables: HashMap<TableId, Known>,
    last_number: u64,
}

/// What is known of a table that the catalog may list.
#[derive(Debug, Default)]
struct Known {
    /// The highest number it was opened with, or is being opened.
    number: u64,
    /// The catalog has listed it, and it was not closed since.
    is_open: bool,
    /// Writers that have it, and calls that open it.
    users: u64,
}

/// Keeps a table open.
#[derive(Debug)]
pub(crate) struct OpenTable {
    state: Arc<Mutex<State>>,
    table: TableId,
}

impl Drop for OpenTable {
    fn drop(&mut self) {
        if let Some(known) = self.state.lock().tables.get_mut(&self.table) {
            known.users -= 1;
        }
    }
}

impl OpenTables {
    /// Keeps a table from being closed; the number to open it with, if it is not open.
    fn begin(&self, table: TableId) -> (OpenTable, Option<u64>) {
        let mut state = self.0.lock();
        let next = state.last_number + 1;
        let known = state.tables.entry(table).or_default();
        known.users += 1;
        let number = (!known.is_open).then_some(next);
        if let Some(number) = number {
            known.number = number;
            state.last_number = number;
        }
        let state = Arc::clone(&self.0);
        (OpenTable { state, table }, number)
    }

    /// Begins with these tables, opened with one number.
    fn all(&self, tables: &[TableId]) -> u64 {
        let mut state = self.0.lock();
        let number = state.last_number + 1;
        state.last_number = number;
        for table in tables {
            let known = Known {
                number,
                is_open: true,
                users: 0,
            };
            state.tables.insert(*table, known);
        }
        number
    }

    fn opened(&self, table: TableId) {
        if let Some(known) = self.0.lock().tables.get_mut(&table) {
            known.is_open = true;
        }
    }

    /// Takes out what nobody uses and `in_memory` has nothing of, with the numbers to close it with.
    fn take_unused(&self, in_memory: impl Fn(TableId) -> bool) -> Vec<(TableId, u64)> {
        let mut state = self.0.lock();
        let unused = |table: &TableId, known: &mut Known| known.users == 0 && !in_memory(*table);
        let unused = state.tables.extract_if(unused);
        unused.map(|(table, known)| (table, known.number)).collect()
    }

    /// Keeps in mind that the catalog may list these still, for the next attempt.
    fn not_closed(&self, tables: Vec<(TableId, u64)>) {
        let mut state = self.0.lock();
        for (table, number) in tables {
            // It may be in use again, with a higher number.
            let known = state.tables.entry(table).or_default();
            known.number = known.number.max(number);
        }
    }
}

impl Core {
    /// Opens a table until the answer and the writers that have it are gone.
    ///
    /// - Errors: [`Error::Catalog`], [`Error::OutOfService`].
    /// - Cancellation: the table may stay on the list until it is closed with the next ones.
    pub(crate) async fn open_table(&self, table: TableId) -> Result<OpenTable, Error> {
        let (open, number) = self.open.begin(table);
        if let Some(number) = number {
            self.ask_to_open(vec![table], number, false, Vec::new())
                .await?;
            self.open.opened(table);
        }
        Ok(open)
    }

    /// Opens the tables the log brought rows of back, and no others: nothing is acknowledged yet. Before that
    /// the catalog learns how far the producers of these rows came: its claims may be lost.
    pub(crate) async fn open_replayed(&self) -> Result<(), Error> {
        let positions = self.producers.not_in_catalog();
        for some in positions.chunks(POSITIONS) {
            let number = self.open.all(&[]);
            self.ask_to_open(Vec::new(), number, false, some.to_vec())
                .await?;
        }
        let tables = self.buffer.tables_with_unflushed();
        let number = self.open.all(&tables);
        self.ask_to_open(tables, number, true, Vec::new()).await
    }

    async fn ask_to_open(
        &self,
        tables: Vec<TableId>,
        number: u64,
        are_all: bool,
        producers: Vec<ProducerPosition>,
    ) -> Result<(), Error> {
        let request = Opening {
            ingester: self.ingester.id,
            epoch: self.ingester.epoch,
            tables,
            number,
            are_all,
            producers,
        };
        let opened = self.catalog.open_tables(request).await;
        opened.map_err(|error| self.catalog_failed("opening tables", error))
    }

    /// Closes the tables of which nothing is in memory. What fails is done with the next ones.
    pub(crate) async fn close_unused(&self) {
        self.buffer.evict(self.clock.now());
        let tables = self.open.take_unused(|table| self.buffer.has_rows(table));
        if tables.is_empty() {
            return;
        }
        let request = CloseTables {
            ingester: self.ingester.id,
            epoch: self.ingester.epoch,
            tables: tables.clone(),
        };
        let closed: Result<(), catalog::Error> = self.catalog.close_tables(request).await;
        if let Err(error) = closed {
            debug!(error = %chain(&error), "can't close tables, will retry");
            self.open.not_closed(tables);
        }
    }
}
