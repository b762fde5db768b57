//! Parameters of a statement: which there are, and their values. Values are bound to the plan, so
//! that no value can change what the statement means.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, NullArray, RecordBatch, StringArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use serde_json::{Map, Value};

use crate::Error;
use crate::sort::Sorter;

/// One more than the highest number of a parameter: the schema of the parameters has a field for
/// each number below the highest, so a number is not taken at its word. 65535 is what other
/// databases allow.
const MAX_NUMBER: usize = 65_536;

/// The open parameters of a plan, by the name the statement gives them (`$1` or `$name`).
#[derive(Debug, Default)]
pub(crate) struct Parameters(BTreeMap<Place, Option<FieldRef>>);

/// Orders `$2` before `$10`, and numbers before names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(usize),
    Name(String),
}

impl Place {
    fn of(id: &str) -> Self {
        let name = id.strip_prefix('$').unwrap_or(id);
        name.parse()
            .map_or_else(|_| Self::Name(name.to_owned()), Self::Number)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "${number}"),
            Self::Name(name) => write!(f, "${name}"),
        }
    }
}

impl Parameters {
    /// Finds the parameters of `plan` and the types its use of them suggests.
    pub(crate) fn of(plan: &LogicalPlan, sorter: Sorter) -> Result<Self, Error> {
        let mut found: BTreeMap<Place, Option<FieldRef>> = BTreeMap::new();
        plan.apply_with_subqueries(|node| {
            let schema = Arc::clone(node.schema());
            node.apply_expressions(|expression| {
                let (typed, has) = expression.clone().infer_placeholder_types(&schema)?;
                if has {
                    collect(&typed, &mut found)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
        .map_err(|error| sorter.sort("finding parameters", error))?;
        if let Some(Place::Number(number)) = found
            .keys()
            .find(|place| matches!(place, Place::Number(MAX_NUMBER..)))
        {
            return Err(Error::Parameter {
                name: format!("${number}"),
                problem: format!("numbers go up to {}", MAX_NUMBER - 1),
            });
        }
        Ok(Self(found))
    }

    pub(crate) fn first(&self) -> Option<String> {
        self.0.keys().next().map(ToString::to_string)
    }

    /// One nullable field per parameter, numbers in order and without gaps; type `Null` where
    /// nothing is known.
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut places: Vec<Place> = self.0.keys().cloned().collect();
        if let Some(Place::Number(last)) = places
            .iter()
            .rev()
            .find(|place| matches!(place, Place::Number(_)))
            .cloned()
        {
            places.retain(|place| matches!(place, Place::Name(_)));
            places.splice(0..0, (1..=last).map(Place::Number));
        }
        let fields = places.into_iter().map(|place| {
            let known = self.0.get(&place).and_then(Option::as_ref);
            let data_type = known.map_or(DataType::Null, |field| field.data_type().clone());
            Field::new(place.to_string(), data_type, true)
        });
        SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Binds the row `values`: names by column name, numbers by column position, or by column name
    /// as well when the values are `named`.
    pub(crate) fn bind(
        &self,
        plan: LogicalPlan,
        values: &RecordBatch,
        named: bool,
        sorter: Sorter,
    ) -> Result<LogicalPlan, Error> {
        if self.0.is_empty() && values.num_columns() == 0 {
            return Ok(plan);
        }
        let values = self.values(values, named, sorter)?;
        plan.with_param_values(values)
            .map_err(|error| sorter.sort("binding parameters", error))
    }

    fn values(&self, row: &RecordBatch, named: bool, sorter: Sorter) -> Result<ParamValues, Error> {
        if row.num_rows() != 1 {
            return Err(Error::Parameter {
                name: "values".to_owned(),
                problem: format!("expected one row of values, found {}", row.num_rows()),
            });
        }
        let names = self
            .0
            .keys()
            .filter(|place| matches!(place, Place::Name(_)))
            .count();
        if names == 0 && named && !self.0.is_empty() {
            self.numbered(row, sorter)
        } else if names == 0 {
            self.positional(row, sorter)
        } else if names == self.0.len() {
            self.named(row, sorter)
        } else {
            Err(Error::Parameter {
                name: self.first().unwrap_or_default(),
                problem: "use either numbers or names in one statement, not a mixture".to_owned(),
            })
        }
    }

    fn positional(&self, row: &RecordBatch, sorter: Sorter) -> Result<ParamValues, Error> {
        let wanted = self.schema().fields().len();
        if row.num_columns() != wanted {
            return Err(Error::Parameter {
                name: format!("${}", wanted.min(row.num_columns()) + 1),
                problem: format!(
                    "the statement has {wanted} parameters, {} values were given",
                    row.num_columns()
                ),
            });
        }
        let values: Result<Vec<ScalarValue>, Error> = row
            .columns()
            .iter()
            .map(|column| scalar(column, sorter))
            .collect();
        Ok(ParamValues::from(values?))
    }

    /// Values that come with names, for numbers: their order says nothing, since the keys of a JSON
    /// object have none.
    fn numbered(&self, row: &RecordBatch, sorter: Sorter) -> Result<ParamValues, Error> {
        let schema = row.schema();
        let names = schema.fields().iter().map(|field| name_of(field));
        let Some(numbers) = names.map(number).collect::<Option<Vec<usize>>>() else {
            if row.num_columns() == 1 {
                return self.positional(row, sorter);
            }
            return Err(Error::Parameter {
                name: self.first().unwrap_or_default(),
                problem: "the values have names, the parameters of the statement have none; write \
                          $name in the statement, or name the values 1, 2, …"
                    .to_owned(),
            });
        };
        // A number the statement leaves out needs no value.
        let mut values = vec![ScalarValue::Null; self.schema().fields().len()];
        for place in self.0.keys() {
            let Place::Number(wanted) = place else {
                continue;
            };
            let index = numbers.iter().position(|number| number == wanted);
            let missing = || Error::ParameterMissing {
                name: place.to_string(),
            };
            let index = index.ok_or_else(missing)?;
            if let Some(value) = wanted.checked_sub(1).and_then(|at| values.get_mut(at)) {
                *value = scalar(row.column(index), sorter)?;
            }
        }
        match numbers.into_iter().find(|number| *number > values.len()) {
            Some(number) => Err(Error::Parameter {
                name: format!("${number}"),
                problem: format!("the statement has {} parameters", values.len()),
            }),
            None => Ok(ParamValues::from(values)),
        }
    }

    fn named(&self, row: &RecordBatch, sorter: Sorter) -> Result<ParamValues, Error> {
        let schema = row.schema();
        let mut values = Vec::with_capacity(self.0.len());
        for place in self.0.keys() {
            let Place::Name(name) = place else { continue };
            let index = schema
                .fields()
                .iter()
                .position(|field| name_of(field) == name)
                .ok_or_else(|| Error::ParameterMissing {
                    name: place.to_string(),
                })?;
            values.push((name.clone(), scalar(row.column(index), sorter)?));
        }
        Ok(ParamValues::from(values))
    }
}

/// The name of a value, which may be written with the `$` of the statement.
fn name_of(field: &Field) -> &str {
    let name = field.name();
    name.strip_prefix('$').unwrap_or(name)
}

/// A name that is a number, as a statement would write it.
fn number(name: &str) -> Option<usize> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|number| digits && *number > 0)
}

fn collect(
    expression: &Expr,
    found: &mut BTreeMap<Place, Option<FieldRef>>,
) -> Result<(), DataFusionError> {
    expression.apply(|part| {
        if let Expr::Placeholder(placeholder) = part {
            let known = found.entry(Place::of(&placeholder.id)).or_default();
            if known.is_none() {
                known.clone_from(&placeholder.field);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn scalar(column: &ArrayRef, sorter: Sorter) -> Result<ScalarValue, Error> {
    ScalarValue::try_from_array(column, 0).map_err(|error| sorter.sort("reading parameters", error))
}

/// Makes the row of (named) values for [`QueryRequest::parameters`](crate::QueryRequest) out of a
/// JSON object: texts, numbers (whole ones as 64 bit integers), truth values and nulls, by name.
///
/// - Shape: one row, a column per key; `None` for an object without keys.
///
/// # Errors
/// [`Error::Parameter`] names the key whose value is a list or an object.
pub fn parameters_from_json(values: &Map<String, Value>) -> Result<Option<RecordBatch>, Error> {
    if values.is_empty() {
        return Ok(None);
    }
    let mut fields = Vec::with_capacity(values.len());
    let mut columns = Vec::with_capacity(values.len());
    for (name, value) in values {
        let column = json_column(value).ok_or_else(|| Error::Parameter {
            name: format!("${name}"),
            problem: "a value must be a text, a number, true, false or null".to_owned(),
        })?;
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    let row = RecordBatch::try_new(SchemaRef::new(Schema::new(fields)), columns)
        .expect("every column has one row and the type of its field");
    Ok(Some(row))
}

fn json_column(value: &Value) -> Option<ArrayRef> {
    Some(match value {
        Value::Null => Arc::new(NullArray::new(1)),
        Value::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
        Value::String(value) => Arc::new(StringArray::from(vec![value.as_str()])),
        Value::Number(value) => match (value.as_i64(), value.as_u64(), value.as_f64()) {
            (Some(value), _, _) => Arc::new(Int64Array::from(vec![value])),
            (None, Some(value), _) => Arc::new(UInt64Array::from(vec![value])),
            (None, None, Some(value)) => Arc::new(Float64Array::from(vec![value])),
            (None, None, None) => return None,
        },
        Value::Array(_) | Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn json_values_keep_their_types() {
        let values = json!({"a": 1, "b": 1.5, "c": "x", "d": true, "e": null, "f": u64::MAX});
        let row = parameters_from_json(values.as_object().unwrap())
            .unwrap()
            .unwrap();
        let types: Vec<DataType> = row
            .schema()
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(
            types,
            [
                DataType::Int64,
                DataType::Float64,
                DataType::Utf8,
                DataType::Boolean,
                DataType::Null,
                DataType::UInt64
            ]
        );
        assert!(parameters_from_json(&Map::new()).unwrap().is_none());
    }

    #[test]
    fn a_json_list_is_refused_by_the_name_of_its_key() {
        let values = json!({"ids": [1, 2]});
        let error = parameters_from_json(values.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().contains("$ids"), "{error}");
    }

    #[test]
    fn parameters_are_listed_in_the_order_of_their_numbers() {
        let known: BTreeMap<Place, Option<FieldRef>> = ["$10", "$2", "$1"]
            .into_iter()
            .map(|id| (Place::of(id), None))
            .collect();
        let schema = Parameters(known).schema();
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(names.len(), 10);
        assert_eq!((names[0], names[1], names[9]), ("$1", "$2", "$10"));
    }
}
