//! What every store of this crate must do, wherever its objects are.
//!
//! `contract!(open)` makes one test of each behaviour below; `open` is an async function that gives
//! a value with a field `store: Arc<dyn ObjectStore>` over empty storage.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

pub mod objects;
pub mod uploads;

use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

pub type Subject = Arc<dyn ObjectStore>;

/// Makes modules of tests of the contract.
macro_rules! contract {
    ($open:path) => {
        $crate::contract::contract!(@tests $open, objects {
            an_object_comes_back_as_it_was_put,
            parts_of_an_object_are_read_by_range,
            unreadable_ranges_are_refused,
            metadata_are_read_without_content,
            reads_can_ask_for_a_certain_content,
            what_is_missing_is_not_found,
            a_put_replaces_an_object,
            a_creating_put_refuses_an_existing_object,
            objects_are_listed_by_prefix_and_offset,
            one_level_is_listed_by_delimiter,
            objects_are_copied_and_renamed,
            many_objects_are_deleted,
            unusual_names_work,
            many_calls_run_at_once,
        });
        $crate::contract::contract!(@tests $open, uploads {
            an_upload_is_seen_when_it_is_complete,
            parts_go_in_the_order_of_the_calls,
            an_upload_without_parts_is_an_empty_object,
            a_large_upload_comes_back,
            an_upload_replaces_an_object,
            an_aborted_upload_leaves_nothing,
            a_dropped_upload_leaves_nothing,
        });
    };
    (@tests $open:path, $module:ident { $($test:ident,)+ }) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = $open().await;
                    $crate::contract::$module::$test(std::sync::Arc::clone(&fixture.store)).await;
                }
            )+
        }
    };
}
pub(crate) use contract;

/// Bytes that differ from place to place. Made of blocks: a loop over all bytes takes seconds in an
/// unoptimised test.
pub fn pattern(length: usize) -> Vec<u8> {
    const BLOCK: usize = 4096;
    let block: Vec<u8> = (0..BLOCK).map(|n| ((n ^ (n >> 5)) & 0xff) as u8).collect();
    let mut bytes = Vec::with_capacity(length + BLOCK);
    while bytes.len() < length {
        let number = bytes.len() as u64;
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(length);
    bytes
}

pub async fn content(store: &Subject, location: &Path) -> Vec<u8> {
    store
        .get(location)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec()
}

/// All locations, sorted.
pub async fn names(store: &Subject) -> Vec<String> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    sorted(listed)
}

pub fn sorted(objects: Vec<object_store::ObjectMeta>) -> Vec<String> {
    let mut names: Vec<_> = objects
        .into_iter()
        .map(|meta| meta.location.to_string())
        .collect();
    names.sort();
    names
}
