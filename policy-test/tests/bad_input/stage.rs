//! A lab with one fenced workload and one policy in force, and a way to see that both stayed as
//! they were.
//!
//! Inputs: nothing. Outputs: a [`Stage`] and snapshots of what it holds.

use std::{collections::BTreeMap, fs, path::Path, process::Output};

use policy_api::messages::EndpointState;
use policy_test::{
    agent::{Agent, AgentOptions},
    lab::{Lab, Workload},
};
use tempfile::TempDir;

/// A policy with a name and an order.
pub(crate) fn policy(name: &str, order: u32) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{selector: app == 'web', order: {order}, ingress: [{{action: Allow, protocol: TCP, \
         destination: {{ports: [{order}]}}}}]}}\n"
    )
}

pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) files: TempDir,
    _web: Workload,
    pub(crate) lab: Lab,
}

/// What must not change: everything that is stored, datapath revision, policies in force.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    files: BTreeMap<String, Vec<u8>>,
    revision: u64,
    policies: usize,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().unwrap();
        let bridge = lab.bridge("br-lab", &["10.77.0.1/24"]).unwrap();
        let web = lab.workload("web", &bridge, &["10.77.0.2/24"]).unwrap();
        let agent = AgentOptions::default().start(&lab).unwrap();
        let endpoint = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web, labels: {app: web}}
spec: {interfaceName: veth-web, ipNetworks: [10.77.0.2/32]}
";
        agent.apply(&format!("{endpoint}{}", policy("first", 1))).unwrap();
        let stage = Self { agent, files: tempfile::tempdir().unwrap(), _web: web, lab };
        stage.enforced();
        stage
    }

    /// Waits until the workload is fenced.
    pub(crate) fn enforced(&self) {
        self.agent
            .wait_endpoints("the endpoint to be enforced", |endpoints| {
                endpoints.iter().any(|it| it.state == EndpointState::Enforcing)
            })
            .unwrap();
    }

    /// The state directory of the agent.
    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.lab.folder().join("agent/state")
    }

    pub(crate) fn held(&self) -> Held {
        let status = self.agent.status().unwrap();
        Held {
            files: contents(&self.state()),
            revision: status.revision,
            policies: status.policies,
        }
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.files.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Applies what must be refused, and sees that nothing has changed. Gives what was said.
    pub(crate) fn refused(&self, path: &str) -> String {
        let before = self.held();
        let output = self.agent.policyctl(&["apply", "-f", path]).unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(self.held(), before, "{said}");
        eprintln!("{said}");
        said
    }
}

/// What a command wrote to standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All that the agent keeps, by path. Not what no request decides: who holds the directory, and what
/// the kernel calls its interfaces.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if ["lock", "interfaces.json"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    files
}
