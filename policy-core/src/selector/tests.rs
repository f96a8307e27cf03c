//! The language against the behaviour of libcalico-go `lib/selector`.

use proptest::prelude::*;

use super::*;

fn labels(text: &str) -> Labels {
    text.split_whitespace().filter_map(|pair| pair.split_once('=')).collect()
}

/// (selector, labels as `name=value ...`, whether they are selected).
const MATCHES: &[(&str, &str, bool)] = &[
    ("", "", true),
    ("", "a=b", true),
    (" \t ", "", true),
    ("all()", "", true),
    ("all( )", "a=b", true),
    ("!all()", "a=b", false),
    ("(all())", "", true),
    ("a == 'b'", "a=b", true),
    ("a == \"b\"", "a=b c=d", true),
    ("a=='b'", "a=b", true),
    ("a == 'b'", "", false),
    ("a == 'b'", "a=c", false),
    ("a == ''", "a=", true),
    ("a == ''", "", false),
    ("a != 'b'", "a=b", false),
    ("a != 'b'", "a=c", true),
    ("a != 'b'", "", true),
    ("!a == 'b'", "", true),
    ("!a == 'b'", "a=b", false),
    ("has(a)", "a=b", true),
    ("has(a)", "a=", true),
    ("has( a )", "a=b", true),
    ("has(a)", "b=a", false),
    ("!has(a)", "b=a", true),
    ("! has(a)", "a=b", false),
    ("!!has(a)", "a=b", true),
    ("!! ! has(a)", "a=b", false),
    ("has(calico/k8s_ns)", "calico/k8s_ns=x", true),
    ("a in {'b', 'c'}", "a=c", true),
    ("a in {'b', 'c'}", "a=d", false),
    ("a in {'b', 'c'}", "", false),
    ("a in{'b','c',}", "a=b", true),
    ("a in {}", "a=b", false),
    ("a not in {}", "", true),
    ("a not in {'b'}", "a=b", false),
    ("a not in {'b'}", "a=c", true),
    ("a not in {'b'}", "", true),
    ("a notin {'b'}", "a=b", false),
    ("a not   in {'b'}", "a=c", true),
    ("!a in {'b'}", "a=b", false),
    ("a in {\"'\", '\"'}", "a=\"", true),
    ("a contains 'b'", "a=abc", true),
    ("a contains'b'", "a=abc", true),
    ("a contains 'b'", "a=ac", false),
    ("a contains 'b'", "", false),
    ("a contains ''", "a=x", true),
    ("a contains ''", "", false),
    ("a starts with 'ab'", "a=abc", true),
    ("a startswith 'ab'", "a=abc", true),
    ("a starts  with 'bc'", "a=abc", false),
    ("a starts with 'x'", "", false),
    ("a ends with 'bc'", "a=abc", true),
    ("a endswith 'ab'", "a=abc", false),
    ("a ends with 'x'", "", false),
    ("a == 'b' && c == 'd'", "a=b c=d", true),
    ("a == 'b' && c == 'd'", "a=b", false),
    ("a == 'b' || c == 'd'", "c=d", true),
    ("a == 'b' || c == 'd'", "", false),
    ("has(a) || has(b) && has(c)", "a=1", true),
    ("(has(a) || has(b)) && has(c)", "a=1", false),
    ("!(!has(a) || has(b))", "a=1", true),
    ("!has(a) && has(b)", "b=1", true),
    ("in in {'in'}", "in=in", true),
    ("contains contains 'contains'", "contains=contains", true),
    ("startswith starts with 'v'", "startswith=value", true),
    ("not == 'x'", "not=x", true),
    ("all == 'x' && has == 'y'", "all=x has=y", true),
    ("a_.-/9 == 'x'", "a_.-/9=x", true),
    ("a == 'b'\n&& has(\n c)\r\n", "a=b c=d", true),
    ("global()", "", true),
];

