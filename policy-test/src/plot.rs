//! What all plots have in common.
//!
//! Inputs: values, errors of the plotting library. Outputs: short numbers, errors of ours; colours. Pure.

use anyhow::anyhow;
use plotters::style::RGBColor;

/// Colours that most eyes can tell apart.
pub(crate) const PALETTE: [RGBColor; 9] = [
    RGBColor(0, 90, 181),
    RGBColor(86, 180, 233),
    RGBColor(0, 130, 90),
    RGBColor(213, 94, 0),
    RGBColor(150, 50, 130),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
    RGBColor(220, 120, 170),
    RGBColor(140, 100, 50),
];

/// A drawing area's error may borrow the area; its text does not.
pub(crate) fn refused(error: impl std::error::Error) -> anyhow::Error {
    anyhow!("draw: {error}")
}

/// Short, whatever its size.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => format!("{value:.3}"),
        size if size < 1.0 => format!("{value:.2}"),
        size if size < 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let shown = [0.0, 0.025, 0.5, 1.0, 2.5, 40.0, 1_000.0].map(number);
        assert_eq!(shown, ["0", "0.025", "0.50", "1", "2.5", "40", "1000"]);
    }
}
