//! Parts of a value that its copies share until one of them changes it.
//!
//! In: any value. Out: the same value behind a pointer ([`Shared`]), so that a copy costs nothing and
//! two copies that have stayed together are known to be equal without a look inside. Of a map of
//! many entries ([`SharedMap`]) not even the one that changes is copied whole.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt::{self, Debug},
    ops::{Deref, DerefMut, Index},
    sync::Arc,
};

use immutable_chunkmap::map::Map;

/// A shared part. Reads like the value itself; the first write after a copy was made copies it.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Whether both are one value. If not, they may still be equal.
    pub fn same(&self, other: &Shared<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || *self.0 == *other.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Shared(Arc::new(value))
    }
}

impl<A, T: FromIterator<A>> FromIterator<A> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = A>>(items: I) -> Self {
        T::from_iter(items).into()
    }
}

impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&*self.0).into_iter()
    }
}

/// Few entries a chunk: one chunk is what a change copies.
type Chunks<K, V> = Map<K, V, 32>;

/// A sorted map. A copy costs nothing, and a change of one that has been copied costs the logarithm
/// of its size.
#[derive(Clone)]
pub struct SharedMap<K: Ord + Clone, V: Clone>(Shared<Chunks<K, V>>);

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Whether both are one value. If not, they may still be equal.
    pub fn same(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// Whether there is a value of this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Adds or replaces; returns what was replaced.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert_cow(key, value)
    }

    /// Removes; returns what was there. A map that does not have the key stays the same.
    pub fn remove<Q: Ord>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if self.contains_key(key) { self.0.remove_cow(key) } else { None }
    }

    /// Keeps the entries that `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        let kept = self.iter().filter(|(key, value)| keep(key, value));
        *self = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    }

    /// Entries, by ascending key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.into_iter()
    }

    /// Keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Values, by ascending key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap(Shared::from(Chunks::new()))
    }
}

impl<K: Ord + Clone + Debug, V: Clone + Debug> Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<Q: Ord, K: Ord + Clone + Borrow<Q>, V: Clone> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        &(*self.0)[key]
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Chunks::new();
        for (key, value) in entries {
            map.insert_cow(key, value);
        }
        SharedMap(map.into())
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<'a, K: Ord + Clone, V: Clone> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = <&'a Chunks<K, V> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&*self.0).into_iter()
    }
}

/// One key's value in a map that has changed, before and now; at least one of them is there.
pub(crate) type Difference<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// Where two maps differ, by key, ascending: one pass over both, and no look into values that they
/// share.
pub(crate) fn differences<'a, K: Ord + Clone, V: PartialEq>(
    before: &'a SharedMap<K, Arc<V>>,
    now: &'a SharedMap<K, Arc<V>>,
) -> impl Iterator<Item = Difference<'a, K, V>> {
    let (mut olds, mut news) = (before.iter().peekable(), now.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let old = if order.is_le() { olds.next() } else { None };
            let new = if order.is_ge() { news.next() } else { None };
            let (key, _) = old.or(new)?;
            let (old, new) = (old.map(|(_, value)| value), new.map(|(_, value)| value));
            let same = match (old, new) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
                _ => false,
            };
            if !same {
                return Some((key, old, new));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_differ_where_a_value_comes_goes_or_is_another() {
        let map = |entries: &[(u8, u8)]| -> SharedMap<u8, Arc<u8>> {
            entries.iter().map(|(key, value)| (*key, Arc::new(*value))).collect()
        };
        let before = map(&[(1, 1), (2, 2), (3, 3), (5, 5)]);
        let mut now = before.clone();
        now.extend([(0, 0), (2, 9), (3, 3), (7, 7)].map(|(key, value)| (key, Arc::new(value))));
        now.remove(&5);
        let found: Vec<_> = differences(&before, &now)
            .map(|(key, old, new)| (*key, old.map(|it| **it), new.map(|it| **it)))
            .collect();
        let expected =
            [(0, None, Some(0)), (2, Some(2), Some(9)), (5, Some(5), None), (7, None, Some(7))];
        assert_eq!(found, expected);
        assert_eq!(differences(&now, &now.clone()).count(), 0);
    }

    #[test]
    fn copies_are_one_value_until_one_is_written() {
        let first: Shared<Vec<u8>> = [1, 2].into_iter().collect();
        let mut second = first.clone();
        assert!(first.same(&second));
        second.push(3);
        assert!(!first.same(&second));
        assert_eq!((first.as_slice(), second.as_slice()), (&[1, 2][..], &[1, 2, 3][..]));
        second.pop();
        assert_eq!(first, second);
    }

    #[test]
    fn a_changed_map_leaves_its_copies_alone_and_stays_sorted() {
        let first: SharedMap<u32, u32> = (0..1000).map(|key| (key * 7 % 1000, key)).collect();
        let mut second = first.clone();
        assert!(first.same(&second));
        assert_eq!((second.insert(7, 0), second.insert(2000, 1)), (Some(1), None));
        assert_eq!((second.remove(&0), second.remove(&5000)), (Some(0), None));
        assert_eq!((first.len(), first.get(&7), first.get(&0)), (1000, Some(&1), Some(&0)));
        assert_eq!((second.len(), second.get(&7), second.get(&0)), (1000, Some(&0), None));
        assert!(second.keys().is_sorted() && first != second);
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let first: SharedMap<u8, u8> = [(1, 1)].into_iter().collect();
        let mut second = first.clone();
        second.remove(&2);
        assert!(first.same(&second));
    }
}
