//! Whether one selector selects everything that another selects, as far as that can be seen from
//! the two expressions.
//!
//! In: two selectors. Out: *yes*, or *not known*: the question in full is a hard one, and who asks
//! only wants to say what is certain. Labels that a selector needs are told here, too, so that a
//! search through many label sets can begin with few of them.

use super::{Node, Selector};

impl Selector {
    /// Whether whatever this one selects is certain to be selected by `other`. `false` says nothing.
    ///
    /// `effort` is how many pairs of conditions may be compared yet; at zero the answer is `false`.
    pub fn implies(&self, other: &Selector, effort: &mut u32) -> bool {
        self.root.implies(&other.root, effort)
    }

    /// Conditions that everything it selects is certain to meet: a label, and the values of which
    /// it has one; no values given means any.
    pub fn needs(&self) -> Vec<(&str, Option<Vec<&str>>)> {
        self.root.conjuncts().iter().filter_map(Node::need).collect()
    }
}

impl Node {
    /// The conditions that hold all at once: the operands of an `&&`, else the node itself.
    fn conjuncts(&self) -> &[Node] {
        match self {
            Node::And(operands) => operands,
            node => std::slice::from_ref(node),
        }
    }

    fn need(&self) -> Option<(&str, Option<Vec<&str>>)> {
        match self {
            Node::Equal(label, value) => Some((label, Some(vec![value]))),
            Node::In(label, values) => {
                Some((label, Some(values.iter().map(String::as_str).collect())))
            }
            Node::Has(label)
            | Node::Contains(label, _)
            | Node::StartsWith(label, _)
            | Node::EndsWith(label, _) => Some((label, None)),
            _ => None,
        }
    }

    fn implies(&self, other: &Node, effort: &mut u32) -> bool {
        let Some(left) = effort.checked_sub(1) else { return false };
        *effort = left;
        // Taken apart on the side where every part counts first: each operand of an `||` on the
        // left and of an `&&` on the right must do, then one of the others is enough.
        match (self, other) {
            (_, Node::All) => true,
            (Node::Or(operands), _) => operands.iter().all(|it| it.implies(other, effort)),
            (_, Node::And(operands)) => operands.iter().all(|it| self.implies(it, effort)),
            (Node::And(operands), _) => operands.iter().any(|it| it.implies(other, effort)),
            (_, Node::Or(operands)) => operands.iter().any(|it| self.implies(it, effort)),
            (Node::Not(operand), Node::Not(other)) => other.implies(operand, effort),
            _ => self == other || self.condition_implies(other, effort),
        }
    }

    /// As [`Node::implies`], for two conditions on a label.
    fn condition_implies(&self, other: &Node, effort: &mut u32) -> bool {
        let Some((label, values)) = self.need() else {
            return match (self, other) {
                // All that the right one excludes is excluded by the left one.
                (Node::NotEqual(mine, value), Node::NotIn(label, excluded)) => {
                    mine == label && excluded.iter().all(|other| other == value)
                }
                (Node::NotIn(mine, values), Node::NotEqual(label, value)) => {
                    mine == label && values.contains(value)
                }
                (Node::NotIn(mine, values), Node::NotIn(label, excluded)) => {
                    mine == label && excluded.is_subset(values)
                }
                _ => false,
            };
        };
        match values {
            // A known value decides every condition on its label.
            Some(values) => {
                *effort = effort.saturating_sub(u32::try_from(values.len()).unwrap_or(u32::MAX));
                let decided = |value: &&str| other.holds_of(label, value);
                !values.is_empty() && values.iter().all(decided)
            }
            None => match (self, other) {
                (_, Node::Has(other)) => label == other,
                (
                    Node::Contains(_, text) | Node::StartsWith(_, text) | Node::EndsWith(_, text),
                    Node::Contains(other, part),
                ) => label == other && text.contains(part.as_str()),
                (Node::StartsWith(_, text), Node::StartsWith(other, part)) => {
                    label == other && text.starts_with(part.as_str())
                }
                (Node::EndsWith(_, text), Node::EndsWith(other, part)) => {
                    label == other && text.ends_with(part.as_str())
                }
                _ => false,
            },
        }
    }

    /// Whether this is a condition on one label alone that holds if `label` has `value`.
    fn holds_of(&self, label: &str, value: &str) -> bool {
        match self {
            Node::Has(own)
            | Node::Equal(own, _)
            | Node::NotEqual(own, _)
            | Node::Contains(own, _)
            | Node::StartsWith(own, _)
            | Node::EndsWith(own, _)
            | Node::In(own, _)
            | Node::NotIn(own, _) => {
                own == label && self.matches(&[(label, value)].into_iter().collect())
            }
            Node::Not(operand) => operand.fails_of(label, value),
            Node::All | Node::Global | Node::And(_) | Node::Or(_) => false,
        }
    }

