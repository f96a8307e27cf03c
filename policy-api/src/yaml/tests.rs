//! Places, documents, lists and bounds.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    let mut documents = read("f.yaml", text.as_bytes()).expect("valid");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn refused(text: &str) -> Diagnostic {
    let mut diagnostics = read("f.yaml", text.as_bytes()).expect_err(text);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    diagnostics.remove(0)
}

const POLICY: &str = "# a policy
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: p, labels: {app.kubernetes.io/name: x}}
spec:
  ingress:
    - action: Allow
      source:
        nets:
        - 10.0.0.0/8
        - 192.168.0.0/16
    - action: Deny
";

#[test]
fn every_field_has_its_place() {
    let document = one(POLICY);
    for (path, line, column) in [
        ("", 2, 1),
        ("apiVersion", 2, 1),
        ("kind", 3, 1),
        ("metadata", 4, 1),
        ("metadata.name", 4, 12),
        ("metadata.labels", 4, 21),
        ("metadata.labels.app.kubernetes.io/name", 4, 30),
        ("spec", 5, 1),
        ("spec.ingress", 6, 3),
        ("spec.ingress[0]", 7, 7),
        ("spec.ingress[0].action", 7, 7),
        ("spec.ingress[0].source.nets", 9, 9),
        ("spec.ingress[0].source.nets[1]", 11, 11),
        ("spec.ingress[1]", 12, 7),
    ] {
        assert_eq!(document.place(path), Place { line, column }, "{path}");
    }
}

#[test]
fn an_absent_field_is_placed_where_it_is_missing() {
    let document = one(POLICY);
    for (path, line, column) in [
        ("spec.ingress[1].source.nets[3]", 12, 7),
        ("spec.selector", 5, 1),
        ("metadata.namespace", 4, 1),
        ("status", 2, 1),
    ] {
        assert_eq!(document.place(path), Place { line, column }, "{path}");
    }
}

#[test]
fn diagnostics_print_with_their_place() {
    let diagnostic = Diagnostic::error("spec.ingress[1].action", "no").with_hint("yes");
    let text = one(POLICY).locate(diagnostic).to_string();
    assert_eq!(text, "f.yaml:12:7: error: spec.ingress[1].action: no (yes)");
}

#[test]
fn documents_and_places_count_through_the_file() {
    let text =
        "---\n# nothing\n---\nkind: A\n---\n---\nb: 1\nkind: B\n...\n---\n{\"kind\": \"C\"}\n";
    let documents = read("f", text.as_bytes()).unwrap();
    let found: Vec<_> = documents
        .iter()
        .map(|document| (document.value.clone(), document.place("kind").line))
        .collect();
    assert_eq!(
        found,
        [(json!({"kind": "A"}), 4), (json!({"b": 1, "kind": "B"}), 8), (json!({"kind": "C"}), 11),]
    );
}

#[test]
fn values_keep_their_types() {
    let text = "{a: 1, b: '1', c: true, d: yes, e: ~, f: 1.5, g: -2, h: on, i: 80:90, j: \"\", k: |-\n \
                x\n  y\n}";
    let document = one(&text.replace(", k: |-\n x\n  y\n}", "}"));
    assert_eq!(
        document.value,
        json!({"a": 1, "b": "1", "c": true, "d": "yes", "e": null, "f": 1.5, "g": -2, "h": "on",
               "i": "80:90", "j": ""})
    );
    assert_eq!(one("k: |\n  a &&\n  b\n").value, json!({"k": "a &&\nb\n"}));
}

#[test]
fn aliases_are_placed_where_they_are_used() {
    let document = one("a: &x\n  b: 1\nc: *x\n");
    assert_eq!(document.value, json!({"a": {"b": 1}, "c": {"b": 1}}));
    assert_eq!(document.place("c.b"), Place { line: 3, column: 4 });
}

