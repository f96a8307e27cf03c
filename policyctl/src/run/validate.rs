//! `validate`: what is wrong with policy files. Input: files, and endpoints if selectors are to be
//! tried on them; output: every finding with its place, and one line that sums them up.

use std::collections::BTreeSet;
use std::path::PathBuf;

use policy_api::diagnostic::{Diagnostic, Severity};
use policy_api::messages::ResourceName;
use policy_api::resource::Kind;
use policy_core::assemble::Host;
use policy_core::validate::{self as core, Claims, Object};
use serde::Serialize;

use crate::args::FindingFormat;
use crate::failure::{Exit, Failure};
use crate::input::endpoints::Endpoints;
use crate::input::{self, Finding, Reading};
use crate::kinds;
use crate::offline;
use crate::output::{Screen, style, text};

/// A finding as `-o json` has it; the names are a promise.
#[derive(Serialize)]
struct Printed<'a> {
    /// File name as it was given, `-` for standard input.
    file: Option<&'a str>,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
    severity: Severity,
    /// Field path in the resource; empty for the whole.
    path: &'a str,
    message: &'a str,
    /// What to write instead.
    hint: Option<&'a str>,
    /// The resource, if its name could be read.
    resource: Option<&'a ResourceName>,
}

pub(super) fn validate(
    screen: &Screen,
    files: &[PathBuf],
    endpoints: &[PathBuf],
    strict: bool,
    format: FindingFormat,
) -> Result<Exit, Failure> {
    let mut reading = input::check(files);
    let endpoints = match endpoints {
        [] => None,
        files => Some(input::endpoints::read(files).map_err(Failure::Files)?),
    };
    let found = across(&reading, endpoints.as_ref())?;
    reading.add(found);
    let Reading { files, resources, unreadable, .. } = reading;
    let findings = reading.into_findings();
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = findings.len() - errors;
    match format {
        FindingFormat::Json => {
            screen.json(&findings.iter().map(printed).collect::<Vec<_>>())?;
        }
        FindingFormat::Text => {
            let mut lines: String = findings
                .iter()
                .map(|finding| format!("{}\n", text::diagnostic(&finding.diagnostic)))
                .collect();
            let read = [text::count(files, "file"), text::count(resources, "resource")].join(", ");
            lines.push_str(&format!("{read}: {}\n", summary(errors, warnings)));
            screen.print(&lines)?;
        }
    }
    Ok(match (unreadable, errors, warnings) {
        (0, 0, 0) => Exit::Fine,
        (0, 0, _) if !strict => Exit::Fine,
        (0, _, _) => Exit::Difference,
        _ => Exit::Incomplete,
    })
}

fn printed(finding: &Finding) -> Printed<'_> {
    let diagnostic = &finding.diagnostic;
    Printed {
        file: diagnostic.file.as_deref(),
        line: diagnostic.line,
        column: diagnostic.column,
        severity: diagnostic.severity,
        path: &diagnostic.path,
        message: &diagnostic.message,
        hint: diagnostic.hint.as_deref(),
        resource: finding.resource.as_ref(),
    }
}

/// What shows only when all resources are looked at together.
fn across(
    reading: &Reading<Object>,
    endpoints: Option<&Endpoints>,
) -> Result<Vec<(ResourceName, Diagnostic)>, Failure> {
    let objects = || reading.items.iter().map(|item| &item.meaning);
    // The error in a tier is told; its policies are none the worse for it.
    let refused = reading.refused.iter().filter(|name| kinds::is_of(name, Kind::Tier));
    let tiers: BTreeSet<String> = refused.map(|name| name.name.clone()).collect();
    let mut found = core::open_references(objects(), &tiers);
    let mut claims = Claims::default();
    for object in objects() {
        if let Object::WorkloadEndpoint(endpoint) = object {
            let conflicts = claims.endpoint(endpoint);
            found.extend(conflicts.into_iter().map(|it| (object.resource_name(), it)));
        }
    }
    if let Some(endpoints) = endpoints {
        let model = offline::build(&Host::default(), objects(), endpoints);
        let names = objects().map(Object::resource_name).collect();
        found.extend(core::advice(&model?, &names));
    }
    Ok(found)
}

fn summary(errors: usize, warnings: usize) -> String {
    let count = |style: anstyle::Style, number: usize, noun: &str| match number {
        0 => format!("no {noun}s"),
        _ => format!("{style}{}{style:#}", text::count(number, noun)),
    };
    match (errors, warnings) {
        (0, 0) => format!("{}nothing wrong{:#}", style::GOOD, style::GOOD),
        _ => {
            [count(style::BAD, errors, "error"), count(style::WARN, warnings, "warning")].join(", ")
        }
    }
}
