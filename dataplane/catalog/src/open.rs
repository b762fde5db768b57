//! Open tables: those of which an ingester may have rows that are in no file.

use serde::{Deserialize, Serialize};

use crate::{Epoch, IngesterId, ProducerPosition, TableId};

/// Tables of which an ingester is going to acknowledge rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTables {
    /// Who.
    pub ingester: IngesterId,
    /// In which life; an older one than the catalog's is refused.
    pub epoch: Epoch,
    /// The tables.
    pub tables: Vec<TableId>,
    /// Higher than that of every earlier call of this life.
    pub number: u64,
    /// It has rows outside files of no other table; what earlier lives opened is closed.
    pub are_all: bool,
    /// How far producers have come by its log. Those of dropped tables are ignored; a lower position than
    /// is known changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub producers: Vec<ProducerPosition>,
}

/// Tables of which an ingester has no rows outside files any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseTables {
    /// Who.
    pub ingester: IngesterId,
    /// In which life; an older one than the catalog's is refused.
    pub epoch: Epoch,
    /// The tables, and the highest [`OpenTables::number`] they were opened with: one that was opened with
    /// a higher one stays open.
    pub tables: Vec<(TableId, u64)>,
}