#[test]
fn lists_are_taken_apart() {
    let text = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- kind: A\n  \
                spec:\n    x: 1\n- {kind: B}\n";
    let documents = read("f", text.as_bytes()).unwrap();
    let [a, b] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!(a.value, json!({"kind": "A", "spec": {"x": 1}}));
    assert_eq!(a.place(""), Place { line: 5, column: 3 });
    assert_eq!(a.place("spec.x"), Place { line: 7, column: 5 });
    assert_eq!(b.place("kind"), Place { line: 8, column: 4 });

    let typed =
        "{apiVersion: projectcalico.org/v3, kind: NetworkSetList, items: [{metadata: {name: a}}]}";
    assert_eq!(
        one(typed).value,
        json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkSet", "metadata": {"name": "a"}})
    );

    let many: String = (0..12).map(|index| format!("- kind: K{index}\n")).collect();
    let documents = read("f", format!("kind: List\nitems:\n{many}").as_bytes()).unwrap();
    for (index, document) in documents.iter().enumerate() {
        assert_eq!(document.value, json!({"kind": format!("K{index}")}));
        assert_eq!(document.place("kind"), Place { line: index + 3, column: 3 });
    }
}

#[test]
fn lists_with_something_else_are_refused() {
    for (text, line, path) in
        [("kind: List\nitems: 5\n", 2, "items"), ("kind: List\nitems: []\nspec: 1\n", 3, "spec")]
    {
        let diagnostic = refused(text);
        assert_eq!((diagnostic.line, diagnostic.path.as_str()), (Some(line), path));
    }
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    for (text, line, column, part) in [
        ("a: [1\n", 1, 4, "not valid YAML"),
        ("a: 1\nb:\n\t- c\n", 3, 2, "tabs"),
        ("a: b: c\n", 1, 5, "mapping values are not allowed"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, 3, "`c` stands twice"),
        ("a: .nan\n", 1, 4, "is not a number here"),
        ("a: -.inf\n", 1, 4, "is not a number here"),
        ("a: 1e400\n", 1, 4, "is not a number here"),
        ("? [a]\n: b\n", 1, 3, "not valid YAML"),
        ("a: *b\n", 1, 4, "not valid YAML"),
    ] {
        let diagnostic = refused(text);
        let place = (diagnostic.line, diagnostic.column);
        assert_eq!(place, (Some(line), Some(column)), "{text}: {diagnostic}");
        assert_eq!(diagnostic.file.as_deref(), Some("f.yaml"));
        assert!(diagnostic.message.contains(part), "{text}: {diagnostic}");
        assert!(diagnostic.hint.is_some(), "{text}: {diagnostic}");
    }
    for before in ["a: 1\nb: ", "a: 1\r\nb: ", "a: 1\rb: ", "a: 1\n\u{e4}: "] {
        let bytes = [before.as_bytes(), &[0xff]].concat();
        let shown = read("f.yaml", &bytes).unwrap_err()[0].to_string();
        let expected = "f.yaml:2:4: error: the file is not UTF-8 text (save it as UTF-8)";
        assert_eq!(shown, expected, "{before:?}");
    }
}

#[test]
fn a_file_without_resources_is_refused() {
    for text in [
        "",
        "\n\n",
        "# nothing\n",
        "---\n---\n",
        "~\n",
        "kind: List\nitems: []\n",
        "kind: List\nitems: ~\n",
    ] {
        let diagnostic = refused(text);
        let shown = diagnostic.to_string();
        assert!(shown.starts_with("f.yaml: error: no resources (write"), "{text:?}");
    }
}

#[test]
fn bounds_are_enforced() {
    let text = format!("a: {}\n", "x".repeat(10_000_000));
    let start = std::time::Instant::now();
    assert!(refused(&text).message.contains("at most 4194304 are read"));
    assert!(start.elapsed() < std::time::Duration::from_secs(1));

    assert!(read("f", format!("a: {}1{}", "[".repeat(20), "]".repeat(20)).as_bytes()).is_ok());
    for deep in ["[".repeat(100_000), "- ".repeat(100), "{a: ".repeat(50_000)] {
        let message = refused(&deep).message;
        assert!(message.contains("nested more than 32 deep"), "{message}");
    }
    assert!(refused("a: &a [*a]\n").message.contains("inside of what it is the name of"));

    // Nine levels of nine references each: 387 million nodes if it were expanded.
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip("abcdefgh".chars()) {
        let references = vec![format!("*{last}"); 9].join(", ");
        bomb.push_str(&format!("{this}: &{this} [{references}]\n"));
    }
    assert!(refused(&bomb).message.contains("aliases"), "{}", refused(&bomb));

    let many = "---\na: 1\n".repeat(MAX_RESOURCES + 1);
    assert!(read("f", many.as_bytes()).is_err());
}

