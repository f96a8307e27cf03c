//! Packet-header parser (being written).
