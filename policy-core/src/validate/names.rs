//! `metadata`: names, namespaces, labels, annotations, by Kubernetes' and Calico's rules
//! (apimachinery `util/validation`, libcalico-go `lib/validator/v3`).

use policy_api::resource::{Kind, Metadata};

use super::{DEFAULT_NAMESPACE, limit, report::Report};
use crate::labels::{
    CALICO_PREFIX, Labels, NAMESPACE_PREFIX, PALISADE_PREFIX, SERVICE_ACCOUNT_PREFIX, is_reserved,
};

/// Longest DNS name (RFC 1123), and longest label of one.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Annotations in total, in bytes (apimachinery's bound).
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Namespace and name of a resource, checked; the namespace is empty for kinds that have none.
pub(super) fn identity(
    metadata: Option<&Metadata>,
    kind: Kind,
    report: &mut Report,
) -> Option<(String, String)> {
    let namespace = metadata.and_then(|metadata| metadata.namespace.as_deref());
    let namespace = match (kind.namespaced(), namespace) {
        (false, None | Some("")) => String::new(),
        (false, Some(_)) => {
            report.error(
                "metadata.namespace",
                format!("{} is not in a namespace", kind.names().1),
                "remove the field",
            );
            return None;
        }
        (true, None | Some("")) => DEFAULT_NAMESPACE.to_owned(),
        (true, Some(namespace)) => {
            if !is_namespace(namespace) {
                report.error(
                    "metadata.namespace",
                    format!("`{namespace}` is not a namespace"),
                    NAMESPACE,
                );
                return None;
            }
            namespace.to_owned()
        }
    };
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        report.error("metadata.name", "`metadata.name` is missing", "give the resource a name");
        return None;
    }
    let (valid, rule) = match kind {
        // So upstream shows policies of Kubernetes and OpenStack, which have resources of their own.
        Kind::NetworkPolicy
            if name.starts_with("knp.default.") || name.starts_with("ossg.default.") =>
        {
            (
                false,
                "it stands for a policy of another kind: apply the Kubernetes NetworkPolicy itself, or \
             choose a name with at most one `.`",
            )
        }
        // Upstream allows one dot, for the name of the tier in front.
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => (
            is_dns_name(name) && name.matches('.').count() <= 1,
            "use lower-case letters, digits and `-`, with a letter or digit at both ends, and at \
             most one `.`",
        ),
        Kind::Namespace => (is_namespace(name), NAMESPACE),
        Kind::Tier => (
            is_dns_label(name),
            "use at most 63 lower-case letters, digits and `-`, with a letter or digit at both \
             ends",
        ),
        Kind::NetworkSet
        | Kind::GlobalNetworkSet
        | Kind::WorkloadEndpoint
        | Kind::HostEndpoint
        | Kind::KubernetesNetworkPolicy
        | Kind::StagedKubernetesNetworkPolicy => (
            is_dns_name(name),
            "use at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at \
             both ends of each part",
        ),
    };
    if !valid {
        report.error("metadata.name", format!("`{name}` is not a name for this kind"), rule);
        return None;
    }
    Some((namespace, name.to_owned()))
}

/// Whether labels of some prefixes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// On things that selectors match: such a label would be believed to be ours.
    Refuse,
    /// On things whose labels no selector matches by that name.
    Allow,
}