    /// Whether this is a condition on one label alone that fails if `label` has `value`.
    fn fails_of(&self, label: &str, value: &str) -> bool {
        match self.need() {
            Some((own, _)) => {
                own == label && !self.matches(&[(label, value)].into_iter().collect())
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::labels::Labels;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap()
    }

    fn follows(one: &Selector, other: &Selector) -> bool {
        one.implies(other, &mut 10_000)
    }

    #[test]
    fn effort_is_bounded() {
        let many = |count: usize| {
            let terms: Vec<String> = (0..count).map(|n| format!("l{n} == 'v'")).collect();
            selector(&terms.join(" && "))
        };
        let (mut enough, mut few) = (1_000_000, 1_000);
        assert!(many(300).implies(&many(200), &mut enough) && enough > 900_000);
        assert!(!many(300).implies(&many(200), &mut few));
        assert_eq!(few, 0);
    }

    #[test]
    fn what_is_seen() {
        for (narrow, broad) in [
            ("a == '1'", "all()"),
            ("!has(a)", "all()"),
            ("a == '1'", "a == '1'"),
            ("a == '1'", "has(a)"),
            ("a == '1'", "a in {'1', '2'}"),
            ("a == '1'", "a != '2'"),
            ("a == '1'", "a not in {'2', '3'}"),
            ("a == 'web-1'", "a starts with 'web'"),
            ("a == '1'", "!(a == '2')"),
            ("a in {'1', '2'}", "a in {'1', '2', '3'}"),
            ("a starts with 'web-'", "a starts with 'web'"),
            ("a ends with '-db'", "has(a)"),
            ("a ends with '-db'", "a contains 'db'"),
            ("a == '1' && b == '2'", "b == '2'"),
            ("a == '1' && b == '2' && has(c)", "b == '2' && a == '1'"),
            ("a == '1'", "a == '1' || has(b)"),
            ("a == '1' || a == '2'", "has(a)"),
            ("(a == '1' || a == '2') && has(b)", "a in {'1', '2'}"),
            ("a not in {'1', '2'}", "a != '1'"),
            ("!has(a)", "!(a == '1')"),
            ("!(has(a) || has(b))", "!has(a)"),
        ] {
            assert!(follows(&selector(narrow), &selector(broad)), "{narrow} -> {broad}");
        }
    }

    #[test]
    fn what_does_not_follow() {
        for (one, other) in [
            ("all()", "has(a)"),
            ("has(a)", "a == '1'"),
            ("a == '1'", "b == '1'"),
            ("a == '1'", "a == '2'"),
            ("a != '1'", "has(a)"),
            ("a in {'1', '2'}", "a == '1'"),
            ("a == '1' || has(b)", "a == '1'"),
            ("a == '1'", "a == '1' && has(b)"),
            ("a != '1'", "a not in {'1', '2'}"),
            ("!has(a)", "!has(b)"),
            ("!(a == '1')", "!has(a)"),
            ("a contains 'web'", "a starts with 'web'"),
        ] {
            assert!(!follows(&selector(one), &selector(other)), "{one} -> {other}");
        }
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        let label = || prop::sample::select(vec!["a", "b"]);
        let value = || prop::sample::select(vec!["", "1", "12", "2", "x12"]);
        let values = move || prop::collection::btree_set(value().prop_map(str::to_owned), 0..3);
        let leaf = prop_oneof![
            Just(Selector::all()),
            label().prop_map(Selector::has),
            (label(), value()).prop_map(|(a, v)| Selector::equal(a, v)),
            (label(), value()).prop_map(|(a, v)| Node::NotEqual(a.into(), v.into()).into()),
            (label(), value()).prop_map(|(a, v)| Node::Contains(a.into(), v.into()).into()),
            (label(), value()).prop_map(|(a, v)| Node::StartsWith(a.into(), v.into()).into()),
            (label(), value()).prop_map(|(a, v)| Node::EndsWith(a.into(), v.into()).into()),
            (label(), values()).prop_map(|(a, v)| Selector::one_of(a, v)),
            (label(), values()).prop_map(|(a, v)| Selector::none_of(a, v)),
        ];
        leaf.prop_recursive(3, 8, 2, |inner| {
            let two = (inner.clone(), inner.clone());
            prop_oneof![
                inner.prop_map(Selector::negate),
                two.clone().prop_map(|(a, b)| a.and(b)),
                two.prop_map(|(a, b)| {
                    Node::Or(vec![(*a.root).clone(), (*b.root).clone()]).into()
                }),
            ]
        })
    }

    /// Every set of labels that the selectors above can tell apart.
    fn worlds() -> Vec<Labels> {
        let values = [None, Some(""), Some("1"), Some("12"), Some("2"), Some("x12"), Some("y")];
        let pairs = values.into_iter().flat_map(|a| values.map(|b| (a, b)));
        pairs
            .map(|(a, b)| {
                let label = |name, value: Option<&'static str>| value.map(|value| (name, value));
                [label("a", a), label("b", b)].into_iter().flatten().collect()
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_said_to_follow_does(one in any_selector(), other in any_selector()) {
            let follows = follows(&one, &other);
            for labels in worlds() {
                if one.matches(&labels) {
                    prop_assert!(!follows || other.matches(&labels), "{one} -> {other}: {labels:?}");
                    for (label, values) in one.needs() {
                        let found = labels.get(label);
                        prop_assert!(
                            found.is_some_and(|it| values.is_none_or(|known| known.contains(&it))),
                            "{one} needs {label}"
                        );
                    }
                }
            }
        }
    }
}
