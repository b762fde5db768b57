//! Every way to change the store syncs what it must, in order, before it returns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tempfile::TempDir;

use super::DurableLocal;
use super::sync::Disk;

/// Writes down what was synced instead of doing it, and fails when told so.
#[derive(Debug, Default)]
struct Recorder {
    root: Mutex<std::path::PathBuf>,
    calls: Mutex<Vec<String>>,
    fail_on: Mutex<Option<String>>,
}

impl Recorder {
    fn record(&self, kind: &str, path: &FsPath) -> io::Result<()> {
        let root = self.root.lock().unwrap();
        let shown = path
            .strip_prefix(&*root)
            .map_or("outside".into(), FsPath::to_string_lossy);
        // What is synced must be there already, under its final name.
        let there = if path.exists() { "" } else { " (missing)" };
        let call = format!("{kind} /{shown}{there}");
        self.calls.lock().unwrap().push(call.clone());
        match &*self.fail_on.lock().unwrap() {
            Some(fail_on) if *fail_on == call => Err(io::Error::other("disk is gone")),
            _ => Ok(()),
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Disk for Recorder {
    fn sync_file(&self, path: &FsPath) -> io::Result<()> {
        assert!(!path.exists() || path.is_file());
        self.record("file", path)
    }

    fn sync_directory(&self, path: &FsPath) -> io::Result<()> {
        assert!(path.is_dir());
        self.record("dir", path)
    }
}

struct Fixture {
    store: DurableLocal,
    disk: Arc<Recorder>,
    directory: TempDir,
}

fn open() -> Fixture {
    let directory = TempDir::new().unwrap();
    let disk = Arc::new(Recorder::default());
    *disk.root.lock().unwrap() = directory.path().canonicalize().unwrap().join("store");
    let root = directory.path().join("store");
    let store = DurableLocal::open_on(&root, Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    disk.take();
    Fixture {
        store,
        disk,
        directory,
    }
}

#[test]
fn the_directories_of_a_new_store_are_synced_into_their_parents() {
    let directory = TempDir::new().unwrap();
    let disk = Arc::new(Recorder::default());
    *disk.root.lock().unwrap() = directory.path().to_owned();
    let root = directory.path().join("a/b/c");
    DurableLocal::open_on(&root, Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    assert_eq!(disk.take(), ["dir /", "dir /a", "dir /a/b"]);
    DurableLocal::open_on(&root, Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    assert!(disk.take().is_empty());
}

#[tokio::test]
async fn put_syncs_the_file_then_its_directories_up_to_the_root() {
    let Fixture {
        store,
        disk,
        directory: _directory,
    } = open();
    store
        .put(&Path::from("db/t/x.parquet"), "rows".into())
        .await
        .unwrap();
    assert_eq!(
        disk.take(),
        ["file /db/t/x.parquet", "dir /db/t", "dir /db", "dir /"]
    );
    store.put(&Path::from("top"), "rows".into()).await.unwrap();
    assert_eq!(disk.take(), ["file /top", "dir /"]);
}

#[tokio::test]
async fn an_upload_syncs_when_it_is_complete_and_not_before() {
    let Fixture {
        store,
        disk,
        directory: _directory,
    } = open();
    let location = Path::from("db/x");
    let mut upload = store.put_multipart(&location).await.unwrap();
    upload.put_part("one".into()).await.unwrap();
    upload.put_part("two".into()).await.unwrap();
    assert!(disk.take().is_empty());
    upload.complete().await.unwrap();
    assert_eq!(disk.take(), ["file /db/x", "dir /db", "dir /"]);

    let mut upload = store.put_multipart(&Path::from("db/y")).await.unwrap();
    upload.put_part("one".into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(disk.take().is_empty());
}

#[tokio::test]
async fn copy_rename_and_delete_are_synced() {
    let Fixture {
        store,
        disk,
        directory: _directory,
    } = open();
    let [a, b, c] = ["a/1", "b/2", "c/3"].map(Path::from);
    store.put(&a, "rows".into()).await.unwrap();
    disk.take();
    store.copy(&a, &b).await.unwrap();
    assert_eq!(disk.take(), ["file /b/2", "dir /b", "dir /"]);
    store.copy_if_not_exists(&a, &c).await.unwrap();
    assert_eq!(disk.take(), ["file /c/3", "dir /c", "dir /"]);
    store.put(&a, "other rows".into()).await.unwrap();
    disk.take();
    store.rename(&a, &b).await.unwrap();
    assert_eq!(disk.take(), ["file /b/2", "dir /b", "dir /", "dir /a"]);
    store.rename_if_not_exists(&b, &a).await.unwrap();
    assert_eq!(disk.take(), ["file /a/1", "dir /a", "dir /", "dir /b"]);
    store.delete(&c).await.unwrap();
    assert_eq!(disk.take(), ["dir /c"]);
}

#[tokio::test]
async fn a_failed_sync_fails_the_call() {
    for fail_on in ["file /db/x", "dir /db", "dir /"] {
        let Fixture {
            store,
            disk,
            directory: _directory,
        } = open();
        *disk.fail_on.lock().unwrap() = Some(fail_on.to_owned());
        let location = Path::from("db/x");
        let error = store.put(&location, "rows".into()).await.unwrap_err();
        assert!(error.to_string().contains("disk is gone"), "{error}");
        let mut upload = store.put_multipart(&location).await.unwrap();
        upload.put_part("rows".into()).await.unwrap();
        upload.complete().await.unwrap_err();
    }
}

#[tokio::test]
async fn what_failed_is_not_synced() {
    let Fixture {
        store,
        disk,
        directory: _directory,
    } = open();
    let location = Path::from("db/x");
    store
        .put_opts(&location, "1".into(), object_store::PutMode::Create.into())
        .await
        .unwrap();
    disk.take();
    let again = store
        .put_opts(&location, "2".into(), object_store::PutMode::Create.into())
        .await;
    assert!(matches!(
        again,
        Err(object_store::Error::AlreadyExists { .. })
    ));
    let gone = store.delete(&Path::from("db/none")).await;
    assert!(matches!(gone, Err(object_store::Error::NotFound { .. })));
    assert!(disk.take().is_empty());
}

#[tokio::test]
async fn unfinished_uploads_are_found_and_not_listed_as_objects() {
    use futures::TryStreamExt as _;

    let Fixture {
        store, directory, ..
    } = open();
    store
        .put(&Path::from("db/a#b"), "kept".into())
        .await
        .unwrap();
    assert!(store.leftovers().unwrap().is_empty());
    let killed = directory.path().join("store/db/x.parquet#1");
    std::fs::write(&killed, "half a file").unwrap();
    let leftovers = store.leftovers().unwrap();
    assert_eq!(leftovers.len(), 1);
    assert_eq!(leftovers[0].path, killed.canonicalize().unwrap());
    assert_eq!(leftovers[0].size_bytes, 11);
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
}
