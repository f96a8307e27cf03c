//! The host as a peer.

use crate::stage::{Over, Stage};

const DB: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: db}
spec:
  selector: app == 'db'
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: TCP, source: {selector: app == 'web'}}]
  egress: []";

#[test]
fn the_host_is_a_peer_with_a_label() {
    let stage = Stage::new(&[]);
    stage.apply(DB);
    stage.check(
        Over::Both,
        "host db 80/tcp deny ingress - tier-default
         host db ping deny ingress - tier-default
         db host 80/tcp deny egress - tier-default
         web db 80/tcp allow",
    );
    stage.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: host}
spec:
  selector: app == 'db'
  types: [Ingress, Egress]
  ingress: [{action: Allow, source: {selector: has(palisade.io/host)}}]
  egress: [{action: Allow, destination: {selector: has(palisade.io/host)}}]",
    );
    stage.check(
        Over::Both,
        "host db 80/tcp allow
         host db ping allow
         db host 80/udp allow
         db web 80/tcp deny egress - tier-default
         bad db 80/tcp deny ingress - tier-default",
    );
}

#[test]
fn host_access_opens_the_way_in_only() {
    let stage = Stage::new(&["--host-access", "allow"]);
    stage.apply(DB);
    stage.check(
        Over::Both,
        "host db 80/tcp allow
         host db ping allow
         bad db 80/tcp deny ingress - tier-default
         db host 80/tcp deny egress - tier-default",
    );
}
