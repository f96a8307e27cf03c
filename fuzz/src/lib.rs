//! What the fuzz targets hold: one function a target, each total over all inputs.
//!
//! Inputs: bytes from the fuzzer. Outputs: none; a broken promise is a panic that says which one.
//! The functions are a library, so that an input that once broke something can be a test.

pub mod packet;
pub mod resource;
pub mod selector;
pub mod yaml;
