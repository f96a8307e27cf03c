//! Taking a lab away, all of it, wherever it may be.
//!
//! Inputs: a lab's name. Outputs: none of its processes, namespaces, mounts, cgroups, pins and
//! files is left.
//!
//! A lab that ends and the sweep after one that was killed are the same code, so the latter is
//! exercised by every test.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{Process, all_processes};

use crate::{
    lab::BPFFS,
    netns::{FOLDER, ip},
    wait,
};

const PREFIX: &str = "palisade-lab-";
/// A killed process may take its time to let go of memory and mounts.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// The name of this process's lab `number`: `palisade-lab-PID-START-NUMBER`.
pub(super) fn name(number: u32) -> Result<String> {
    let this = Process::myself()?.stat()?;
    Ok(format!("{PREFIX}{}-{}-{number}", this.pid, this.starttime))
}

/// Whether a name is that of a lab whose process has gone. The start time tells a process from
/// a later one with the same pid.
pub(super) fn is_orphan(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut numbers = rest.split(['-', '.']).map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start)), Some(Ok(_))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let Ok(pid) = i32::try_from(pid) else { return false };
    Process::new(pid)
        .and_then(|process| process.stat())
        .map_or(true, |stat| stat.starttime != start)
}

/// The lab that a name belongs to: the name itself, or what stands before a workload's.
fn lab_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(lab, _)| lab)
}

/// Where things with a lab's name may be.
fn places() -> Result<Vec<PathBuf>> {
    let mut places = vec![PathBuf::from(FOLDER), env::temp_dir(), PathBuf::from(BPFFS)];
    places.extend(cgroup_roots()?);
    Ok(places)
}

/// What there is of one lab.
pub(super) fn of(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in places()? {
        let names = names_in(&place)?.into_iter().filter(|entry| lab_of(entry) == name);
        found.extend(names.map(|entry| place.join(entry).display().to_string()));
    }
    Ok(found)
}

/// Removes every orphan.
pub(super) fn sweep() -> Result<()> {
    // Two sweeps at once would both want to remove the same thing.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut orphans = Vec::new();
    for place in places()? {
        let names = names_in(&place)?.into_iter().filter(|name| is_orphan(name));
        orphans.extend(names.map(|name| lab_of(&name).to_owned()));
    }
    orphans.sort_unstable();
    orphans.dedup();
    orphans.iter().try_for_each(|name| remove(name))
}

/// Removes one lab. What is not there is fine.
pub(super) fn remove(name: &str) -> Result<()> {
    remove_containers(name)?;
    let namespaces: Vec<String> =
        names_in(Path::new(FOLDER))?.into_iter().filter(|entry| lab_of(entry) == name).collect();
    for namespace in &namespaces {
        kill_inside(namespace)?;
    }
    let folder = env::temp_dir().join(name);
    kill_agents(&folder)?;
    remove_shim_sockets(&folder)?;
    unmount_below(&folder)?;
    for namespace in &namespaces {
        remove_netns(namespace)?;
    }
    remove_tree(&Path::new(BPFFS).join(name))?;
    remove_tree(&folder)
}

/// Kills the processes of one namespace and removes its name.
pub(super) fn remove_netns(name: &str) -> Result<()> {
    kill_inside(name)?;
    let removed = ip(&["netns", "delete", name]);
    // Another process may be sweeping, too.
    if Path::new(FOLDER).join(name).exists() { removed.map(drop) } else { Ok(()) }
}

/// Kills what runs in the lab's cgroups, which are those of its engine's containers, and removes
/// the cgroups.
fn remove_containers(name: &str) -> Result<()> {
    for root in cgroup_roots()? {
        let folder = root.join(name);
        if !folder.exists() {
            continue;
        }
        let mut folders = Vec::new();
        collect_folders(&folder, &mut folders);
        wait::until("the processes of a cgroup to die", DEATH_LIMIT, || {
            let pids: Vec<i32> = folders.iter().flat_map(|folder| pids_of(folder)).collect();
            pids.iter().for_each(|&pid| kill_now(pid));
            pids.is_empty()
        })?;
        // Children first: they come last in the list.
        for folder in folders.iter().rev() {
            wait::until("an empty cgroup to go", DEATH_LIMIT, || {
                matches!(
                    fs::remove_dir(folder).map_err(|error| error.kind()),
                    Ok(()) | Err(io::ErrorKind::NotFound)
                )
            })?;
        }
    }
    Ok(())
}

