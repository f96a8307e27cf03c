//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng). Input: packets; output: blocks, each packet with a
//! comment that says what became of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use policy_api::capture::Packet;
use policy_api::messages::Verdict;

use super::text;
use crate::failure::Failure;

/// Time stamps are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// A file that is being written.
pub(crate) struct Pcapng<W: Write> {
    writer: PcapNgWriter<Counting<W>>,
    /// Number of each interface in the file.
    interfaces: HashMap<String, u32>,
    snap: u32,
}

/// Counts what goes through.
struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Pcapng<W> {
    /// Begins a file of packets of at most `snap` bytes.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(crate) fn new(out: W, snap: u32) -> Result<Self, Failure> {
        let writer = PcapNgWriter::new(Counting { inner: out, bytes: 0 }).map_err(unwritten)?;
        Ok(Self { writer, interfaces: HashMap::new(), snap })
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.get_ref().bytes
    }

    /// Adds a packet, and its interface if that is a new one.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or the agent has sent what is no packet.
    pub(crate) fn add(&mut self, packet: &Packet) -> Result<(), Failure> {
        let data = STANDARD
            .decode(&packet.data)
            .map_err(|error| Failure::Output(std::io::Error::other(error)))?;
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let interface_id = match self.interfaces.get(&packet.interface) {
            Some(known) => *known,
            None => {
                let name = text::clean(&packet.interface);
                let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, self.snap);
                block.options = vec![
                    InterfaceDescriptionOption::IfName(name),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ];
                self.writer.write_pcapng_block(block).map_err(unwritten)?;
                self.interfaces.insert(packet.interface.clone(), next);
                next
            }
        };
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.time_ns),
            original_len: packet.length,
            data: Cow::Owned(data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment(packet)))],
        };
        self.writer.write_pcapng_block(block).map_err(unwritten)?;
        Ok(())
    }

    /// Sends on what has not been written yet.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.get_mut().flush().map_err(Failure::Output)
    }
}

fn unwritten(error: pcap_file::PcapError) -> Failure {
    match error {
        pcap_file::PcapError::IoError(error) => Failure::Output(error),
        other => Failure::Output(std::io::Error::other(other.to_string())),
    }
}

/// `dropped (policy) on ingress by NetworkPolicy shop/db ingress[0]: shop/web -> shop/db`.
fn comment(packet: &Packet) -> String {
    let record = &packet.record;
    let verdict = match record.verdict {
        Verdict::Deny => format!("dropped ({})", record.reason),
        Verdict::Allow => "allowed".to_owned(),
    };
    let by =
        record.rule.as_ref().map_or_else(String::new, |rule| format!(" by {}", text::rule(rule)));
    let staged = record.staged.as_ref().filter(|staged| staged.verdict != record.verdict);
    let staged = staged.map_or_else(String::new, |staged| {
        let word = if staged.verdict == Verdict::Deny { "deny" } else { "allow" };
        format!("; staged policies would {word} it by {}", text::rule(&staged.rule))
    });
    let end = |end: &policy_api::flow::FlowEnd| match end.namespace.as_str() {
        "" => end.name.clone(),
        namespace => format!("{namespace}/{}", end.name),
    };
    let (from, to) = (end(&record.source), end(&record.destination));
    let said = format!("{verdict} on {}{by}{staged}: {from} -> {to}", record.direction);
    text::clean(&said).into_owned()
}
