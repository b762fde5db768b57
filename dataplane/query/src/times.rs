//! Which times a filter lets through, so that files of other times are not even named.
//!
//! Everything here may only err in one direction: a range may be too wide, never too narrow. What is
//! not understood lets all times through; the engine filters the rows themselves in any case.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema, TimeUnit};
use arrow_select::filter::filter_record_batch;
use datafusion::common::ScalarValue;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary, is_null, lit};
use flightcluster_catalog::{File, FileChoice, SchemaVersion, Table};
use flightcluster_keys::{nanos_of, time_columns, timestamps};

use crate::schema::decode_schema;

/// The column whose range the catalog keeps for every file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimeColumn {
    /// Its place in the table.
    pub(crate) at: usize,
    name: String,
    unit: TimeUnit,
    zone: Option<Arc<str>>,
}

impl TimeColumn {
    /// The time column of a table, if its files agree about it.
    ///
    /// It is the first timestamp that is marked, else one called `time`: what the writer of files goes
    /// by. Tables only get more columns, so the first marked one stays the first; but a table whose
    /// marked column was added beside an unmarked `time` may have older files with the range of that.
    pub(crate) fn of(schema: &Schema, version: SchemaVersion) -> Option<Self> {
        let at = match time_columns(schema) {
            (Some(marked), Some(named)) if marked != named && version.0 > 1 => return None,
            (marked, named) => marked.or(named)?,
        };
        let field = schema.field(at);
        let DataType::Timestamp(unit, zone) = field.data_type() else {
            return None;
        };
        Some(Self {
            at,
            name: field.name().clone(),
            unit: *unit,
            zone: zone.clone(),
        })
    }

    /// Whether a row is not before `from`, nanoseconds since the Unix epoch, or has no time: over a batch
    /// that has this column at `at`.
    pub(crate) fn not_before(
        &self,
        at: usize,
        schema: &Schema,
        from: i64,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&self.name, at));
        let unit = nanos_of(self.unit);
        let first = units_from(from, unit);
        let young = binary(
            Arc::clone(&column),
            Operator::GtEq,
            lit(self.value(first)),
            schema,
        )?;
        binary(is_null(column)?, Operator::Or, young, schema)
    }

    /// Whether a row has one of these times, over a batch without nulls that has this column at `at`;
    /// `None` when all have.
    pub(crate) fn within(
        &self,
        at: usize,
        schema: &Schema,
        times: TimeRange,
    ) -> Result<Option<Arc<dyn PhysicalExpr>>, DataFusionError> {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&self.name, at));
        let unit = nanos_of(self.unit);
        let compare = |op, value| binary(Arc::clone(&column), op, lit(self.value(value)), schema);
        // Values beyond the nanoseconds of 64 bits are before or after all times.
        let from = (times.from > i64::MIN)
            .then(|| compare(Operator::GtEq, units_from(times.from, unit)))
            .transpose()?;
        let to = (times.to < i64::MAX)
            .then(|| compare(Operator::LtEq, times.to.div_euclid(unit)))
            .transpose()?;
        Ok(match (from, to) {
            (Some(from), Some(to)) => Some(binary(from, Operator::And, to, schema)?),
            (from, to) => from.or(to),
        })
    }

    /// A number of units as a value of this column.
    fn value(&self, value: i64) -> ScalarValue {
        let (value, zone) = (Some(value), self.zone.clone());
        match self.unit {
            TimeUnit::Second => ScalarValue::TimestampSecond(value, zone),
            TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(value, zone),
            TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(value, zone),
            TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(value, zone),
        }
    }

    /// Whether a column of this name is it.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// The times that rows of a scan with these filters can have.
    pub(crate) fn range(&self, filters: &[Expr]) -> TimeRange {
        filters.iter().fold(TimeRange::ALL, |range, filter| {
            range.and(self.passed(filter))
        })
    }

    fn passed(&self, filter: &Expr) -> TimeRange {
        match filter {
            Expr::Alias(alias) => self.passed(&alias.expr),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And => self.passed(left).and(self.passed(right)),
                Operator::Or => self.passed(left).or(self.passed(right)),
                op => self.compared(left, *op, right),
            },
            Expr::Between(between) if !between.negated => {
                let low = self.compared(&between.expr, Operator::GtEq, &between.low);
                low.and(self.compared(&between.expr, Operator::LtEq, &between.high))
            }
            Expr::InList(list) if !list.negated && !list.list.is_empty() => list
                .list
                .iter()
                .map(|value| self.compared(&list.expr, Operator::Eq, value))
                .reduce(TimeRange::or)
                .unwrap_or(TimeRange::ALL),
            _ => TimeRange::ALL,
        }
    }

    fn compared(&self, left: &Expr, op: Operator, right: &Expr) -> TimeRange {
        let (op, value) = if self.is_column(left) {
            (op, self.nanos(right))
        } else if self.is_column(right) {
            match op.swap() {
                Some(op) => (op, self.nanos(left)),
                None => return TimeRange::ALL,
            }
        } else {
            return TimeRange::ALL;
        };
        let Some(value) = value else {
            return TimeRange::ALL;
        };
        match op {
            Operator::Eq => TimeRange {
                from: value,
                to: value,
            },
            Operator::GtEq => TimeRange {
                from: value,
                to: i64::MAX,
            },
            Operator::Gt => TimeRange {
                from: value.saturating_add(1),
                to: i64::MAX,
            },
            Operator::LtEq => TimeRange {
                from: i64::MIN,
                to: value,
            },
            Operator::Lt => TimeRange {
                from: i64::MIN,
                to: value.saturating_sub(1),
            },
            _ => TimeRange::ALL,
        }
    }

    /// The column itself, or the same instants in a unit at least as fine.
    fn is_column(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Column(column) => self.is(&column.name),
            Expr::Cast(cast) => {
                let same_instant = match cast.field.data_type() {
                    DataType::Timestamp(unit, zone) => {
                        nanos_of(*unit) <= nanos_of(self.unit)
                            && zone.is_some() == self.zone.is_some()
                    }
                    _ => false,
                };
                same_instant && matches!(&*cast.expr, Expr::Column(column) if self.is(&column.name))
            }
            _ => false,
        }
    }

    /// The instant of a literal. One beyond the nanoseconds of 64 bits becomes the first or last of
    /// them: a file with such a row has no known range.
    fn nanos(&self, literal: &Expr) -> Option<i64> {
        let Expr::Literal(value, _) = literal else {
            return None;
        };
        let (value, unit, zone) = match value {
            ScalarValue::TimestampSecond(value, zone) => (value, TimeUnit::Second, zone),
            ScalarValue::TimestampMillisecond(value, zone) => (value, TimeUnit::Millisecond, zone),
            ScalarValue::TimestampMicrosecond(value, zone) => (value, TimeUnit::Microsecond, zone),
            ScalarValue::TimestampNanosecond(value, zone) => (value, TimeUnit::Nanosecond, zone),
            _ => return None,
        };
        // A wall clock time is another instant in each zone.
        if zone.is_some() != self.zone.is_some() {
            return None;
        }
        Some((*value)?.saturating_mul(nanos_of(unit)))
    }

    /// Puts the time range of a file into its statistics.
    pub(crate) fn describe(&self, statistics: &mut Statistics, file: &File) {
        let Some((low, high)) = file.file.time_range_nanos else {
            return;
        };
        let Some(column) = statistics.column_statistics.get_mut(self.at) else {
            return;
        };
        let unit = nanos_of(self.unit);
        let value = |value| self.value(value);
        *column = ColumnStatistics::new_unknown()
            .with_null_count(Precision::Exact(0))
            .with_min_value(Precision::Exact(value(low.div_euclid(unit))))
            .with_max_value(Precision::Exact(value(high.div_euclid(unit))));
    }
}

