//! Packets that the kernel told of, and flows that it let through. Input: a record; output: when, from where
//! to where, what, how much of it, what became of it by which rule, who logged it, what staged policies would
//! do; on a line, in columns, or on a line each.

use std::time::Duration;

use policy_api::flow::{Ended, FlowEnd, FlowRecord, Traffic};
use policy_api::messages::Verdict;

use super::{style, text};

/// One line, no line end.
pub(crate) fn compact(record: &FlowRecord) -> String {
    let dim = style::DIM;
    format!(
        "{dim}{}{dim:#} {} -> {}  {} {}  {} on {} {}{}{}",
        time(&record.time),
        text::flow_end(&record.source),
        text::flow_end(&record.destination),
        what(record),
        amount(record),
        verdict(record),
        text::clean(&record.direction),
        cause(record),
        logged(record).map_or_else(String::new, |by| format!(", logged by {by}")),
        staged(record).map_or_else(String::new, |by| format!(", staged {by}")),
    )
}

/// Widths of the first columns: what most records need. Who needs more moves the rest of the line.
const TIME: usize = 19;
const END: usize = 32;
const WHAT: usize = 12;
const BYTES: usize = 6;
const VERDICT: usize = 8;

/// The headings of [`row`], with a line end.
pub(crate) fn head() -> String {
    format!(
        "{:TIME$}  {:END$}  {:END$}  {:WHAT$}  {:>BYTES$}  {:VERDICT$}  BY\n",
        "TIME", "SOURCE", "DESTINATION", "WHAT", "BYTES", "VERDICT"
    )
}

/// A line of columns, no line end.
pub(crate) fn row(record: &FlowRecord) -> String {
    let (bad, deny) = (style::BAD, record.verdict == Verdict::Deny);
    let verdict = format!("{:VERDICT$}", if deny { "dropped" } else { "allowed" });
    let verdict = if deny { format!("{bad}{verdict}{bad:#}") } else { verdict };
    let by = match &record.rule {
        Some(rule) => text::rule(rule),
        None => text::clean(&record.reason).into_owned(),
    };
    format!(
        "{:TIME$}  {:END$}  {:END$}  {:WHAT$}  {:>BYTES$}  {verdict}  {by}",
        time(&record.time),
        plain_end(&record.source),
        plain_end(&record.destination),
        what(record),
        record.bytes,
    )
}

/// A line for each thing that is known, with line ends.
pub(crate) fn dict(record: &FlowRecord) -> String {
    let mut lines = vec![
        ("time", text::clean(&record.time).into_owned()),
        ("source", plain_end(&record.source)),
        ("destination", plain_end(&record.destination)),
        ("what", what(record)),
        ("bytes", record.bytes.to_string()),
        ("verdict", verdict(record)),
        ("direction", text::clean(&record.direction).into_owned()),
        ("event", text::clean(&record.event).into_owned()),
    ];
    if !record.reason.is_empty() {
        lines.push(("reason", text::clean(&record.reason).into_owned()));
    }
    if let Some(traffic) = &record.traffic {
        let ways = [
            ("sent", traffic.packets, traffic.bytes),
            ("replied", traffic.reply_packets, traffic.reply_bytes),
        ];
        lines.push(("began", text::clean(&traffic.start).into_owned()));
        lines.push(("newest packet", text::clean(&traffic.end).into_owned()));
        lines.extend(ways.map(|(name, packets, bytes)| (name, ways_amount(packets, bytes))));
        lines.extend(traffic.ended.map(|ended| ("over", why(ended).to_owned())));
    }
    lines.extend(record.rule.iter().map(|rule| ("rule", text::rule(rule))));
    lines.extend(logged(record).map(|by| ("logged by", by)));
    lines.extend(staged(record).map(|by| ("staged", by)));
    for (name, end) in
        [("source labels", &record.source), ("destination labels", &record.destination)]
    {
        lines.extend(labels(end).map(|labels| (name, labels)));
    }
    lines.into_iter().map(|(name, value)| format!("{name:>18}: {value}\n")).collect()
}

