//! The agent beside a real Docker Engine: what containers can and cannot do.
//!
//! Each test has an engine of its own in a lab of its own; they run one after another, since some
//! measure time.

mod engine;
mod fence;
mod fencing;
mod first_packet;
mod lifecycle;
mod macvlan;
mod modes;
mod overlay;
mod policies;
mod published;
mod stage;
mod takeover;
mod tap;
mod unload;
