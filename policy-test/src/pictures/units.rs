//! Values with their units, as Grafana names them.
//!
//! Inputs: a unit of a panel, values. Outputs: text, and what an axis is divided by. Pure.

use crate::plot::number;

/// What an axis shows: values over a divisor.
#[derive(Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) divisor: f64,
    pub(super) unit: &'static str,
}

/// Divisors with their units, the largest first.
fn scales(unit: &str) -> &'static [(f64, &'static str)] {
    match unit {
        "bytes" => &[(1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
        "Bps" => &[(1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")],
        "cps" => &[(1.0, "per second")],
        "pps" => &[(1.0, "packets/s")],
        _ => &[(1.0, "")],
    }
}

/// For values up to the greatest.
pub(super) fn scale(unit: &str, most: f64) -> Scale {
    let scales = scales(unit);
    let fitting = scales.iter().find(|(divisor, _)| most >= *divisor).or(scales.last());
    let (divisor, unit) = fitting.copied().unwrap_or((1.0, ""));
    Scale { divisor, unit }
}

/// Short, with the unit where it is one of bytes: others stand at the axis.
pub(super) fn text(unit: &str, value: f64) -> String {
    if !matches!(unit, "bytes" | "Bps") {
        return number(value);
    }
    let Scale { divisor, unit } = scale(unit, value);
    let value = value / divisor;
    let digits = if value.fract() == 0.0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_of_their_size() {
        let shown = [0.0, 512.0, 1536.0, 1_048_576.0 * 200.5].map(|value| text("bytes", value));
        assert_eq!(shown, ["0 B", "512 B", "1.5 KiB", "200 MiB"]);
        assert_eq!(text("Bps", 2_500.0), "2.5 kB/s");
    }

    #[test]
    fn counts_have_none() {
        assert_eq!([1234.0, 2.5].map(|value| text("short", value)), ["1234", "2.5"]);
        assert_eq!(scale("cps", 9.0), Scale { divisor: 1.0, unit: "per second" });
        assert_eq!(scale("short", 9.0), Scale { divisor: 1.0, unit: "" });
    }
}