#[test]
fn selects_what_upstream_selects() {
    for (selector, given, expected) in MATCHES {
        let parsed =
            Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(parsed.matches(&labels(given)), *expected, "{selector} on {given}");
        let again = Selector::parse(&parsed.to_string()).unwrap();
        assert_eq!(again, parsed, "{selector} reads back");
    }
}

/// (selector, byte offset, part of the message).
const REFUSED: &[(&str, usize, &str)] = &[
    ("b == b", 5, "a value in quotes"),
    ("b contains b", 11, "a value in quotes"),
    ("b starts with b", 14, "a value in quotes"),
    ("b ends with b", 12, "a value in quotes"),
    ("'b1' == b", 0, "expected a label name"),
    ("b", 1, "after the label name"),
    ("a b", 2, "after the label name"),
    ("a ", 2, "the end of the selector"),
    ("a all()", 2, "after the label name"),
    ("a inside {'b'}", 2, "after the label name"),
    ("a notin b", 8, "a set of values"),
    ("a starts foo 'b'", 2, "after the label name"),
    ("a ends withs 'b'", 2, "after the label name"),
    ("!", 1, "expected a label name"),
    ("a == 'b' &", 9, "`&&`"),
    ("a == 'b' |", 9, "`||`"),
    ("a = 'b'", 2, "`==`"),
    ("a != ||", 5, "a value in quotes"),
    ("a in {'', ||", 10, "`}`"),
    ("a in {'b' 'c'}", 10, "`,` or `}`"),
    ("a in ''", 5, "a set of values"),
    ("a in {b}", 6, "`}`"),
    ("a == 'b", 5, "no closing '"),
    ("a == \"b'", 5, "no closing \""),
    ("(", 1, "expected a label name"),
    ("(a == 'b'", 9, "`)`"),
    (")", 0, "expected a label name"),
    ("()", 1, "expected a label name"),
    ("%", 0, "found `%`"),
    ("a == 'b' && %", 12, "found `%`"),
    ("a == 'b' c == 'd'", 9, "the end of the selector"),
    ("has(a) &&", 9, "expected a label name"),
    ("has()", 4, "a label name"),
    ("has(a", 5, "`)`"),
    ("has('a')", 4, "a label name"),
    ("has (a)", 4, "after the label name"),
    ("all(", 4, "`)`"),
    ("global(x)", 7, "`)`"),
    ("ä == 'x'", 0, "found `ä`"),
    ("a == 'ä' ü", 10, "found `ü`"),
];

#[test]
fn refuses_what_upstream_refuses_and_says_where() {
    for (selector, offset, part) in REFUSED {
        let error = Selector::parse(selector).expect_err(selector);
        assert_eq!(error.offset, *offset, "{selector}: {error}");
        assert!(error.to_string().contains(part), "{selector}: {error}");
    }
}

#[test]
fn bounds_are_enforced() {
    let label = |length: usize| format!("{} == 'x'", "a".repeat(length));
    assert!(Selector::parse(&label(MAX_LABEL_LENGTH)).is_ok());
    let error = Selector::parse(&label(MAX_LABEL_LENGTH + 1)).unwrap_err();
    assert_eq!(error.problem, Problem::LabelTooLong(MAX_LABEL_LENGTH + 1));

    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(MAX_DEPTH)).is_ok());
    let error = Selector::parse(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!((error.problem, error.offset), (Problem::TooDeep, MAX_DEPTH));
    assert!(Selector::parse(&"(".repeat(MAX_LENGTH)).is_err());
    assert!(Selector::parse(&format!("{}has(a)", "!".repeat(MAX_LENGTH - 6))).is_ok());

    let error = Selector::parse(&" ".repeat(MAX_LENGTH + 1)).unwrap_err();
    assert_eq!(error.problem, Problem::TooLong(MAX_LENGTH + 1));
}

