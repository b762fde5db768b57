//! Put, get, list, copy, delete.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStoreExt as _, PutMode};

use super::{Subject, content, names, pattern, sorted};

pub async fn an_object_comes_back_as_it_was_put(store: Subject) {
    for (name, length) in [("empty", 0), ("one", 1), ("db/t/some", 100_000)] {
        let location = Path::from(name);
        let data = pattern(length);
        let put = store.put(&location, data.clone().into()).await.unwrap();
        let got = store.get(&location).await.unwrap();
        assert_eq!(got.meta.location, location);
        assert_eq!(got.meta.size, length as u64);
        assert_eq!(got.range, 0..length as u64);
        assert!(put.e_tag.is_some());
        assert_eq!(got.meta.e_tag, put.e_tag);
        assert_eq!(got.bytes().await.unwrap(), data);
    }
    assert_eq!(names(&store).await, ["db/t/some", "empty", "one"]);
}

pub async fn parts_of_an_object_are_read_by_range(store: Subject) {
    let location = Path::from("x");
    let data = pattern(300_000);
    store.put(&location, data.clone().into()).await.unwrap();
    for (asked, expected) in [
        (GetRange::Bounded(0..1), 0..1),
        (GetRange::Bounded(100..200_100), 100..200_100),
        (GetRange::Bounded(299_999..300_000), 299_999..300_000),
        (GetRange::Bounded(299_990..400_000), 299_990..300_000),
        (GetRange::Offset(299_000), 299_000..300_000),
        (GetRange::Offset(0), 0..300_000),
        (GetRange::Suffix(8), 299_992..300_000),
        (GetRange::Suffix(500_000), 0..300_000),
    ] {
        let options = GetOptions {
            range: Some(asked.clone()),
            ..GetOptions::default()
        };
        let got = store.get_opts(&location, options).await.unwrap();
        assert_eq!(got.meta.size, 300_000);
        assert_eq!(got.range.start, expected.start as u64, "{asked:?}");
        assert_eq!(got.range.end, expected.end as u64, "{asked:?}");
        assert_eq!(got.bytes().await.unwrap(), data[expected], "{asked:?}");
    }
    let parts = store
        .get_ranges(&location, &[5..9, 250_000..250_010, 7..20])
        .await
        .unwrap();
    let expected = [5..9, 250_000..250_010, 7..20].map(|part| Bytes::copy_from_slice(&data[part]));
    assert_eq!(parts, expected);
}

pub async fn unreadable_ranges_are_refused(store: Subject) {
    let location = Path::from("x");
    store.put(&location, "0123456789".into()).await.unwrap();
    for asked in [
        GetRange::Bounded(10..20),
        GetRange::Bounded(3..3),
        GetRange::Offset(11),
    ] {
        let options = GetOptions {
            range: Some(asked.clone()),
            ..GetOptions::default()
        };
        store
            .get_opts(&location, options)
            .await
            .expect_err(&format!("{asked:?}"));
    }
}

pub async fn metadata_are_read_without_content(store: Subject) {
    let location = Path::from("db/x");
    store.put(&location, pattern(70_000).into()).await.unwrap();
    let head = store.head(&location).await.unwrap();
    assert_eq!(head.size, 70_000);
    assert_eq!(head.location, location);
    assert_eq!(head, store.get(&location).await.unwrap().meta);
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(listed, [head]);
}

pub async fn reads_can_ask_for_a_certain_content(store: Subject) {
    let location = Path::from("x");
    let e_tag = store.put(&location, "1".into()).await.unwrap().e_tag;
    let matching = GetOptions {
        if_match: e_tag.clone(),
        ..GetOptions::default()
    };
    assert_eq!(
        store
            .get_opts(&location, matching)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        "1"
    );
    let changed = GetOptions {
        if_none_match: e_tag,
        ..GetOptions::default()
    };
    let error = store.get_opts(&location, changed).await.unwrap_err();
    assert!(matches!(error, Error::NotModified { .. }), "{error}");
    let other = GetOptions {
        if_match: Some("other".to_owned()),
        ..GetOptions::default()
    };
    let error = store.get_opts(&location, other).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}

pub async fn what_is_missing_is_not_found(store: Subject) {
    store.put(&Path::from("db/x"), "1".into()).await.unwrap();
    // A directory is no object.
    for name in ["none", "db", "db/x/y", "db/none"].map(Path::from) {
        let got = store.get(&name).await.unwrap_err();
        let head = store.head(&name).await.unwrap_err();
        // A file in the way makes a file system answer differently.
        if name.as_ref() != "db/x/y" {
            assert!(matches!(got, Error::NotFound { .. }), "{name}: {got:?}");
            assert!(matches!(head, Error::NotFound { .. }), "{name}: {head:?}");
        }
    }
    let copied = store
        .copy(&Path::from("none"), &Path::from("some"))
        .await
        .unwrap_err();
    assert!(matches!(copied, Error::NotFound { .. }), "{copied:?}");
    assert_eq!(names(&store).await, ["db/x"]);
}

pub async fn a_put_replaces_an_object(store: Subject) {
    let location = Path::from("db/x");
    store.put(&location, pattern(1000).into()).await.unwrap();
    store.put(&location, "short".into()).await.unwrap();
    assert_eq!(content(&store, &location).await, b"short");
    assert_eq!(names(&store).await, ["db/x"]);
}

