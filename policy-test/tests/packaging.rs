//! What is installed fits the programs.
//!
//! Inputs: `packaging/`, the agent's own parsers. Outputs: the default configuration says what the
//! defaults are, key by key; the unit starts the agent with arguments that it has.

use std::{collections::BTreeSet, path::Path};

use clap::{CommandFactory as _, Parser as _};
use policy_agent::config::{Cli, Command, Options};

const UNIT: &str = include_str!("../../packaging/systemd/palisade.service");
const CONFIGURATION: &str = include_str!("../../packaging/agent.yaml");

/// Values of a key of the unit.
fn unit(key: &str) -> Vec<String> {
    UNIT.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
        .collect()
}

#[test]
fn the_configuration_file_holds_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/agent.yaml");
    let options = Options { config: Some(path), ..Options::default() };
    let file = options.resolve().unwrap();
    let defaults = Options::default().resolve().unwrap();
    assert_eq!(format!("{file:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_configuration_file_has_every_key_with_a_comment() {
    let keys: BTreeSet<&str> = CONFIGURATION
        .lines()
        .filter(|line| !line.starts_with(['#', ' ']))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| key)
        .collect();
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let expected: BTreeSet<&str> = run
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|flag| !["config", "help"].contains(flag))
        .map(|flag| match flag {
            "uplink" => "uplinks",
            "bridge" => "bridges",
            "failsafe-inbound-port" => "failsafe-inbound-ports",
            "failsafe-outbound-port" => "failsafe-outbound-ports",
            "published-port" => "published-ports",
            "flow-log-filter" => "flow-log-filters",
            flag => flag,
        })
        .collect();
    assert_eq!(keys, expected);
    for paragraph in CONFIGURATION.split("\n\n") {
        assert!(paragraph.starts_with('#'), "no comment: {paragraph}");
    }
}

#[test]
fn the_unit_starts_the_agent_on_that_file() {
    let [start] = unit("ExecStart").try_into().unwrap();
    let cli = Cli::try_parse_from(start.split(' ')).unwrap();
    let Command::Run(options) = cli.command else { panic!("{start}: does not run") };
    assert_eq!(options.config, Some("/etc/palisade/agent.yaml".into()));
}

#[test]
fn the_units_folders_are_the_agents_defaults() {
    let defaults = Options::default().resolve().unwrap();
    let folder = |key: &str, root: &str| {
        let [name] = unit(key).try_into().unwrap();
        Path::new(root).join(name)
    };
    assert_eq!(defaults.state_dir, folder("StateDirectory", "/var/lib"));
    assert_eq!(defaults.socket.parent(), Some(&*folder("RuntimeDirectory", "/run")));
    assert_eq!(defaults.policy_dir.parent(), Some(&*folder("ConfigurationDirectory", "/etc")));
    let [mount] = unit("AssertPathIsMountPoint").try_into().unwrap();
    assert!(defaults.bpffs_dir.starts_with(mount));
}

#[test]
fn stopping_the_unit_leaves_enforcement_on() {
    for key in ["ExecStop", "ExecStopPost"] {
        assert_eq!(unit(key), Vec::<String>::new(), "{key}");
    }
    assert_eq!(unit("Restart"), ["always"]);
    assert_eq!(unit("Before"), ["docker.service"]);
}
