use std::net::IpAddr;

use bollard::models::{ContainerSummary, Network as ApiNetwork, NetworkInspect};
use serde::de::DeserializeOwned;

use super::*;
use crate::source::docker::{InsideOf, wire};

// Recorded from Docker Engine 20.10.24: "web" runs on n2 and bridge, "side" shares web's network,
// "hosty" is on the host's network, and "db" is being started on n2.
const LIST: &str = include_str!("../recorded/list_starting.json");
const NETWORKS: &str = include_str!("../recorded/networks.json");
const N2_STARTING: &str = include_str!("../recorded/network_starting.json");
const N2_RUNNING: &str = include_str!("../recorded/network_running.json");
const BRIDGE: &str = include_str!("../recorded/network_bridge.json");

const N2_DEVICE: u32 = 9;
const DOCKER0: u32 = 2;
const WEB_NSID: i32 = 0;
const DB_NSID: i32 = 1;

fn json<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

fn inspected(text: &str) -> (String, Vec<Attachment>) {
    let network: NetworkInspect = json(text);
    let endpoints = network.containers.unwrap_or_default();
    let attachments = endpoints.into_iter().map(|(key, value)| wire::attachment(key, value));
    (network.id.unwrap(), attachments.collect())
}

fn device(ifindex: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        kind,
        master: None,
        link: None,
        link_netnsid: None,
        mac: None,
        up: true,
    }
}

fn veth(ifindex: u32, master: u32, nsid: Option<i32>) -> Link {
    Link {
        master: Some(master),
        link: Some(ifindex - 1),
        link_netnsid: nsid,
        ..device(ifindex, &format!("veth{ifindex}"), LinkKind::Veth)
    }
}

struct Lab {
    picture: Picture,
}

impl Lab {
    /// web runs and is fully known, db is being started.
    fn new() -> Self {
        let containers: Vec<ContainerSummary> = json(LIST);
        let networks: Vec<ApiNetwork> = json(NETWORKS);
        let bridge = device(N2_DEVICE, "br-20dfcf91ec42", LinkKind::Bridge);
        let docker0 = device(DOCKER0, "docker0", LinkKind::Bridge);
        let mut lab = Lab {
            picture: Picture {
                engine: EngineState::Synced,
                containers: containers
                    .into_iter()
                    .map(Container::from)
                    .map(|container| (container.id.clone(), container))
                    .collect(),
                networks: networks
                    .into_iter()
                    .map(Network::from)
                    .map(|network| (network.id.clone(), network))
                    .collect(),
                attachments: BTreeMap::from([inspected(N2_STARTING), inspected(BRIDGE)]),
                ..Picture::default()
            },
        };
        for link in [
            bridge,
            docker0,
            veth(11, N2_DEVICE, Some(WEB_NSID)),
            veth(13, DOCKER0, Some(WEB_NSID)),
            // A veth that is none of Docker's.
            Link { master: None, ..veth(15, 0, Some(WEB_NSID)) },
        ] {
            lab.link(link);
        }
        lab.owners(11, WEB_NSID, &["web", "side"]);
        lab.owners(13, WEB_NSID, &["web", "side"]);
        lab
    }

    fn link(&mut self, link: Link) {
        self.picture.links.insert(link.ifindex, link);
    }

    fn id(&self, name: &str) -> String {
        let mut all = self.picture.containers.values();
        all.find(|c| c.name == name).map_or_else(|| name.to_owned(), |c| c.id.clone())
    }

    fn owners(&mut self, ifindex: u32, nsid: i32, names: &[&str]) {
        let containers = names.iter().map(|name| self.id(name)).collect();
        self.picture.owners.insert(ifindex, Owners { nsid, containers });
    }

    fn inspected(&mut self, name: &str, nsid: i32) {
        self.picture.sandboxes.insert(self.id(name), nsid);
    }

    /// `container@network` and the index of its veth, if it is known.
    fn veths(&self) -> BTreeMap<String, Option<u32>> {
        let endpoints = self.picture.resolve().endpoints.into_iter();
        endpoints
            .map(|e| (format!("{}@{}", e.container_name, e.network), e.veth.map(|v| v.ifindex)))
            .collect()
    }

