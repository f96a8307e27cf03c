//! The distinct classes and rule names of the tables, and who still uses them.
//!
//! In: classes that tables come to use or no longer use. Out: one id for each distinct content, and
//! the names and lists of Log rules that occur in a class which is in use.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use policy_api::messages::RuleName;
use policy_common::abi::{Interval, VERDICT_NESTED, VERDICT_RULE};

use crate::{canvas::LogLists, digest::Digest};

/// A distinct class. The number is never given to another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassId(u32);

#[derive(Clone, Debug)]
struct Class {
    intervals: Arc<[Interval]>,
    users: usize,
    /// What it is called in the maps, once it has been written there.
    digest: Option<Digest>,
}

/// A rule or a list of Log rules in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Word {
    /// The number of a rule, from 1 on.
    Rule(u32),
    /// The number of a list, from 1 on.
    Log(u32),
}

/// Classes and names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    classes: HashMap<ClassId, Class>,
    index: HashMap<Arc<[Interval]>, ClassId>,
    next: u32,
    /// By number less one: 0 in a staged verdict says that there is none.
    names: Vec<Arc<RuleName>>,
    name_index: HashMap<Arc<RuleName>, u32>,
    /// The lists of Log rules.
    pub(super) logs: LogLists,
    /// How many classes in use have a word.
    users: HashMap<Word, usize>,
    /// Words that came into use or out of it since [`Classes::settled`].
    touched: BTreeSet<Word>,
}

impl Classes {
    /// The number of a rule, from 1 on.
    pub(super) fn name(&mut self, name: RuleName) -> u32 {
        if let Some(&known) = self.name_index.get(&name) {
            return known;
        }
        let name = Arc::new(name);
        self.names.push(Arc::clone(&name));
        // There are fewer rules than bits of memory; the capacity check comes with the ids.
        let number = u32::try_from(self.names.len()).unwrap_or(VERDICT_RULE);
        self.name_index.insert(name, number);
        number
    }

    /// The names that are kept, by number less one.
    pub(crate) fn names(&self) -> &[Arc<RuleName>] {
        &self.names
    }

    /// How many names and lists are kept.
    pub(super) fn weight(&self) -> usize {
        self.names.len() + self.logs.len()
    }

    /// How many of them are in use.
    pub(super) fn in_use(&self) -> usize {
        self.users.len()
    }

    /// The rules of a word: one, or those of a list.
    pub(crate) fn rules(&self, word: Word) -> Vec<Arc<RuleName>> {
        let number = [match word {
            Word::Rule(number) | Word::Log(number) => number,
        }];
        let numbers = match word {
            Word::Rule(_) => &number[..],
            Word::Log(list) => self.logs.get(list),
        };
        let at = |number: &u32| self.names.get((*number as usize).checked_sub(1)?).cloned();
        numbers.iter().filter_map(at).collect()
    }

    /// Whether a class that is in use has this word.
    pub(crate) fn uses(&self, word: Word) -> bool {
        self.users.contains_key(&word)
    }

    /// Whether a class that is in use has this rule.
    pub(crate) fn uses_rule(&self, name: &RuleName) -> bool {
        self.name_index.get(name).is_some_and(|number| self.uses(Word::Rule(*number)))
    }

    /// Whether a class that is in use has this list of Log rules.
    pub(crate) fn uses_list(&self, list: &[RuleName]) -> bool {
        let numbers: Option<Vec<u32>> =
            list.iter().map(|name| self.name_index.get(name).copied()).collect();
        let list = numbers.and_then(|numbers| self.logs.find(&numbers));
        list.is_some_and(|list| self.uses(Word::Log(list)))
    }

    /// Counts one use more of a class.
    pub(super) fn acquire(&mut self, intervals: Vec<Interval>) -> ClassId {
        if let Some(&known) = self.index.get(intervals.as_slice()) {
            if let Some(class) = self.classes.get_mut(&known) {
                class.users += 1;
            }
            return known;
        }
        let id = ClassId(self.next);
        self.next += 1;
        let intervals: Arc<[Interval]> = intervals.into();
        for word in words(&intervals) {
            let users = self.users.entry(word).or_default();
            *users += 1;
            if *users == 1 {
                self.touched.insert(word);
            }
        }
        self.index.insert(Arc::clone(&intervals), id);
        self.classes.insert(id, Class { intervals, users: 1, digest: None });
        id
    }

    /// Counts one use less.
    pub(super) fn release(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        class.users -= 1;
        if class.users > 0 {
            return;
        }
        let Some(Class { intervals, .. }) = self.classes.remove(&id) else { return };
        self.index.remove(&intervals);
        for word in words(&intervals) {
            if let Some(users) = self.users.get_mut(&word) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(&word);
                    self.touched.insert(word);
                }
            }
        }
    }

    /// The content of a class: words have [`Word`]s in the place of ids.
    pub(crate) fn get(&self, id: ClassId) -> Option<Arc<[Interval]>> {
        self.classes.get(&id).map(|class| Arc::clone(&class.intervals))
    }

    /// What a class is called in the maps, if that is known.
    pub(crate) fn digest(&self, id: ClassId) -> Option<Digest> {
        self.classes.get(&id)?.digest
    }

    /// Words that came into use or out of it.
    pub(crate) fn touched(&self) -> impl Iterator<Item = Word> {
        self.touched.iter().copied()
    }

    /// The maps hold these classes under these names.
    pub(crate) fn written(&mut self, digests: impl IntoIterator<Item = (ClassId, Digest)>) {
        for (id, digest) in digests {
            if let Some(class) = self.classes.get_mut(&id) {
                class.digest = Some(digest);
            }
        }
    }

    /// The maps hold what this model says.
    pub(crate) fn settled(&mut self) {
        self.touched.clear();
    }
}

/// The rule in a verdict word, if there is one.
pub(crate) fn rule_in(verdict: u32) -> Option<Word> {
    let number = verdict & VERDICT_RULE;
    (verdict & VERDICT_NESTED == 0 && number != 0).then_some(Word::Rule(number))
}

/// The words in a class, each once.
fn words(intervals: &[Interval]) -> BTreeSet<Word> {
    let log = |interval: &Interval| (interval.log != 0).then_some(Word::Log(interval.log));
    intervals
        .iter()
        .flat_map(|it| [rule_in(it.verdict), rule_in(it.staged), log(it)])
        .flatten()
        .collect()
}
