//! Values that were of use a moment ago, within a budget of bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps values until their weights add up to more than a limit, then forgets those longest unused.
pub(crate) struct Lru<K, V> {
    limit: usize,
    used: usize,
    clock: u64,
    values: HashMap<K, (u64, usize, V)>,
    by_age: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    pub fn new(limit: usize) -> Self {
        Self { limit, used: 0, clock: 0, values: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// The value of `key`, which is the youngest from now on.
    pub fn get(&mut self, key: &K) -> Option<V> {
        let (age, _, value) = self.values.get_mut(key)?;
        self.by_age.remove(age);
        self.clock += 1;
        *age = self.clock;
        self.by_age.insert(self.clock, key.clone());
        Some(value.clone())
    }

    /// Keeps `value`, unless it alone is heavier than the limit.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        if let Some((age, weight, _)) = self.values.remove(&key) {
            self.by_age.remove(&age);
            self.used -= weight;
        }
        if weight > self.limit {
            return;
        }
        while self.used + weight > self.limit {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.used -= self.values.remove(&oldest).map_or(0, |(_, weight, _)| weight);
        }
        self.clock += 1;
        self.used += weight;
        self.by_age.insert(self.clock, key.clone());
        self.values.insert(key, (self.clock, weight, value));
    }
}

/// Frames by the video's id and their number.
type Frames = Lru<(u64, usize), Arc<[u8]>>;

/// Decoded frames, shared by all readers that were given a clone of it.
#[derive(Clone)]
pub struct FrameCache(Arc<Mutex<Frames>>);

impl FrameCache {
    /// A cache of at most `bytes` bytes of frames; 0 keeps none.
    pub fn with_bytes(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Lru::new(bytes))))
    }

    /// Bytes of the frames it holds.
    pub fn bytes(&self) -> usize {
        self.lock().used
    }

    /// Bytes of frames it may hold.
    pub fn limit_bytes(&self) -> usize {
        self.lock().limit
    }

    pub(super) fn get(&self, video: u64, frame: usize) -> Option<Arc<[u8]>> {
        self.lock().get(&(video, frame))
    }

    pub(super) fn insert(&self, video: u64, frame: usize, rgb: Arc<[u8]>) {
        let weight = rgb.len();
        self.lock().insert((video, frame), rgb, weight);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Frames> {
        // Nothing panics while it is held; were it to, a cache may as well go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first_and_the_limit_holds() {
        let cache = FrameCache::with_bytes(10);
        let frame = |length: usize| Arc::from(vec![0_u8; length]);
        cache.insert(1, 0, frame(4));
        cache.insert(1, 1, frame(4));
        assert!(cache.get(1, 0).is_some());
        cache.insert(2, 0, frame(4));
        assert!(cache.get(1, 1).is_none() && cache.get(1, 0).is_some() && cache.get(2, 0).is_some());
        cache.insert(2, 0, frame(5));
        assert_eq!(cache.bytes(), 9);
        cache.insert(3, 0, frame(11));
        assert!(cache.get(3, 0).is_none() && cache.bytes() == 9);
        let nothing = FrameCache::with_bytes(0);
        nothing.insert(1, 0, frame(1));
        assert_eq!((nothing.bytes(), nothing.limit_bytes()), (0, 0));
    }
}