/// `tcp SYN`, `icmp type 8`.
fn what(record: &FlowRecord) -> String {
    let flags = match record.tcp_flags.as_str() {
        "" => String::new(),
        flags => format!(" {}", text::clean(flags)),
    };
    let icmp = match (record.icmp_type, record.icmp_code) {
        (Some(kind), Some(0) | None) => format!(" type {kind}"),
        (Some(kind), Some(code)) => format!(" type {kind} code {code}"),
        (None, _) => String::new(),
    };
    format!("{}{icmp}{flags}", text::clean(&record.protocol))
}

/// `60 B`; of a flow, what has passed both ways, and for how long.
fn amount(record: &FlowRecord) -> String {
    let Some(traffic) = &record.traffic else { return format!("{} B", record.bytes) };
    let sent = ways_amount(traffic.packets, traffic.bytes);
    let replied = match traffic.reply_packets {
        0 => "no answer".to_owned(),
        packets => format!("{} back", ways_amount(packets, traffic.reply_bytes)),
    };
    let lasted = lasted(traffic).map_or_else(String::new, |time| format!(", {time}"));
    let state = traffic.ended.map_or("goes on", why);
    format!("{sent}, {replied}{lasted}, {state}")
}

fn ways_amount(packets: u64, bytes: u64) -> String {
    let unit = if packets == 1 { "packet" } else { "packets" };
    format!("{packets} {unit} {bytes} B")
}

/// `2.3 s`, `250 ms`: from the first packet to the newest.
fn lasted(traffic: &Traffic) -> Option<String> {
    let moment = |text: &str| humantime::parse_rfc3339(text).ok();
    let time = moment(&traffic.end)?.duration_since(moment(&traffic.start)?).ok()?;
    if time >= Duration::from_secs(60) {
        return Some(humantime::format_duration(Duration::from_secs(time.as_secs())).to_string());
    }
    Some(match time.as_millis() {
        milliseconds @ 0..1000 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    })
}

fn why(ended: Ended) -> &'static str {
    match ended {
        Ended::Closed => "closed",
        Ended::Reset => "reset",
        Ended::Timeout => "timed out",
        Ended::Cut => "cut off by a policy",
        Ended::Replaced => "its entry was taken",
    }
}

fn verdict(record: &FlowRecord) -> String {
    let bad = style::BAD;
    match record.verdict {
        Verdict::Deny => format!("{bad}dropped{bad:#}"),
        Verdict::Allow => "allowed".to_owned(),
    }
}

/// By which rule, or why.
fn cause(record: &FlowRecord) -> String {
    match &record.rule {
        Some(rule) => format!("by {}", text::rule(rule)),
        None => format!("({})", text::clean(&record.reason)),
    }
}

fn logged(record: &FlowRecord) -> Option<String> {
    let rules: Vec<String> = record.logged.iter().map(text::rule).collect();
    (!rules.is_empty()).then(|| rules.join(", logged by "))
}

/// What staged policies would do, if that is another thing.
fn staged(record: &FlowRecord) -> Option<String> {
    let staged = record.staged.as_ref().filter(|staged| staged.verdict != record.verdict)?;
    let word = match staged.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    Some(format!("{word} by {}", text::rule(&staged.rule)))
}

/// An end without its style, which has no width.
fn plain_end(end: &FlowEnd) -> String {
    anstream::adapter::strip_str(&text::flow_end(end)).to_string()
}

fn labels(end: &FlowEnd) -> Option<String> {
    let labels: Vec<String> =
        end.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    (!labels.is_empty()).then(|| text::clean(&labels.join(",")).into_owned())
}

/// `Nov 21 01:27:01.123` out of `2026-11-21T01:27:01.123456Z`; what has another form stays.
fn time(rfc3339: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let short = || {
        let (date, clock) = rfc3339.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-').skip(1);
        let month = date.next()?.parse::<usize>().ok()?.checked_sub(1)?;
        let day = date.next()?.parse::<u8>().ok()?;
        let milliseconds = clock.get(..12).unwrap_or(clock);
        Some(format!("{} {day:02} {}", MONTHS.get(month)?, text::clean(milliseconds)))
    };
    short().unwrap_or_else(|| text::clean(rfc3339).into_owned())
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn time_is_short_and_never_lost() {
        assert_eq!(time("2026-11-21T01:27:01.123456Z"), "Nov 21 01:27:01.123");
        assert_eq!(time("2026-11-21T01:27:01Z"), "Nov 21 01:27:01");
        for odd in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-21T01:27:01+02:00"] {
            assert_eq!(time(odd), odd);
        }
    }
}
