//! The two texts in which metrics are told: OpenMetrics 1.0 to those who ask for it, as Prometheus does, and
//! Prometheus' own text format 0.0.4 to everybody else, `promtool check metrics` and older scrapers among them.
//!
//! Input: OpenMetrics, as `prometheus_client` writes it, and an `Accept` header. Output: a format, and its text.

/// How metrics are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Format {
    /// What somebody wants who accepts this (RFC 9110, 12.5.1); how much they like it is not asked.
    pub fn accepted(header: &str) -> Format {
        let kinds = header.split(',').filter_map(|range| range.split(';').next());
        let mut kinds = kinds.map(str::trim);
        let open = kinds.any(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
        if open { Format::OpenMetrics } else { Format::Text }
    }

    /// For `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The text in this format.
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Format::OpenMetrics => open_metrics,
            Format::Text => text(&open_metrics),
        }
    }
}

/// The same in Prometheus' text format, which describes a series by its own name: OpenMetrics leaves out the
/// suffix of counters and infos there. It has neither units nor an end.
fn text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), words) => help = Some((name, words)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                // Help comes before the type; should it be another's, it is nobody's.
                if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                    text += &format!("# HELP {name}{suffix} {}\n", words.unwrap_or_default());
                }
                text += &format!("# TYPE {name}{suffix} {kind}\n");
            }
            (Some("#"), ..) => {}
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1";
        for (header, format) in [
            (prometheus, Format::OpenMetrics),
            ("text/html, Application/OpenMetrics-Text ; version=1.0.0", Format::OpenMetrics),
            ("text/plain", Format::Text),
            ("*/*", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(Format::accepted(header), format, "{header}");
        }
    }

    #[test]
    fn each_series_is_described_by_its_own_name() {
        let open = "\
# HELP drops Packets dropped, by rule.
# TYPE drops counter
drops_total{rule=\"a # TYPE b\"} 3
# HELP delay How long.
# TYPE delay histogram
# UNIT delay seconds
delay_sum 1.5
delay_count 2
# HELP build Of this agent.
# TYPE build info
build_info{version=\"0.1.0\"} 1
# TYPE odd unknown
odd 7
# EOF
";
        let expected = "\
# HELP drops_total Packets dropped, by rule.
# TYPE drops_total counter
drops_total{rule=\"a # TYPE b\"} 3
# HELP delay How long.
# TYPE delay histogram
delay_sum 1.5
delay_count 2
# HELP build_info Of this agent.
# TYPE build_info gauge
build_info{version=\"0.1.0\"} 1
# TYPE odd untyped
odd 7
";
        assert_eq!(Format::Text.of(open.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.of(open.to_owned()), open);
    }
}
