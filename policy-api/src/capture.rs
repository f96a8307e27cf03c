//! Whole packets, and what became of them.

use serde::{Deserialize, Serialize};

use crate::flow::FlowRecord;

/// Packets that are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Those that are dropped.
    #[default]
    Drops,
    /// Those that policy lets pass.
    Passes,
    /// Both.
    All,
}

/// A line of `GET /v1/capture`. A line of nothing says that the agent is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Captured {
    /// A packet.
    Packet(Box<Packet>),
    /// So many packets came faster than they were read, and are missing here.
    Lost(u64),
}

/// A packet that was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// What is known of it. Of one that passed, the event is `pass`.
    pub record: FlowRecord,
    /// Name of the interface that it was seen at.
    pub interface: String,
    /// Time in ns since 1970.
    pub time_ns: u64,
    /// Bytes on the wire, L2 frame.
    pub length: u32,
    /// Its first bytes from the L2 header on, in base64 (RFC 4648, section 4).
    pub data: String,
}

/// Most bytes of a packet that may be asked for.
pub const MOST_BYTES: u32 = 1536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        assert_eq!(serde_json::to_string(&Captured::Lost(7)).unwrap(), r#"{"lost":7}"#);
        assert_eq!(serde_json::from_str::<What>(r#""drops""#).unwrap(), What::default());
        assert!(serde_json::from_str::<Captured>(r#"{"packet":{}}"#).is_err());
    }
}
