//! Finds a rustc and a linker for BPF and builds Palisade's kernel object with them.
//!
//! Inputs: the machine's `PATH`, rustup's toolchains, `PALISADE_BPF_RUSTC`.
//! Outputs: a [`Toolchain`], or a [`Missing`] that says what is not there; from
//! [`Toolchain::build`] the path of the object file.
//!
//! `xtask` and the agent's build script share it, so that both mean the same by "the toolchain is
//! there". It installs nothing: that is `cargo xtask setup`.

mod discover;
mod object;

pub use discover::{
    LINKER_PACKAGE, LINKER_VERSION, Missing, RUSTC_VARIABLE, Rustc, Toolchain, find_linker,
    find_rustc, llvm_major,
};
pub use object::{BpfArch, BuildError, INPUTS, OBJECT_NAME, Warnings};
