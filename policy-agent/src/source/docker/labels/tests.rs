use super::*;
use crate::source::docker::wire::NetworkMode;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn port(name: &str, protocol: u8, port: u16) -> NamedPort {
    NamedPort { name: name.to_owned(), protocol, port }
}

#[test]
fn namespace_comes_from_our_label_then_compose_then_default() {
    for (labels, expected) in [
        (map(&[]), Ok("default")),
        (map(&[("com.docker.compose.project", "shop")]), Ok("shop")),
        (map(&[("com.docker.compose.project", "shop"), (NAMESPACE_LABEL, "prod")]), Ok("prod")),
        (map(&[(NAMESPACE_LABEL, "a_b.c-9")]), Ok("a_b.c-9")),
        // Closed, not moved elsewhere.
        (map(&[(NAMESPACE_LABEL, "")]), Err("")),
        (map(&[(NAMESPACE_LABEL, "a/b")]), Err("a/b")),
        (map(&[(NAMESPACE_LABEL, "-a")]), Err("-a")),
        (map(&[(NAMESPACE_LABEL, "ä")]), Err("ä")),
        (map(&[("com.docker.compose.project", "shop"), (NAMESPACE_LABEL, "x y")]), Err("x y")),
    ] {
        assert_eq!(namespace(&labels), expected, "{labels:?}");
    }
    let long = "a".repeat(64);
    assert_eq!(namespace(&map(&[(NAMESPACE_LABEL, &long)])), Err(long.as_str()));
}

#[test]
fn a_label_cannot_define_identity() {
    let container = Container {
        id: "1".repeat(64),
        name: "web".to_owned(),
        image: "nginx:1".to_owned(),
        labels: map(&[
            ("app", "web"),
            ("palisade.io/name", "db"),
            ("palisade.io/network.back", ""),
            ("projectcalico.org/namespace", "kube-system"),
            ("pcns.role", "admin"),
            ("io.palisade.namespace", "prod"),
        ]),
        running: true,
        mode: NetworkMode::Own,
        networks: vec!["front".to_owned()],
        published: BTreeMap::new(),
    };
    let (labels, warnings) = endpoint_labels(&container, "prod", "front");
    assert_eq!(
        labels.to_map(),
        map(&[
            ("app", "web"),
            ("io.palisade.namespace", "prod"),
            ("palisade.io/image", "nginx:1"),
            ("palisade.io/name", "web"),
            ("palisade.io/network.front", ""),
            ("projectcalico.org/namespace", "prod"),
            ("projectcalico.org/orchestrator", "docker"),
        ])
    );
    assert_eq!(warnings.len(), 4, "{warnings:?}");
}

#[test]
fn named_ports_are_parsed_entry_by_entry() {
    let (tcp, udp, sctp) = (6, 17, 132);
    for (value, expected, ignored) in [
        ("", vec![], 0),
        ("web=8080/tcp", vec![port("web", tcp, 8080)], 0),
        (
            " b=53/udp , a=1/sctp,b=53/tcp,",
            vec![port("a", sctp, 1), port("b", tcp, 53), port("b", udp, 53)],
            0,
        ),
        ("web=0/tcp,ok=1/tcp", vec![port("ok", tcp, 1)], 1),
        ("web=70000/tcp", vec![], 1),
        ("web=+80/tcp", vec![], 1),
        ("web=80", vec![], 1),
        ("web=80/icmp", vec![], 1),
        ("=80/tcp", vec![], 1),
        ("we b=80/tcp", vec![], 1),
        ("80/tcp", vec![], 1),
        ("x=1/tcp,x=1/tcp", vec![port("x", tcp, 1)], 0),
    ] {
        let (ports, warnings) = named_ports(&map(&[(PORTS_LABEL, value)]));
        assert_eq!(ports, expected, "{value:?}");
        assert_eq!(warnings.len(), ignored, "{value:?}: {warnings:?}");
    }
}
