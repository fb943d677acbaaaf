//! An ordered map whose clones are cheap, and that says quickly in what it differs from an earlier clone.
//!
//! Entries are kept sorted in blocks. A change copies the block it touches and the list of blocks, which for 100,000
//! entries is some 20 KiB; two maps that were one share all other blocks, and comparing them skips what they share. A
//! persistent tree would copy less, and cost more memory for each entry.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Most entries of a block: about the square root of 100,000, so that block and list of blocks cost the same.
const BLOCK: usize = 256;

type Block<K, V> = Arc<Vec<(K, V)>>;

/// The map.
pub struct OrderedMap<K, V> {
    /// None is empty; all entries of one are before those of the next.
    blocks: Arc<Vec<Block<K, V>>>,
    len: usize,
}

/// One entry in which two maps differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// What the older map has.
    pub old: Option<&'a V>,
    /// What the newer map has.
    pub new: Option<&'a V>,
}

impl<K, V> OrderedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self { blocks: Arc::default(), len: 0 }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is a clone of `other`, or the other way round, that nobody has changed since.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blocks, &other.blocks) || (self.is_empty() && other.is_empty())
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.blocks.iter().flat_map(|block| block.iter()).map(|(key, value)| (key, value))
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> OrderedMap<K, V> {
    /// The block that has the key if any has.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let after = self.blocks.partition_point(|block| block.first().is_some_and(|(first, _)| first.borrow() <= key));
        after.saturating_sub(1)
    }

    /// The entry of a key, with the key as the map has it.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let block = self.blocks.get(self.place(key))?;
        let at = block.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        block.get(at).map(|(key, value)| (key, value))
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Whether there is an entry of that key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).is_some()
    }

    /// The entries from `key` on, in order.
    pub fn range_from<'a, Q: Ord + ?Sized>(&'a self, key: &Q) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let skipped = self.blocks.get(place).map_or(0, |block| block.partition_point(|(it, _)| it.borrow() < key));
        let blocks = self.blocks.get(place..).unwrap_or_default();
        blocks.iter().flat_map(|block| block.iter()).skip(skipped).map(|(key, value)| (key, value))
    }

    /// In what a newer map differs, in the order of keys; `same` says whether two values are. What both share, because
    /// one came of the other, is not looked at.
    pub fn differences<'a>(&'a self, newer: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<Difference<'a, K, V>> {
        let mut found = Vec::new();
        if self.is_same(newer) {
            return found;
        }
        let (mut old, mut new) = (Cursor::of(self), Cursor::of(newer));
        loop {
            if let (Some(left), Some(right)) = (old.whole(), new.whole())
                && Arc::ptr_eq(left, right)
            {
                old.skip();
                new.skip();
                continue;
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return found,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            let left = if order.is_le() { old.next() } else { None };
            let right = if order.is_ge() { new.next() } else { None };
            let Some((key, _)) = left.or(right) else { return found };
            let (left, right) = (left.map(|(_, value)| value), right.map(|(_, value)| value));
            if !matches!((left, right), (Some(left), Some(right)) if same(left, right)) {
                found.push(Difference { key, old: left, new: right });
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> OrderedMap<K, V> {
    /// Puts an entry; returns the value that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        let blocks = Arc::make_mut(&mut self.blocks);
        let is_last = place.saturating_add(1) >= blocks.len();
        let Some(block) = blocks.get_mut(place) else {
            blocks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let block = Arc::make_mut(block);
        match block.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => block.get_mut(at).map(|(_, present)| std::mem::replace(present, value)),
            Err(at) => {
                block.insert(at, (key, value));
                self.len = self.len.saturating_add(1);
                if block.len() > BLOCK {
                    // What comes in order fills its blocks.
                    let cut = if is_last && at == BLOCK { BLOCK } else { BLOCK / 2 };
                    let mut rest = block.split_off(cut);
                    rest.shrink_to_fit();
                    blocks.insert(place.saturating_add(1), Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes an entry out; returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        // A miss must not copy anything.
        let at = self.blocks.get(place)?.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        let blocks = Arc::make_mut(&mut self.blocks);
        let block = Arc::make_mut(blocks.get_mut(place)?);
        let (_, value) = block.remove(at);
        self.len = self.len.saturating_sub(1);
        if block.is_empty() {
            blocks.remove(place);
        }
        // Neighbours that both have become small are one, so that many removals leave few blocks.
        for left in [Some(place), place.checked_sub(1)].into_iter().flatten() {
            let right = left.saturating_add(1);
            let size = |at: usize| blocks.get(at).map(|block| block.len());
            if !matches!((size(left), size(right)), (Some(one), Some(other)) if one.saturating_add(other) <= BLOCK / 2)
            {
                continue;
            }
            let rest = blocks.remove(right);
            if let Some(block) = blocks.get_mut(left) {
                Arc::make_mut(block).extend(rest.iter().cloned());
            }
        }
        Some(value)
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    blocks: &'a [Block<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a OrderedMap<K, V>) -> Self {
        Self { blocks: &map.blocks, at: 0 }
    }

    /// The block of which nothing was taken yet.
    fn whole(&self) -> Option<&'a Block<K, V>> {
        self.blocks.first().filter(|_| self.at == 0)
    }

    fn skip(&mut self) {
        (self.blocks, self.at) = (self.blocks.get(1..).unwrap_or_default(), 0);
    }

    fn peek(&self) -> Option<&'a (K, V)> {
        self.blocks.first()?.get(self.at)
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let block = self.blocks.first()?;
        let entry = block.get(self.at)?;
        self.at = self.at.saturating_add(1);
        if self.at >= block.len() {
            self.skip();
        }
        Some(entry)
    }
}

impl<K, V> Clone for OrderedMap<K, V> {
    fn clone(&self) -> Self {
        Self { blocks: Arc::clone(&self.blocks), len: self.len }
    }
}

impl<K, V> Default for OrderedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for OrderedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for OrderedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blocks, &other.blocks) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for OrderedMap<K, V> {}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for OrderedMap<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for OrderedMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Edit {
        Put(u16, u8),
        Take(u16),
    }

    fn edits(most: usize) -> impl Strategy<Value = Vec<Edit>> {
        let key = 0_u16..2_000;
        let edit = prop_oneof![
            3 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Edit::Put(key, value)),
            2 => key.prop_map(Edit::Take),
        ];
        proptest::collection::vec(edit, 0..most)
    }

    fn apply(edits: &[Edit], map: &mut OrderedMap<u16, u8>, plain: &mut BTreeMap<u16, u8>) {
        for edit in edits {
            match edit {
                Edit::Put(key, value) => assert_eq!(map.insert(*key, *value), plain.insert(*key, *value)),
                Edit::Take(key) => assert_eq!(map.remove(key), plain.remove(key)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_map_and_knows_what_differs(
            filled in 0_u16..1_500, first in edits(800), second in edits(60), from in 0_u16..2_100,
        ) {
            let mut map: OrderedMap<u16, u8> = (0..filled).map(|key| (key, 0)).collect();
            let mut plain: BTreeMap<u16, u8> = (0..filled).map(|key| (key, 0)).collect();
            apply(&first, &mut map, &mut plain);
            let (before, plain_before) = (map.clone(), plain.clone());
            apply(&second, &mut map, &mut plain);
            prop_assert!(before.iter().eq(plain_before.iter()), "a clone does not change");
            prop_assert!(map.iter().eq(plain.iter()));
            prop_assert_eq!(map.len(), plain.len());
            prop_assert!(map.range_from(&from).eq(plain.range(from..)));
            for key in 0..2_000 {
                prop_assert_eq!(map.get(&key), plain.get(&key));
            }
            let expected: Vec<_> = (0..2_000_u16)
                .map(|key| (key, plain_before.get(&key), plain.get(&key)))
                .filter(|(_, old, new)| old != new)
                .collect();
            let found = before.differences(&map, |left, right| left == right);
            let found: Vec<_> = found.into_iter().map(|it| (*it.key, it.old, it.new)).collect();
            prop_assert_eq!(found, expected);
            let full = map.blocks.len().saturating_sub(1) * BLOCK / 4;
            prop_assert!(map.len() >= full, "{} entries in {} blocks", map.len(), map.blocks.len());
            prop_assert!(map.blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK));
        }
    }

    #[test]
    fn what_is_shared_is_not_looked_at() {
        let before: OrderedMap<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
        let mut after = before.clone();
        assert!(after.is_same(&before));
        after.insert(50_000, 1);
        after.insert(200_000, 1);
        after.remove(&70_000);
        assert!(!after.is_same(&before));
        let looked = std::cell::Cell::new(0_usize);
        let found = before.differences(&after, |left, right| {
            looked.set(looked.get() + 1);
            left == right
        });
        assert_eq!(found.iter().map(|it| *it.key).collect::<Vec<_>>(), [50_000, 70_000, 200_000]);
        assert!(looked.get() <= 3 * BLOCK, "{}", looked.get());
    }
}
