//! Who reaches whom.
//!
//! Inputs: a stage. Outputs: a table of everybody and the host against every served port, over
//! both families.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use policy_api::messages::Verdict;

use super::{
    interrupt::Interrupts,
    screen::{BAD, GOOD, Screen},
    stage::{SERVED, Stage},
};
use crate::{
    net::Reach,
    table::{HOST, Service, Table},
};

/// IPv6 addresses of containers cannot be used before duplicate address detection, 1 to 2 s.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// Columns of a cell.
const CELL: usize = 14;

/// Outcomes by source and target, over IPv4 and IPv6.
#[derive(Debug)]
pub(super) struct Matrix(BTreeMap<(String, String), [Reach; 2]>);

/// The sources, in the order of the table, the host last.
pub(super) fn sources(table: &Table) -> Vec<&str> {
    let endpoints = table.endpoints.iter().map(|endpoint| endpoint.name.as_str());
    endpoints.chain([HOST]).collect()
}

/// The targets of a source, each with its service.
pub(super) fn targets(from: &str) -> impl Iterator<Item = (&'static str, Service)> {
    SERVED
        .into_iter()
        .filter(move |(to, _)| *to != from)
        .map(|(to, port)| (to, Service { protocol: 6, port }))
}

impl Matrix {
    /// Tries every connection once, all at the same time.
    pub(super) fn probe(stage: &dyn Stage, table: &Table) -> Result<Self> {
        let rows = thread::scope(|scope| {
            let rows: Vec<_> = sources(table)
                .into_iter()
                .map(|from| (from, scope.spawn(move || row(stage, from))))
                .collect();
            rows.into_iter()
                .map(|(from, row)| {
                    let row = row.join().map_err(|_| anyhow!("a row's thread has panicked"))??;
                    Ok((from, row))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        let mut cells = BTreeMap::new();
        for (from, row) in rows {
            for (to, reach) in row {
                cells.insert((from.to_owned(), to.to_owned()), reach);
            }
        }
        Ok(Self(cells))
    }

    /// Tries again until everything is open.
    pub(super) fn wait_open(
        stage: &dyn Stage,
        table: &Table,
        interrupts: &Interrupts,
    ) -> Result<Self> {
        let start = Instant::now();
        loop {
            let matrix = Self::probe(stage, table)?;
            let closed: Vec<String> = matrix
                .0
                .iter()
                .filter(|(_, reach)| **reach != [Reach::Answered; 2])
                .map(|((from, to), reach)| format!("{from} -> {to}: {}", text(*reach)))
                .collect();
            if closed.is_empty() {
                return Ok(matrix);
            }
            interrupts.check()?;
            if start.elapsed() > OPEN_LIMIT {
                bail!(
                    "without any policy, not everything is open here; a firewall of this machine \
                     may be in the way: {}",
                    closed.join(", ")
                );
            }
        }
    }

    /// What became of one connection over IPv4 and IPv6.
    pub(super) fn get(&self, from: &str, to: &str) -> Option<[Reach; 2]> {
        self.0.get(&(from.to_owned(), to.to_owned())).copied()
    }

    /// Prints it; cells that are not what `expected` says are marked.
    pub(super) fn print(&self, screen: &mut Screen, expected: Option<&Table>) -> Result<()> {
        let mut head = format!("{:<12}", "from \\ to");
        for (to, port) in SERVED {
            head.push_str(&format!("{:<CELL$}", format!("{to}:{port}")));
        }
        screen.line(&head)?;
        let names: std::collections::BTreeSet<&str> =
            self.0.keys().map(|(from, _)| from.as_str()).collect();
        let order = SERVED.iter().map(|(name, _)| *name).chain([HOST]);
        for from in order.filter(|name| names.contains(name)) {
            let mut line = format!("{from:<12}");
            for (to, port) in SERVED {
                let Some(reach) = self.get(from, to) else {
                    line.push_str(&format!("{:<CELL$}", "-"));
                    continue;
                };
                let service = Service { protocol: 6, port };
                let row = expected.map(|table| table.row(from, to, service)).transpose()?;
                let wrong = row.is_some_and(|row| !agrees(reach, row.verdict));
                let style = if reach == [Reach::Answered; 2] { GOOD } else { BAD };
                let mark = if wrong { " !" } else { "" };
                let cell = format!("{}{mark}", text(reach));
                let padding = CELL.saturating_sub(cell.len());
                line.push_str(&format!("{style}{cell}{style:#}{:padding$}", ""));
            }
            screen.line(&line)?;
        }
        Ok(())
    }
}

/// Whether both families did what the verdict says.
pub(super) fn agrees(reach: [Reach; 2], verdict: Verdict) -> bool {
    match verdict {
        Verdict::Allow => reach == [Reach::Answered; 2],
        Verdict::Deny => reach == [Reach::Silent; 2],
    }
}

fn row(stage: &dyn Stage, from: &str) -> Result<Vec<(&'static str, [Reach; 2])>> {
    let mut to = Vec::new();
    for (target, service) in targets(from) {
        let addresses = stage.addresses(target)?;
        to.extend(addresses.map(|address| SocketAddr::new(address, service.port)));
    }
    let reached = stage.connect(from, &to)?;
    let pairs = reached.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Ok(targets(from).map(|(target, _)| target).zip(pairs).collect())
}

/// What became of a connection over IPv4 and IPv6, in words.
pub(super) fn text(reach: [Reach; 2]) -> String {
    let word = |reach| match reach {
        Reach::Answered => "open",
        Reach::Refused => "refused",
        Reach::Silent => "dropped",
    };
    let [v4, v6] = reach;
    if v4 == v6 { word(v4).to_owned() } else { format!("4:{} 6:{}", word(v4), word(v6)) }
}
