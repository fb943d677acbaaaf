//! A map whose clones are cheap: entries are spread over shards, and a change copies the shards it touches.
//!
//! With n entries and s shards a small batch copies s pointers and n/s entries per key, which for 100,000 entries is
//! microseconds; a persistent tree would copy less and cost several times the memory and the lookup.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

/// Keys come from the control plane, which is trusted; the same order in every process is worth more than a random seed.
pub(super) use foldhash::fast::FixedState;

type Shard<K, V> = HashMap<K, V, FixedState>;

#[derive(Debug, Clone)]
pub(super) struct Index<K, V> {
    // Two pointers deep, so that a snapshot is cloned without touching a shard.
    shards: Arc<[Arc<Shard<K, V>>]>,
}

impl<K: Hash + Eq + Clone, V: Clone> Index<K, V> {
    /// Shards for an index that has an entry per workload: about the square root of 100,000.
    pub(super) const LARGE: usize = 512;
    /// Shards for an index that has an entry per service, node or policy.
    pub(super) const SMALL: usize = 64;

    pub(super) fn new(shards: usize) -> Self {
        let empty = Arc::new(Shard::default());
        Self { shards: std::iter::repeat_n(empty, shards).collect() }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The upper half: the map inside the shard uses the lower bits.
        let hash = FixedState::default().hash_one(key) >> 32;
        usize::try_from(hash).unwrap_or(0) % self.shards.len()
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let shard = self.shard(&key);
        Arc::make_mut(Arc::make_mut(&mut self.shards).get_mut(shard)?).insert(key, value)
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // A miss must not copy anything.
        self.get(key)?;
        let shard = self.shard(key);
        Arc::make_mut(Arc::make_mut(&mut self.shards).get_mut(shard)?).remove(key)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// Something that is listed under a key other than its own.
pub(super) trait Member: Clone {
    type Id: Ord + std::fmt::Debug;
    fn id(&self) -> &Self::Id;
}

/// What is listed under one key, ordered by id; nearly always one thing, which then costs no allocation.
#[derive(Debug, Clone)]
pub(super) enum Few<T> {
    One(T),
    Many(Arc<[T]>),
}

impl<T> Few<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(member) => std::slice::from_ref(member),
            Self::Many(members) => members,
        }
    }
}

impl<K: Hash + Eq + Clone, T: Member> Index<K, Few<T>> {
    pub(super) fn members<Q>(&self, key: &Q) -> &[T]
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key).map_or(&[], Few::as_slice)
    }

    /// Lists the member, in place of one with the same id.
    pub(super) fn add(&mut self, key: K, member: T) {
        let value = match self.get(&key) {
            None => Few::One(member),
            Some(Few::One(present)) if present.id() == member.id() => Few::One(member),
            Some(few) => {
                let present = few.as_slice();
                let (at, end) = match present.binary_search_by(|other| other.id().cmp(member.id())) {
                    Ok(at) => (at, at + 1),
                    Err(at) => (at, at),
                };
                let (before, after) = (present.get(..at).unwrap_or(&[]), present.get(end..).unwrap_or(&[]));
                Few::Many(before.iter().chain([&member]).chain(after).cloned().collect())
            }
        };
        self.insert(key, value);
    }

    pub(super) fn take<Q>(&mut self, key: &Q, id: &T::Id)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let Some(few) = self.get(key) else { return };
        let rest: Vec<T> = few.as_slice().iter().filter(|member| member.id() != id).cloned().collect();
        match <[T; 1]>::try_from(rest) {
            Ok([member]) => drop(self.insert(key.to_owned(), Few::One(member))),
            Err(rest) if rest.is_empty() => drop(self.remove(key)),
            Err(rest) => drop(self.insert(key.to_owned(), Few::Many(rest.into()))),
        }
    }
}

/// Changes to long lists, gathered over a batch so that each list is rebuilt once.
#[derive(Debug)]
pub(super) struct Changes<K, T: Member> {
    lists: HashMap<K, Vec<Change<T>>, FixedState>,
}

#[derive(Debug)]
enum Change<T: Member> {
    Put(T),
    Take(T::Id),
}

impl<T: Member> Change<T> {
    fn id(&self) -> &T::Id {
        match self {
            Self::Put(member) => member.id(),
            Self::Take(id) => id,
        }
    }
}

impl<K: Hash + Eq + Clone, T: Member> Changes<K, T> {
    pub(super) fn new() -> Self {
        Self { lists: HashMap::default() }
    }

    pub(super) fn put(&mut self, key: K, member: T) {
        self.lists.entry(key).or_default().push(Change::Put(member));
    }

    pub(super) fn take(&mut self, key: K, id: T::Id) {
        self.lists.entry(key).or_default().push(Change::Take(id));
    }

    pub(super) fn apply(self, index: &mut Index<K, Arc<[T]>>) {
        for (key, mut changes) in self.lists {
            // Stable: of several changes to one member the last one counts.
            changes.sort_by(|left, right| left.id().cmp(right.id()));
            let present = index.get(&key).map_or(&[][..], |list| list);
            let mut list = Vec::with_capacity(present.len() + changes.len());
            let mut present = present.iter().peekable();
            let mut changes = changes.into_iter().peekable();
            while let Some(change) = changes.next() {
                if changes.peek().is_some_and(|next| next.id() == change.id()) {
                    continue;
                }
                while let Some(member) = present.next_if(|member| member.id() < change.id()) {
                    list.push(member.clone());
                }
                present.next_if(|member| member.id() == change.id());
                if let Change::Put(member) = change {
                    list.push(member);
                }
            }
            list.extend(present.cloned());
            if list.is_empty() {
                index.remove(&key);
            } else {
                index.insert(key, list.into());
            }
        }
    }
}
