//! Names of kinds as an operator types them. Input: text such as `gnp` or
//! `networkpolicies.networking.k8s.io`; output: the [`Kind`]s meant, several where projects share
//! a name.

use policy_api::messages::ResourceName;
use policy_api::resource::Kind;

/// A name that no kind has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown kind `{0}`: expected netpol, gnp, snp, sgnp, sknp, tier, netset, gns, wep, ns, or a full name such as \
     networkpolicies.projectcalico.org or networkpolicies.networking.k8s.io"
)]
pub(crate) struct UnknownKind(String);

/// Plural and short names, as kubectl knows them from the projects' resource definitions.
fn plural_and_short(kind: Kind) -> (&'static str, &'static [&'static str]) {
    match kind {
        Kind::Namespace => ("namespaces", &["ns"]),
        Kind::GlobalNetworkPolicy => ("globalnetworkpolicies", &["gnp"]),
        Kind::NetworkPolicy | Kind::KubernetesNetworkPolicy => ("networkpolicies", &["netpol"]),
        Kind::StagedGlobalNetworkPolicy => ("stagedglobalnetworkpolicies", &["sgnp"]),
        Kind::StagedNetworkPolicy => ("stagednetworkpolicies", &["snp"]),
        Kind::StagedKubernetesNetworkPolicy => ("stagedkubernetesnetworkpolicies", &["sknp"]),
        Kind::Tier => ("tiers", &[]),
        Kind::GlobalNetworkSet => ("globalnetworksets", &["gns"]),
        Kind::NetworkSet => ("networksets", &["netset", "netsets"]),
        Kind::WorkloadEndpoint => ("workloadendpoints", &["wep", "weps"]),
    }
}

/// Place of a kind in a listing: what rules the most first.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Namespace => 0,
        Kind::Tier => 1,
        Kind::GlobalNetworkPolicy => 2,
        Kind::NetworkPolicy => 3,
        Kind::KubernetesNetworkPolicy => 4,
        Kind::StagedGlobalNetworkPolicy => 5,
        Kind::StagedNetworkPolicy => 6,
        Kind::StagedKubernetesNetworkPolicy => 7,
        Kind::GlobalNetworkSet => 8,
        Kind::NetworkSet => 9,
        Kind::WorkloadEndpoint => 10,
    }
}

/// Whether `text`, lower case, names this kind: singular, plural or short, with or without the
/// group, with or without the version before the group.
fn is_called(kind: Kind, text: &str) -> bool {
    let (name, rest) = match text.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (text, None),
    };
    let (api_version, singular) = kind.names();
    let (plural, short) = plural_and_short(kind);
    let (group, version) = split_api_version(api_version);
    let named = name == plural || name == singular.to_ascii_lowercase() || short.contains(&name);
    let without_version =
        |rest: &'_ str| rest.strip_prefix(version)?.strip_prefix('.').map(|it| it == group);
    named && rest.is_none_or(|rest| rest == group || without_version(rest) == Some(true))
}

/// The name that means this kind only, such as `networkpolicies.projectcalico.org`.
pub(crate) fn full_name(kind: Kind) -> String {
    let (plural, _) = plural_and_short(kind);
    match split_api_version(kind.names().0) {
        ("", _) => plural.to_owned(),
        (group, _) => format!("{plural}.{group}"),
    }
}

/// Whether a resource is of this kind.
pub(crate) fn is_of(resource: &ResourceName, kind: Kind) -> bool {
    kind.names() == (resource.api_version.as_str(), resource.kind.as_str())
}

/// Kinds called `text`, at least one.
///
/// # Errors
///
/// [`UnknownKind`] if there is none.
pub(crate) fn lookup(text: &str) -> Result<Vec<Kind>, UnknownKind> {
    let lower = text.to_ascii_lowercase();
    if lower == "all" {
        return Ok(Kind::ALL.to_vec());
    }
    let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| is_called(*kind, &lower)).collect();
    if kinds.is_empty() { Err(UnknownKind(text.to_owned())) } else { Ok(kinds) }
}

/// Where a resource stands in a listing: by kind, those unknown to us last, then namespace, then
/// name.
pub(crate) fn sort_key(resource: &ResourceName) -> (u8, &str, Option<&str>, &str) {
    let kind = Kind::ALL.into_iter().find(|kind| is_of(resource, *kind));
    let rank = kind.map_or(u8::MAX, rank);
    (rank, &resource.kind, resource.namespace.as_deref(), &resource.name)
}

/// `networkpolicy.projectcalico.org/name`, as kubectl writes it.
pub(crate) fn qualified(resource: &ResourceName) -> String {
    let kind = resource.kind.to_ascii_lowercase();
    match split_api_version(&resource.api_version) {
        ("", _) => format!("{kind}/{}", resource.name),
        (group, _) => format!("{kind}.{group}/{}", resource.name),
    }
}

/// The API group, such as `projectcalico.org`; `v1` for the core group, which has no name.
pub(crate) fn group(api_version: &str) -> &str {
    match split_api_version(api_version) {
        ("", version) => version,
        (group, _) => group,
    }
}

/// Group, empty for the core group, and version.
fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_names(text: &str) -> Vec<String> {
        lookup(text).expect(text).into_iter().map(full_name).collect()
    }

    #[test]
    fn knows_kubectl_names() {
        let both = ["networkpolicies.projectcalico.org", "networkpolicies.networking.k8s.io"];
        for text in ["netpol", "NetworkPolicy", "networkpolicies", "NETPOL"] {
            assert_eq!(full_names(text), both, "{text}");
        }
        for (text, full) in [
            ("networkpolicies.projectcalico.org", both[0]),
            ("networkpolicy.v3.projectcalico.org", both[0]),
            ("netpol.networking.k8s.io", both[1]),
            ("networkpolicies.v1.networking.k8s.io", both[1]),
            ("gnp", "globalnetworkpolicies.projectcalico.org"),
            ("globalnetworkset", "globalnetworksets.projectcalico.org"),
            ("gns", "globalnetworksets.projectcalico.org"),
            ("netset", "networksets.projectcalico.org"),
            ("wep", "workloadendpoints.projectcalico.org"),
            ("tier", "tiers.projectcalico.org"),
            ("tiers", "tiers.projectcalico.org"),
            ("ns", "namespaces"),
        ] {
            assert_eq!(full_names(text), [full], "{text}");
        }
        assert_eq!(full_names("all").len(), Kind::ALL.len());
    }

    #[test]
    fn every_full_name_means_one_kind() {
        for kind in Kind::ALL {
            assert_eq!(lookup(&full_name(kind)), Ok(vec![kind]));
        }
    }

    #[test]
    fn refuses_others() {
        for text in ["", "pod", "netpol.", "netpol.v1.projectcalico.org", "gnp.k8s.io", "ns.v2"] {
            assert!(lookup(text).is_err(), "{text:?}");
        }
    }
}
