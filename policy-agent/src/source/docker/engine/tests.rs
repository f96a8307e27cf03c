use super::*;

fn event(json: &str) -> EventMessage {
    serde_json::from_str(json).unwrap()
}

#[test]
fn events_that_matter() {
    let named = |typ: &str, action: &str| {
        change(event(&format!(
            r#"{{"Type":"{typ}","Action":"{action}","Actor":{{"ID":"x","Attributes":{{}}}}}}"#
        )))
    };
    let x = || "x".to_owned();
    assert_eq!(named("container", "create"), Some(Change::List));
    assert_eq!(named("container", "start"), Some(Change::Started(x())));
    assert_eq!(named("container", "die"), Some(Change::Died(x())));
    assert_eq!(named("container", "rename"), Some(Change::List));
    assert_eq!(named("container", "exec_start: sh"), None);
    assert_eq!(named("network", "connect"), Some(Change::Network(x())));
    assert_eq!(named("network", "disconnect"), Some(Change::Network(x())));
    assert_eq!(named("network", "destroy"), Some(Change::List));
    assert_eq!(named("image", "pull"), None);
}
