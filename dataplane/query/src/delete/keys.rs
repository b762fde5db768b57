//! The keys whose rows a deletion takes away, and the condition that finds them in a file.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use flightcluster_keys::KeySet;

/// Keys, and the memory of queries they take.
#[derive(Debug)]
pub(super) struct Keys {
    set: KeySet,
    /// Places of the key's columns in the rows of a file.
    places: Vec<usize>,
    memory: MemoryReservation,
}

impl Keys {
    /// None yet; `places` are those of the key's columns in `schema`.
    pub(super) fn new(
        schema: &Schema,
        places: Vec<usize>,
        memory: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        Ok(Self {
            set: KeySet::new(schema, &places)?,
            places,
            memory: MemoryConsumer::new("keys to be deleted").register(memory),
        })
    }

    /// Adds the keys in these columns, which are those of the key and no others.
    pub(super) fn insert(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.set.insert(columns)?;
        self.memory.try_resize(self.set.bytes())
    }

    /// How many of the keys in these columns are among these.
    pub(super) fn count(&self, columns: &[ArrayRef]) -> Result<u64> {
        Ok(self.set.marks(columns)?.true_count() as u64)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.set.len() as u64
    }

    fn marks(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let columns = self.places.iter().map(|at| Arc::clone(batch.column(*at)));
        Ok(self.set.marks(&columns.collect::<Vec<_>>())?)
    }
}

/// Whether a row of a file has one of the keys.
#[derive(Debug, Clone)]
pub(super) struct HasKey(pub(super) Arc<Keys>);

impl PartialEq for HasKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for HasKey {}

impl Hash for HasKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Display for HasKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "has one of {} keys", self.0.len())
    }
}

impl PhysicalExpr for HasKey {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Array(Arc::new(self.0.marks(batch)?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
