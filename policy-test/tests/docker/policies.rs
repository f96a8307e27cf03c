//! Policies that several tests apply.

/// Of what may be sent to `app == 'db'`, TCP to port 7000 from `app == 'web'`; and `db` sends nothing.
pub(crate) const DB_FROM_WEB: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  selector: app == 'db'
  types: [Ingress, Egress]
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app == 'web'}
    destination: {ports: [7000]}
";

/// `app == 'shut'` may connect to TCP port 7000 anywhere, and to nothing else.
pub(crate) const SHUT: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: shut, namespace: default}
spec:
  selector: app == 'shut'
  types: [Egress]
  egress:
  - {action: Allow, protocol: TCP, destination: {ports: [7000]}}
";
