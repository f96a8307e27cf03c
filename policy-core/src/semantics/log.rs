//! The Log action: noted, and on to the next rule.

use super::{check, gnp, np, tier};

#[test]
fn log_decides_nothing_and_is_noted_in_order() {
    let policy = gnp(
        "p",
        "{selector: app == 'db', ingress: [
            {action: Log, protocol: TCP},
            {action: Allow, protocol: TCP, destination: {ports: [80]}},
            {action: Log, source: {selector: app == 'web'}},
            {action: Deny}]}",
    );
    check(
        "log",
        &[policy],
        "in web > db tcp/80: allow p ingress[1] log p ingress[0]
         in web > db tcp/81: deny p ingress[3] log p ingress[0] log p ingress[2]
         in web > db udp/81: deny p ingress[3] log p ingress[2]
         in bare > db tcp/81: deny p ingress[3] log p ingress[0]
         in bare > db udp/81: deny p ingress[3]",
    );
}

#[test]
fn a_policy_that_only_logs_still_ends_in_the_default_of_its_tier() {
    check(
        "default",
        &[gnp("p", "{selector: app == 'db', ingress: [{action: Log}]}")],
        "in web > db tcp/80: deny default tier-default log p ingress[0]
         in db > web tcp/80: allow endpoint-default",
    );
}

#[test]
fn what_was_logged_stays_so_over_tiers() {
    check(
        "tiers",
        &[
            tier("ops", "{order: 1, defaultAction: Pass}"),
            gnp("look", "{tier: ops, selector: app == 'db', ingress: [{action: Log}]}"),
            np(
                "shop/db",
                "{selector: app == 'db', ingress: [{action: Log, protocol: UDP}, {action: Allow}]}",
            ),
        ],
        "in web > db tcp/80: allow db ingress[1] log look ingress[0]
         in web > db udp/80: allow db ingress[1] log look ingress[0] log db ingress[0]",
    );
}

#[test]
fn log_by_source_port() {
    check(
        "source port",
        &[gnp(
            "p",
            "{selector: app == 'db', ingress: [
                {action: Log, protocol: TCP, source: {ports: [53]}}, {action: Allow}]}",
        )],
        "in web > db tcp/80<53: allow p ingress[1] log p ingress[0]
         in web > db tcp/80<54: allow p ingress[1]",
    );
}