/// The canonical form has parentheses that its author need not have written.
#[test]
fn what_is_as_deep_as_it_may_be_reads_back() {
    let lists = |depth: usize| {
        format!("{}has(b) || has(c){}", "has(a) && (".repeat(depth - 1), ")".repeat(depth - 1))
    };
    let deepest = Selector::parse(&lists(MAX_DEPTH)).unwrap();
    assert_eq!(Selector::parse(&deepest.to_string()).unwrap(), deepest);
    let error = Selector::parse(&lists(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!((error.problem, error.offset), (Problem::TooDeep, 0));
}

#[test]
fn canonical_form_is_upstreams() {
    for (text, canonical) in [
        ("", "all()"),
        (" (all() )", "all()"),
        ("! (has( b)||! has(a ))", "!(has(b) || !has(a))"),
        ("! (a == \"b\"&&! c != \"d\")", "!(a == \"b\" && !c != \"d\")"),
        ("a == \"'\"", "a == \"'\""),
        ("a == '\"'", "a == '\"'"),
        ("a startswith '\"'", "a starts with '\"'"),
        ("a endswith \"'\"", "a ends with \"'\""),
        ("a!='\"'", "a != '\"'"),
        ("a notin {'z', 'x', 'z', 'a'}", "a not in {\"a\", \"x\", \"z\"}"),
        (
            "a == 'x' && b == 'y' || c contains 'z'",
            "((a == \"x\" && b == \"y\") || c contains \"z\")",
        ),
    ] {
        assert_eq!(Selector::parse(text).unwrap().to_string(), canonical);
    }
}

#[test]
fn namespace_selectors_ask_for_the_namespaces_labels() {
    for (text, expected) in [
        ("all()", "has(projectcalico.org/namespace)"),
        ("global()", "!has(projectcalico.org/namespace)"),
        (
            "!(k == 'v' && has(t) || all())",
            "!((pcns.k == \"v\" && has(pcns.t)) || has(projectcalico.org/namespace))",
        ),
        ("a in {'b'} && a not in {'c'}", "(pcns.a in {\"b\"} && pcns.a not in {\"c\"})"),
        ("a != 'b'", "pcns.a != \"b\""),
    ] {
        assert_eq!(Selector::parse(text).unwrap().on_namespace("pcns.").to_string(), expected);
    }
}

#[test]
fn and_is_flat_and_drops_all() {
    let [a, b, c] = ["a", "b", "c"].map(Selector::has);
    let both = a.clone().and(b);
    assert_eq!(both.clone().and(c).to_string(), "(has(a) && has(b) && has(c))");
    assert_eq!(Selector::all().and(both.clone()), both);
    assert_eq!(a.clone().and(Selector::all()), a);
    assert_eq!(Selector::all().and(Selector::all()), Selector::all());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_inside_itself(text in "\\PC{0,200}") {
        if let Err(error) = Selector::parse(&text) {
            prop_assert!(error.offset <= text.len());
            prop_assert!(text.is_char_boundary(error.offset));
        }
    }

    #[test]
    fn text_of_tokens_reads_back_with_the_same_meaning(
        words in prop::collection::vec(prop::sample::select(vec![
            "a", "b", "==", "!=", "'x'", "\"y\"", "in", "not in", "{", "}", ",", "contains",
            "starts with", "has(a)", "all()", "!", "&&", "||", "(", ")", "\n",
        ]), 0..24),
        values in prop::collection::vec(prop::option::of("[xy]{0,2}"), 2),
    ) {
        let text = words.join(" ");
        if let Ok(selector) = Selector::parse(&text) {
            let again = Selector::parse(&selector.to_string()).unwrap();
            let given: Labels = ["a", "b"]
                .into_iter()
                .zip(values)
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            prop_assert_eq!(selector.matches(&given), again.matches(&given), "{}", text);
            prop_assert_eq!(selector.clone().negate().matches(&given), !selector.matches(&given));
            prop_assert_eq!(selector.clone().and(selector.clone()).matches(&given), selector.matches(&given));
        }
    }
}
