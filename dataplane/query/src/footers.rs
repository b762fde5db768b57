//! The footers of Parquet files kept in memory, with counters: the engine's own cache does not say how often
//! it was of use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::common::{HashMap, TableReference};
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::cache::{Cache, CacheEntryInfo};
use object_store::path::Path;

/// What became of the footers that queries asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FooterStats {
    /// Those found in memory since the start.
    pub hits: u64,
    /// Those read from their file since the start.
    pub misses: u64,
    /// Bytes of those in memory.
    pub bytes: u64,
}

/// The cache of the engine, counted.
pub(crate) struct Footers {
    kept: DefaultCache<Path, CachedFileMetadataEntry>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Footers {
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            kept: DefaultCache::new(limit_bytes).with_name("footers"),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    pub(crate) fn stats(&self) -> FooterStats {
        FooterStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.kept.memory_used() as u64,
        }
    }
}

impl std::fmt::Debug for Footers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Footers").field(&self.stats()).finish()
    }
}

impl Cache<Path, CachedFileMetadataEntry> for Footers {
    fn get(&self, key: &Path) -> Option<CachedFileMetadataEntry> {
        let found = self.kept.get(key);
        let count = match found {
            Some(_) => &self.hits,
            None => &self.misses,
        };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn put(&self, key: &Path, value: CachedFileMetadataEntry) -> Option<CachedFileMetadataEntry> {
        self.kept.put(key, value)
    }

    fn remove(&self, key: &Path) -> Option<CachedFileMetadataEntry> {
        self.kept.remove(key)
    }

    fn contains_key(&self, key: &Path) -> bool {
        self.kept.contains_key(key)
    }

    fn len(&self) -> usize {
        self.kept.len()
    }

    fn clear(&self) {
        self.kept.clear();
    }

    fn name(&self) -> String {
        self.kept.name()
    }

    fn cache_limit(&self) -> usize {
        self.kept.cache_limit()
    }

    fn update_cache_limit(&self, limit: usize) {
        self.kept.update_cache_limit(limit);
    }

    fn cache_ttl(&self) -> Option<Duration> {
        self.kept.cache_ttl()
    }

    fn update_cache_ttl(&self, ttl: Option<Duration>) {
        self.kept.update_cache_ttl(ttl);
    }

    fn drop_table_entries(&self, table: &TableReference) -> Result<(), DataFusionError> {
        self.kept.drop_table_entries(table)
    }

    fn list_entries(&self) -> HashMap<Path, CacheEntryInfo<CachedFileMetadataEntry>> {
        self.kept.list_entries()
    }
}
