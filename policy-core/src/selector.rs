//! Calico's label selector language.
//!
//! In: a selector as an operator writes it, such as `app == 'web' && !has(canary)`. Out: a
//! [`Selector`], which answers whether a set of [`Labels`] is selected.
//!
//! The language is the one of Calico (libcalico-go `lib/selector`), byte for byte, with one
//! difference: line breaks count as space, so that a selector may be folded over several lines.
//! Upstream sets no bound on length and nesting; ours are [`MAX_LENGTH`] and [`MAX_DEPTH`].

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::labels::{Labels, NAMESPACE_LABEL};

mod implies;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::{MAX_DEPTH, MAX_LABEL_LENGTH, MAX_LENGTH, Problem, SelectorError};

/// A parsed selector. Cloning shares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    root: Arc<Node>,
}

/// One node of the expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    All,
    Global,
    Has(String),
    /// Label, value.
    Equal(String, String),
    NotEqual(String, String),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Not(Box<Node>),
    /// Two or more.
    And(Vec<Node>),
    /// Two or more.
    Or(Vec<Node>),
}

/// Something that may be known of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// A label is there.
    Has(&'a str),
    /// A label has a value.
    Is(&'a str, &'a str),
}

impl Selector {
    /// Parses a selector; an empty one, or one of space only, selects everything.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] with the byte offset of the first thing that is not a selector.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        parse::parse(text).map(Selector::from)
    }

    /// `all()`.
    pub fn all() -> Selector {
        Node::All.into()
    }

    /// `has(label)`. The name is taken as it is, even if the language could not write it.
    pub fn has(label: impl Into<String>) -> Selector {
        Node::Has(label.into()).into()
    }

    /// `label == 'value'`.
    pub fn equal(label: impl Into<String>, value: impl Into<String>) -> Selector {
        Node::Equal(label.into(), value.into()).into()
    }

    /// `label in {'value', ...}`.
    pub fn one_of<V: Into<String>>(
        label: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Selector {
        Node::In(label.into(), values.into_iter().map(Into::into).collect()).into()
    }

    /// `label not in {'value', ...}`.
    pub fn none_of<V: Into<String>>(
        label: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Selector {
        Node::NotIn(label.into(), values.into_iter().map(Into::into).collect()).into()
    }

    /// Selects what both select.
    #[must_use]
    pub fn and(self, other: Selector) -> Selector {
        // `all()` adds nothing, and flat lists keep the depth of what is built up step by step.
        let operands = |selector: Selector| match Arc::unwrap_or_clone(selector.root) {
            Node::All => Vec::new(),
            Node::And(operands) => operands,
            node => vec![node],
        };
        let mut all = operands(self);
        all.extend(operands(other));
        match all.len() {
            0 => Node::All.into(),
            1 => all.remove(0).into(),
            _ => Node::And(all).into(),
        }
    }

    /// Selects what this one does not.
    #[must_use]
    pub fn negate(self) -> Selector {
        Arc::unwrap_or_clone(self.root).negate().into()
    }

    /// Whether something with these labels is selected. A label that is missing makes `==`, `in`,
    /// `contains`, `starts with` and `ends with` false, `!=` and `not in` true; an empty value is
    /// present.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.root.matches(labels)
    }

    /// Whether labels of which only this much is known may be selected: `may_hold` says no of what does not
    /// hold for sure.
    pub fn may_match(&self, may_hold: &impl Fn(Fact<'_>) -> bool) -> bool {
        self.root.may_match(may_hold)
    }

    /// Whether this is `all()`, in so many words.
    pub fn is_all(&self) -> bool {
        matches!(*self.root, Node::All)
    }

    /// Whether this is `global()`, and nothing else.
    pub fn is_global(&self) -> bool {
        matches!(*self.root, Node::Global)
    }

    /// Whether `global()` occurs; it has a meaning in a `namespaceSelector` only.
    pub fn uses_global(&self) -> bool {
        self.root.any(&|node| matches!(node, Node::Global))
    }

    /// The same condition, read as one on the namespace of an endpoint instead of on the endpoint:
    /// label names get `prefix`, `all()` means "in some namespace" and `global()` "in none" (the
    /// meaning of `namespaceSelector` in libcalico-go `updateprocessors/rules.go`).
    #[must_use]
    pub fn on_namespace(&self, prefix: &str) -> Selector {
        self.root.on_namespace(prefix).into()
    }
}

impl From<Node> for Selector {
    fn from(root: Node) -> Self {
        Selector { root: Arc::new(root) }
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Selector::parse(text)
    }
}

impl Node {
    fn negate(self) -> Node {
        match self {
            Node::Not(operand) => *operand,
            node => Node::Not(Box::new(node)),
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let on = |label: &str, test: &dyn Fn(&str) -> bool| labels.get(label).is_some_and(test);
        match self {
            Node::All | Node::Global => true,
            Node::Has(label) => labels.get(label).is_some(),
            Node::Equal(label, value) => on(label, &|found| found == value),
            Node::NotEqual(label, value) => !on(label, &|found| found == value),
            Node::Contains(label, value) => on(label, &|found| found.contains(value.as_str())),
            Node::StartsWith(label, value) => on(label, &|found| found.starts_with(value.as_str())),
            Node::EndsWith(label, value) => on(label, &|found| found.ends_with(value.as_str())),
            Node::In(label, values) => on(label, &|found| values.contains(found)),
            Node::NotIn(label, values) => !on(label, &|found| values.contains(found)),
            Node::Not(operand) => !operand.matches(labels),
            Node::And(operands) => operands.iter().all(|operand| operand.matches(labels)),
            Node::Or(operands) => operands.iter().any(|operand| operand.matches(labels)),
        }
    }

    fn may_match(&self, may_hold: &impl Fn(Fact<'_>) -> bool) -> bool {
        match self {
            Node::Has(label)
            | Node::Contains(label, _)
            | Node::StartsWith(label, _)
            | Node::EndsWith(label, _) => may_hold(Fact::Has(label)),
            Node::Equal(label, value) => may_hold(Fact::Is(label, value)),
            Node::In(label, values) => values.iter().any(|value| may_hold(Fact::Is(label, value))),
            Node::And(operands) => operands.iter().all(|operand| operand.may_match(may_hold)),
            Node::Or(operands) => operands.iter().any(|operand| operand.may_match(may_hold)),
            Node::All | Node::Global | Node::NotEqual(..) | Node::NotIn(..) | Node::Not(_) => true,
        }
    }

    /// Parentheses inside each other in the canonical form.
    fn nesting(&self) -> usize {
        match self {
            Node::Not(operand) => operand.nesting(),
            Node::And(operands) | Node::Or(operands) => {
                1 + operands.iter().map(Node::nesting).max().unwrap_or_default()
            }
            _ => 0,
        }
    }

    fn any(&self, test: &dyn Fn(&Node) -> bool) -> bool {
        test(self)
            || match self {
                Node::Not(operand) => operand.any(test),
                Node::And(operands) | Node::Or(operands) => {
                    operands.iter().any(|operand| operand.any(test))
                }
                _ => false,
            }
    }

    fn on_namespace(&self, prefix: &str) -> Node {
        let name = |label: &str| format!("{prefix}{label}");
        let each = |operands: &[Node]| {
            operands.iter().map(|operand| operand.on_namespace(prefix)).collect()
        };
        match self {
            Node::All => Node::Has(NAMESPACE_LABEL.to_owned()),
            Node::Global => Node::Has(NAMESPACE_LABEL.to_owned()).negate(),
            Node::Has(label) => Node::Has(name(label)),
            Node::Equal(label, value) => Node::Equal(name(label), value.clone()),
            Node::NotEqual(label, value) => Node::NotEqual(name(label), value.clone()),
            Node::Contains(label, value) => Node::Contains(name(label), value.clone()),
            Node::StartsWith(label, value) => Node::StartsWith(name(label), value.clone()),
            Node::EndsWith(label, value) => Node::EndsWith(name(label), value.clone()),
            Node::In(label, values) => Node::In(name(label), values.clone()),
            Node::NotIn(label, values) => Node::NotIn(name(label), values.clone()),
            Node::Not(operand) => operand.on_namespace(prefix).negate(),
            Node::And(operands) => Node::And(each(operands)),
            Node::Or(operands) => Node::Or(each(operands)),
        }
    }
}

/// Upstream's canonical form: one space around operators, every `&&` and `||` list in parentheses,
/// double quotes unless the value holds one, set members sorted.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::All => f.write_str("all()"),
            Node::Global => f.write_str("global()"),
            Node::Has(label) => write!(f, "has({label})"),
            Node::Equal(label, value) => write!(f, "{label} == {}", Quoted(value)),
            Node::NotEqual(label, value) => write!(f, "{label} != {}", Quoted(value)),
            Node::Contains(label, value) => write!(f, "{label} contains {}", Quoted(value)),
            Node::StartsWith(label, value) => write!(f, "{label} starts with {}", Quoted(value)),
            Node::EndsWith(label, value) => write!(f, "{label} ends with {}", Quoted(value)),
            Node::In(label, values) => write_set(f, label, "in", values),
            Node::NotIn(label, values) => write_set(f, label, "not in", values),
            Node::Not(operand) => write!(f, "!{operand}"),
            Node::And(operands) => write_list(f, operands, " && "),
            Node::Or(operands) => write_list(f, operands, " || "),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

fn write_set(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    operator: &str,
    values: &BTreeSet<String>,
) -> fmt::Result {
    write!(f, "{label} {operator} {{")?;
    for (index, value) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{}", Quoted(value))?;
    }
    f.write_str("}")
}

fn write_list(f: &mut fmt::Formatter<'_>, operands: &[Node], operator: &str) -> fmt::Result {
    f.write_str("(")?;
    for (index, operand) in operands.iter().enumerate() {
        let separator = if index == 0 { "" } else { operator };
        write!(f, "{separator}{operand}")?;
    }
    f.write_str(")")
}
