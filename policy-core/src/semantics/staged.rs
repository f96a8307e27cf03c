//! Staged policies: nothing is enforced, and what would be is known.

use super::{calico, check, gnp, knp, np, tier};

fn sgnp(name: &str, spec: &str) -> String {
    calico("StagedGlobalNetworkPolicy", name, spec)
}

fn snp(name: &str, spec: &str) -> String {
    calico("StagedNetworkPolicy", name, spec)
}

fn sknp(name: &str, spec: &str) -> String {
    calico("StagedKubernetesNetworkPolicy", name, spec)
}

#[test]
fn a_new_policy_changes_nothing_and_says_what_it_would() {
    check(
        "set",
        &[sgnp(
            "lock",
            "{selector: app == 'db', ingress: [{action: Allow, protocol: TCP,
                source: {selector: app == 'web'}, destination: {ports: [5432]}}]}",
        )],
        "in web > db tcp/5432: allow endpoint-default staged allow lock ingress[0]
         in web > db tcp/80: allow endpoint-default staged deny default tier-default
         in bare > db tcp/5432: allow endpoint-default staged deny default tier-default
         in db > web tcp/80: allow endpoint-default
         out db > web tcp/80: allow endpoint-default",
    );
}

#[test]
fn a_staged_policy_stands_in_for_the_one_of_its_name() {
    check(
        "replace",
        &[
            np("shop/db", "{selector: app == 'db', ingress: [{action: Allow, protocol: TCP}]}"),
            snp(
                "shop/db",
                "{selector: app == 'db', stagedAction: Set,
                    ingress: [{action: Allow, protocol: TCP, destination: {ports: [5432]}}]}",
            ),
            // Another namespace's policy of the name, and another kind's, have nothing to do with it.
            np("blog/db", "{ingress: [{action: Allow}]}"),
            gnp(
                "db",
                "{order: 10, selector: app == 'db', ingress: [{action: Allow, protocol: UDP}]}",
            ),
        ],
        "in web > db tcp/5432: allow db ingress[0] staged allow db ingress[0]
         in web > db tcp/80: allow db ingress[0] staged deny default tier-default
         in web > db udp/80: allow db ingress[0] staged allow db ingress[0]
         in web > blog tcp/80: allow db ingress[0]",
    );
}

#[test]
fn a_staged_policy_without_rules_stands_in_for_one_without_rules() {
    // Both walks come past the same tier, and past no rule at all.
    check(
        "no rules",
        &[
            gnp("lock", "{selector: app == 'db', ingress: []}"),
            sgnp("lock", "{selector: app == 'db', ingress: []}"),
        ],
        "in web > db tcp/80: deny default tier-default staged deny default tier-default",
    );
}

#[test]
fn a_staged_deletion_shows_what_would_open() {
    check(
        "delete",
        &[
            np("shop/db", "{selector: app == 'db', ingress: [{action: Deny, protocol: TCP}]}"),
            snp("shop/db", "{stagedAction: Delete}"),
            snp("shop/never-was", "{stagedAction: Delete}"),
        ],
        "in web > db tcp/80: deny db ingress[0] staged allow endpoint-default
         in web > db udp/80: deny default tier-default staged allow endpoint-default
         in web > bare tcp/80: allow endpoint-default",
    );
}

#[test]
fn kubernetes_policies_can_be_staged_too() {
    check(
        "kubernetes",
        &[
            knp("shop/db", "{podSelector: {matchLabels: {app: db}}, ingress: [{}]}"),
            sknp(
                "shop/db",
                "{podSelector: {matchLabels: {app: db}},
                    ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
            ),
        ],
        "in web > db tcp/80: allow db ingress[0] staged allow db ingress[0]
         in bare > db tcp/80: allow db ingress[0] staged deny default tier-default",
    );
}

#[test]
fn staged_tiers_pass_and_log_as_they_would() {
    check(
        "tiers",
        &[
            tier("ops", "{order: 1}"),
            sgnp(
                "gate",
                "{tier: ops, selector: app == 'db', ingress: [{action: Log},
                    {action: Pass, source: {selector: app == 'web'}}]}",
            ),
            np("shop/db", "{selector: app == 'db', ingress: [{action: Allow}]}"),
        ],
        // The tier has no policy in force, so it ends in nothing; staged, it ends in Deny.
        "in web > db tcp/80: allow db ingress[0] staged allow db ingress[0]
         in bare > db tcp/80: allow db ingress[0] staged deny ops tier-default",
    );
}

#[test]
fn a_staged_policy_takes_the_place_in_the_order_that_it_would_have() {
    check(
        "order",
        &[
            gnp("b", "{order: 2, selector: app == 'db', ingress: [{action: Allow}]}"),
            sgnp(
                "a",
                "{order: 1, selector: app == 'db', ingress: [{action: Deny, protocol: UDP}]}",
            ),
            sgnp("c", "{order: 3, selector: app == 'db', ingress: [{action: Deny}]}"),
        ],
        "in web > db tcp/80: allow b ingress[0] staged allow b ingress[0]
         in web > db udp/80: allow b ingress[0] staged deny a ingress[0]",
    );
}

#[test]
fn by_source_port_both_walks_are_cut() {
    check(
        "source ports",
        &[
            gnp(
                "now",
                "{selector: app == 'db', ingress: [
                    {action: Deny, protocol: TCP, source: {ports: ['1:1023']}}, {action: Allow}]}",
            ),
            sgnp(
                "then",
                "{order: 1, selector: app == 'db', ingress: [
                    {action: Deny, protocol: TCP, source: {ports: ['1000:2000']}}]}",
            ),
        ],
        "in web > db tcp/80<999: deny now ingress[0] staged deny now ingress[0]
         in web > db tcp/80<1000: deny now ingress[0] staged deny then ingress[0]
         in web > db tcp/80<1024: allow now ingress[1] staged deny then ingress[0]
         in web > db tcp/80<2001: allow now ingress[1] staged allow now ingress[1]
         in web > db udp/80<1000: allow now ingress[1] staged allow now ingress[1]",
    );
}
