//! How much of the stored files a process keeps near, and whether it does.

use std::sync::Arc;

use anyhow::Context as _;
use flightcluster_config::{ByteSize, Config, ObjectStoreKind};
use flightcluster_objectstore::{CacheOptions, CachedStore};
use object_store::ObjectStore;

/// Share of the memory limit for blocks of stored files when nothing is configured.
const CACHE_MEMORY_PERCENT: u64 = 10;

/// Most bytes of stored files on disk when nothing is configured: the volume may have a limit that
/// can't be seen, such as that of an `emptyDir`.
const CACHE_DISK_MOST_BYTES: u64 = 16 << 30;

/// Keeps what queries read of the store, where that is worth it.
pub(super) fn open(
    config: &Config,
    store: &Arc<dyn ObjectStore>,
    memory_limit_bytes: u64,
    free_bytes: u64,
) -> anyhow::Result<Option<CachedStore>> {
    let far = match config.storage.object_store.kind {
        ObjectStoreKind::S3 | ObjectStoreKind::Gcs | ObjectStoreKind::Azure => true,
        ObjectStoreKind::Embedded => config.catalog.url.is_some(),
        ObjectStoreKind::Local | ObjectStoreKind::Memory => false,
    };
    let or = |configured: Option<ByteSize>, otherwise: u64| match (configured, far) {
        (Some(bytes), _) => bytes.as_u64(),
        (None, true) => otherwise,
        (None, false) => 0,
    };
    let query = &config.query;
    let of_memory = memory_limit_bytes / 100 * CACHE_MEMORY_PERCENT;
    let memory_bytes = or(query.cache_memory_bytes, of_memory);
    let of_disk = (free_bytes / 4).min(CACHE_DISK_MOST_BYTES);
    let disk_bytes = or(query.cache_disk_bytes, of_disk);
    if memory_bytes == 0 && disk_bytes == 0 {
        return Ok(None);
    }
    let directory = config.storage.data_dir.join("cache");
    let options = CacheOptions {
        memory_bytes,
        disk: (disk_bytes > 0).then_some((directory, disk_bytes)),
    };
    tracing::info!(memory_bytes, disk_bytes, "stored files are cached");
    let cache = CachedStore::new(Arc::clone(store), options)
        .context("can't use the directory of cached files below storage.data_dir")?;
    Ok(Some(cache))
}
