//! What is dropped and decided now, most first. Input: samples of the agent's counters, keys; output: rows
//! with rates. No I/O: `top/draw.rs` draws, `run/top.rs` asks the agent and reads keys.

pub(crate) mod draw;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use policy_api::connectivity::DropCount;
use policy_api::messages::RuleCount;

use crate::output::text;

/// What one look at the agent has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Since some time that is the same for all samples.
    pub(crate) at: Duration,
    pub(crate) drops: Vec<DropCount>,
    pub(crate) rules: Vec<RuleCount>,
}

/// Sorts of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// A row for each pair, service and cause of drops.
    Drops,
    /// A row for each endpoint, with what was dropped there.
    Endpoints,
    /// A row for each rule, with what it decided, allowed or denied.
    Rules,
}

impl View {
    pub(crate) const ALL: [View; 3] = [View::Drops, View::Endpoints, View::Rules];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            View::Drops => "drops",
            View::Endpoints => "endpoints",
            View::Rules => "rules",
        }
    }

    /// Headings of the columns that are names.
    pub(crate) const fn headings(self) -> &'static [&'static str] {
        match self {
            View::Drops => &["SOURCE", "DESTINATION", "SERVICE", "BY"],
            View::Endpoints => &["ENDPOINT", "DIRECTION"],
            View::Rules => &["RULE", "ACTION"],
        }
    }
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Rate,
    Total,
    Name,
}

impl Order {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Order::Rate => "rate",
            Order::Total => "total",
            Order::Name => "name",
        }
    }

    const fn next(self) -> Order {
        match self {
            Order::Rate => Order::Total,
            Order::Total => Order::Name,
            Order::Name => Order::Rate,
        }
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// One for each heading.
    pub(crate) names: Vec<String>,
    /// Between the last two samples, in a second.
    pub(crate) packets_per_second: f64,
    pub(crate) bytes_per_second: f64,
    /// Since the counter is there.
    pub(crate) packets: u64,
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A letter, digit or sign.
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    Up,
    Down,
    PageUp,
    PageDown,
}

/// Everything that is on the screen.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) view: View,
    pub(crate) sort: Order,
    /// Rows whose names have this, in whatever case.
    pub(crate) filter: String,
    /// Letters go into the filter.
    pub(crate) is_typing: bool,
    pub(crate) is_paused: bool,
    /// Rows that are scrolled past.
    pub(crate) offset: usize,
    /// Why there is no newer sample.
    pub(crate) trouble: Option<String>,
    now: Option<Sample>,
    before: Option<Sample>,
}

impl Board {
    pub(crate) fn new(view: View, sort: Order, filter: String) -> Board {
        Board {
            view,
            sort,
            filter,
            is_typing: false,
            is_paused: false,
            offset: 0,
            trouble: None,
            now: None,
            before: None,
        }
    }

    /// Takes a new sample, unless the board is paused.
    pub(crate) fn take(&mut self, sample: Sample) {
        self.trouble = None;
        if !self.is_paused {
            self.before = self.now.replace(sample);
        }
    }

    /// Whether there are two samples, and so rates.
    pub(crate) fn has_rates(&self) -> bool {
        self.before.is_some()
    }

