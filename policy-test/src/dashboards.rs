//! The example dashboards, and a real Prometheus to ask their queries.
//!
//! Inputs: `examples/grafana`, `examples/prometheus`, a lab. Outputs: panels, queries with variables filled in,
//! answers. The dashboards' test holds the answers against what was sent; the pictures draw them.

pub mod dashboard;
pub mod prometheus;
