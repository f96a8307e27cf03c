//! A TC and an XDP program that do nothing, made on the spot: what every other one is measured
//! against.
//!
//! Outputs: the programs in the kernel.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{SchedClassifier, Xdp},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// Name of the TC program.
pub(crate) const TC: &str = "empty_tc";
/// Name of the XDP program.
pub(crate) const XDP: &str = "empty_xdp";

const TC_ACT_UNSPEC: i32 = -1;
const XDP_PASS: i32 = 2;

pub(crate) fn load() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&object()?)?;
    let tc: &mut SchedClassifier =
        ebpf.program_mut(TC).context("the object has a TC program")?.try_into()?;
    tc.load()?;
    let xdp: &mut Xdp =
        ebpf.program_mut(XDP).context("the object has an XDP program")?.try_into()?;
    xdp.load()?;
    Ok(ebpf)
}

fn object() -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    for (section, name, verdict) in [("classifier", TC, TC_ACT_UNSPEC), ("xdp", XDP, XDP_PASS)] {
        let mut code = Vec::new();
        // `r0 = verdict; exit`: BPF_ALU64 | BPF_MOV | BPF_K and BPF_JMP | BPF_EXIT
        // (include/uapi/linux/bpf.h), opcode, registers, offset, immediate.
        for (opcode, immediate) in [(0xb7, verdict), (0x95, 0)] {
            code.extend([opcode, 0, 0, 0]);
            code.extend(immediate.to_ne_bytes());
        }
        let section = object.add_section(Vec::new(), section.into(), SectionKind::Text);
        object.append_section_data(section, &code, 8);
        object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: u64::try_from(code.len())?,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::ReadOnlyData);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}