    fn pending(&self) -> Vec<(u32, PendingReason)> {
        let pending = self.picture.resolve().pending;
        pending.into_iter().map(|pending| (pending.veth.ifindex, pending.reason)).collect()
    }
}

#[test]
fn the_recorded_lab_resolves() {
    let snapshot = Lab::new().picture.resolve();
    assert_eq!(
        snapshot.bridges,
        BTreeSet::from(["br-20dfcf91ec42".to_owned(), "docker0".to_owned()])
    );
    let web =
        snapshot.endpoints.iter().find(|e| e.container_name == "web" && e.network == "n2").unwrap();
    assert_eq!(web.namespace, "shop");
    let addresses: Vec<IpAddr> = vec!["10.77.0.2".parse().unwrap(), "fd00:bb::2".parse().unwrap()];
    assert_eq!(web.addresses, addresses);
    assert_eq!(web.mac, Some([0x02, 0x42, 0x0a, 0x4d, 0x00, 0x02]));
    assert_eq!(web.labels.get("app"), Some("web"));
    assert_eq!(web.labels.get("palisade.io/name"), Some("web"));
    let spec = web.to_spec(7).unwrap();
    assert_eq!((spec.ifindex, spec.bridge, spec.adopt_until_ns), (11, Some(N2_DEVICE), 7));
    // db has addresses before it runs, but no interface.
    let db = snapshot.endpoints.iter().find(|e| e.container_name == "db").unwrap();
    assert_eq!(db.addresses.len(), 2);
    assert_eq!(db.ports.len(), 1);
    assert_eq!(db.to_spec(0), None);

    let reasons: Vec<_> =
        snapshot.unsupported.iter().map(|u| (u.container_name.as_str(), &u.reason)).collect();
    let shared = UnsupportedReason::SharedNetwork { with: "web".to_owned() };
    assert_eq!(reasons, [("side", &shared), ("hosty", &UnsupportedReason::HostNetwork)]);
    let warned: BTreeSet<_> = snapshot.warnings.iter().map(|w| w.container_name.as_str()).collect();
    assert_eq!(warned, BTreeSet::from(["db", "web"]));
}

#[test]
fn a_starting_container_is_matched_once_its_namespace_is_owned() {
    let mut lab = Lab::new();
    assert_eq!(lab.veths()["db@n2"], None);
    lab.link(veth(21, N2_DEVICE, None));
    assert_eq!(lab.pending(), [(21, PendingReason::NotHandedOver)]);
    lab.link(veth(21, N2_DEVICE, Some(DB_NSID)));
    assert_eq!(lab.pending(), [(21, PendingReason::NoOwner)]);
    lab.owners(21, DB_NSID, &["db"]);
    assert_eq!(lab.veths()["db@n2"], Some(21));
    assert_eq!(lab.veths()["web@n2"], Some(11));
    assert_eq!(lab.pending(), []);
    // The same endpoint under its container's id.
    let (id, attachments) = inspected(N2_RUNNING);
    lab.picture.attachments.insert(id, attachments);
    lab.inspected("db", DB_NSID);
    assert_eq!(lab.veths()["db@n2"], Some(21));
}

#[test]
fn inspect_alone_is_enough() {
    let mut lab = Lab::new();
    lab.link(veth(21, N2_DEVICE, Some(DB_NSID)));
    lab.inspected("db", DB_NSID);
    assert_eq!(lab.veths()["db@n2"], Some(21));
}

