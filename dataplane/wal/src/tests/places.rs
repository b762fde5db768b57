//! Records are read again by their places.

use super::*;

/// Remembers where records are.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<Stored>>>);

impl Places {
    fn completion(&self) -> Completion {
        let places = Arc::clone(&self.0);
        Box::new(move |result| places.lock().unwrap().push(*result.as_ref().unwrap()))
    }

    fn get(&self) -> Vec<Stored> {
        self.0.lock().unwrap().clone()
    }
}

fn assert_read(wal: &Wal, stored: Stored) {
    let number = stored.sequence.0;
    let found = wal.read(stored).unwrap();
    let expected = append(number);
    assert_eq!(found.table, expected.table, "{number}");
    assert_eq!(found.producer, expected.producer, "{number}");
    assert_eq!(found.order, expected.order, "{number}");
    assert_eq!(found.messages, expected.messages, "{number}");
}

/// In groups of several, over several segments, also from the one that is written to.
#[tokio::test]
async fn every_record_can_be_read_by_its_place() {
    let disk = FakeDisk::default();
    let options = WalOptions {
        segment_bytes: 2000,
        ..options()
    };
    let (wal, places) = (open(&disk, options.clone()), Places::default());
    for first in (1..=60).step_by(3) {
        let mut pending = Vec::new();
        for number in first..first + 3 {
            let record = append(number);
            let reservation = wal.reserve(&record).await.unwrap();
            pending.push(wal.enqueue(reservation, record, places.completion()));
        }
        for pending in pending {
            pending.unwrap().await.unwrap();
        }
        for stored in places.get() {
            assert_read(&wal, stored);
        }
    }
    assert_eq!(places.get().len(), 60);
    assert!(wal.size().0 > 3, "several segments");
    drop(wal);

    let mut recovery = recovery(&disk).unwrap();
    let mut replayed = Vec::new();
    while let Some((record, place)) = recovery.next_placed().unwrap() {
        let sequence = record.sequence;
        replayed.push(Stored { sequence, place });
    }
    assert_eq!(replayed, places.get(), "a replay finds them where they are");
    let wal = recovery.finish(options, Arc::new(NoObserver)).unwrap();
    for stored in replayed {
        assert_read(&wal, stored);
    }
}

/// Never other rows, and never none.
#[tokio::test]
async fn what_is_not_as_it_was_written_is_an_error() {
    let disk = FakeDisk::default();
    let (wal, places) = (open(&disk, options()), Places::default());
    for number in 1..=3 {
        let appended = wal.append(append(number), places.completion()).await;
        appended.unwrap();
    }
    let [first, second, third] = places.get()[..] else {
        panic!("three records");
    };
    let data = disk.content(&segment(1));
    drop(wal);
    let (from, to) = (
        second.place.offset,
        second.place.offset + second.place.bytes(),
    );
    for at in from..to {
        let mut flipped = data.clone();
        flipped[at as usize] ^= 1 << (at % 8);
        let damaged = disk.copy();
        let wal = open(&damaged, options());
        damaged.overwrite(&segment(1), flipped);
        let error = wal.read(second).unwrap_err();
        assert_eq!(error.category(), "damaged", "{at}: {error}");
        assert_read(&wal, first);
        assert_read(&wal, third);
    }
    let wal = open(&disk, options());
    let swapped = Stored {
        sequence: first.sequence,
        ..second
    };
    assert_eq!(wal.read(swapped).unwrap_err().category(), "damaged");
    disk.overwrite(&segment(1), data[..to as usize - 1].to_vec());
    assert_eq!(wal.read(second).unwrap_err().category(), "segment");
}

/// Whatever lies there now, in a file that is written over.
#[tokio::test]
async fn a_record_of_a_truncated_segment_is_not_there() {
    let disk = FakeDisk::default();
    let options = WalOptions {
        segment_bytes: 500,
        ..options()
    };
    let (wal, places) = (open(&disk, options), Places::default());
    for number in 1..=20 {
        let appended = wal.append(append(number), places.completion()).await;
        appended.unwrap();
    }
    let truncated = wal.truncate_up_to(SequenceNumber(10)).unwrap();
    assert!(truncated.segments > 0);
    let (gone, kept): (Vec<_>, Vec<_>) = places
        .get()
        .into_iter()
        .partition(|stored| stored.place.segment <= truncated.segments);
    assert!(!gone.is_empty() && !kept.is_empty());
    for stored in gone {
        let error = wal.read(stored).unwrap_err();
        assert_eq!(error.category(), "segment", "{error}");
    }
    for stored in kept {
        assert_read(&wal, stored);
    }
}
