//! What a block of records may hold, without reading it: so that a search through millions of records reads
//! the few blocks that matter.
//!
//! A Bloom filter over the words of its records. It may say yes of what is not there, never no of what is. The
//! hash and the bits are part of a file format, so neither may change under an old [`VERSION`].

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use policy_api::{
    flow::{Field, FlowEnd, FlowRecord, Side},
    messages::{RuleName, Verdict},
};
use twox_hash::XxHash64;

use super::{Filter, Test};
use crate::selector::Fact;

/// Of hash, words and bits.
pub const VERSION: u8 = 1;

/// Bits for each word: one in a hundred that is not there is taken for there.
const BITS_PER_WORD: usize = 10;
/// Bits that each word sets.
const PROBES: u64 = 6;
/// Bytes of a summary, at least and at most.
const SMALLEST: usize = 64;
const LARGEST: usize = 64 * 1024;
/// Ports from here on are the senders' own, one for each flow: so many words would tell nothing.
const EPHEMERAL: u16 = 32_768;
/// Of a range of ports, each is looked for if they are not more.
const FEW_PORTS: usize = 64;
/// Lengths of the networks around each address that are words.
const LENGTHS_V4: [u8; 3] = [8, 16, 24];
const LENGTHS_V6: [u8; 4] = [32, 48, 56, 64];

