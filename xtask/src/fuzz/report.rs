//! What libFuzzer says, in its own words, and in one line of ours.
//!
//! Inputs: the log of a target. Outputs: [`Report`]; the part of the log that tells of a finding.

use std::fmt;

/// Lines of a log that are shown where nothing better is known.
const TAIL: usize = 20;
/// Lines that are shown of what a finding begins with.
const FINDING: usize = 12;

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) executions: u64,
    /// Executions a second.
    rate: u64,
    /// Edges of the control flow that some input has taken.
    coverage: u64,
    /// Where the input is that broke something.
    pub(super) artifact: Option<String>,
}

impl Report {
    pub(super) fn of(log: &str) -> Self {
        let mut report = Report::default();
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once(" cov: ") {
                let number = rest.split_whitespace().next().and_then(|word| word.parse().ok());
                report.coverage = number.unwrap_or(report.coverage);
            } else if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
                report.executions = rest.trim().parse().unwrap_or_default();
            } else if let Some(rest) = line.strip_prefix("stat::average_exec_per_sec:") {
                report.rate = rest.trim().parse().unwrap_or_default();
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                report.artifact = Some(path.trim().to_owned());
            }
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { executions, rate, coverage, .. } = self;
        write!(f, "{executions} executions ({rate} a second), coverage {coverage}")
    }
}

/// Where the log tells of a panic, a lack of memory or time, or what the sanitizer saw.
pub(super) fn finding(log: &str) -> String {
    let begins = |line: &str| {
        line.contains("panicked at")
            || line.contains("memory allocation of")
            || line.contains("ERROR: libFuzzer")
            || line.contains("ERROR: AddressSanitizer")
    };
    let lines: Vec<&str> = log.lines().collect();
    match lines.iter().position(|line| begins(line)) {
        Some(start) => lines[start..].iter().take(FINDING).copied().collect::<Vec<_>>().join("\n"),
        None => tail(log),
    }
}

/// The last lines.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: seed corpus: files: 3\n\
        #4\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 26Mb\n\
        #210592\tDONE   cov: 998 ft: 4966 corp: 1437/430Kb lim: 4096 exec/s: 19144 rss: 31Mb\n\
        thread '<unnamed>' (7) panicked at src/packet.rs:192:9:\nassertion failed\n\
        artifact_prefix='a/'; Test unit written to a/crash-5a34\n\
        stat::number_of_executed_units: 210592\nstat::average_exec_per_sec:     19144\n";

    #[test]
    fn the_figures_are_read() {
        let report = Report::of(LOG);
        assert_eq!(report.artifact.as_deref(), Some("a/crash-5a34"));
        assert_eq!(report.to_string(), "210592 executions (19144 a second), coverage 998");
        assert_eq!(Report::of("nothing"), Report::default());
    }

    #[test]
    fn a_finding_is_shown_from_its_beginning() {
        assert!(finding(LOG).starts_with("thread '<unnamed>' (7) panicked"));
        assert_eq!(finding("a\nb"), "a\nb");
    }
}
