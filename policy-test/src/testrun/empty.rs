//! A TC program that does nothing, made on the spot: what every other one is measured against.
//!
//! Outputs: the program in the kernel.

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::SchedClassifier};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// Its name.
pub(super) const PROGRAM: &str = "empty";

/// `r0 = TC_ACT_UNSPEC; exit`: BPF_ALU64 | BPF_MOV | BPF_K and BPF_JMP | BPF_EXIT
/// (include/uapi/linux/bpf.h), opcode, registers, offset, immediate.
const INSTRUCTIONS: [(u8, i32); 2] = [(0xb7, -1), (0x95, 0)];

pub(super) fn load() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&object()?)?;
    let program: &mut SchedClassifier =
        ebpf.program_mut(PROGRAM).context("the object has one program")?.try_into()?;
    program.load()?;
    Ok(ebpf)
}

fn object() -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    let mut code = Vec::new();
    for (opcode, immediate) in INSTRUCTIONS {
        code.extend([opcode, 0, 0, 0]);
        code.extend(immediate.to_ne_bytes());
    }
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(section, &code, 8);
    object.add_symbol(Symbol {
        name: PROGRAM.as_bytes().to_vec(),
        value: 0,
        size: u64::try_from(code.len())?,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}
