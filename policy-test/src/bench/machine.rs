//! What the figures were measured on.
//!
//! Inputs: `/proc`, the programs' own versions, the commit. Outputs: a line for each thing that matters. Nothing
//! names a path, a host or a person.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use nix::sys::utsname::uname;

/// Names and values, in the order in which they are shown.
///
/// # Errors
/// If the kernel or a program does not tell.
pub fn describe(commit: Option<&str>) -> Result<Vec<(&'static str, String)>> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kernel = uname()?.release().to_string_lossy().into_owned();
    let palisade = match commit {
        Some(commit) => format!("{}, commit {commit}", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(vec![
        ("CPU", cpu(&cpus).context("/proc/cpuinfo names no CPU")?),
        ("Memory", gibibytes(&memory).context("/proc/meminfo names no size")?),
        ("Kernel", format!("Linux {kernel}")),
        ("nftables", version("nft")?),
        ("iptables", version("iptables-nft")?),
        ("Palisade", palisade),
    ])
}

fn cpu(text: &str) -> Option<String> {
    let values = |name: &'static str| {
        text.lines().filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then_some(value.trim())
        })
    };
    let model = values("model name").next()?;
    let cores = values("processor").count();
    let machine = values("flags").next().unwrap_or_default();
    let machine = if machine.split(' ').any(|flag| flag == "hypervisor") {
        "in a virtual machine"
    } else {
        "on bare metal"
    };
    Some(format!("{model}, {cores} cores, {machine}"))
}

fn gibibytes(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.0} GiB", kibibytes / 1024.0 / 1024.0))
}

fn version(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output =
        output.with_context(|| format!("start {program} (`cargo xtask bench` installs it)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_and_a_virtual_machine_is_called_one() {
        let core = |number| {
            format!(
                "processor\t: {number}\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor sse\n\n"
            )
        };
        let text = [core(0), core(1)].concat();
        assert_eq!(cpu(&text).unwrap(), "Some CPU, 2 cores, in a virtual machine");
        assert_eq!(cpu(""), None);
    }

    #[test]
    fn memory_is_in_gibibytes() {
        assert_eq!(gibibytes("MemTotal:       24576000 kB\nMemFree: 1 kB\n").unwrap(), "23 GiB");
    }
}
