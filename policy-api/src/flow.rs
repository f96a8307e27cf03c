//! Packets that the kernel told of, flows that it let through, and which of them somebody wants to see.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::messages::{RuleName, StagedVerdict, Verdict};

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    /// Workload name; for what is not a workload: `host`, `world`, or the network set's name.
    pub name: String,
    /// Namespace, empty if there is none.
    pub namespace: String,
    /// Address.
    pub ip: Option<IpAddr>,
    /// Port, 0 if the protocol has none.
    pub port: u16,
    /// Labels of a workload, as selectors match them; empty for what is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Everything that [`FlowRecord::event`] may be: of a packet, of a flow.
pub const EVENTS: [&str; 5] = ["drop", "log", "staged", OPEN, CLOSE];
/// [`FlowRecord::event`] of a flow that goes on.
pub const OPEN: &str = "open";
/// [`FlowRecord::event`] of a flow that is over.
pub const CLOSE: &str = "close";

/// A packet that the kernel told of, or a flow that it let through. A flow between two endpoints of one
/// host has a record at each, with the rule that decided there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Wall-clock time, RFC 3339 with microseconds, UTC. Of a flow, when the agent saw it: up to some
    /// seconds after what it tells of.
    pub time: String,
    /// Why it was told of. A packet: `drop`, `log` (a Log rule matched) or `staged` (it passed, though the
    /// staged policies would deny it). A flow: `open`, if it lasts until the agent sees it, and `close`.
    pub event: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Name of the drop reason, such as `policy` or `spoofed-source`; absent with `log` and
    /// `staged`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// `ingress` or `egress`, as seen from the endpoint that decided.
    pub direction: String,
    /// Source.
    pub source: FlowEnd,
    /// Destination.
    pub destination: FlowEnd,
    /// Protocol name in lower case (`tcp`), or its number.
    pub protocol: String,
    /// ICMP or ICMPv6 type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// TCP flags such as `SYN`, joined by `|`; empty for other protocols.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tcp_flags: String,
    /// Deciding rule; absent if no rule decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// The Log rules that matched before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logged: Vec<RuleName>,
    /// What the staged policies would do; absent if they change nothing for the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedVerdict>,
    /// Bytes on the wire: of the packet, or of the flow so far, both ways.
    pub bytes: u64,
    /// What has passed; absent for a packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What has passed of a flow. Its source is who began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Time of the first packet, as [`FlowRecord::time`], by the wall clock as it was when the agent first saw
    /// the flow.
    pub start: String,
    /// Time of the newest packet, by the same clock: never before the start, even if the clock was set since.
    pub end: String,
    /// Packets from source to destination.
    pub packets: u64,
    /// Their bytes, L2 frames.
    pub bytes: u64,
    /// Packets from destination to source.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// Why it is over; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Why a flow is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// TCP, by a FIN.
    Closed,
    /// TCP, by an RST.
    Reset,
    /// Nothing came any more.
    Timeout,
    /// A policy that came later denies it.
    Cut,
    /// Its entry was taken for another: the table was full, or its addresses and ports were used anew.
    Replaced,
}

/// A line of `GET /v1/observe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A record.
    Flow(Box<FlowRecord>),
    /// So many records came faster than they were read, and are missing here.
    Lost(u64),
}

/// [`Observed::Lost`], as a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lost {
    lost: u64,
}

impl Observed {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// What is no record, in serde's words.
    pub fn parse(line: &str) -> serde_json::Result<Observed> {
        match serde_json::from_str(line) {
            Ok(Lost { lost }) => Ok(Observed::Lost(lost)),
            Err(_) => serde_json::from_str(line).map(|record| Observed::Flow(Box::new(record))),
        }
    }

    /// The line that says how many are missing, without a line end.
    ///
    /// # Errors
    ///
    /// None that is known of: a number is JSON.
    pub fn lost(lost: u64) -> serde_json::Result<String> {
        serde_json::to_string(&Lost { lost })
    }
}

/// Which records are wanted: those of the time span that meet every group of conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Not older than this, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Older than this, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Those of one field, one side and one `not` are a group: a record meets it if it meets one of
    /// them; with `not`, if it meets none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A condition on records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What it looks at.
    pub field: Field,
    /// At which end of the flow, for the fields that ends have.
    #[serde(default, skip_serializing_if = "Side::is_either")]
    pub side: Side,
    /// It must not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// What the field shall be, as the user wrote it.
    pub value: String,
}

/// Ends of a flow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// One of them at least.
    #[default]
    Either,
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_either(&self) -> bool {
        *self == Side::Either
    }
}

/// What a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// Name of an end, `NAME` or `NAMESPACE/NAME`.
    Name,
    /// Namespace of an end.
    Namespace,
    /// Labels of an end: a selector.
    Label,
    /// Address of an end, or a network that it is in.
    Ip,
    /// Port of an end, or a range `FIRST-LAST`.
    Port,
    /// `allow` or `deny`.
    Verdict,
    /// Drop reason.
    Reason,
    /// Policy of the deciding rule, of a Log rule on the way, or of what would decide: `NAME` or
    /// `NAMESPACE/NAME`.
    Policy,
    /// Protocol, by name or number.
    Protocol,
    /// One of [`EVENTS`].
    Event,
    /// `ingress` or `egress`.
    Direction,
}

impl Field {
    /// Every field.
    pub const ALL: [Field; 11] = [
        Field::Name,
        Field::Namespace,
        Field::Label,
        Field::Ip,
        Field::Port,
        Field::Verdict,
        Field::Reason,
        Field::Policy,
        Field::Protocol,
        Field::Event,
        Field::Direction,
    ];

    /// Its name, in messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Name => "name",
            Field::Namespace => "namespace",
            Field::Label => "label",
            Field::Ip => "ip",
            Field::Port => "port",
            Field::Verdict => "verdict",
            Field::Reason => "reason",
            Field::Policy => "policy",
            Field::Protocol => "protocol",
            Field::Event => "event",
            Field::Direction => "direction",
        }
    }

    /// Whether each end of a flow has one of its own.
    pub const fn has_sides(self) -> bool {
        matches!(self, Field::Name | Field::Namespace | Field::Label | Field::Ip | Field::Port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_record_or_says_how_many_are_missing() {
        let end = r#"{"name":"web","namespace":"shop","ip":"10.0.0.2","port":80}"#;
        let record = format!(
            r#"{{"time":"2026-11-21T01:27:01.123456Z","event":"drop","verdict":"deny","direction":"ingress",
            "source":{end},"destination":{end},"protocol":"tcp","bytes":60}}"#
        );
        let Ok(Observed::Flow(flow)) = Observed::parse(&record) else { panic!("{record}") };
        assert_eq!((flow.source.name.as_str(), flow.bytes), ("web", 60));
        assert_eq!(Observed::parse(&Observed::lost(7).unwrap()).unwrap(), Observed::Lost(7));
        for odd in ["", "{", "7", "{}", r#"{"lost":-1}"#, &record[..record.len() - 9]] {
            assert!(Observed::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_filter_is_as_short_as_what_it_says() {
        let filter = FlowFilter {
            conditions: vec![Condition {
                field: Field::Port,
                side: Side::Either,
                not: false,
                value: "80".to_owned(),
            }],
            ..FlowFilter::default()
        };
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(json, r#"{"conditions":[{"field":"port","value":"80"}]}"#);
        assert_eq!(serde_json::from_str::<FlowFilter>(&json).unwrap(), filter);
    }
}
