//! A part of a value that its copies share until one of them changes it.
//!
//! In: any value. Out: the same value behind a pointer, so that a copy costs nothing and two copies
//! that have stayed together are known to be equal without a look inside.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

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

/// One key's value in a map that has changed, before and now; at least one of them is there.
pub(crate) type Difference<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// Where two maps differ, by key, ascending: one pass over both, and no look into values that they
/// share.
pub(crate) fn differences<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, Arc<V>>,
    now: &'a BTreeMap<K, Arc<V>>,
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
        let map = |entries: &[(u8, u8)]| -> BTreeMap<u8, Arc<u8>> {
            entries.iter().map(|(key, value)| (*key, Arc::new(*value))).collect()
        };
        let before = map(&[(1, 1), (2, 2), (3, 3), (5, 5)]);
        let mut now = before.clone();
        now.extend(map(&[(0, 0), (2, 9), (3, 3), (7, 7)]));
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
}
