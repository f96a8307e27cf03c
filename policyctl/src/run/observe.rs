//! `observe`: records of an agent, or of files that hold what it printed.

use std::collections::VecDeque;

use policy_api::flow::{FlowFilter, FlowRecord, Observed};

use super::records;
use crate::args::StreamFormat;
use crate::client::Client;
use crate::command::Watch;
use crate::failure::{Exit, Failure};
use crate::output::{self, Screen};

pub(super) async fn observe(
    client: &Client,
    screen: &Screen,
    watch: Watch,
    format: StreamFormat,
) -> Result<Exit, Failure> {
    let mut printer = Printer { screen, format, printed: 0 };
    if !watch.input.is_empty() {
        return replay(screen, &watch, &mut printer);
    }
    let follow = watch.follow;
    let mut records = client.observe(follow, watch.last, &watch.filter).await?;
    while let Some(observed) = records.next().await? {
        match observed {
            Observed::Flow(record) => printer.print(&record)?,
            Observed::Lost(lost) => screen.note(&format!(
                "{lost} records are missing here: they came faster than they were read, or cannot be read any more"
            ))?,
        }
    }
    if follow {
        return Err(Failure::StreamEnded);
    }
    if printer.printed == 0 && format != StreamFormat::Json {
        let none = if watch.filter == FlowFilter::default() {
            "no records yet"
        } else {
            "none of the records that are kept is wanted"
        };
        screen.note(&format!("{none}: watch for them with `policyctl observe -f`"))?;
    }
    Ok(Exit::Fine)
}

/// Prints what is wanted of the records in files.
fn replay(screen: &Screen, watch: &Watch, printer: &mut Printer<'_>) -> Result<Exit, Failure> {
    let mut newest: VecDeque<Box<FlowRecord>> = VecDeque::new();
    let exit = records::read(screen, &watch.input, &watch.filter, |record| {
        let Some(last) = watch.last else { return printer.print(&record) };
        newest.push_back(record);
        if newest.len() > last {
            newest.pop_front();
        }
        Ok(())
    })?;
    for record in newest {
        printer.print(&record)?;
    }
    Ok(exit)
}

struct Printer<'a> {
    screen: &'a Screen,
    format: StreamFormat,
    printed: u64,
}

impl Printer<'_> {
    fn print(&mut self, record: &FlowRecord) -> Result<(), Failure> {
        let is_first = self.printed == 0;
        self.printed += 1;
        match self.format {
            StreamFormat::Compact => {
                self.screen.print(&format!("{}\n", output::flow::compact(record)))
            }
            StreamFormat::Table => {
                let head = if is_first { output::flow::head() } else { String::new() };
                self.screen.print(&format!("{head}{}\n", output::flow::row(record)))
            }
            StreamFormat::Dict => {
                let between = if is_first { "" } else { "------------\n" };
                self.screen.print(&format!("{between}{}", output::flow::dict(record)))
            }
            StreamFormat::Json => self.screen.json_line(record),
        }
    }
}
