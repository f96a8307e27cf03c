//! Packets that the kernel told of, one line each. Input: a record; output: when, from where to
//! where, what, what became of it by which rule, who logged it, what staged policies would do.

use policy_api::messages::{FlowRecord, Verdict};

use super::{style, text};

/// One line, no line end.
pub(crate) fn compact(drop: &FlowRecord) -> String {
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
    let verdict = match drop.verdict {
        Verdict::Deny => format!("{bad}dropped{bad:#}"),
        Verdict::Allow => "allowed".to_owned(),
    };
    let logged: String =
        drop.logged.iter().map(|rule| format!(", logged by {}", text::rule(rule))).collect();
    let staged = match &drop.staged {
        Some(staged) if staged.verdict != drop.verdict => {
            let word = match staged.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
            };
            format!(", staged {word} by {}", text::rule(&staged.rule))
        }
        Some(_) | None => String::new(),
    };
    format!(
        "{dim}{}{dim:#} {} -> {}  {protocol}{icmp}{flags} {} B  {verdict} on {} \
         {reason}{logged}{staged}",
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
