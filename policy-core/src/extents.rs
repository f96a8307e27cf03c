//! Who uses which part of `INTERVALS`, and what is free.
//!
//! In: classes that become referenced or lose their last reference. Out: free runs, first fit.
//! A run that a program may still be reading is *dirty*: it can be had only after a grace period
//! ([`crate::plan::Op::Quiesce`]).

use std::collections::{BTreeMap, HashMap};

use policy_common::abi::ClassRef;

/// Allocation of the array.
#[derive(Clone, Debug)]
pub(crate) struct Extents {
    /// Free runs that nobody can be reading: start to end.
    clean: BTreeMap<u32, u32>,
    /// Free runs that somebody may be reading.
    dirty: BTreeMap<u32, u32>,
    /// References by map values.
    references: HashMap<ClassRef, u32>,
    /// Entries of referenced runs.
    used: u64,
    /// Runs that have lost their last reference, and may have got another since.
    freed: Vec<ClassRef>,
}

impl Extents {
    /// An array of `capacity` entries into which the given references lead. What is free counts
    /// as dirty unless there are none: somebody else was at work until now.
    pub(crate) fn new(capacity: u32, referenced: impl Iterator<Item = ClassRef>) -> Extents {
        let mut references: HashMap<ClassRef, u32> = HashMap::new();
        for class in referenced {
            *references.entry(class).or_default() += 1;
        }
        let mut used: Vec<ClassRef> = references.keys().copied().collect();
        used.sort_unstable();
        let mut free = BTreeMap::new();
        let mut from = 0;
        for class in used {
            if from < class.offset {
                free.insert(from, class.offset);
            }
            from = from.max(class.offset.saturating_add(class.len));
        }
        if from < capacity {
            free.insert(from, capacity);
        }
        let (clean, dirty) =
            if references.is_empty() { (free, BTreeMap::new()) } else { (BTreeMap::new(), free) };
        let used = references.keys().map(|class| u64::from(class.len)).sum();
        Extents { clean, dirty, references, used, freed: Vec::new() }
    }

    /// Whether a map value leads to this run.
    pub(crate) fn is_referenced(&self, class: ClassRef) -> bool {
        self.references.contains_key(&class)
    }

    /// Takes a run of `len` clean entries.
    pub(crate) fn allocate(&mut self, len: u32) -> Option<ClassRef> {
        let (&start, &end) = self.clean.iter().find(|(start, end)| *end - *start >= len)?;
        self.clean.remove(&start);
        if start + len < end {
            self.clean.insert(start + len, end);
        }
        Some(ClassRef { offset: start, len })
    }

    /// Counts one more reference.
    pub(crate) fn acquire(&mut self, class: ClassRef) {
        let count = self.references.entry(class).or_default();
        *count += 1;
        if *count == 1 {
            self.used += u64::from(class.len);
        }
    }

    /// Counts one reference less; a run without any is free.
    pub(crate) fn release(&mut self, class: ClassRef) {
        if let Some(count) = self.references.get_mut(&class) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&class);
                self.used -= u64::from(class.len);
                insert(&mut self.dirty, class.offset, class.offset + class.len);
                self.freed.push(class);
            }
        }
    }

    /// The runs that have become free since this was last called.
    pub(crate) fn freed(&mut self) -> Vec<ClassRef> {
        let mut freed = std::mem::take(&mut self.freed);
        freed.retain(|class| !self.is_referenced(*class));
        freed
    }

    /// A grace period has passed.
    pub(crate) fn quiesce(&mut self) {
        for (start, end) in std::mem::take(&mut self.dirty) {
            insert(&mut self.clean, start, end);
        }
    }

    /// Entries in use.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

/// Adds a run, joining it with its neighbours.
fn insert(runs: &mut BTreeMap<u32, u32>, mut start: u32, mut end: u32) {
    if let Some((&before, &until)) = runs.range(..start).next_back()
        && until == start
    {
        runs.remove(&before);
        start = before;
    }
    if let Some(after) = runs.remove(&end) {
        end = after;
    }
    runs.insert(start, end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_run_comes_back_whole_and_only_after_a_grace_period() {
        let mut extents = Extents::new(10, std::iter::empty());
        let runs: Vec<_> = (0..5).map(|_| extents.allocate(2).unwrap()).collect();
        for run in &runs {
            extents.acquire(*run);
        }
        assert_eq!((extents.allocate(1), extents.used()), (None, 10));
        for index in [1, 3, 2] {
            extents.release(runs[index]);
        }
        assert_eq!(extents.allocate(1), None);
        extents.quiesce();
        assert_eq!(extents.allocate(6), Some(ClassRef { offset: 2, len: 6 }));
    }

    #[test]
    fn what_an_earlier_agent_left_is_in_use_and_the_rest_is_not_clean() {
        let left = ClassRef { offset: 3, len: 2 };
        let mut extents = Extents::new(8, [left, left].into_iter());
        assert_eq!(extents.allocate(1), None);
        extents.quiesce();
        assert_eq!(extents.allocate(4), None);
        assert_eq!(extents.allocate(3), Some(ClassRef { offset: 0, len: 3 }));
        extents.release(left);
        assert!(extents.is_referenced(left));
        extents.release(left);
        extents.quiesce();
        assert_eq!(extents.allocate(5), Some(ClassRef { offset: 3, len: 5 }));
    }
}