    /// Does what a key says. `false`: the end.
    pub(crate) fn press(&mut self, key: Key) -> bool {
        if self.is_typing {
            match key {
                Key::Char(letter) => self.filter.push(letter),
                Key::Backspace => {
                    self.filter.pop();
                }
                Key::Escape => {
                    self.filter.clear();
                    self.is_typing = false;
                }
                Key::Enter | Key::Tab | Key::Up | Key::Down | Key::PageUp | Key::PageDown => {
                    self.is_typing = false;
                }
            }
            self.offset = 0;
            return true;
        }
        match key {
            Key::Char('q') => return false,
            Key::Char('1') => self.show(View::Drops),
            Key::Char('2') => self.show(View::Endpoints),
            Key::Char('3') => self.show(View::Rules),
            Key::Tab => {
                let place = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
                self.show(View::ALL[(place + 1) % View::ALL.len()]);
            }
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('p' | ' ') => self.is_paused = !self.is_paused,
            Key::Char('/') => self.is_typing = true,
            Key::Escape => self.filter.clear(),
            Key::Down | Key::Char('j') => self.scroll(1),
            Key::Up | Key::Char('k') => self.offset = self.offset.saturating_sub(1),
            Key::PageDown => self.scroll(PAGE),
            Key::PageUp => self.offset = self.offset.saturating_sub(PAGE),
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        true
    }

    /// Down, but not past the last row.
    fn scroll(&mut self, rows: usize) {
        self.offset = (self.offset + rows).min(self.rows().len().saturating_sub(1));
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.offset = 0;
    }

    /// The rows that are wanted, sorted.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let Some(now) = &self.now else { return Vec::new() };
        let before = self.before.as_ref();
        let seconds = before
            .map(|before| now.at.saturating_sub(before.at).as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        let totals = self.totals(now);
        let was: HashMap<Vec<String>, (u64, u64)> =
            before.map(|before| self.totals(before).into_iter().collect()).unwrap_or_default();
        let needle = self.filter.to_lowercase();
        let mut rows: Vec<Row> = totals
            .into_iter()
            .filter(|(names, _)| {
                needle.is_empty() || names.iter().any(|it| it.to_lowercase().contains(&needle))
            })
            .map(|(names, (packets, bytes))| {
                let (packets_before, bytes_before) = match was.get(&names) {
                    Some(found) => *found,
                    // It has only just come.
                    None => (0, 0),
                };
                // A counter that is behind what it was has begun anew.
                let rate = |now: u64, before: u64| {
                    let moved = now.checked_sub(before).unwrap_or(now);
                    seconds.map_or(0.0, |seconds| moved as f64 / seconds)
                };
                Row {
                    packets_per_second: rate(packets, packets_before),
                    bytes_per_second: rate(bytes, bytes_before),
                    packets,
                    names,
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            let rate = || b.packets_per_second.total_cmp(&a.packets_per_second);
            let total = || b.packets.cmp(&a.packets);
            let order = match self.sort {
                Order::Rate => rate().then_with(total),
                Order::Total => total().then_with(rate),
                Order::Name => Ordering::Equal,
            };
            order.then_with(|| a.names.cmp(&b.names))
        });
        rows
    }

    /// Packets and bytes of a sample by the names of the view.
    fn totals(&self, sample: &Sample) -> Vec<(Vec<String>, (u64, u64))> {
        let mut found: Vec<(Vec<String>, (u64, u64))> = Vec::new();
        let mut index: HashMap<Vec<String>, usize> = HashMap::new();
        let mut add = |names: Vec<String>, packets: u64, bytes: u64| {
            let place = *index.entry(names).or_insert_with_key(|names| {
                found.push((names.clone(), (0, 0)));
                found.len() - 1
            });
            if let Some((_, (all, size))) = found.get_mut(place) {
                *all += packets;
                *size += bytes;
            }
        };
        match self.view {
            View::Drops => sample.drops.iter().for_each(|count| {
                let names = vec![source(count), destination(count), service(count), cause(count)];
                add(names, count.packets, count.bytes);
            }),
            View::Endpoints => sample.drops.iter().for_each(|count| {
                let own = match count.direction.as_str() {
                    "ingress" => destination(count),
                    "egress" => source(count),
                    _ => "other".to_owned(),
                };
                let direction = text::clean(&count.direction).into_owned();
                add(vec![own, direction], count.packets, count.bytes);
            }),
            View::Rules => sample.rules.iter().for_each(|count| {
                let action = text::clean(&count.rule.action).into_owned();
                add(vec![text::rule(&count.rule), action], count.packets, count.bytes);
            }),
        }
        found
    }
}

/// Rows of a page.
const PAGE: usize = 10;

fn source(count: &DropCount) -> String {
    text::namespaced(&count.source_namespace, &count.source)
}

fn destination(count: &DropCount) -> String {
    text::namespaced(&count.destination_namespace, &count.destination)
}

fn service(count: &DropCount) -> String {
    let (port, protocol) = (text::clean(&count.port), text::clean(&count.protocol));
    match (port.as_ref(), protocol.as_ref()) {
        ("", protocol) => protocol.to_owned(),
        (port, protocol) => format!("{port}/{protocol}"),
    }
}

/// The rule, or the reason if no rule decided.
fn cause(count: &DropCount) -> String {
    match (count.policy.as_str(), count.rule.as_str()) {
        ("", "") => text::clean(&count.reason).into_owned(),
        ("", rule) => text::clean(rule).into_owned(),
        (policy, rule) => {
            let policy = text::namespaced(&count.policy_namespace, policy);
            format!("{policy} {}", text::clean(rule))
        }
    }
}

#[cfg(test)]
mod tests;
