//! The file system that a kernel under test starts from.
//!
//! Inputs: a kernel's modules, programs of this machine and of ours. Outputs: a cpio archive
//! (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source).
//!
//! Programs come with the libraries that ldd(1) names, so that the guest runs what the host would.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    kernels::{Suite, fetch::Kernel},
    setup,
};

const INIT: &str = include_str!("init.sh");
/// Programs of this machine, and where the guest looks for them. The kernel calls modprobe by this
/// name.
const TOOLS: [(&str, &str); 4] = [
    ("busybox", "bin/busybox"),
    ("modprobe", "sbin/modprobe"),
    ("ip", "usr/sbin/ip"),
    ("tc", "usr/sbin/tc"),
];
/// Modules whose names begin so, and what they depend on, are in the guest: all that a lab or its
/// tests could want.
const MODULES: [&str; 9] = [
    "kernel/net/8021q/",
    "kernel/net/bridge/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/netfilter/",
    "kernel/net/sched/",
    "kernel/drivers/net/dummy",
    "kernel/drivers/net/macvlan",
    "kernel/drivers/net/veth",
];
const FOLDERS: [&str; 11] =
    ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "proc", "sys", "dev", "run", "tmp", "root"];

/// File types of stat(2).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// A file of the guest.
#[derive(Debug)]
enum Content {
    Folder,
    /// A file of the host's.
    Copy(PathBuf),
    Text(String),
    /// To this path.
    Link(&'static str),
}

/// Writes the archive.
///
/// # Errors
/// If a program or a module is not there.
pub(crate) fn write(
    archive: &Path,
    kernel: &Kernel,
    programs: &BTreeMap<String, PathBuf>,
    suites: &[Suite],
) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in FOLDERS {
        files.insert(name.to_owned(), Content::Folder);
    }
    for (program, place) in TOOLS {
        let path = setup::find(program).with_context(|| format!("there is no {program} here"))?;
        files.extend(libraries(&path)?);
        files.insert(place.to_owned(), Content::Copy(path));
    }
    files.insert("bin/sh".to_owned(), Content::Link("busybox"));
    // Without their debug information, which is most of them: the guest's memory holds all this.
    let stripped = archive.with_extension("programs");
    fs::create_dir_all(&stripped).context("make a folder")?;
    for (name, path) in programs {
        let copy = stripped.join(name.replace('/', "-"));
        let status = Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .args([&copy, path])
            .status()
            .context("start strip")?;
        ensure!(status.success(), "strip {}: {status}", path.display());
        files.extend(libraries(path)?);
        files.insert(format!("palisade/{name}"), Content::Copy(copy));
    }
    for name in modules(&kernel.modules)? {
        let path = kernel.modules.join(&name);
        files.insert(format!("lib/modules/{}/{name}", kernel.version), Content::Copy(path));
    }
    let line = |suite: &Suite| format!("{} {}\n", suite.name, suite.arguments);
    let suites = suites.iter().map(line).collect();
    files.insert("palisade/suites".to_owned(), Content::Text(suites));
    files.insert("init".to_owned(), Content::Text(INIT.to_owned()));
    pack(archive, with_parents(files)).with_context(|| format!("write {}", archive.display()))?;
    fs::remove_dir_all(&stripped).context("tidy up")
}

/// The libraries of a program, where the program looks for them.
fn libraries(program: &Path) -> Result<BTreeMap<String, Content>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    // Fails for a static program, which needs none.
    let text = String::from_utf8_lossy(&output.stdout);
    let found = library_paths(&text).into_iter();
    Ok(found.map(|path| (path[1..].to_owned(), Content::Copy(path.into()))).collect())
}

fn library_paths(ldd: &str) -> BTreeSet<String> {
    let words = ldd.split_whitespace();
    words.filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// What the guest gets of `lib/modules/<version>`.
fn modules(folder: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(folder.join("modules.dep")).context("read modules.dep")?;
    let mut names = needed(&text);
    ensure!(!names.is_empty(), "{} has no modules of ours", folder.display());
    for entry in fs::read_dir(folder).context("read the modules' folder")? {
        let name = entry.context("read the modules' folder")?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("modules.") {
            names.insert(name.into_owned());
        }
    }
    Ok(names)
}

/// Modules of [`MODULES`] with all that they depend on, from lines such as `a.ko: b.ko c.ko`.
/// depmod names indirect ones, too.
fn needed(dependencies: &str) -> BTreeSet<String> {
    dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| MODULES.iter().any(|wanted| name.starts_with(wanted)))
        .flat_map(|(name, rest)| std::iter::once(name).chain(rest.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

/// Adds the folders that files lie in: the kernel makes none by itself.
fn with_parents(mut files: BTreeMap<String, Content>) -> BTreeMap<String, Content> {
    let folders: BTreeSet<String> = files
        .keys()
        .flat_map(|name| name.match_indices('/').map(|(at, _)| name[..at].to_owned()))
        .collect();
    for folder in folders {
        files.entry(folder).or_insert(Content::Folder);
    }
    files
}

fn pack(archive: &Path, files: BTreeMap<String, Content>) -> Result<()> {
    let mut out = BufWriter::new(fs::File::create(archive)?);
    // Sorted, so a folder comes before what lies in it.
    for (name, content) in files {
        let (mode, bytes) = match content {
            Content::Folder => (FOLDER | 0o755, Vec::new()),
            Content::Copy(path) => {
                let read = fs::read(&path);
                (FILE | 0o755, read.with_context(|| format!("read {}", path.display()))?)
            }
            Content::Text(text) => (FILE | 0o755, text.into_bytes()),
            Content::Link(to) => (LINK | 0o777, to.into()),
        };
        entry(&mut out, &name, mode, &bytes)?;
    }
    entry(&mut out, "TRAILER!!!", 0, &[])?;
    out.flush().context("flush")
}

/// One entry: a header of eight-digit hexadecimal fields, the name, the content, each padded to
/// four bytes.
fn entry(out: &mut impl Write, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("too large for an archive")?;
    let name_size = u32::try_from(name.len() + 1)?;
    write!(out, "070701")?;
    // inode, mode, owner, group, links, time, size, device and its node (two numbers each), length
    // of the name, check sum (of another format).
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(out, "{field:08X}")?;
    }
    const HEADER: usize = 6 + 13 * 8;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0; 4][..1 + padding(HEADER + name.len() + 1)])?;
    out.write_all(bytes)?;
    out.write_all(&[0; 4][..padding(bytes.len())])?;
    Ok(())
}

const fn padding(length: usize) -> usize {
    (4 - length % 4) % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_the_program_looks_for_them() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = library_paths(text).into_iter().collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn modules_come_with_what_they_need() {
        let text = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
                    kernel/fs/nfs/nfs.ko.xz: kernel/net/sunrpc/sunrpc.ko.xz\n";
        let names: Vec<_> = needed(text).into_iter().collect();
        assert_eq!(
            names,
            [
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz",
                "kernel/net/llc/llc.ko.xz"
            ]
        );
    }

    #[test]
    fn entries_of_the_archive_are_padded() {
        for (name, bytes) in [("a", &b""[..]), ("ab/c", b"12345"), ("abcdef", b"1234")] {
            let mut out = Vec::new();
            entry(&mut out, name, FILE | 0o644, bytes).unwrap();
            assert_eq!(out.len() % 4, 0, "{name}");
            assert!(out.starts_with(b"07070100000000000081A4"), "{name}");
            assert_eq!(&out[110..110 + name.len()], name.as_bytes());
        }
    }
}
