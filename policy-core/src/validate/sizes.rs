//! How long lists and selectors of Calico's kinds may be.
//!
//! Upstream's schemas bound them (`api/pkg/apis/projectcalico/v3/policy_common.go`,
//! `globalnetworkpolicy.go`: `MaxItems`, `MaxLength`). So a policy that is taken here is taken there.

use super::report::Report;

/// Something that has a greatest size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    limit: usize,
    /// Noun in the plural.
    things: &'static str,
    hint: &'static str,
}

/// `nets` or `notNets` of one side of a rule.
pub(super) const NETS: Bound = Bound {
    limit: 256,
    things: "networks in one list",
    hint: "put them into a NetworkSet or GlobalNetworkSet, which takes a million, and select it",
};

/// `ports` or `notPorts` of one side of a rule.
pub(super) const PORTS: Bound = Bound {
    limit: 50,
    things: "ports in one list",
    hint: "write neighbours as a range such as '8000:8080', or a second rule for the rest",
};

/// `ingress` or `egress` of a policy.
pub(super) const RULES: Bound = Bound {
    limit: 1024,
    things: "rules in one direction of a policy",
    hint: "put the rest into a second policy with a greater `order`",
};

/// The text of a selector, in characters.
const SELECTOR: Bound = Bound {
    limit: 1024,
    things: "characters in a selector",
    hint: "give what it selects a label of its own, and select that",
};

impl Bound {
    /// Reports a size beyond it.
    pub(super) fn check(self, path: &str, size: usize, report: &mut Report) {
        let Self { limit, things, hint } = self;
        if size > limit {
            report.error(path, format!("{size} {things}: at most {limit} are allowed"), hint);
        }
    }
}

/// Reports a selector that is too long.
pub(super) fn selector(path: &str, text: &str, report: &mut Report) {
    SELECTOR.check(path, text.chars().count(), report);
}
