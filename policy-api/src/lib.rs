//! What Palisade reads and says: resources as the YAML has them, and the messages between agent
//! and command line. Types and parsing only; meaning lives in `policy-core`.
//!
//! - [`connectivity`]: who may reach whom.
//! - [`diagnostic`]: an error or warning with file, line, column and field path.
//! - [`difference`]: what a change of resources would change.
//! - [`flow`]: packets that the kernel told of, and which of them are wanted.
//! - [`messages`]: requests and answers of the agent's Unix-socket API.
//! - [`resource`]: the resources of Calico and Kubernetes that Palisade reads.
//! - [`terminal`]: texts of others without what terminals obey.
//! - [`yaml`]: files to resources with the line and column of every field.

pub mod capture;
pub mod connectivity;
pub mod diagnostic;
pub mod difference;
pub mod flow;
pub mod messages;
pub mod resource;
pub mod terminal;
pub mod yaml;