/// Removes the sockets of containerd's shims, which lie in a folder that all engines of a machine
/// share. Where they are stands in a file `address` for each container.
fn remove_shim_sockets(lab: &Path) -> Result<()> {
    let tasks = lab.join("docker/exec/containerd/daemon/io.containerd.runtime.v2.task/moby");
    for container in names_in(&tasks)? {
        let Ok(address) = fs::read_to_string(tasks.join(container).join("address")) else {
            continue;
        };
        let Some(socket) = address.trim().strip_prefix("unix://") else { continue };
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(format!("remove {socket}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn pids_of(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn collect_folders(folder: &Path, found: &mut Vec<PathBuf>) {
    found.push(folder.to_owned());
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_folders(&entry.path(), found);
        }
    }
}

/// Kills every process whose network namespace has that name: agent, engine, containerd, probes.
fn kill_inside(namespace: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let path = Path::new(FOLDER).join(namespace);
    let inode = match fs::metadata(&path) {
        Ok(metadata) => metadata.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(format!("look at {}", path.display())),
    };
    wait::until("the processes of a namespace to die", DEATH_LIMIT, || {
        let pids = processes_inside(inode);
        pids.iter().for_each(|&pid| kill_now(pid));
        pids.is_empty()
    })
    .with_context(|| format!("empty {namespace}"))
}

/// Kills the agents that have their files in a lab's folder. In a lab on this host, they are in no
/// namespace of the lab's.
fn kill_agents(folder: &Path) -> Result<()> {
    let belongs = |process: &Process| {
        let words = process.cmdline().unwrap_or_default();
        let mut words = words.iter().map(Path::new);
        words.next().is_some_and(|program| program.ends_with("policy-agent"))
            && words.any(|word| word.starts_with(folder))
    };
    wait::until("the agents of a lab to die", DEATH_LIMIT, || {
        let Ok(processes) = all_processes() else { return false };
        let agents: Vec<i32> =
            processes.flatten().filter(belongs).map(|process| process.pid).collect();
        agents.iter().for_each(|&pid| kill_now(pid));
        agents.is_empty()
    })
}

/// Processes in a network namespace, without this one and without those that are dead already.
fn processes_inside(inode: u64) -> Vec<i32> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    let own = process::id();
    processes
        .flatten()
        .filter(|process| u32::try_from(process.pid) != Ok(own))
        .filter(|process| {
            let Ok(link) = fs::read_link(format!("/proc/{}/ns/net", process.pid)) else {
                return false;
            };
            link.to_str() == Some(&format!("net:[{inode}]"))
        })
        .map(|process| process.pid)
        .collect()
}

fn kill_now(pid: i32) {
    // Gone in between is what we want; anything else shows when the wait for its death ends.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Takes off what the engine has mounted, the last first.
fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = Process::myself()?.mountinfo()?;
    let mut points: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.mount_point).collect();
    points.retain(|point| point.starts_with(folder));
    for point in points.iter().rev() {
        match umount2(point, MntFlags::MNT_DETACH) {
            // Gone together with one that it hung on.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error).context(format!("unmount {}", point.display())),
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(format!("remove {}", folder.display())),
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(format!("list {}", folder.display())),
    }
}

/// Where cgroups are mounted: one place, or one for each controller of version 1.
fn cgroup_roots() -> Result<Vec<PathBuf>> {
    let mounts = Process::myself()?.mountinfo()?;
    let cgroups = mounts.into_iter().filter(|mount| mount.fs_type.starts_with("cgroup"));
    Ok(cgroups.map(|mount| mount.mount_point).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_orphans() {
        assert!(!is_orphan(&name(0).unwrap()));
        let own = process::id();
        assert!(is_orphan(&format!("{PREFIX}{own}-1-0")), "another process with our pid");
        assert!(is_orphan(&format!("{PREFIX}{own}-1-0.web")));
        for foreign in ["docker0", "palisade", "palisade-lab-", "palisade-lab-x-1-0"] {
            assert!(!is_orphan(foreign), "{foreign}");
        }
    }
}