/// The first whole unit that is not before a time in nanoseconds.
fn units_from(from: i64, unit: i64) -> i64 {
    from.div_euclid(unit) + i64::from(from.rem_euclid(unit) > 0)
}

/// Whether the times the catalog keeps of the files of a table are those of its time column: whether a
/// file may be judged by them.
#[must_use]
pub fn has_times(table: &Table) -> bool {
    let schema = decode_schema(&table.schema);
    schema.is_ok_and(|schema| TimeColumn::of(&schema, table.schema_version).is_some())
}

/// The times in a column in nanoseconds; `None` when one can't be told.
pub(crate) fn nanos_in(column: &ArrayRef) -> Option<Vec<i64>> {
    if column.null_count() > 0 {
        return None;
    }
    let (values, unit) = timestamps(column)?;
    values.iter().map(|value| value.checked_mul(unit)).collect()
}

/// The rows whose time in column `at` is not before `from`, nanoseconds since the Unix epoch, and those
/// without a time.
pub(crate) fn rows_from(
    batch: RecordBatch,
    at: usize,
    from: i64,
) -> Result<RecordBatch, ArrowError> {
    let column = batch.column(at);
    let Some((values, nanos)) = timestamps(column) else {
        return Ok(batch);
    };
    let kept = |(row, value): (usize, &i64)| {
        column.is_null(row) || i128::from(*value) * i128::from(nanos) >= i128::from(from)
    };
    let keep = values.iter().enumerate().map(|row| Some(kept(row)));
    let keep: BooleanArray = keep.collect();
    if keep.true_count() == batch.num_rows() {
        return Ok(batch);
    }
    filter_record_batch(&batch, &keep)
}

/// Times in nanoseconds since the Unix epoch, both ends included. Empty when it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl TimeRange {
    /// Every time, and rows without one.
    pub(crate) const ALL: Self = Self {
        from: i64::MIN,
        to: i64::MAX,
    };

    /// These and all later ones.
    pub(crate) fn since(from: i64) -> Self {
        Self { from, to: i64::MAX }
    }

    /// What is in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: self.to.min(other.to),
        }
    }

    /// What is in either, and what lies between.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self.from > self.to, other.from > other.to) {
            (true, _) => other,
            (_, true) => self,
            _ => Self {
                from: self.from.min(other.from),
                to: self.to.max(other.to),
            },
        }
    }

    /// Whether a file may hold rows of these times.
    pub(crate) fn may_hold(self, file: &File) -> bool {
        file.file
            .time_range_nanos
            .is_none_or(|(low, high)| high >= self.from && low <= self.to)
    }

    /// Whether a file can only hold rows of these times.
    pub(crate) fn holds_all_of(self, file: &File) -> bool {
        let range = file.file.time_range_nanos;
        range.is_some_and(|(low, high)| self.from <= low && high <= self.to)
    }

    /// The files to ask the catalog for.
    pub(crate) fn choice(self) -> FileChoice {
        if self == Self::ALL {
            return FileChoice::All;
        }
        FileChoice::Between {
            from_nanos: self.from,
            to_nanos: self.to,
        }
    }
}
