//! Uploads in parts: whole or not at all.

use futures::future;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::{Subject, content, names, pattern};

const PART: usize = 5 * 1024 * 1024;

pub async fn an_upload_is_seen_when_it_is_complete(store: Subject) {
    let location = Path::from("db/x");
    let mut upload = store.put_multipart(&location).await.unwrap();
    upload.put_part("first, ".into()).await.unwrap();
    assert!(names(&store).await.is_empty());
    upload.put_part("second".into()).await.unwrap();
    assert!(names(&store).await.is_empty());
    let put = upload.complete().await.unwrap();
    assert_eq!(content(&store, &location).await, b"first, second");
    assert_eq!(store.head(&location).await.unwrap().e_tag, put.e_tag);
}

pub async fn parts_go_in_the_order_of_the_calls(store: Subject) {
    let location = Path::from("x");
    let mut upload = store.put_multipart(&location).await.unwrap();
    let mut parts: Vec<_> = ["a", "b", "c", "d"]
        .map(|part| upload.put_part(part.repeat(1000).into()))
        .into();
    parts.reverse();
    future::try_join_all(parts).await.unwrap();
    upload.complete().await.unwrap();
    let expected: String = ["a", "b", "c", "d"].map(|part| part.repeat(1000)).concat();
    assert_eq!(content(&store, &location).await, expected.as_bytes());
}

pub async fn an_upload_without_parts_is_an_empty_object(store: Subject) {
    let location = Path::from("x");
    store
        .put_multipart(&location)
        .await
        .unwrap()
        .complete()
        .await
        .unwrap();
    assert_eq!(store.head(&location).await.unwrap().size, 0);
}

pub async fn a_large_upload_comes_back(store: Subject) {
    let location = Path::from("db/large");
    let data = pattern(6 * PART + 17);
    let mut upload = store.put_multipart(&location).await.unwrap();
    for part in data.chunks(PART) {
        upload.put_part(part.to_vec().into()).await.unwrap();
    }
    upload.complete().await.unwrap();
    assert!(content(&store, &location).await == data);
    let middle = 2 * PART as u64 - 3..2 * PART as u64 + 3;
    let read = store.get_range(&location, middle).await.unwrap();
    assert_eq!(read, data[2 * PART - 3..2 * PART + 3]);
}

pub async fn an_upload_replaces_an_object(store: Subject) {
    let location = Path::from("x");
    store.put(&location, pattern(1000).into()).await.unwrap();
    let mut upload = store.put_multipart(&location).await.unwrap();
    upload.put_part("new".into()).await.unwrap();
    assert_eq!(content(&store, &location).await, pattern(1000));
    upload.complete().await.unwrap();
    assert_eq!(content(&store, &location).await, b"new");
}

pub async fn an_aborted_upload_leaves_nothing(store: Subject) {
    for parts in 0..4 {
        let mut upload = store.put_multipart(&Path::from("db/x")).await.unwrap();
        for _ in 0..parts {
            upload.put_part(pattern(PART).into()).await.unwrap();
        }
        upload.abort().await.unwrap();
        assert!(names(&store).await.is_empty());
    }
}

pub async fn a_dropped_upload_leaves_nothing(store: Subject) {
    let mut upload = store.put_multipart(&Path::from("db/x")).await.unwrap();
    upload.put_part(pattern(2 * PART).into()).await.unwrap();
    drop(upload);
    assert!(names(&store).await.is_empty());
}
