//! The flow log's settings, from texts and numbers.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use policy_api::flow::FlowFilter;
use policy_core::observe::{self, Filter};

use crate::flow_log::{Bounds, FlowLog, Omit};

const MIB: u64 = 1024 * 1024;
/// Bounds of the bounds.
const SIZES: std::ops::RangeInclusive<u64> = 1..=1024 * 1024;
const SHORTEST: Duration = Duration::from_secs(60);

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) path: Option<PathBuf>,
    pub(super) size: Option<u64>,
    pub(super) age: Option<String>,
    pub(super) files: Option<usize>,
    pub(super) filters: Option<Vec<String>>,
    pub(super) omit: Option<Vec<Omit>>,
    pub(super) compress: Option<bool>,
}

/// The flow log, if one is wanted.
///
/// # Errors
///
/// A value cannot be used, even if no log is wanted.
pub(super) fn resolve(given: Given) -> Result<Option<FlowLog>> {
    let size = given.size.unwrap_or(64);
    ensure!(SIZES.contains(&size), "flow-log-size must be 1 to {} MiB", SIZES.end());
    let age = given.age.as_deref().unwrap_or("1day");
    let age = humantime::parse_duration(age)
        .with_context(|| format!("flow-log-age {age:?}: write 12h or 1day"))?;
    ensure!(age >= SHORTEST, "flow-log-age must be at least a minute");
    let conditions = given.filters.unwrap_or_default();
    let conditions = conditions.iter().map(|text| observe::condition(text));
    let conditions = conditions
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("flow-log-filter: {error}"))?;
    let filter = Filter::new(&FlowFilter { conditions, ..FlowFilter::default() })
        .context("flow-log-filter")?;
    let bounds = Bounds {
        size: size * MIB,
        age,
        files: given.files.unwrap_or(16),
        compress: given.compress.unwrap_or(false),
    };
    let omit = given.omit.unwrap_or_default();
    Ok(given.path.map(|path| FlowLog { path, bounds, filter, omit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_used_are_named() {
        let error = |given: Given| format!("{:#}", resolve(given).unwrap_err());
        let filters =
            |text: &str| Given { filters: Some(vec![text.to_owned()]), ..Given::default() };
        let age = |text: &str| Given { age: Some(text.to_owned()), ..Given::default() };
        for (given, said) in [
            (Given { size: Some(0), ..Given::default() }, "flow-log-size"),
            (Given { size: Some(u64::MAX), ..Given::default() }, "flow-log-size"),
            (age("soon"), "flow-log-age \"soon\""),
            (age("59s"), "at least a minute"),
            (filters("reason"), "write FIELD=VALUE"),
            (filters("reason=polcy"), "did you mean `policy`?"),
            (filters("from-verdict=deny"), "a flow has one verdict"),
        ] {
            let found = error(given);
            assert!(found.contains(said), "{found}");
        }
    }

    #[test]
    fn without_a_file_there_is_no_log() {
        assert!(resolve(Given::default()).unwrap().is_none());
        let path = Some("/var/log/flows.json".into());
        let log = resolve(Given { path, ..Given::default() }).unwrap().unwrap();
        assert_eq!(log.bounds.size, 64 * MIB);
        assert_eq!((log.bounds.age.as_secs(), log.bounds.files), (86_400, 16));
    }
}