#[test]
fn ambiguous_strings_survive_a_round_trip() {
    for text in [
        "80:90",
        "yes",
        "on",
        "no",
        "~",
        "null",
        "true",
        "1e3",
        "0x10",
        "0o7",
        "010",
        "1_000",
        "12:30:00",
        "- a",
        "a: b",
        "# a",
        "!x",
        "*a",
        "<<",
        ".inf",
        "",
        " a",
        "a\n",
        "2001:db8::1",
    ] {
        let value = json!({ "v": text, "list": [text] });
        let yaml = serde_yaml::to_string(&value).unwrap();
        assert_eq!(one(&yaml).value, value, "{yaml}");
    }
}

#[test]
fn a_large_network_set_is_read() {
    let nets: String = (0..100_000)
        .map(|n| format!("  - 10.{}.{}.{}/32\n", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let document = one(&format!("spec:\n  nets:\n{nets}"));
    assert_eq!(document.place("spec.nets[99999]"), Place { line: 100_002, column: 5 });
}

#[test]
fn names_with_dots_and_brackets_have_places() {
    let document = one("a:\n  b: 1\n  b.c:\n    d: 2\na.b:\n  c.e: 3\na[0]:\n- f[1]: 4\n");
    for (path, line) in [
        ("a", 1),
        ("a.b", 5),
        ("a.b.c", 3),
        ("a.b.c.d", 4),
        ("a.b.c.e", 6),
        ("a.b.c.x", 3),
        ("a[0]", 7),
        ("a[0][0].f[1]", 8),
        ("a[1]", 1),
        ("ab", 1),
    ] {
        assert_eq!(document.place(path).line, line, "{path}");
    }
}

/// Each path was once kept as a text.
#[test]
fn places_cost_no_more_than_the_file() {
    let name = "k".repeat(1_000_000);
    let document = one(&format!("? {name}\n: [{}]\n", "1, ".repeat(100_000)));
    assert_eq!(document.place(&format!("{name}[99999]")).line, 2);
}

/// Each item once got a copy of the name.
#[test]
fn a_list_whose_kind_is_no_name_is_none() {
    let name = "k".repeat(1_000_000);
    let document = one(&format!("{{kind: {name}List, items: [{}]}}", "{}, ".repeat(100_000)));
    assert!(document.value.get("items").is_some());

    let many = format!("{{kind: List, items: [{}]}}", "{}, ".repeat(MAX_RESOURCES + 1));
    assert!(refused(&many).message.contains("more than 20000 resources"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read("f", &bytes);
    }

    #[test]
    fn any_text_of_yaml_marks_is_read_or_refused(text in "[-a:\\[\\]{},&*!|>'\"#? \\n]{0,60}") {
        if let Ok(documents) = read("f", text.as_bytes()) {
            for document in documents {
                prop_assert!(document.place("").line > 0);
            }
        }
    }

    #[test]
    fn json_and_written_yaml_read_back(value in json_value()) {
        let wrapped = json!({ "v": value });
        prop_assert_eq!(&one(&wrapped.to_string()).value, &wrapped);
        let yaml = serde_yaml::to_string(&wrapped).unwrap();
        prop_assert_eq!(&one(&yaml).value, &wrapped, "{}", yaml);
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        "[0-9a-fxo_.:e+-]{1,6}".prop_map(Value::from),
        "[a \\n\\t]{0,6}".prop_map(Value::from),
        prop::sample::select(vec![
            "yes", "on", "~", "null", "true", "1e3", "0x10", "0o7", "010", "12:30:00", "- a",
            "a: b", "#", "!x", "&a", "*a", "<<", ".inf", "---", "..."
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z/. ]{1,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