pub async fn a_creating_put_refuses_an_existing_object(store: Subject) {
    let location = Path::from("db/x");
    store
        .put_opts(&location, "first".into(), PutMode::Create.into())
        .await
        .unwrap();
    let error = store
        .put_opts(&location, "second".into(), PutMode::Create.into())
        .await;
    assert!(
        matches!(error, Err(Error::AlreadyExists { .. })),
        "{error:?}"
    );
    assert_eq!(content(&store, &location).await, b"first");
    assert_eq!(names(&store).await, ["db/x"]);
}

pub async fn objects_are_listed_by_prefix_and_offset(store: Subject) {
    let all = ["a/1", "a/2", "a/b/3", "ab/4", "c"];
    for name in all {
        store.put(&Path::from(name), name.into()).await.unwrap();
    }
    assert_eq!(names(&store).await, all);
    for (prefix, expected) in [
        ("a", &["a/1", "a/2", "a/b/3"][..]),
        ("a/b", &["a/b/3"]),
        ("none", &[]),
        ("a/1", &[]),
    ] {
        let prefix = Path::from(prefix);
        let listed = store.list(Some(&prefix)).try_collect().await.unwrap();
        assert_eq!(sorted(listed), expected, "{prefix}");
    }
    let (prefix, offset) = (Path::from("a"), Path::from("a/1"));
    let listed = store
        .list_with_offset(Some(&prefix), &offset)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(sorted(listed), ["a/2", "a/b/3"]);
    let listed = store
        .list_with_offset(None, &Path::from("ab"))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(sorted(listed), ["ab/4", "c"]);
}

pub async fn one_level_is_listed_by_delimiter(store: Subject) {
    for name in ["a/1", "a/b/2", "a/c/3", "d"] {
        store.put(&Path::from(name), name.into()).await.unwrap();
    }
    let top = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, [Path::from("a")]);
    assert_eq!(sorted(top.objects), ["d"]);
    let level = store
        .list_with_delimiter(Some(&Path::from("a")))
        .await
        .unwrap();
    let mut prefixes = level.common_prefixes;
    prefixes.sort();
    assert_eq!(prefixes, [Path::from("a/b"), Path::from("a/c")]);
    assert_eq!(level.objects[0].size, 3);
    assert_eq!(sorted(level.objects), ["a/1"]);
}

pub async fn objects_are_copied_and_renamed(store: Subject) {
    let [a, b, c] = ["d/a", "e/b", "f/c"].map(Path::from);
    store.put(&a, "one".into()).await.unwrap();
    store.copy(&a, &b).await.unwrap();
    assert_eq!(content(&store, &b).await, b"one");
    store.put(&a, "two".into()).await.unwrap();
    assert_eq!(content(&store, &b).await, b"one");
    let refused = store.copy_if_not_exists(&a, &b).await;
    assert!(
        matches!(refused, Err(Error::AlreadyExists { .. })),
        "{refused:?}"
    );
    store.copy(&a, &b).await.unwrap();
    assert_eq!(content(&store, &b).await, b"two");

    store.rename(&a, &c).await.unwrap();
    assert_eq!(names(&store).await, ["e/b", "f/c"]);
    let refused = store.rename_if_not_exists(&b, &c).await;
    assert!(
        matches!(refused, Err(Error::AlreadyExists { .. })),
        "{refused:?}"
    );
    store.rename_if_not_exists(&b, &a).await.unwrap();
    assert_eq!(names(&store).await, ["d/a", "f/c"]);
}

pub async fn many_objects_are_deleted(store: Subject) {
    let all: Vec<_> = (0..30).map(|n| Path::from(format!("d/{n:02}"))).collect();
    for location in &all {
        store.put(location, "x".into()).await.unwrap();
    }
    let doomed: Vec<_> = all[..25].iter().cloned().map(Ok).collect();
    let deleted: Vec<_> = store
        .delete_stream(stream::iter(doomed).boxed())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(deleted, all[..25]);
    store.delete(&all[25]).await.unwrap();
    assert_eq!(names(&store).await, ["d/26", "d/27", "d/28", "d/29"]);
}

pub async fn unusual_names_work(store: Subject) {
    let odd = [
        "default/t/date=2026-11-21/0193.parquet",
        "with space/ü/日本",
        "percent %2F..%2F",
        "a?b&c=d+e;f",
        "hash#tag",
        "...",
        "quote\"'`",
        "back\\slash",
    ];
    for name in odd {
        let location = Path::from(name);
        store.put(&location, name.into()).await.unwrap();
        assert_eq!(content(&store, &location).await, name.as_bytes(), "{name}");
        assert_eq!(store.head(&location).await.unwrap().location, location);
        let listed = names(&store).await;
        assert!(
            listed.contains(&location.to_string()),
            "{location} is not in {listed:?}"
        );
        store.delete(&location).await.unwrap();
        assert!(names(&store).await.is_empty(), "{name}");
    }
}

pub async fn many_calls_run_at_once(store: Subject) {
    let calls = (0..40_usize).map(|n| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            let location = Path::from(format!("p/{n}"));
            let data = pattern(1000 + n * 10_000);
            store.put(&location, data.clone().into()).await.unwrap();
            assert_eq!(content(&store, &location).await, data);
        })
    });
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(names(&store).await.len(), 40);
}
