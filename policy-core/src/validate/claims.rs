//! Interfaces and addresses belong to one endpoint each.
//!
//! In: who is there. Out: a diagnostic for each static endpoint that claims what is another's.

use std::{collections::BTreeMap, net::IpAddr};

use policy_api::diagnostic::Diagnostic;

use super::StaticEndpoint;

/// What is taken, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    interfaces: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Claims {
    /// A container has these; containers are not argued with.
    pub fn container(&mut self, name: &str, interface: Option<&str>, addresses: &[IpAddr]) {
        let owner = format!("container {name}");
        if let Some(interface) = interface {
            self.interfaces.insert(interface.to_owned(), owner.clone());
        }
        self.addresses.extend(addresses.iter().map(|ip| (*ip, owner.clone())));
    }

    /// A static endpoint wants its own; what it cannot have comes back.
    pub fn endpoint(&mut self, endpoint: &StaticEndpoint) -> Vec<Diagnostic> {
        let StaticEndpoint { interface, addresses, .. } = endpoint;
        let own = format!("WorkloadEndpoint {}/{}", endpoint.namespace, endpoint.name);
        let mut conflicts = Vec::new();
        if let Some(other) = self.interfaces.insert(interface.clone(), own.clone()) {
            let message = format!("{own}: interface {interface} already belongs to {other}");
            conflicts.push(
                Diagnostic::error("spec.interfaceName", message)
                    .with_hint("name the interface of this endpoint"),
            );
        }
        for ip in addresses {
            if let Some(other) = self.addresses.insert(*ip, own.clone()) {
                let message = format!("{own}: address {ip} already belongs to {other}");
                conflicts.push(
                    Diagnostic::error("spec.ipNetworks", message)
                        .with_hint("list the addresses of this endpoint only"),
                );
            }
        }
        conflicts
    }
}
