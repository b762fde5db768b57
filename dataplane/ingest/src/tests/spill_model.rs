//! Random writes, spills, reads, flushes and truncations against a plain list of what was written, on a real log.

use std::collections::BTreeMap;
use std::time::Instant;

use flightcluster_wal::{
    self as wal, Append, Identity, SchemaDefinition, Wal, WalDirectory, WalOptions,
};
use parking_lot::Mutex;

use super::*;
use crate::buffer::{Buffer, Found, Row};
use crate::message::encode_batch;
use crate::spill::Logged;

const CASES: u64 = 30;
const STEPS: u64 = 120;
const ROW_BYTES: u64 = 500;
const LIMIT: u64 = 8000;

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What a table should have: each batch is one number, its own sequence number.
#[derive(Default)]
struct Table {
    written: Vec<u64>,
    /// Up to here it is in files.
    watermark: u64,
}

impl Table {
    fn after(&self, after: u64) -> Vec<u64> {
        let after = self.written.iter().filter(|number| **number > after);
        after.copied().collect()
    }
}

/// A query that has not read yet.
struct Reader {
    table: TableId,
    found: Found,
    expected: Vec<u64>,
}

struct Case {
    random: Random,
    buffer: Arc<Buffer>,
    wal: Wal,
    tables: BTreeMap<TableId, Table>,
    readers: Vec<Reader>,
    now: Instant,
    spilled: u64,
    truncated: u64,
}

fn open_log(directory: &std::path::Path) -> Wal {
    let locked = WalDirectory::lock(directory.join("wal"), Arc::new(RealDisk)).unwrap();
    let identity = Identity {
        ingester_id: 1,
        ingester_name: "i".to_owned(),
        epoch: 1,
        known: wal::SequenceNumber(0),
        catalog: wal::CatalogState {
            snapshot: 1,
            created_at_millis: 1,
        },
    };
    let options = WalOptions {
        segment_bytes: 3000,
        ..(&IngestConfig::default()).into()
    };
    let recovery = locked.recover(identity).unwrap();
    recovery.finish(options, Arc::new(wal::NoObserver)).unwrap()
}

fn value((sequence, batch): &(SequenceNumber, RecordBatch)) -> u64 {
    let value = batch.column(0).as_primitive::<Int64Type>().value(0);
    assert_eq!(value as u64, sequence.0);
    sequence.0
}

fn values(found: Found, wal: &Wal, table: TableId) -> Vec<u64> {
    let Found {
        memory,
        mut spilled,
        reading,
    } = found;
    let mut values: Vec<_> = memory.iter().map(value).collect();
    loop {
        let piece = spilled.take(3 * ROW_BYTES);
        if piece.is_empty() {
            break;
        }
        assert!(piece.len() <= 3);
        for spilled in piece {
            let row = spilled.read(wal, table).unwrap();
            values.push(value(&(row.sequence, row.batch)));
        }
    }
    drop(reading);
    values.sort_unstable();
    values
}

impl Case {
    async fn write(&mut self) {
        let table = TableId(1 + self.random.below(3));
        let number = self.tables.values().map(|table| table.written.len() as u64);
        let number = 1 + number.sum::<u64>();
        let batch = numbers([number as i64]);
        let definition = SchemaDefinition {
            version: 1,
            ipc: Bytes::from_static(b"numbers"),
        };
        let messages = encode_batch(&batch).unwrap();
        let append = Append::new(table.0, Arc::new(definition), 1, 0, None, messages).unwrap();
        let place = Arc::new(Mutex::new(None));
        let told = Arc::clone(&place);
        let completion = Box::new(move |stored: Result<wal::Stored, &wal::Error>| {
            *told.lock() = stored.ok();
        });
        self.wal.append(append, completion).await.unwrap();
        let stored = place.lock().take().unwrap();
        assert_eq!(stored.sequence.0, number);
        let row = Row {
            sequence: SequenceNumber(number),
            batch,
            bytes: ROW_BYTES,
            stamp_nanos: 0,
            since: self.now,
            producer: None,
            logged: Some(Logged {
                place: stored.place,
                schema: numbers_schema(),
            }),
        };
        self.buffer.push(table, row);
        self.tables.entry(table).or_default().written.push(number);
    }

    fn read_begins(&mut self) {
        let table = TableId(1 + self.random.below(3));
        let known = self.tables.entry(table).or_default();
        let after = known.watermark + self.random.below(3);
        let expected = known.after(after);
        let found = self.buffer.recent(table, SequenceNumber(after)).unwrap();
        let reader = Reader {
            table,
            found,
            expected,
        };
        self.readers.push(reader);
    }

