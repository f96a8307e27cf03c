//! Which packets a rule can match, as far as the rule alone tells: nothing at all, or nothing that
//! an earlier rule leaves.
//!
//! In: rules of the domain. Out: answers for warnings, so each is given only where it is certain
//! whatever the endpoints, network sets and named ports are; `false` says nothing.

use ipnet::IpNet;
use policy_common::abi::{Direction, Family};

use crate::{
    identity::family,
    policy::{Action, EntityMatch, IcmpMatch, PortMatch, ProtocolMatch, Rule},
    services::{self, Named, Services},
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A rule, prepared for comparison with many others.
pub(super) struct Reach<'a> {
    rule: &'a Rule,
    /// Protocols and ICMP types, without ports, by family.
    services: [Services; 2],
    source: Side<'a>,
    destination: Side<'a>,
    /// Whether it may match a packet, by family.
    speaks_of: [bool; 2],
}

struct Side<'a> {
    of: &'a EntityMatch,
    nets: [Nets; 2],
}

/// `nets` and `notNets` of one family. Lists are sorted, and as short as they can be: no network is
/// inside another, and no two make up a larger one.
struct Nets {
    /// `None`: every address.
    among: Option<Vec<IpNet>>,
    except: Vec<IpNet>,
}

/// Why a rule matches no packet: what to say, and the field of the rule that it is about.
pub(super) struct Nothing {
    pub(super) field: String,
    pub(super) message: &'static str,
}

/// Whether a rule has no condition.
pub(super) fn is_everything(rule: &Rule) -> bool {
    rule.family.is_none()
        && rule.protocol == ProtocolMatch::default()
        && rule.icmp.is_none()
        && rule.not_icmp.is_none()
        && [&rule.source, &rule.destination]
            .into_iter()
            .all(|side| side.matches_anyone() && side.ports.is_empty() && side.not_ports.is_empty())
}

impl<'a> Reach<'a> {
    pub(super) fn of(rule: &'a Rule) -> Reach<'a> {
        let mut without_ports = rule.clone();
        for side in [&mut without_ports.source, &mut without_ports.destination] {
            side.ports.clear();
            side.not_ports.clear();
        }
        let services = FAMILIES
            .map(|family| services::of_rule(&without_ports, family, Named::default()).anywhere);
        let (source, destination) = (Side::of(&rule.source), Side::of(&rule.destination));
        let speaks_of = FAMILIES.map(|family| {
            !services[family as usize].is_empty()
                && source.has_address(family)
                && destination.has_address(family)
        });
        Reach { rule, services, source, destination, speaks_of }
    }

    pub(super) fn rule(&self) -> &'a Rule {
        self.rule
    }

    pub(super) fn is_everything(&self) -> bool {
        is_everything(self.rule)
    }

    /// Whether every packet that `later`, a rule of the same list, matches is certain to match this
    /// rule.
    pub(super) fn covers(&self, later: &Reach<'_>, direction: Direction, effort: &mut u32) -> bool {
        if !spend(effort, 1) {
            return false;
        }
        let own = match direction {
            Direction::Ingress => &self.rule.destination,
            Direction::Egress => &self.rule.source,
        };
        // Of an endpoint's own addresses one is enough for a Deny, and all must do for the others.
        let stricter = self.rule.action != Action::Deny && later.rule.action == Action::Deny;
        if stricter && !own.matches_anyone() {
            return false;
        }
        let families = FAMILIES.into_iter().filter(|family| later.speaks_of[*family as usize]);
        later.speaks_of.contains(&true)
            && families.clone().all(|family| {
                let (mine, its) =
                    (&self.services[family as usize], &later.services[family as usize]);
                mine == its || its.without(mine).is_empty()
            })
            && [(&self.source, &later.source), (&self.destination, &later.destination)]
                .into_iter()
                .all(|(mine, its)| its.implies(mine, families.clone(), effort))
    }

    /// Why the rule matches no packet, if that is certain.
    pub(super) fn nothing(&self, effort: &mut u32) -> Option<Nothing> {
        let nothing = |field: &str, message| Some(Nothing { field: field.to_owned(), message });
        let protocol = self.rule.protocol;
        if protocol.is.is_some() && protocol.is == protocol.is_not {
            return nothing("notProtocol", "`notProtocol` is the rule's `protocol`");
        }
        let within = |icmp: IcmpMatch, outer: IcmpMatch| {
            icmp.kind == outer.kind && (outer.code.is_none() || icmp.code == outer.code)
        };
        if let (Some(icmp), Some(not_icmp)) = (self.rule.icmp, self.rule.not_icmp)
            && within(icmp, not_icmp)
        {
            return nothing("notICMP", "`notICMP` excludes all of `icmp`");
        }
        for (name, side) in [("source", &self.source), ("destination", &self.destination)] {
            let field = |field: &str| format!("{name}.{field}");
            if side.no_port() {
                let message = "`notPorts` excludes all of `ports`";
                return Some(Nothing { field: field("notPorts"), message });
            }
            if !FAMILIES.into_iter().any(|family| side.has_address(family)) {
                let message = "`notNets` excludes every address that `nets` leaves";
                return Some(Nothing { field: field("notNets"), message });
            }
            if let (Some(selector), Some(not)) = (&side.of.selector, &side.of.not_selector)
                && selector.implies(not, effort)
            {
                let message = "`notSelector` excludes everything that the selectors leave";
                return Some(Nothing { field: field("notSelector"), message });
            }
        }
        if self.speaks_of == [false; 2] {
            let message = "its conditions have no IP version in common";
            return Some(Nothing { field: String::new(), message });
        }
        None
    }
}

