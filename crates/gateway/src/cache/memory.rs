//! Answers in this process's memory, bounded in bytes: what is asked for again stays longest.

use std::time::Instant;

use metrics::Counter;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use super::{Entry, MAX_BYTES};

/// What an entry takes beside its body, in bytes: key, names, and the table's own.
const BESIDE: u64 = 256;
/// How large an answer is taken to be before any is known, in bytes.
const TYPICAL: u64 = 4 << 10;

/// The store.
pub struct Memory(Cache<[u8; 32], (Instant, Entry), Bytes, DefaultHashBuilder, Evictions>);

#[derive(Clone)]
struct Bytes;

impl Weighter<[u8; 32], (Instant, Entry)> for Bytes {
    fn weight(&self, _: &[u8; 32], (_, entry): &(Instant, Entry)) -> u64 {
        entry.body.len() as u64 + BESIDE
    }
}

/// Counts what is given up for want of room.
#[derive(Clone)]
struct Evictions(Counter);

impl Lifecycle<[u8; 32], (Instant, Entry)> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: [u8; 32], _: (Instant, Entry)) {
        self.0.increment(1);
    }
}

impl Memory {
    /// An empty one for at most so many bytes.
    pub fn new(max_bytes: u64, evictions: Counter) -> Self {
        let items = usize::try_from(max_bytes / TYPICAL).unwrap_or(usize::MAX).clamp(32, 1 << 20);
        // An entry must fit into one of the parts that the table is cut into.
        let parts = usize::try_from(max_bytes / (4 * MAX_BYTES as u64)).unwrap_or(usize::MAX).clamp(1, 16);
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(items).weight_capacity(max_bytes).shards(parts);
        let hasher = DefaultHashBuilder::default();
        Self(match options.build() {
            Ok(options) => Cache::with_options(options, Bytes, hasher, Evictions(evictions)),
            Err(_) => Cache::with(items, max_bytes, Bytes, hasher, Evictions(evictions)),
        })
    }

    /// The answer kept under a key, unless its time is over.
    pub fn get(&self, key: &[u8; 32]) -> Option<Entry> {
        let (until, entry) = self.0.get(key)?;
        if until > Instant::now() {
            return Some(entry);
        }
        self.0.remove_if(key, |(until, _)| *until <= Instant::now());
        None
    }

    /// Keeps an answer.
    pub fn put(&self, key: [u8; 32], entry: Entry, until: Instant) {
        self.0.insert(key, (until, entry));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn entry(length: usize) -> Entry {
        let body = bytes::Bytes::from(vec![b'x'; length]);
        Entry { content_type: String::new(), upstream: String::new(), call: Uuid::nil(), body }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn an_answer_whose_time_is_over_is_gone() {
        let memory = Memory::new(1 << 20, Counter::noop());
        memory.put([1; 32], entry(10), soon());
        memory.put([2; 32], entry(10), Instant::now());
        assert_eq!(memory.get(&[1; 32]).unwrap().body.len(), 10);
        assert!(memory.get(&[2; 32]).is_none());
        assert_eq!(memory.0.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
        #[test]
        fn it_never_holds_more_than_its_bound(lengths in prop::collection::vec(0_usize..200_000, 1..200), bound in 1_u64..4_000_000) {
            let memory = Memory::new(bound, Counter::noop());
            for (place, length) in lengths.iter().enumerate() {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&(place as u64).to_le_bytes());
                memory.put(key, entry(*length), soon());
                prop_assert!(memory.0.weight() <= bound.max(memory.0.capacity()));
                prop_assert!(memory.0.capacity() <= bound + 16);
            }
        }
    }
}
