//! Who a policy applies to and whom a rule speaks of.

use super::{calico, check, gnp, np, set};

fn from(source: &str) -> String {
    format!("{{selector: app == 'db', ingress: [{{action: Allow, source: {{{source}}}}}]}}")
}

/// The peers, out of all of the world, that a rule's `source` lets in to db.
fn lets_in(document: &str, more: &[String], expected: &[&str]) {
    const PEERS: [&str; 7] =
        ["web", "bare", "blog", "host", "203.0.113.9", "198.51.100.1", "10.0.0.77"];
    let connections: String = PEERS
        .iter()
        .map(|peer| {
            let answer = if expected.contains(peer) {
                "allow p ingress[0]"
            } else {
                "deny default tier-default"
            };
            format!("in {peer} > db tcp/1: {answer}\n")
        })
        .collect();
    let documents = [&[document.to_owned()], more].concat();
    check(document, &documents, &connections);
}

#[test]
fn sources_of_namespaced_and_global_policies() {
    const ALL: &[&str] =
        &["web", "bare", "blog", "host", "203.0.113.9", "198.51.100.1", "10.0.0.77"];
    let sets = [
        set("GlobalNetworkSet", "feed", "zone: feed", "[198.51.100.0/24]"),
        set("NetworkSet", "shop/lan", "zone: lan", "[10.0.0.77]"),
    ];
    // (source, let in by a NetworkPolicy of shop, let in by a GlobalNetworkPolicy)
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("", ALL, ALL),
        ("selector: ''", ALL, ALL),
        ("selector: ~", ALL, ALL),
        ("nets: []", ALL, ALL),
        ("nets: ~, notNets: []", ALL, ALL),
        // The own namespace, its network sets included; everything that has labels; never the
        // unlabelled world.
        (
            "selector: all()",
            &["web", "bare", "10.0.0.77"],
            &["web", "bare", "blog", "host", "198.51.100.1", "10.0.0.77"],
        ),
        ("selector: app == 'web'", &["web"], &["web", "blog"]),
        // A label that is missing is unlike every value.
        (
            "selector: app != 'web'",
            &["bare", "10.0.0.77"],
            &["bare", "host", "198.51.100.1", "10.0.0.77"],
        ),
        (
            "selector: \"app not in {'web'}\"",
            &["bare", "10.0.0.77"],
            &["bare", "host", "198.51.100.1", "10.0.0.77"],
        ),
        ("selector: '!has(app) && !has(zone)'", &["bare"], &["bare", "host"]),
        ("selector: app contains 'e'", &["web"], &["web", "blog"]),
        ("selector: zone == 'feed'", &[], &["198.51.100.1"]),
        ("selector: zone == 'lan'", &["10.0.0.77"], &["10.0.0.77"]),
        // A lone notSelector: what is left of the own namespace; of everything, the world included.
        (
            "notSelector: app == 'web'",
            &["bare", "10.0.0.77"],
            &["bare", "host", "203.0.113.9", "198.51.100.1", "10.0.0.77"],
        ),
        ("notSelector: all()", &[], &["203.0.113.9"]),
        ("selector: has(app), notSelector: has(zone)", &[], &["blog"]),
        (
            "namespaceSelector: all()",
            &["web", "bare", "blog", "10.0.0.77"],
            &["web", "bare", "blog", "10.0.0.77"],
        ),
        (
            "namespaceSelector: env == 'prod'",
            &["web", "bare", "10.0.0.77"],
            &["web", "bare", "10.0.0.77"],
        ),
        // A negation holds for what is in no namespace, too, as upstream translates it.
        (
            "namespaceSelector: '!has(env)'",
            &["blog", "host", "198.51.100.1"],
            &["blog", "host", "198.51.100.1"],
        ),
        ("namespaceSelector: projectcalico.org/name == 'blog'", &["blog"], &["blog"]),
        (
            "namespaceSelector: projectcalico.org/name == 'blog', notSelector: app == 'web'",
            &[],
            &[],
        ),
        ("namespaceSelector: global()", &["host", "198.51.100.1"], &["host", "198.51.100.1"]),
        (
            "namespaceSelector: global(), selector: zone == 'feed'",
            &["198.51.100.1"],
            &["198.51.100.1"],
        ),
        // Conditions are ANDed, negated ones too.
        (
            "nets: [10.0.0.0/24]",
            &["web", "bare", "host", "10.0.0.77"],
            &["web", "bare", "host", "10.0.0.77"],
        ),
        (
            "nets: [10.0.0.0/24], notNets: [10.0.0.0/30]",
            &["host", "10.0.0.77"],
            &["host", "10.0.0.77"],
        ),
        ("selector: app == 'web', nets: [10.0.1.0/24]", &[], &["blog"]),
        ("selector: has(app), notNets: [10.0.0.0/24]", &[], &["blog"]),
        (
            "nets: [10.0.0.0/16], notSelector: has(app)",
            &["bare", "10.0.0.77"],
            &["bare", "host", "10.0.0.77"],
        ),
        ("nets: [0.0.0.0/0]", ALL, ALL),
        (
            "notNets: [10.0.0.0/8]",
            &["203.0.113.9", "198.51.100.1"],
            &["203.0.113.9", "198.51.100.1"],
        ),
        ("nets: ['::/0']", &[], &[]),
    ];
    for (source, namespaced, global) in cases {
        lets_in(&np("shop/p", &from(source)), &sets, namespaced);
        lets_in(&gnp("p", &from(source)), &sets, global);
    }
}