impl<'a> Side<'a> {
    fn of(side: &'a EntityMatch) -> Side<'a> {
        let nets = FAMILIES.map(|wanted| {
            let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
                let nets = nets.iter().copied().filter(|net| family(net.addr()) == wanted);
                IpNet::aggregate(&nets.collect())
            };
            let among = of_family(&side.nets);
            let everyone = side.nets.is_empty() || among.iter().any(|net| net.prefix_len() == 0);
            Nets { among: (!everyone).then_some(among), except: of_family(&side.not_nets) }
        });
        Side { of: side, nets }
    }

    fn has_address(&self, family: Family) -> bool {
        let Nets { among, except } = &self.nets[family as usize];
        match among {
            Some(among) => among.iter().any(|net| !within(net, except)),
            None => except.iter().all(|net| net.prefix_len() > 0),
        }
    }

    fn no_port(&self) -> bool {
        let (ports, not_ports) = (&self.of.ports, &self.of.not_ports);
        !ports.is_empty()
            && numbers(ports).without(&numbers(not_ports)).is_empty()
            && names(ports).all(|name| names(not_ports).any(|other| other == name))
    }

    /// Whether whoever meets this side is certain to meet `other`.
    fn implies(
        &self,
        other: &Side<'_>,
        mut families: impl Iterator<Item = Family>,
        effort: &mut u32,
    ) -> bool {
        let (mine, its) = (self.of, other.of);
        let selected = match (&mine.selector, &its.selector) {
            (_, None) => true,
            (Some(mine), Some(its)) => mine.implies(its, effort),
            (None, Some(_)) => false,
        };
        // What the other excludes, this one must exclude.
        let excluded = match (&mine.not_selector, &its.not_selector) {
            (_, None) => true,
            (Some(mine), Some(its)) => its.implies(mine, effort),
            (None, Some(_)) => false,
        };
        selected
            && excluded
            && self.ports_imply(other)
            && families.all(|family| {
                let (mine, its) = (&self.nets[family as usize], &other.nets[family as usize]);
                mine.imply(its, effort)
            })
    }

    fn ports_imply(&self, other: &Side<'_>) -> bool {
        let (mine, its) = (self.of, other.of);
        let any = Services::union(vec![(0, 1 << 16)]);
        let of = |ports: &[PortMatch]| if ports.is_empty() { any.clone() } else { numbers(ports) };
        let numbered = of(&mine.ports).without(&numbers(&mine.not_ports));
        let named = names(&mine.ports).next().is_some();
        // A name may stand for any port.
        let possible =
            if named { any.without(&numbers(&mine.not_ports)) } else { numbered.clone() };
        let listed = its.ports.is_empty()
            || numbered.without(&numbers(&its.ports)).is_empty()
                && names(&mine.ports).all(|name| names(&its.ports).any(|other| other == name));
        let excluded = possible.intersect(&numbers(&its.not_ports)).is_empty()
            && names(&its.not_ports).all(|name| names(&mine.not_ports).any(|other| other == name));
        listed && excluded
    }
}

impl Nets {
    fn imply(&self, other: &Nets, effort: &mut u32) -> bool {
        let among = match (&self.among, &other.among) {
            (_, None) => true,
            (Some(mine), Some(its)) => {
                spend(effort, mine.len())
                    && mine.iter().all(|net| within(net, its) || within(net, &self.except))
            }
            (None, Some(_)) => false,
        };
        // What the other excludes is excluded here, or was never in.
        let outside = |net: &IpNet| {
            self.among.as_ref().is_some_and(|among| {
                !among.iter().any(|mine| mine.contains(net) || net.contains(mine))
            })
        };
        let pairs = other.except.len() * self.among.as_ref().map_or(1, Vec::len);
        among
            && spend(effort, pairs)
            && other.except.iter().all(|net| within(net, &self.except) || outside(net))
    }
}

/// Whether that much effort was left; takes it.
fn spend(effort: &mut u32, amount: usize) -> bool {
    let left = u32::try_from(amount).ok().and_then(|amount| effort.checked_sub(amount));
    *effort = left.unwrap_or(0);
    left.is_some()
}

/// Whether one of the networks, sorted and apart from each other, contains `net`.
fn within(net: &IpNet, nets: &[IpNet]) -> bool {
    let after = nets.partition_point(|other| other.network() <= net.network());
    after.checked_sub(1).and_then(|last| nets.get(last)).is_some_and(|last| last.contains(net))
}

/// The numbers in a list of ports, as a set of numbers below 65,536.
fn numbers(ports: &[PortMatch]) -> Services {
    let ranges = ports.iter().filter_map(|port| match port {
        PortMatch::Range(first, last) => Some((u32::from(*first), u32::from(*last) + 1)),
        PortMatch::Named(_) => None,
    });
    Services::union(ranges.collect())
}

fn names(ports: &[PortMatch]) -> impl Iterator<Item = &str> {
    ports.iter().filter_map(|port| match port {
        PortMatch::Named(name) => Some(name.as_str()),
        PortMatch::Range(..) => None,
    })
}
