//! Dropped packets, one line each. Input: a drop record; output: when, from where to where, what,
//! and the rule that dropped it.

use policy_api::messages::DropRecord;

use super::{style, text};

/// One line, no line end.
pub(crate) fn compact(drop: &DropRecord) -> String {
    let (dim, bad) = (style::DIM, style::BAD);
    let protocol = text::clean(&drop.protocol);
    let flags = match drop.tcp_flags.as_str() {
        "" => String::new(),
        flags => format!(" {}", text::clean(flags)),
    };
    let icmp = match (drop.icmp_type, drop.icmp_code) {
        (Some(kind), Some(0) | None) => format!(" type {kind}"),
        (Some(kind), Some(code)) => format!(" type {kind} code {code}"),
        (None, _) => String::new(),
    };
    let reason = match &drop.rule {
        Some(rule) => format!("by {}", text::rule(rule)),
        None => format!("({})", text::clean(&drop.reason)),
    };
    format!(
        "{dim}{}{dim:#} {} -> {}  {protocol}{icmp}{flags} {} B  {bad}dropped{bad:#} on {} {reason}",
        time(&drop.time),
        text::flow_end(&drop.source),
        text::flow_end(&drop.destination),
        drop.bytes,
        text::clean(&drop.direction),
    )
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