#[test]
fn doubt_keeps_an_interface_closed() {
    type Change = fn(&mut Lab);
    let cases: [(&str, Change, PendingReason); 6] = [
        (
            "two containers' processes in the namespace",
            |lab| lab.owners(21, DB_NSID, &["db", "web"]),
            PendingReason::Ambiguous,
        ),
        (
            "a container that is not listed yet may be the owner",
            |lab| lab.owners(21, DB_NSID, &["db", "unlisted"]),
            PendingReason::Ambiguous,
        ),
        (
            "inspect says that the container lives elsewhere",
            |lab| {
                lab.owners(21, DB_NSID, &["db"]);
                lab.inspected("db", 5);
            },
            PendingReason::Ambiguous,
        ),
        (
            "inspect says that the namespace is another one's",
            |lab| {
                lab.owners(21, DB_NSID, &["db"]);
                lab.inspected("hosty", DB_NSID);
            },
            PendingReason::Ambiguous,
        ),
        (
            "only guests in the namespace",
            |lab| lab.owners(21, DB_NSID, &["side"]),
            PendingReason::NoOwner,
        ),
        (
            "the processes were seen before the other end moved on",
            |lab| lab.owners(21, DB_NSID + 1, &["db"]),
            PendingReason::NoOwner,
        ),
    ];
    for (case, change, reason) in cases {
        let mut lab = Lab::new();
        lab.link(veth(21, N2_DEVICE, Some(DB_NSID)));
        change(&mut lab);
        assert_eq!(lab.veths()["db@n2"], None, "{case}");
        assert_eq!(lab.pending(), [(21, reason)], "{case}");
        assert_eq!(lab.veths()["web@n2"], Some(11), "{case}: others are unharmed");
    }
}

#[test]
fn a_second_interface_on_the_same_network_closes_both() {
    let mut lab = Lab::new();
    lab.link(veth(23, N2_DEVICE, Some(WEB_NSID)));
    lab.owners(23, WEB_NSID, &["web"]);
    assert_eq!(lab.veths()["web@n2"], None);
    assert_eq!(lab.veths()["web@bridge"], Some(13));
    assert_eq!(lab.pending(), [(11, PendingReason::Ambiguous), (23, PendingReason::Ambiguous)]);
}

#[test]
fn an_interface_without_an_endpoint_stays_closed() {
    let mut lab = Lab::new();
    lab.link(veth(25, DOCKER0, Some(DB_NSID)));
    lab.owners(25, DB_NSID, &["db"]);
    assert_eq!(lab.pending(), [(25, PendingReason::NoEndpoint)]);
}

#[test]
fn a_bad_namespace_label_closes_the_container() {
    let mut lab = Lab::new();
    let id = lab.id("web");
    let web = lab.picture.containers.get_mut(&id).unwrap();
    web.labels.insert("io.palisade.namespace".to_owned(), "no/name".to_owned());
    assert!(!lab.veths().contains_key("web@n2"));
    let reason = UnsupportedReason::BadNamespace { value: "no/name".to_owned() };
    assert!(lab.picture.resolve().unsupported.iter().any(|u| u.reason == reason));
}

#[test]
fn other_drivers_are_reported() {
    let mut lab = Lab::new();
    for network in lab.picture.networks.values_mut().filter(|network| network.name == "n2") {
        network.driver = "ipvlan".to_owned();
        network.bridge = None;
    }
    let snapshot = lab.picture.resolve();
    assert!(snapshot.endpoints.iter().all(|endpoint| endpoint.network != "n2"));
    let texts: Vec<String> = snapshot.unsupported.iter().map(|u| u.reason.to_string()).collect();
    assert!(texts.iter().any(|text| text.contains("not enforced on ipvlan networks")), "{texts:?}");
}

#[test]
fn on_macvlan_and_overlay_an_endpoint_says_what_its_interface_hangs_on() {
    for (driver, option, expected) in [
        ("macvlan", Some("eth0.7"), InsideOf::Parent("eth0.7".to_owned())),
        ("macvlan", None, InsideOf::Parent("dm-20dfcf91ec42".to_owned())),
        ("overlay", None, InsideOf::Overlay("20dfcf91ec".to_owned())),
    ] {
        let mut lab = Lab::new();
        let networks: Vec<ApiNetwork> = json(NETWORKS);
        let n2 = networks.into_iter().find(|network| network.name.as_deref() == Some("n2"));
        let mut n2 = n2.unwrap();
        n2.driver = Some(driver.to_owned());
        n2.options = option.map(|name| [("parent".to_owned(), name.to_owned())].into());
        let network = Network::from(n2);
        lab.picture.networks.insert(network.id.clone(), network);
        let snapshot = lab.picture.resolve();
        let web =
            snapshot.endpoints.iter().find(|e| e.container_name == "web" && e.network == "n2");
        let web = web.unwrap();
        assert_eq!(web.inside, Some(expected));
        assert_eq!((web.bridge.as_str(), &web.veth), ("", &None));
        assert!(web.to_spec(0).is_none());
    }
}
