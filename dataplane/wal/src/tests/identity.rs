//! Which log it is, and what it remembers of the catalog.

use std::io;

use super::*;

fn lock(disk: &FakeDisk) -> WalDirectory {
    WalDirectory::lock(DIRECTORY, Arc::new(disk.clone())).unwrap()
}

#[tokio::test]
async fn a_log_keeps_its_name_and_what_it_saw() {
    let disk = FakeDisk::default();
    let fresh = lock(&disk);
    let id = fresh.label().id;
    assert!(fresh.is_empty());
    assert_eq!((fresh.label().epoch, fresh.label().catalog), (0, None));
    drop(fresh);
    assert_eq!(lock(&disk).label().id, id, "also when nothing was written");
    assert_ne!(lock(&FakeDisk::default()).label().id, id);

    let wal = open(&disk, options());
    let newer = CatalogState {
        snapshot: 9,
        created_at_millis: 2000,
    };
    wal.remember(newer).unwrap();
    let late = CatalogState {
        snapshot: 8,
        created_at_millis: 1999,
    };
    wal.remember(late).unwrap();
    drop(wal);
    let again = lock(&disk);
    assert!(!again.is_empty());
    assert_eq!(
        again.label(),
        Label {
            id,
            epoch: 1,
            catalog: Some(newer)
        }
    );
}

#[test]
fn the_label_tells_of_a_life_before_its_first_segment_is_there() {
    let disk = FakeDisk::default();
    disk.fail("create", io::ErrorKind::PermissionDenied);
    let failed = WalDirectory::lock(DIRECTORY, Arc::new(disk.clone())).unwrap_err();
    assert_eq!(failed.category(), "directory");
    drop(open(&disk, options()));
    let log = disk.log();
    let at = |wanted: &str| log.iter().rposition(|line| line == wanted).unwrap();
    let segment = at("create 00000000000000000001.wal");
    assert!(at("rename label.new done") < segment, "{log:?}");
}

#[tokio::test]
async fn what_a_power_cut_leaves_has_the_old_label_or_the_new_one() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    let id = lock(&disk.copy()).label().id;
    let newer = CatalogState {
        snapshot: 9,
        created_at_millis: 2000,
    };
    for operation in ["create", "append", "sync", "rename", "sync_directory"] {
        disk.fail(operation, io::ErrorKind::StorageFull);
        wal.remember(newer).unwrap_err();
        for kept in [true, false] {
            let label = lock(&disk.after_power_cut(|| kept)).label();
            assert_eq!(label.id, id);
            assert!([Some(STATE), Some(newer)].contains(&label.catalog));
        }
    }
    wal.remember(newer).unwrap();
    let label = lock(&disk.after_power_cut(|| false)).label();
    assert_eq!(label.catalog, Some(newer));
}

#[tokio::test]
async fn a_deleted_label_is_made_anew_from_the_segments() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    drop(wal);
    let id = lock(&disk).label().id;
    let label = Path::new(DIRECTORY).join("label");
    let found = lock(&disk.without(&label)).label();
    assert_eq!((found.id, found.epoch), (id, 1));
}

/// Every byte of the label, and every length: what the message says is done, and all is back.
#[tokio::test]
async fn a_damaged_label_costs_no_row() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    drop(wal);
    let label = Path::new(DIRECTORY).join("label");
    let right = disk.content(&label);
    let flipped = (0..right.len() * 8).map(|bit| {
        let mut bytes = right.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..right.len()).map(|length| right[..length].to_vec());
    let longer = [[right.clone(), vec![0]].concat()];
    for bytes in flipped.chain(cut).chain(longer) {
        let damaged = disk.with(&label, bytes.clone());
        let error = WalDirectory::lock(DIRECTORY, Arc::new(damaged.clone())).unwrap_err();
        assert_eq!(error.category(), "damaged_label");
        let text = error.to_string();
        assert!(
            text.contains("label /wal/label") && text.contains("move this one file away"),
            "{text}"
        );
        assert_eq!(
            damaged.content(&label),
            bytes,
            "a refused start changes nothing"
        );

        let cured = damaged.without(&label);
        assert_records(&replay(&cured).unwrap(), 1..=3);
        let (found, before) = (lock(&cured).label(), lock(&disk).label());
        assert_eq!((found.id, found.epoch), (before.id, before.epoch));
    }
}

#[test]
fn a_damaged_label_of_an_empty_log_is_made_anew() {
    let disk = FakeDisk::default();
    let before = lock(&disk).label();
    let label = Path::new(DIRECTORY).join("label");
    let damaged = disk.with(&label, vec![0; 60]);
    let error = WalDirectory::lock(DIRECTORY, Arc::new(damaged.clone())).unwrap_err();
    assert_eq!(error.category(), "damaged_label");
    let anew = lock(&damaged.without(&label));
    assert!(anew.is_empty());
    assert_ne!(anew.label().id, before.id, "nothing tells the name");
}

#[test]
fn a_label_of_a_newer_release_is_refused() {
    let disk = FakeDisk::default();
    drop(lock(&disk));
    let label = Path::new(DIRECTORY).join("label");
    // What all versions have in common: magic, version, length and, at the end, the checksum.
    let mut newer = disk.content(&label);
    newer.truncate(newer.len() - 4);
    newer.extend(*b"something new");
    newer[8] = 9;
    newer[12] = newer.len() as u8 + 4;
    newer.extend(crc32c::crc32c(&newer).to_le_bytes());
    let newer = disk.with(&label, newer);
    let error = WalDirectory::lock(DIRECTORY, Arc::new(newer)).unwrap_err();
    assert_eq!(error.category(), "unknown_version");
}

#[tokio::test]
async fn segments_of_two_logs_in_one_directory_are_refused() {
    let (disk, other) = (FakeDisk::default(), FakeDisk::default());
    for disk in [&disk, &other] {
        let wal = open(disk, options());
        write(&wal, 1..=3).await;
    }
    let mixed = disk.with(&segment(1), other.content(&segment(1)));
    let error = replay(&mixed).unwrap_err();
    assert_eq!(error.category(), "other_log");
}
