//! Who is at the ends of connections, in words.

use policy_api::difference::End;

use super::text;

/// Ends of one side that are named.
const SHOWN: usize = 8;

/// Name of an end.
pub(super) fn end(end: &End) -> String {
    match end {
        End::Endpoint { namespace, name, network } => {
            let name = text::namespaced(namespace, name);
            match network.as_deref() {
                None | Some("") => name,
                Some(network) => format!("{name} (network {})", text::clean(network)),
            }
        }
        End::Host => "the host".to_owned(),
        End::World => "the world".to_owned(),
        End::Network { namespace, name, nets, nets_left_out } => {
            let full = text::namespaced(namespace, name);
            let mut shown: Vec<String> =
                nets.iter().map(|net| text::clean(net).into_owned()).collect();
            if shown == [full.as_str()] {
                return full;
            }
            if *nets_left_out > 0 {
                shown.push(format!("{nets_left_out} more"));
            }
            format!("{full} ({})", shown.join(", "))
        }
    }
}

/// Names in a row, the first ones if they are many.
pub(super) fn shown(mut names: Vec<String>) -> String {
    let left_out = names.len().saturating_sub(SHOWN);
    if left_out > 1 {
        names.truncate(SHOWN);
        names.push(format!("{left_out} more"));
    }
    names.join(", ")
}
