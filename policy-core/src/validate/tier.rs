//! `projectcalico.org/v3` Tier, and the `tier` of a policy.
//!
//! Upstream's rules: libcalico-go `lib/validator/v3` (`validateTier`), the CEL rules and the
//! defaults of calico `api/pkg/apis/projectcalico/v3/tier.go` and `lib/resources/tier.go`.

use policy_api::resource::{Kind, Object, calico::TierSpec};

use super::{
    fields,
    names::{self, Reserved},
    report::Report,
};
use crate::{
    policy::Order,
    tiers::{self, DEFAULT_ORDER, DEFAULT_TIER, Tier, TierAction},
};

pub(super) fn tier(object: &Object<TierSpec>, report: &mut Report) -> Option<Tier> {
    let names = names::metadata(object.metadata.as_ref(), Kind::Tier, Reserved::Allow, report);
    let absent = TierSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&absent);
    let order = spec.order.unwrap_or(DEFAULT_ORDER);
    let end = end(spec.default_action.as_deref(), report);
    let (_, name, _) = names?;
    let tier = Tier { name, order: Order(Some(order)), end: end? };
    if let Some(fixed) = tiers::built_in(&tier.name) {
        unchanged(&tier, &fixed, report);
    }
    Some(tier)
}

fn end(action: Option<&str>, report: &mut Report) -> Option<TierAction> {
    match action {
        Some("Deny") | None => Some(TierAction::Deny),
        Some("Pass") => Some(TierAction::Pass),
        Some(other) => {
            let known = ["Deny", "Pass"];
            let path = "spec.defaultAction";
            fields::unknown_word(path, "a default action of a tier", other, &known, report);
            None
        }
    }
}

/// A built-in tier may be written down, but not be made another.
fn unchanged(tier: &Tier, fixed: &Tier, report: &mut Report) {
    let name = &tier.name;
    if let Some(order) = fixed.order.0.filter(|_| tier.order != fixed.order) {
        report.error(
            "spec.order",
            format!("the tier `{name}` is built in, and its order is always {order}"),
            format!("write `order: {order}`, or give your own tier another name"),
        );
    }
    if tier.end != fixed.end {
        let action = match fixed.end {
            TierAction::Deny => "Deny",
            TierAction::Pass => "Pass",
        };
        report.error(
            "spec.defaultAction",
            format!("the tier `{name}` is built in, and its defaultAction is always {action}"),
            format!("write `defaultAction: {action}`, or give your own tier another name"),
        );
    }
}

/// The tier that a policy names; `None` if there can be no such tier.
pub(super) fn of_policy(tier: Option<&str>, report: &mut Report) -> Option<String> {
    let tier = tier.filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER);
    if names::is_dns_label(tier) {
        return Some(tier.to_owned());
    }
    report.error(
        "spec.tier",
        format!("`{tier}` is not the name of a tier"),
        "use at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends",
    );
    None
}