/// A word of a record.
#[derive(Clone, Copy)]
enum Word<'a> {
    /// Something of one end.
    Of(End, At<'a>),
    Verdict(Verdict),
    Says(Field, &'a str),
    Policy(&'a str),
    PolicyIn(&'a str, &'a str),
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

#[derive(Clone, Copy)]
enum At<'a> {
    Called(&'a str),
    CalledIn(&'a str, &'a str),
    Namespace(&'a str),
    Label(&'a str),
    LabelIs(&'a str, &'a str),
    Net(IpNet),
    Port(u16),
}

impl Word<'_> {
    fn hash(self) -> u64 {
        let mut bytes = Vec::with_capacity(64);
        let mut put = |tag: u8, parts: &[&[u8]]| {
            bytes.push(tag);
            for part in parts {
                // No two lists of parts are the same bytes.
                bytes.extend((part.len() as u64).to_le_bytes());
                bytes.extend(*part);
            }
        };
        match self {
            Word::Of(end, at) => {
                put(if matches!(end, End::Source) { 1 } else { 2 }, &[]);
                match at {
                    At::Called(name) => put(10, &[name.as_bytes()]),
                    At::CalledIn(space, name) => put(11, &[space.as_bytes(), name.as_bytes()]),
                    At::Namespace(space) => put(12, &[space.as_bytes()]),
                    At::Label(key) => put(13, &[key.as_bytes()]),
                    At::LabelIs(key, value) => put(14, &[key.as_bytes(), value.as_bytes()]),
                    At::Port(port) => put(15, &[&port.to_be_bytes()]),
                    At::Net(net) => match net.network() {
                        IpAddr::V4(address) => put(16, &[&[net.prefix_len()], &address.octets()]),
                        IpAddr::V6(address) => put(17, &[&[net.prefix_len()], &address.octets()]),
                    },
                }
            }
            Word::Verdict(Verdict::Allow) => put(3, &[]),
            Word::Verdict(Verdict::Deny) => put(4, &[]),
            Word::Says(field, word) => put(5, &[field.name().as_bytes(), word.as_bytes()]),
            Word::Policy(name) => put(6, &[name.as_bytes()]),
            Word::PolicyIn(space, name) => put(7, &[space.as_bytes(), name.as_bytes()]),
        }
        XxHash64::oneshot(u64::from(VERSION), &bytes)
    }
}

/// The networks of an address that are words, itself among them.
fn nets(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let lengths: &[u8] = if address.is_ipv4() { &LENGTHS_V4 } else { &LENGTHS_V6 };
    let around = lengths.iter().filter_map(move |length| IpNet::new(address, *length).ok());
    around.map(|net| net.trunc()).chain([IpNet::from(address)])
}

/// Words of records that are to be summed up.
#[derive(Debug, Default)]
pub struct Words(HashSet<u64>);

impl Words {
    /// Adds those of a record.
    pub fn add(&mut self, record: &FlowRecord) {
        self.end(End::Source, &record.source);
        self.end(End::Destination, &record.destination);
        self.put(Word::Verdict(record.verdict));
        for (field, word) in [
            (Field::Reason, &record.reason),
            (Field::Protocol, &record.protocol),
            (Field::Event, &record.event),
            (Field::Direction, &record.direction),
        ] {
            self.put(Word::Says(field, word));
        }
        let staged = record.staged.iter().map(|staged| &staged.rule);
        for RuleName { namespace, policy, .. } in
            record.rule.iter().chain(&record.logged).chain(staged)
        {
            self.put(Word::Policy(policy));
            self.put(Word::PolicyIn(namespace, policy));
        }
    }

    fn end(&mut self, end: End, who: &FlowEnd) {
        self.put(Word::Of(end, At::Called(&who.name)));
        self.put(Word::Of(end, At::CalledIn(&who.namespace, &who.name)));
        self.put(Word::Of(end, At::Namespace(&who.namespace)));
        for (key, value) in &who.labels {
            self.put(Word::Of(end, At::Label(key)));
            self.put(Word::Of(end, At::LabelIs(key, value)));
        }
        for net in who.ip.into_iter().flat_map(nets) {
            self.put(Word::Of(end, At::Net(net)));
        }
        if who.port < EPHEMERAL {
            self.put(Word::Of(end, At::Port(who.port)));
        }
    }

    fn put(&mut self, word: Word<'_>) {
        self.0.insert(word.hash());
    }

    /// The summary: a power of two of bytes.
    pub fn sum_up(&self) -> Vec<u8> {
        let bytes = (self.0.len() * BITS_PER_WORD).div_ceil(8).next_power_of_two();
        let mut bits = vec![0; bytes.clamp(SMALLEST, LARGEST)];
        for hash in &self.0 {
            for (byte, mask) in places(*hash, bits.len()) {
                bits[byte] |= mask;
            }
        }
        bits
    }
}

/// The bits of a word: byte and mask.
fn places(hash: u64, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    // Two halves make as many hashes as one likes (Kirsch and Mitzenmacher, 2006).
    let (first, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
    (0..PROBES).map(move |probe| {
        let place = first.wrapping_add(step.wrapping_mul(probe));
        // Below the number of bits, which fits.
        let bit = usize::try_from(place % (bytes as u64 * 8)).unwrap_or(0);
        (bit / 8, 1 << (bit % 8))
    })
}

/// A summary, read. One of no bytes, or of a version that is not known, says that anything may be there.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(pub &'a [u8]);

impl Summary<'_> {
    fn may_have(&self, word: Word<'_>) -> bool {
        self.0.is_empty()
            || places(word.hash(), self.0.len()).all(|(byte, mask)| self.0[byte] & mask != 0)
    }

    /// Whether a record that the filter wants may be among those that were summed up. Of its time span
    /// nothing is said here.
    pub fn may_hold(&self, filter: &Filter) -> bool {
        filter.groups.iter().all(|(&(field, side, not), tests)| {
            not || tests.iter().any(|test| self.may_meet(field, side, test))
        })
    }

    fn may_meet(&self, field: Field, side: Side, test: &Test) -> bool {
        let ends: &[End] = match side {
            Side::Either => &[End::Source, End::Destination],
            Side::Source => &[End::Source],
            Side::Destination => &[End::Destination],
        };
        match (field, test) {
            (_, Test::Verdict(verdict)) => self.may_have(Word::Verdict(*verdict)),
            (_, Test::Word(word)) => self.may_have(Word::Says(field, word)),
            (Field::Policy, Test::Named { namespace: None, name }) => {
                self.may_have(Word::Policy(name))
            }
            (Field::Policy, Test::Named { namespace: Some(namespace), name }) => {
                self.may_have(Word::PolicyIn(namespace, name))
            }
            _ => ends.iter().any(|end| self.may_meet_at(*end, test)),
        }
    }

    fn may_meet_at(&self, end: End, test: &Test) -> bool {
        let has = |at: At<'_>| self.may_have(Word::Of(end, at));
        match test {
            Test::Named { namespace: None, name } => has(At::Called(name)),
            Test::Named { namespace: Some(namespace), name } => has(At::CalledIn(namespace, name)),
            Test::Namespace(namespace) => has(At::Namespace(namespace)),
            Test::Label(selector) => selector.may_match(&|fact| match fact {
                Fact::Has(key) => has(At::Label(key)),
                Fact::Is(key, value) => has(At::LabelIs(key, value)),
            }),
            Test::Ip(net) => {
                let known: &[u8] = if net.addr().is_ipv4() { &LENGTHS_V4 } else { &LENGTHS_V6 };
                let around = known.iter().rev().find(|length| **length <= net.prefix_len());
                let around = match around {
                    _ if net.prefix_len() == net.max_prefix_len() => Some(net.prefix_len()),
                    found => found.copied(),
                };
                let Some(length) = around else { return true };
                IpNet::new(net.addr(), length).map_or(true, |net| has(At::Net(net.trunc())))
            }
            Test::Port(ports) => {
                *ports.end() >= EPHEMERAL
                    || ports.len() > FEW_PORTS
                    || ports.clone().any(|port| has(At::Port(port)))
            }
            Test::Verdict(_) | Test::Word(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use policy_api::flow::{Condition, FlowFilter};

    use super::*;
    use crate::observe::tests::records;

    fn filter(conditions: &[(Field, Side, bool, &str)]) -> Filter {
        let conditions = conditions.iter().map(|&(field, side, not, value)| Condition {
            field,
            side,
            not,
            value: value.to_owned(),
        });
        Filter::new(&FlowFilter { conditions: conditions.collect(), ..FlowFilter::default() })
            .unwrap()
    }

    fn summary(records: &[FlowRecord]) -> Vec<u8> {
        let mut words = Words::default();
        records.iter().for_each(|record| words.add(record));
        words.sum_up()
    }

    const ASKED: &[(Field, Side, &str)] = &[
        (Field::Name, Side::Either, "web"),
        (Field::Name, Side::Destination, "shop/db"),
        (Field::Name, Side::Source, "nobody"),
        (Field::Namespace, Side::Source, "shop"),
        (Field::Namespace, Side::Destination, "blog"),
        (Field::Label, Side::Either, "app == 'db'"),
        (Field::Label, Side::Source, "app in {'web', 'x'} && !has(gone)"),
        (Field::Label, Side::Either, "app == 'none' || has(other)"),
        (Field::Label, Side::Either, "app starts with 'bl'"),
        (Field::Ip, Side::Source, "203.0.113.9"),
        (Field::Ip, Side::Source, "203.0.113.0/25"),
        (Field::Ip, Side::Either, "10.0.0.0/30"),
        (Field::Ip, Side::Either, "198.51.100.0/24"),
        (Field::Ip, Side::Destination, "fd00::/16"),
        (Field::Ip, Side::Destination, "fd00::/61"),
        (Field::Port, Side::Either, "5432"),
        (Field::Port, Side::Source, "41000"),
        (Field::Port, Side::Destination, "8000-8100"),
        (Field::Port, Side::Destination, "8070-8081"),
        (Field::Port, Side::Destination, "81-90"),
        (Field::Verdict, Side::Either, "allow"),
        (Field::Reason, Side::Either, "no-connection"),
        (Field::Reason, Side::Either, "spoofed-arp"),
        (Field::Policy, Side::Either, "audit"),
        (Field::Policy, Side::Either, "shop/db"),
        (Field::Policy, Side::Either, "blog/db"),
        (Field::Protocol, Side::Either, "47"),
        (Field::Event, Side::Either, "log"),
        (Field::Direction, Side::Either, "egress"),
    ];

    #[test]
    fn what_is_there_is_never_missed_and_little_else_is_found() {
        let (mut blocks, mut read, mut vain) = (0, 0, 0);
        for record in records() {
            let summary = summary(std::slice::from_ref(&record));
            for &(field, side, value) in ASKED {
                for not in [false, true] {
                    let wanted = filter(&[(field, side, not, value)]);
                    let may = Summary(&summary).may_hold(&wanted);
                    assert!(may || !wanted.wants(&record), "{field:?} {side:?} {value} {not}");
                    blocks += i32::from(!not);
                    read += i32::from(may && !not);
                    vain += i32::from(may && !not && !wanted.wants(&record));
                }
            }
        }
        // Selectors by a part of a value, wide networks and senders' ports are not words.
        assert!(vain <= 12 && read < blocks / 2, "{vain} of {read} of {blocks}");
    }

    #[test]
    fn conditions_of_several_fields_must_all_be_met() {
        let all = records();
        let summary = summary(&all[..1]);
        let both = |name: &str, port: &str| {
            filter(&[
                (Field::Name, Side::Either, false, name),
                (Field::Port, Side::Either, false, port),
            ])
        };
        assert!(Summary(&summary).may_hold(&both("db", "5432")));
        assert!(!Summary(&summary).may_hold(&both("db", "80")));
        assert!(!Summary(&summary).may_hold(&both("blog", "5432")));
        let either = filter(&[
            (Field::Name, Side::Either, false, "blog"),
            (Field::Name, Side::Either, false, "db"),
        ]);
        assert!(Summary(&summary).may_hold(&either));
    }

    #[test]
    fn without_a_summary_anything_may_be_there() {
        assert!(Summary(&[]).may_hold(&filter(&[(Field::Name, Side::Either, false, "nobody")])));
    }

    /// What is on disk is read by those who come later.
    #[test]
    fn the_bits_of_a_version_stay_what_they_are() {
        let summary = summary(&records()[..1]);
        let set: u32 = summary.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(
            (summary.len(), set, XxHash64::oneshot(0, &summary)),
            (64, 136, 11_517_850_144_864_711_394)
        );
    }

    #[test]
    fn a_summary_grows_with_its_words_and_not_for_ever() {
        let mut words = Words::default();
        let record = records().remove(0);
        for third in 0..=255 {
            for fourth in 0..=255 {
                let ip = Some(IpAddr::from([10, 9, third, fourth]));
                let source = FlowEnd { ip, ..record.source.clone() };
                words.add(&FlowRecord { source, ..record.clone() });
            }
        }
        assert_eq!(words.sum_up().len(), LARGEST);
    }
}
