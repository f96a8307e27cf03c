//! Programs that do nothing, made on the spot: what every other one is measured against.
//!
//! Outputs: a TC and an XDP program in the kernel.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{SchedClassifier, Xdp},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// Their names.
pub(super) const TC: &str = "empty_tc";
pub(super) const XDP: &str = "empty_xdp";

/// Name, section, what it returns: TC_ACT_UNSPEC, XDP_PASS (include/uapi/linux/{pkt_cls,bpf}.h).
const PROGRAMS: [(&str, &[u8], i32); 2] = [(TC, b"classifier", -1), (XDP, b"xdp", 2)];

pub(super) fn load() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&object()?)?;
    let tc: &mut SchedClassifier = ebpf.program_mut(TC).context("the object has it")?.try_into()?;
    tc.load()?;
    let xdp: &mut Xdp = ebpf.program_mut(XDP).context("the object has it")?.try_into()?;
    xdp.load()?;
    Ok(ebpf)
}

fn object() -> Result<Vec<u8>> {
    let endian = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);
    for (name, section, returns) in PROGRAMS {
        let mut code = Vec::new();
        // `r0 = returns; exit`: BPF_ALU64 | BPF_MOV | BPF_K and BPF_JMP | BPF_EXIT
        // (include/uapi/linux/bpf.h), opcode, registers, offset, immediate.
        for (opcode, immediate) in [(0xb7, returns), (0x95, 0)] {
            code.extend([opcode, 0, 0, 0]);
            code.extend(immediate.to_ne_bytes());
        }
        let section = object.add_section(Vec::new(), section.to_vec(), SectionKind::Text);
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
