//! The kernel side, seen from user space. The only module that speaks to aya.
//!
//! - [`features`]: what this kernel can do, probed once.
//! - [`pin`]: where maps and links live in bpffs.
//! - [`load`]: the embedded object into the kernel, its maps shared with what an earlier agent left.
//! - [`attach`]: programs onto interfaces and off them.
//! - [`inside`]: programs onto interfaces inside containers' network namespaces.
//! - [`maps`]: typed handles; carries out `policy_core::plan` operations, reads back the image.
//! - [`counters`]: what the programs counted.
//! - [`events`]: what they tell.
//! - [`flows`]: the connections that they know.
//! - [`clock`]: their clock.

pub mod attach;
pub mod captures;
pub mod clock;
pub mod counters;
pub mod events;
pub mod features;
pub mod flows;
pub mod inside;
pub mod load;
pub mod maps;
pub mod pin;
