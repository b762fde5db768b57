//! Writes are refused before the volume is full, and taken again when there is room.

use super::*;

async fn refused(wal: &Wal, number: u64) -> Error {
    let refused = wal.append(append(number), Box::new(|_| {})).await;
    refused.unwrap_err()
}

/// Writes until the log refuses; gives the last number that was taken, and the refusal.
async fn fill(wal: &Wal, mut next: u64) -> (u64, Error) {
    loop {
        match wal.append(append(next), Box::new(|_| {})).await {
            Ok(_) => next += 1,
            Err(error) => return (next - 1, error),
        }
    }
}

#[tokio::test]
async fn a_log_past_its_budget_refuses_until_segments_are_freed() {
    let disk = FakeDisk::default();
    let wal = open(
        &disk,
        WalOptions {
            budget_bytes: 4000,
            ..options()
        },
    );
    assert_eq!(wal.limit_bytes(), 4000);
    let (last, error) = fill(&wal, 1).await;
    assert_eq!(error.category(), "over_budget");
    assert!(
        error
            .to_string()
            .contains("limit 4000, setting ingest.wal_bytes"),
        "{error}"
    );
    assert!(last > 10 && wal.size().1 <= 4500, "{last} {:?}", wal.size());
    assert!(wal.poisoned().is_none());
    assert_eq!(refused(&wal, last + 1).await.category(), "over_budget");

    // Everything is in files: the segment that was written to is freed too.
    assert!(wal.can_truncate(SequenceNumber(last)));
    wal.truncate_up_to(SequenceNumber(last)).unwrap();
    assert!(!wal.can_truncate(SequenceNumber(last)));
    let (again, _) = fill(&wal, last + 1).await;
    assert!(again > last + 10);
    drop(wal);
    assert_records(&replay(&disk).unwrap(), last + 1..=again);
}

#[tokio::test]
async fn a_record_larger_than_the_budget_is_taken_alone() {
    let disk = FakeDisk::default();
    let wal = open(
        &disk,
        WalOptions {
            budget_bytes: 10,
            ..options()
        },
    );
    write(&wal, 1..=1).await;
    assert_eq!(refused(&wal, 2).await.category(), "over_budget");
    wal.truncate_up_to(SequenceNumber(1)).unwrap();
    write(&wal, 2..=2).await;
}

#[tokio::test]
async fn a_volume_that_others_fill_refuses_before_it_is_full() {
    let disk = FakeDisk::default();
    disk.set_volume(32_000);
    let wal = open(
        &disk,
        WalOptions {
            budget_bytes: 1 << 40,
            ..options()
        },
    );
    let (last, error) = fill(&wal, 1).await;
    assert_eq!(error.category(), "full");
    let Error::Full { source, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        source.to_string().contains("2000 are kept free"),
        "{source}"
    );
    disk.set_volume(64_000);
    write(&wal, last + 1..=last + 3).await;
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=last + 3);
}

#[test]
fn without_a_setting_half_of_the_volume_is_the_budget() {
    let disk = FakeDisk::default();
    disk.set_volume(1 << 20);
    assert_eq!(open(&disk, options()).limit_bytes(), 1 << 19);
    let real = RealDisk.space(Path::new("/")).unwrap();
    assert!(
        real.total_bytes > real.free_bytes && real.free_bytes > 0,
        "{real:?}"
    );
}
