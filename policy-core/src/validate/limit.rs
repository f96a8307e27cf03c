//! Annotations that limit how many flows a source may begin: an option of `doNotTrack` policies that
//! upstream has no field for.

use std::collections::BTreeMap;

use policy_api::resource::Metadata;

use super::report::Report;
use crate::policy::FlowLimit;

/// How many flows each source may begin in a second.
const RATE: &str = "palisade.io/new-flows-per-second";
/// How many it may begin at once.
const BURST: &str = "palisade.io/new-flows-burst";
/// The annotations of this module.
pub(super) const NAMES: [&str; 2] = [RATE, BURST];
/// Both are whole numbers from 1 to this.
const MAX: u32 = 1_000_000;

/// The limit that a policy's annotations set.
pub(super) fn of(
    metadata: Option<&Metadata>,
    is_untracked: bool,
    report: &mut Report,
) -> Option<FlowLimit> {
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    let rate = number(RATE, annotations, report);
    let burst = number(BURST, annotations, report);
    let given = [(RATE, rate), (BURST, burst)].into_iter().find(|(_, number)| number.is_some());
    let (name, _) = given?;
    if !is_untracked {
        report.error(
            &path(name),
            "only a doNotTrack policy limits new flows: that is done where packets come in",
            "add `doNotTrack: true` and `applyOnForward: true`, or remove the annotation",
        );
    }
    let Some(per_second) = rate else {
        report.error(
            &path(BURST),
            format!("a burst without {RATE}"),
            "say how many flows each source may begin in a second, too",
        );
        return None;
    };
    let (per_second, burst) = (per_second.ok()?, burst.unwrap_or(per_second).ok()?);
    Some(FlowLimit { per_second, burst })
}

/// The number of an annotation, if it is there.
fn number(
    name: &str,
    annotations: Option<&BTreeMap<String, String>>,
    report: &mut Report,
) -> Option<Result<u32, ()>> {
    let text = annotations?.get(name)?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=MAX).contains(number));
    if number.is_none() {
        report.error(
            &path(name),
            format!("`{text}` is not a number of flows"),
            format!("write a whole number from 1 to {MAX}, in quotes"),
        );
    }
    Some(number.ok_or(()))
}

fn path(name: &str) -> String {
    format!("metadata.annotations.{name}")
}
