//! Sets of services and of source ports in words.
//!
//! In: [`Services`]. Out: `5432/tcp`, `1000-2000/udp`, `icmp type 8`, `all tcp`, `all`; a set that
//! is nearly everything is told by what is missing: `all but 22/tcp`.

use crate::services::{ICMP, ICMPV6, SERVICES, SOURCE_PORTS, Services, WITH_PORTS};

/// Coordinates of one protocol.
const PROTOCOL: u32 = 1 << 16;
/// Codes of one ICMP type.
const CODES: u32 = 1 << 8;

/// What people call a set of services.
pub(super) fn services(set: &Services) -> Vec<String> {
    let rest = Services::all().without(set);
    if rest.is_empty() {
        return vec!["all".to_owned()];
    }
    let whole: u32 = set.ranges().iter().map(|(start, end)| end - start).sum();
    if whole <= SERVICES / 2 {
        return protocols(set);
    }
    // Ports of protocols that have none.
    let missing = protocols(&rest);
    if missing.is_empty() {
        return vec!["all".to_owned()];
    }
    vec![format!("all but {}", and(missing))]
}

/// What people call a set of source ports; nothing for all of them.
pub(super) fn source_ports(set: &Services) -> Vec<String> {
    if set.ranges() == [(0, SOURCE_PORTS)] {
        return Vec::new();
    }
    set.ranges().iter().map(|&(start, end)| range(start, end)).collect()
}

fn protocols(set: &Services) -> Vec<String> {
    let mut words = Vec::new();
    // Neighbouring protocols without names that are in whole.
    let mut run: Option<(u32, u32)> = None;
    for number in 0..SERVICES / PROTOCOL {
        let first = number * PROTOCOL;
        let own = set.intersect(&Services::union(vec![(first, first + PROTOCOL)]));
        let own: Vec<(u32, u32)> =
            own.ranges().iter().map(|(start, end)| (start - first, end - first)).collect();
        let name = u8::try_from(number).ok().and_then(name);
        if name.is_none() && own.first().is_some_and(|(start, _)| *start == 0) {
            run = Some(run.map_or((number, number + 1), |(from, _)| (from, number + 1)));
            continue;
        }
        words.extend(run.take().map(unnamed));
        match name {
            Some(name) if !own.is_empty() => words.extend(named(name, number, &own)),
            _ => {}
        }
    }
    words.extend(run.take().map(unnamed));
    words
}

fn unnamed((from, to): (u32, u32)) -> String {
    let plural = if to - from > 1 { "s" } else { "" };
    format!("protocol{plural} {}", range(from, to))
}

/// Names that rules may use for protocols.
fn name(number: u8) -> Option<&'static str> {
    Some(match number {
        ICMP => "icmp",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        ICMPV6 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        _ => return None,
    })
}

fn named(name: &str, number: u32, own: &[(u32, u32)]) -> Vec<String> {
    if own == [(0, PROTOCOL)] {
        return vec![format!("all {name}")];
    }
    if !WITH_PORTS.iter().any(|with| u32::from(*with) == number) {
        return own.iter().flat_map(|&(start, end)| icmp(name, start, end)).collect();
    }
    let whole: u32 = own.iter().map(|(start, end)| end - start).sum();
    if whole <= PROTOCOL / 2 || own == [(1, PROTOCOL)] {
        return own.iter().map(|&(start, end)| format!("{}/{name}", range(start, end))).collect();
    }
    let rest = Services::union(vec![(0, PROTOCOL)]).without(&Services::union(own.to_vec()));
    let missing = rest.ranges().iter().map(|&(start, end)| range(start, end)).collect();
    vec![format!("all {name} but {}", and(missing))]
}

/// A range of types and codes: the rest of the first type, whole types, the beginning of the last.
fn icmp(name: &str, start: u32, end: u32) -> Vec<String> {
    let codes = |start: u32, end: u32| {
        let plural = if end - start > 1 { "s" } else { "" };
        let kind = start / CODES;
        let first = start % CODES;
        format!("{name} type {kind} code{plural} {}", range(first, first + (end - start)))
    };
    let (first, last) = (start.div_ceil(CODES), end / CODES);
    if first > last {
        return vec![codes(start, end)];
    }
    let mut words = Vec::new();
    if start < first * CODES {
        words.push(codes(start, first * CODES));
    }
    if first < last {
        let plural = if last - first > 1 { "s" } else { "" };
        words.push(format!("{name} type{plural} {}", range(first, last)));
    }
    if last * CODES < end {
        words.push(codes(last * CODES, end));
    }
    words
}

/// `start..end` as people write it.
fn range(start: u32, end: u32) -> String {
    if end - start == 1 { start.to_string() } else { format!("{start}-{}", end - 1) }
}

fn and(mut words: Vec<String>) -> String {
    match words.pop() {
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use policy_common::abi::service;

    use super::*;

    fn words(ranges: &[(u32, u32)]) -> Vec<String> {
        services(&Services::union(ranges.to_vec()))
    }

    #[test]
    fn services_are_told_as_people_write_them() {
        let tcp = |first, last| (service(6, first), service(6, last) + 1);
        let all = |number: u8| (u32::from(number) << 16, (u32::from(number) + 1) << 16);
        assert_eq!(words(&[(0, SERVICES)]), ["all"]);
        assert_eq!(words(&[tcp(5432, 5432)]), ["5432/tcp"]);
        assert_eq!(
            words(&[tcp(80, 80), tcp(8000, 8080), (service(17, 53), service(17, 54))]),
            ["80/tcp", "8000-8080/tcp", "53/udp"]
        );
        assert_eq!(
            words(&[all(6), all(47), all(50), all(51)]),
            ["all tcp", "protocol 47", "protocols 50-51"]
        );
        assert_eq!(words(&[tcp(1, 65535)]), ["1-65535/tcp"]);
        assert_eq!(words(&[tcp(0, 21), tcp(23, 79), tcp(81, 65535)]), ["all tcp but 22 and 80"]);
        assert_eq!(words(&[(0, service(6, 22)), (service(6, 23), SERVICES)]), ["all but 22/tcp"]);
    }

    #[test]
    fn icmp_is_told_by_type_and_code() {
        let at = |kind: u8, code: u8| service(ICMP, u16::from_be_bytes([kind, code]));
        assert_eq!(words(&[(at(8, 0), at(9, 0))]), ["icmp type 8"]);
        assert_eq!(words(&[(at(3, 1), at(3, 2))]), ["icmp type 3 code 1"]);
        assert_eq!(
            words(&[(at(3, 2), at(7, 9))]),
            ["icmp type 3 codes 2-255", "icmp types 4-6", "icmp type 7 codes 0-8"]
        );
        assert_eq!(words(&[(at(0, 0), at(255, 255) + 1)]), ["all icmp"]);
    }

    #[test]
    fn source_ports_are_told_only_if_some_are_missing() {
        assert!(source_ports(&Services::union(vec![(0, SOURCE_PORTS)])).is_empty());
        let high = Services::union(vec![(123, 124), (1024, SOURCE_PORTS)]);
        assert_eq!(source_ports(&high), ["123", "1024-65535"]);
    }
}