/// Namespace, name and labels of a resource.
pub(super) fn metadata(
    metadata: Option<&Metadata>,
    kind: Kind,
    reserved: Reserved,
    report: &mut Report,
) -> Option<(String, String, Labels)> {
    let names = identity(metadata, kind, report);
    let metadata = metadata?;
    report.unsupported(
        "metadata.generateName",
        metadata.generate_name.as_ref(),
        "generated names",
        "give the resource a `name`",
    );
    let labels = metadata.labels.iter().flatten();
    for (name, value) in labels.clone() {
        let path = format!("metadata.labels.{name}");
        label(&path, name, value, report);
        if reserved == Reserved::Refuse && is_reserved(name) {
            report.error(
                &path,
                format!("labels that begin like `{name}` are reserved"),
                format!(
                    "choose a name that does not begin with {PALISADE_PREFIX}, {CALICO_PREFIX}, \
                     {NAMESPACE_PREFIX} or {SERVICE_ACCOUNT_PREFIX}"
                ),
            );
        }
    }
    let known: &[&str] = match kind {
        Kind::GlobalNetworkPolicy => &limit::NAMES,
        _ => &[],
    };
    annotations("metadata.annotations", metadata.annotations.as_ref(), known, report);
    let (namespace, name) = names?;
    Some((namespace, name, labels.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

/// Checks annotations. They have no effect, but for those of ours, of which only the `known` ones may
/// stand here.
pub(super) fn annotations(
    path: &str,
    annotations: Option<&std::collections::BTreeMap<String, String>>,
    known: &[&str],
    report: &mut Report,
) {
    let mut size = 0;
    for (name, value) in annotations.into_iter().flatten() {
        size += name.len() + value.len();
        if !is_qualified_name(&name.to_lowercase()) {
            report.error(
                &format!("{path}.{name}"),
                format!("`{name}` is not a name for an annotation"),
                QUALIFIED_NAME,
            );
        }
        if name.starts_with(PALISADE_PREFIX) && !known.contains(&name.as_str()) {
            let hint = match known {
                [] => "remove it: there are no annotations of Palisade for this kind".to_owned(),
                known => format!("those for this kind are {}", known.join(" and ")),
            };
            let text = "Palisade has no annotation of this name here";
            report.error(&format!("{path}.{name}"), text, hint);
        }
    }
    if size > MAX_ANNOTATIONS {
        report.error(
            path,
            format!("the annotations have {size} bytes, at most {MAX_ANNOTATIONS} are allowed"),
            "remove some of them",
        );
    }
}

/// Checks one label of a resource, or one that a Kubernetes selector names.
pub(super) fn label(path: &str, name: &str, value: &str, report: &mut Report) {
    label_name(path, name, report);
    label_value(path, value, report);
}

/// Checks the value of a label.
pub(super) fn label_value(path: &str, value: &str, report: &mut Report) {
    if !is_label_value(value) {
        report.error(
            path,
            format!("`{value}` is not a value for a label"),
            "use at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
        );
    }
}

/// Checks the name of a label.
pub(super) fn label_name(path: &str, name: &str, report: &mut Report) {
    if !is_qualified_name(name) {
        report.error(path, format!("`{name}` is not a name for a label"), QUALIFIED_NAME);
    }
}

const QUALIFIED_NAME: &str = "use at most 63 letters, digits, `-`, `_` and `.`, with a letter or \
     digit at both ends; a DNS name and `/` may stand in front";

const NAMESPACE: &str = "use at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at \
     both ends";

/// What may stand in `metadata.namespace`: whatever can be the name of a Compose project, which is a
/// namespace here, and the value of a label. Kubernetes allows only DNS labels.
pub(crate) fn is_namespace(text: &str) -> bool {
    !text.is_empty() && is_name_part(text)
}

/// A label of a DNS name in lower case (RFC 1123).
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// A DNS name in lower case; its parts may be longer than a DNS label, as upstream's may.
pub(super) fn is_dns_name(text: &str) -> bool {
    let end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MAX_NAME
        && text.split('.').all(|part| {
            part.bytes().all(|byte| end(byte) || byte == b'-')
                && part.bytes().next().is_some_and(end)
                && part.bytes().last().is_some_and(end)
        })
}

/// Value of a label that may be empty.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

fn is_name_part(text: &str) -> bool {
    let end = |byte: u8| byte.is_ascii_alphanumeric();
    text.len() <= MAX_LABEL
        && text.bytes().all(|byte| end(byte) || matches!(byte, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(end)
        && text.bytes().last().is_some_and(end)
}

/// Name of a label, with or without a prefix.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}
