//! The embedded object into the kernel.

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapData, MapError},
    programs::{Program, ProgramError, SchedClassifier},
};
use policy_common::{
    abi::EVENT_INTERVAL_NS,
    maps::{CONNTRACK_V4, CONNTRACK_V6, PINNED},
};
use thiserror::Error;
use tracing::warn;

use super::{
    features::Features,
    pin::{Hook, Pins},
};

/// The kernel programs, as this binary carries them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy-ebpf.o"));

/// Sizes that an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Connections, IPv4.
    pub conntrack_v4: u32,
    /// Connections, IPv6.
    pub conntrack_v6: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            conntrack_v4: policy_common::maps::CONNTRACK_V4_ENTRIES,
            conntrack_v6: policy_common::maps::CONNTRACK_V6_ENTRIES,
        }
    }
}

/// Why the programs are not in the kernel.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The object or one of its maps.
    #[error("loading the kernel object: {0}")]
    Object(#[from] EbpfError),
    /// A program.
    #[error("loading the kernel program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why; holds the verifier's log.
        source: Box<ProgramError>,
    },
    /// A map.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// The object lacks what this agent expects: they were built from different sources.
    #[error("the kernel object has no {0}: agent and object do not belong together")]
    Missing(&'static str),
}

/// Creates or opens the pinned maps and loads the programs that every host needs. Those of host
/// endpoints and of limited uplinks are loaded when the first is attached ([`ready`]): few hosts have any,
/// and the verifier takes as long over them as over all others. Those of interfaces inside containers' network
/// namespaces are loaded beside the agent's start.
///
/// # Errors
///
/// [`LoadError`].
pub fn load(pins: &Pins, features: Features, sizes: Sizes) -> Result<Ebpf, LoadError> {
    let mut ebpf = prepare(pins, features, sizes)?;
    for hook in Hook::ALL {
        let rare = matches!(
            hook,
            Hook::FromUplink
                | Hook::ToUplink
                | Hook::UplinkEgress
                | Hook::FromInside
                | Hook::ToInside
        );
        if !rare {
            let name = hook.program();
            ready(&mut ebpf, hook)
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
    }
    Ok(ebpf)
}

/// Creates or opens the pinned maps; loads no program yet.
///
/// # Errors
///
/// [`LoadError`], but for its `Program`.
pub fn prepare(pins: &Pins, features: Features, sizes: Sizes) -> Result<Ebpf, LoadError> {
    let coarse_clock = u8::from(features.coarse_clock);
    let interval = (EVENT_INTERVAL_NS / features.tick_ns).max(1);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("COARSE_CLOCK", &coarse_clock, true)
        .override_global("EVENT_INTERVAL_TICKS", &interval, true)
        .map_max_entries(CONNTRACK_V4, sizes.conntrack_v4)
        .map_max_entries(CONNTRACK_V6, sizes.conntrack_v6)
        // A refusal comes with its reason and the size of the program; with every step on the way,
        // it would be a message of many megabytes.
        .verifier_log_level(VerifierLogLevel::STATS);
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    let ebpf = loader.load(OBJECT)?;
    for name in PINNED {
        if ebpf.map(name).is_none() {
            return Err(LoadError::Missing(name));
        }
    }
    for hook in Hook::ALL {
        let name = hook.program();
        if ebpf.program(name).is_none() {
            return Err(LoadError::Missing(name));
        }
    }
    for (name, wanted) in [(CONNTRACK_V4, sizes.conntrack_v4), (CONNTRACK_V6, sizes.conntrack_v6)] {
        let held = MapData::from_pin(pins.map(name))
            .and_then(|map| map.info())
            .map_err(|source| LoadError::Map { name, source: Box::new(source) })?
            .max_entries();
        if held != wanted {
            warn!(map = name, held, wanted, "a map that exists keeps its size until unload");
        }
    }
    Ok(ebpf)
}

/// Loads the program of a hook, unless it is loaded.
///
/// # Errors
///
/// There is none, or the verifier refuses it.
pub fn ready(ebpf: &mut Ebpf, hook: Hook) -> Result<(), ProgramError> {
    match ebpf.program_mut(hook.program()).ok_or(ProgramError::NotLoaded)? {
        Program::Xdp(program) if program.fd().is_err() => program.load(),
        Program::SchedClassifier(program) if program.fd().is_err() => program.load(),
        Program::Xdp(_) | Program::SchedClassifier(_) => Ok(()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The TC program of a hook, loaded.
///
/// # Errors
///
/// As [`ready`].
pub fn classifier(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, ProgramError> {
    ready(ebpf, hook)?;
    ebpf.program_mut(hook.program()).ok_or(ProgramError::NotLoaded)?.try_into()
}
