//! A map that holds a number of bytes and forgets what was not used for the longest time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Lru<K, V> {
    limit: u64,
    bytes: u64,
    clock: u64,
    entries: HashMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Lru<K, V> {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// Bytes of everything in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.by_use.insert(self.clock, key);
        }
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    /// Adds or replaces an entry; returns what had to go for it, maybe the entry itself.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: u64) -> Vec<K> {
        self.remove(&key);
        self.clock += 1;
        let used = self.clock;
        self.by_use.insert(used, key.clone());
        let entry = Entry { value, bytes, used };
        self.entries.insert(key, entry);
        self.bytes += bytes;
        let mut gone = Vec::new();
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_use.first_key_value() else {
                break;
            };
            let oldest = oldest.clone();
            self.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let mut lru = Lru::new(30);
        for key in ["a", "b", "c"] {
            assert!(lru.insert(key, (), 10).is_empty());
        }
        assert!(lru.get(&"a").is_some());
        assert_eq!(lru.insert("d", (), 10), ["b"]);
        assert_eq!(lru.insert("a", (), 25), ["c", "d"]);
        assert_eq!(lru.bytes(), 25);
        assert_eq!(lru.insert("large", (), 31), ["a", "large"]);
        assert_eq!(lru.bytes(), 0);
    }
}
