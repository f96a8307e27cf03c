//! What the guests say, line by line, and what it comes to.
//!
//! Inputs: lines of `init.sh` and of the test harness. Outputs: a line for each test as it comes,
//! the sums, a table of what the verifiers walked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::kernels::{Release, SUITES};

/// Lines of a suite that are kept to be shown if it fails.
const KEPT: usize = 400;

/// The sum over all releases.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u64,
    failed: u64,
    /// By program, then by release.
    instructions: BTreeMap<String, BTreeMap<Release, u64>>,
}

impl Report {
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// A release that could not say everything.
    pub(crate) fn broken(&mut self, release: Release, why: &str) {
        self.failed += 1;
        println!("FAIL  {release:<5} {why}");
    }

    fn test(&mut self, release: Release, suite: &str, name: &str, fine: bool) {
        let mark = if fine { "ok  " } else { "FAIL" };
        *(if fine { &mut self.passed } else { &mut self.failed }) += 1;
        println!("{mark}  {release:<5} {suite:<12} {name}");
    }

    /// Programs down, releases across.
    pub(crate) fn instructions(&self) -> String {
        let releases: BTreeSet<_> = self.instructions.values().flat_map(BTreeMap::keys).collect();
        let mut text = String::new();
        if releases.is_empty() {
            return text;
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{:<28}", "instructions walked");
        for release in &releases {
            let _ = write!(text, "{release:>10}");
        }
        text.push('\n');
        for (program, counts) in &self.instructions {
            let _ = write!(text, "{program:<28}");
            for release in &releases {
                let count = counts.get(release).map_or("-".to_owned(), u64::to_string);
                let _ = write!(text, "{count:>10}");
            }
            text.push('\n');
        }
        text
    }
}

/// What one guest has said so far.
#[derive(Debug)]
pub(crate) struct Listener<'a> {
    report: &'a mut Report,
    release: Release,
    /// The suite that runs.
    suite: Option<String>,
    /// Its tests that have passed.
    tests: u64,
    /// What it said.
    lines: Vec<String>,
    ended: BTreeSet<String>,
    booted: bool,
    done: bool,
}

impl<'a> Listener<'a> {
    pub(crate) fn new(release: Release, report: &'a mut Report) -> Self {
        Self {
            report,
            release,
            suite: None,
            tests: 0,
            lines: Vec::new(),
            ended: BTreeSet::new(),
            booted: false,
            done: false,
        }
    }

    /// Takes in a line.
    pub(crate) fn hear(&mut self, line: &str) {
        let line = line.trim_end();
        match line.strip_prefix('@').and_then(|said| said.split_once(' ').or(Some((said, "")))) {
            Some(("boot", version)) => {
                self.booted = true;
                println!("      {:<5} booted {version}", self.release);
            }
            Some(("begin", suite)) => {
                self.suite = Some(suite.to_owned());
                self.tests = 0;
                self.lines.clear();
            }
            Some(("end", rest)) => self.end(rest),
            Some(("done", _)) => self.done = true,
            _ => self.said(line),
        }
    }

    fn said(&mut self, line: &str) {
        let Some(suite) = &self.suite else { return };
        if let Some((name, result)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            let fine = result == "ok";
            self.tests += u64::from(fine);
            self.report.test(self.release, suite, name, fine);
        } else if let Some((program, count)) = instructions(line) {
            println!("      {:<5} {suite:<12} {program}: {count} instructions", self.release);
            let counts = self.report.instructions.entry(program.to_owned()).or_default();
            counts.insert(self.release, count);
        }
        if self.lines.len() < KEPT {
            self.lines.push(line.to_owned());
        }
    }

    fn end(&mut self, rest: &str) {
        let (suite, status) = rest.split_once(' ').unwrap_or((rest, "?"));
        self.suite = None;
        self.ended.insert(suite.to_owned());
        if status != "0" {
            println!("----  {:<5} {suite} ended with {status}", self.release);
            let failures = self.lines.iter().position(|line| line == "failures:").unwrap_or(0);
            self.lines[failures..].iter().for_each(|line| println!("    | {line}"));
            // A harness that crashed has named no test that failed.
            if failures == 0 {
                self.report.broken(self.release, &format!("{suite} crashed"));
            }
        } else if self.tests == 0 {
            self.report.broken(self.release, &format!("{suite} ran no test"));
        }
    }

    /// Whether the guest has said anything.
    pub(crate) fn has_booted(&self) -> bool {
        self.booted
    }

    /// Whether the guest has said that it is about to switch off.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// What is missing in what it said.
    pub(crate) fn missing(&self) -> Option<String> {
        if !self.booted {
            return Some("did not boot".to_owned());
        }
        let open = SUITES.iter().map(|suite| suite.name).find(|name| !self.ended.contains(*name));
        match open {
            Some(suite) => {
                let last = self.lines.last().map_or("", String::as_str);
                Some(format!("ended before {suite} did; its last line: {last:?}"))
            }
            None if !self.done => Some("ended before it switched off".to_owned()),
            None => None,
        }
    }
}

/// A line such as `to_endpoint: 12345 instructions`.
fn instructions(line: &str) -> Option<(&str, u64)> {
    let (program, rest) = line.split_once(": ")?;
    Some((program, rest.strip_suffix(" instructions")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(lines: &[&str]) -> (Report, Option<String>) {
        let mut report = Report::default();
        let mut listener = Listener::new(Release::V6_1, &mut report);
        lines.iter().for_each(|line| listener.hear(line));
        let missing = listener.missing();
        (report, missing)
    }

    fn whole() -> Vec<String> {
        let mut lines = vec!["@boot 6.1.0\r".to_owned()];
        for suite in SUITES {
            lines.push(format!("@begin {}", suite.name));
            lines.push("test a::b ... ok\r".to_owned());
            lines.push(format!("@end {} 0\r", suite.name));
        }
        lines.push("@done\r".to_owned());
        lines
    }

    #[test]
    fn a_guest_that_ran_everything_has_passed() {
        let lines = whole();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (report, missing) = hear(&lines);
        assert_eq!((report.passed(), report.failed()), (SUITES.len() as u64, 0));
        assert_eq!(missing, None);
    }

    #[test]
    fn a_guest_that_stops_at_any_line_has_not() {
        let lines = whole();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for count in 0..lines.len() {
            let (_, missing) = hear(&lines[..count]);
            assert!(missing.is_some(), "after {count} lines");
        }
    }

    #[test]
    fn a_failed_test_a_crash_and_a_suite_without_tests_count() {
        let (report, _) =
            hear(&["@begin packets", "test a ... FAILED", "failures:", "@end packets 101"]);
        assert_eq!((report.passed(), report.failed()), (0, 1));
        let (report, _) = hear(&["@begin packets", "test a ... ok", "@end packets 139"]);
        assert_eq!((report.passed(), report.failed()), (1, 1));
        let (report, _) = hear(&["@begin packets", "running 0 tests", "@end packets 0"]);
        assert_eq!((report.passed(), report.failed()), (0, 1));
    }

    #[test]
    fn what_the_verifier_walked_is_shown_by_program_and_release() {
        let (report, _) = hear(&["@begin verifier", "to_endpoint: 164926 instructions"]);
        let text = report.instructions();
        assert!(text.contains("to_endpoint                     164926"), "{text}");
    }
}