    fn read_ends(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let place = self.random.below(self.readers.len() as u64) as usize;
        let Reader {
            table,
            found,
            expected,
        } = self.readers.swap_remove(place);
        assert_eq!(values(found, &self.wal, table), expected);
    }

    fn flush(&mut self) {
        let unwanted = TableId(self.random.below(6));
        let goal = SequenceNumber(self.random.below(STEPS));
        let round = self.buffer.unflushed(None, goal, |table| table != unwanted);
        let (mut bytes, mut has_more) = (0, false);
        let wanted = self.tables.iter().filter(|(table, _)| **table != unwanted);
        let wanted: Vec<_> = wanted
            .map(|(table, known)| (*table, known.after(known.watermark)))
            .collect();
        for (table, expected) in wanted {
            let all = round
                .tables
                .iter()
                .find(|unflushed| unflushed.table == table);
            let all = all.map_or(&[][..], |unflushed| &unflushed.batches);
            bytes += all.iter().map(|(_, bytes)| bytes).sum::<u64>();
            let all: Vec<_> = all.iter().map(|(number, _)| *number).collect();
            has_more |= expected[all.len()..].iter().any(|number| *number <= goal.0);
            let rows = self.buffer.take_unflushed(table, &all);
            let rows = rows
                .into_iter()
                .map(|kept| kept.read(&self.wal, table).unwrap());
            let read: Vec<_> = rows.map(|row| value(&(row.sequence, row.batch))).collect();
            assert_eq!(read, expected[..all.len()]);
            // Now and then a commit fails.
            if self.random.below(4) > 0
                && let Some(last) = all.last()
            {
                self.buffer.mark_flushed(table, *last, self.now);
                self.tables.get_mut(&table).unwrap().watermark = last.0;
            }
        }
        assert!(bytes < LIMIT + ROW_BYTES, "in pieces");
        assert_eq!(round.has_more, has_more);
    }

    fn truncate(&mut self) {
        let up_to = wal::SequenceNumber(self.buffer.flushed_up_to().0);
        self.truncated += self.wal.truncate_up_to(up_to).unwrap().segments;
    }

    /// What a query sees now, and what the figures say.
    fn check(&self) {
        for (id, table) in &self.tables {
            let found = self.buffer.recent(*id, SequenceNumber(table.watermark));
            let seen = values(found.unwrap(), &self.wal, *id);
            assert_eq!(seen, table.after(table.watermark));
        }
        let unflushed = self
            .tables
            .values()
            .map(|table| table.after(table.watermark).len());
        let unflushed = unflushed.sum::<usize>() as u64;
        let held = self.buffer.held();
        assert_eq!(held.unflushed_rows, unflushed);
        let bytes = held.unflushed_bytes + held.spilled_bytes;
        assert_eq!(bytes, unflushed * ROW_BYTES);
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..8 => self.write().await,
            8..11 => {
                let most = self.random.below(LIMIT);
                let before = self.buffer.held().spilled_bytes;
                self.buffer.spill(most);
                self.spilled += self.buffer.held().spilled_bytes - before;
            }
            11..14 => self.read_begins(),
            14..17 => self.read_ends(),
            17 => self.flush(),
            18 => self.truncate(),
            _ => {
                self.now += Duration::from_secs(self.random.below(3));
                self.buffer.evict(self.now);
            }
        }
        self.check();
    }
}

#[tokio::test]
async fn spilled_rows_are_seen_once_whatever_is_flushed_and_truncated() {
    let (mut spilled, mut truncated) = (0, 0);
    for seed in 0..CASES {
        let directory = tempfile::tempdir().unwrap();
        let mut case = Case {
            random: Random(seed),
            buffer: Arc::new(Buffer::new(LIMIT, Duration::from_secs(3))),
            wal: open_log(directory.path()),
            tables: BTreeMap::new(),
            readers: Vec::new(),
            now: Instant::now(),
            spilled: 0,
            truncated: 0,
        };
        for _ in 0..STEPS {
            case.step().await;
        }
        while !case.readers.is_empty() {
            case.read_ends();
        }
        spilled += case.spilled;
        truncated += case.truncated;
    }
    assert!(spilled > CASES * 5 * ROW_BYTES, "{spilled} bytes spilled");
    assert!(truncated > CASES, "{truncated} segments truncated");
}