#[test]
fn an_address_is_its_endpoint_and_every_set_around_it() {
    let documents = [
        set("GlobalNetworkSet", "outer", "zone: outer", "[10.0.0.0/8]"),
        set("GlobalNetworkSet", "inner", "zone: inner", "[10.0.0.0/24]"),
        gnp(
            "p",
            "{selector: app == 'db', ingress: [{action: Deny, source: {selector: zone == 'inner' && app == \
             'web'}}, {action: Allow, protocol: TCP, source: {selector: zone == 'inner'}}, {action: Allow, \
             protocol: UDP, source: {selector: zone == 'outer'}}, {action: Allow, protocol: SCTP, source: \
             {selector: zone == 'front'}}]}",
        ),
    ];
    // One selector never looks at the labels of two things together.
    check(
        "sets",
        &documents,
        "in web > db tcp/1: allow p ingress[1]
         in web > db udp/1: allow p ingress[2]
         in web > db sctp/1: allow p ingress[3]
         in blog > db tcp/1: deny default tier-default
         in blog > db udp/1: allow p ingress[2]
         in 10.9.9.9 > db udp/1: allow p ingress[2]
         in 203.0.113.9 > db udp/1: deny default tier-default",
    );
}

#[test]
fn subjects() {
    let shop = "in web > bare tcp/1: deny default tier-default";
    let blog = "in web > blog tcp/1: deny default tier-default";
    let not_blog = "in web > blog tcp/1: allow endpoint-default";
    let bare_open = "in web > bare tcp/1: allow endpoint-default";
    // (spec, what is left open or closed by a NetworkPolicy of shop, by a GlobalNetworkPolicy)
    for (spec, namespaced, global) in [
        ("{}", [shop, not_blog], [shop, blog]),
        ("{selector: ''}", [shop, not_blog], [shop, blog]),
        ("{selector: ~}", [shop, not_blog], [shop, blog]),
        ("{selector: all()}", [shop, not_blog], [shop, blog]),
        ("{selector: has(app)}", [bare_open, not_blog], [bare_open, blog]),
        ("{selector: app != 'web'}", [shop, not_blog], [shop, not_blog]),
    ] {
        check(spec, &[np("shop/p", spec)], &namespaced.join("\n"));
        check(spec, &[gnp("p", spec)], &global.join("\n"));
    }
    for (spec, lines) in [
        ("{namespaceSelector: env == 'prod'}", [shop, not_blog]),
        ("{namespaceSelector: '!has(env)'}", [bare_open, blog]),
        ("{namespaceSelector: all(), selector: has(app)}", [bare_open, blog]),
    ] {
        check(spec, &[gnp("p", spec)], &lines.join("\n"));
    }
    // A resource without `spec` is one whose every field is absent.
    let bare = calico("NetworkPolicy", "shop/p", "~");
    check("no spec", &[bare], &[shop, not_blog].join("\n"));
}

#[test]
fn types_and_empty_lists() {
    let (open, closed) = ("allow endpoint-default", "deny default tier-default");
    // (spec, ingress, egress)
    for (spec, ingress, egress) in [
        ("{}", closed, open),
        ("{ingress: []}", closed, open),
        ("{ingress: ~}", closed, open),
        ("{egress: []}", closed, open),
        ("{egress: ~, ingress: ~}", closed, open),
        ("{egress: [{action: Deny}]}", open, "deny p egress[0]"),
        ("{ingress: [], egress: [{action: Deny}]}", open, "deny p egress[0]"),
        ("{ingress: [{action: Allow}]}", "allow p ingress[0]", open),
        (
            "{ingress: [{action: Allow}], egress: [{action: Allow}]}",
            "allow p ingress[0]",
            "allow p egress[0]",
        ),
        ("{types: [Ingress]}", closed, open),
        ("{types: [Egress]}", open, closed),
        ("{types: [Egress, Ingress]}", closed, closed),
        ("{types: [Egress], ingress: [{action: Allow}]}", open, closed),
        ("{types: ~, egress: [{action: Allow}]}", open, "allow p egress[0]"),
    ] {
        let lines = format!("in web > db tcp/1: {ingress}\nout db > web tcp/1: {egress}");
        check(spec, &[gnp("p", spec)], &lines);
        check(spec, &[np("shop/p", spec)], &lines);
    }
}
