//! What the event loop tells those who only read, after each change.
//!
//! A change of a policy leaves alone who is there, and so does not pay for describing it again.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use policy_api::messages::EndpointStatus;
use policy_core::{
    model::{EndpointId, Model},
    peers::PeerName,
    shared::Shared,
};

use super::{Agent, INTERFACES};
use crate::{
    fence::View,
    inventory::{Errors, Sources},
    published::{Published, usage},
};

/// What a portrait is described from.
type Subject = (Sources, Model, Shared<BTreeMap<u32, PeerName>>);

/// Who is there, as it was last described, and what it was described from.
#[derive(Debug, Default)]
pub(super) struct Portrait {
    subject: Option<Subject>,
    endpoints: Arc<Vec<(Option<EndpointId>, EndpointStatus)>>,
    places: Arc<BTreeMap<PeerName, usize>>,
    interfaces: Arc<BTreeMap<u32, PeerName>>,
    owners: Arc<BTreeMap<IpAddr, PeerName>>,
}

impl Portrait {
    fn shows(
        &self,
        sources: &Sources,
        model: &Model,
        names: &Shared<BTreeMap<u32, PeerName>>,
    ) -> bool {
        self.subject.as_ref().is_some_and(|(of, was, under)| {
            of.same(sources)
                && was.endpoints.same(&model.endpoints)
                && was.host_addresses.same(&model.host_addresses)
                && under.same(names)
        })
    }
}

impl Agent {
    pub(super) fn publish(&mut self, view: &Shared<View>) {
        let sources = self.inventory.sources(&self.resources, &self.base, view);
        if !self.portrait.shows(&sources, &self.model, &self.names) {
            self.portray(view, sources);
        }
        let errors = Errors {
            policy_dir: self.policy_dir_error.as_deref(),
            datapath: self.datapath_error.as_deref(),
            store: self.store_error.as_deref(),
        };
        let now = Arc::clone(&self.published.borrow());
        let next = Published {
            ready: now.ready || self.complete() && self.in_step,
            model: Arc::clone(&self.model),
            ids: self.compiler.ids().names().clone(),
            resources: Arc::clone(&self.resources),
            endpoints: Arc::clone(&self.portrait.endpoints),
            places: Arc::clone(&self.portrait.places),
            interfaces: Arc::clone(&self.portrait.interfaces),
            owners: Arc::clone(&self.portrait.owners),
            revision: self.compiler.image().revision,
            usage: usage(&self.compiler),
            components: self.inventory.components(
                &self.config,
                &self.resources,
                &self.model,
                view,
                errors,
            ),
            ..(*now).clone()
        };
        self.published.send_replace(Arc::new(next));
    }

    /// Describes who is there.
    fn portray(&mut self, view: &Shared<View>, sources: Sources) {
        let names = self.inventory.names(&self.model, view);
        if names.iter().any(|(ifindex, name)| self.names.get(ifindex) != Some(name)) {
            self.names.extend(names);
            self.keep(INTERFACES, &*self.names);
        }
        let state = self.inventory.describe(&self.config, &self.resources, &self.model, view);
        // Interfaces that nobody has claimed have only their own names, which need not be kept.
        let links = view.links.iter().map(|(ifindex, link)| {
            (*ifindex, PeerName { namespace: String::new(), name: link.name.clone() })
        });
        let known = self.names.iter().map(|(ifindex, name)| (*ifindex, name.clone()));
        // Of several interfaces of one workload any will do: they have its labels.
        let places = state.endpoints.iter().enumerate().map(|(place, (_, endpoint))| {
            let (namespace, name) = (endpoint.namespace.clone(), endpoint.name.clone());
            (PeerName { namespace, name }, place)
        });
        self.portrait = Portrait {
            places: Arc::new(places.collect()),
            subject: Some((sources, Model::clone(&self.model), self.names.clone())),
            endpoints: Arc::new(state.endpoints),
            interfaces: Arc::new(links.chain(known).collect()),
            owners: Arc::new(state.owners),
        };
    }
}
