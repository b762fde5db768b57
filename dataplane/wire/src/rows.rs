//! How many rows a message brings, by its header alone.

use arrow_flight::FlightData;

use crate::guard;

/// The rows a record batch says it has; `None` for any other message, and for one that can't be read.
/// Whether it has them is found out when it is decoded.
#[must_use]
pub fn batch_rows(message: &FlightData) -> Option<u64> {
    if message.data_header.is_empty() {
        return None;
    }
    let header = guard::message(&message.data_header).ok()?;
    u64::try_from(header.header_as_record_batch()?.length()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::{BatchEncoder, EncodeLimits};

    #[test]
    fn only_a_batch_has_rows() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..7));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut encoder = BatchEncoder::try_new(batch.schema(), EncodeLimits::default()).unwrap();
        assert_eq!(batch_rows(&encoder.schema_message()), None);
        let rows: Vec<_> = encoder
            .encode(batch)
            .unwrap()
            .iter()
            .map(batch_rows)
            .collect();
        assert_eq!(rows, [Some(7)]);
        let unreadable = FlightData {
            data_header: vec![1, 2, 3].into(),
            ..FlightData::default()
        };
        assert_eq!(batch_rows(&unreadable), None);
        assert_eq!(batch_rows(&FlightData::default()), None);
    }
}
