//! Figures as SVG.
//!
//! Inputs: results. Outputs: the text of an image. Pure.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    bench::{
        contender::Kind,
        datapath::{World, budgeted},
        measure::Figure,
        report::figures,
        results::Results,
    },
    plot::{PALETTE, number, refused},
};

/// Pixels.
const SIZE: (u32, u32) = (920, 420);
const LEGEND: u32 = 270;
const LEGEND_LINE: i32 = 24;
/// Numbers of rules, with room for the marks at both ends.
const RULES: Range<f64> = 0.8..70_000.0;

/// One line of a plot.
struct Series {
    name: String,
    colour: RGBColor,
    points: Vec<Point>,
}

struct Point {
    x: f64,
    y: f64,
    low: f64,
    high: f64,
}

/// What stands around the lines.
struct Frame<'a> {
    title: &'a str,
    across: &'a str,
    upward: &'a str,
}

/// A figure over the number of rules, a line for each contender.
pub(super) fn figure(results: &Results, figure: Figure) -> Result<String> {
    let shown = figures::of(figure);
    let series: Vec<Series> = results
        .contenders(figure)
        .into_iter()
        .map(|kind| Series {
            name: kind.name().to_owned(),
            colour: colour(kind),
            points: points(results, figure, kind, shown.scale),
        })
        .collect();
    let frame = Frame {
        title: &format!("{} ({})", shown.title, shown.better),
        across: "rules",
        upward: shown.unit,
    };
    let rules = (RULES.log_scale(), |rules: &f64| format!("{rules:.0}"));
    let (least, most) = bounds(&series).context("a figure without samples")?;
    if shown.logarithmic {
        draw(&frame, &series, rules, (least / 1.5..most * 1.5).log_scale())
    } else {
        draw(&frame, &series, rules, 0.0..most * 1.08)
    }
}

/// What packets cost in some worlds, a line for each kind of packet.
pub(super) fn worlds(title: &str, worlds: &[World]) -> Result<String> {
    let names = budgeted(worlds);
    ensure!(names.len() <= PALETTE.len(), "{} kinds of packets have no colour each", names.len());
    let series: Vec<Series> = names
        .into_iter()
        .zip(PALETTE)
        .map(|(name, colour)| {
            let costs = worlds.iter().filter_map(|world| world.cost(name));
            let points = (0..).zip(costs).map(|(index, cost)| Point {
                x: f64::from(index),
                y: cost,
                low: cost,
                high: cost,
            });
            Series { name: name.to_owned(), colour, points: points.collect() }
        })
        .collect();
    let joined = |parts: Vec<String>| parts.join(" / ");
    let words = worlds.first().map_or(&[][..], |world| &world.size);
    let axis = joined(words.iter().map(|(_, what)| (*what).to_owned()).collect());
    let frame = Frame {
        title: &format!("{title} (less is better)"),
        across: &axis,
        upward: "ns over an empty program",
    };
    let counts = |world: &World| world.size.iter().map(|(count, _)| count.to_string()).collect();
    let titles: Vec<String> = worlds.iter().map(|world| joined(counts(world))).collect();
    let last = u32::try_from(worlds.len().saturating_sub(1))?;
    let title = |at: &f64| {
        let titles = (0..).zip(&titles);
        let near = titles.filter(|(index, _)| (f64::from(*index) - at).abs() < 0.01);
        near.map(|(_, title)| title.clone()).next().unwrap_or_default()
    };
    let (_, most) = bounds(&series).context("no packet has a budget")?;
    draw(&frame, &series, (-0.2..f64::from(last) + 0.2, title), 0.0..most * 1.08)
}

fn points(results: &Results, figure: Figure, kind: Kind, scale: f64) -> Vec<Point> {
    let point = |rules: u32| {
        let summary = results.summary(figure, kind, rules)?;
        Some(Point {
            x: f64::from(rules),
            y: summary.median * scale,
            low: summary.low * scale,
            high: summary.high * scale,
        })
    };
    results.sizes().into_iter().filter_map(point).collect()
}

fn bounds(series: &[Series]) -> Option<(f64, f64)> {
    let points = || series.iter().flat_map(|series| &series.points);
    let least = points().map(|point| point.low).min_by(f64::total_cmp)?;
    let most = points().map(|point| point.high).max_by(f64::total_cmp)?;
    Some((least, most))
}

fn draw<X, Y>(
    frame: &Frame<'_>,
    series: &[Series],
    (across, label): (X, impl Fn(&f64) -> String),
    upward: Y,
) -> Result<String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(refused)?;
        let (plot, legend) = root.split_horizontally(SIZE.0 - LEGEND);
        let mut chart = ChartBuilder::on(&plot)
            .caption(frame.title, ("sans-serif", 19))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(across, upward)
            .map_err(refused)?;
        chart
            .configure_mesh()
            .x_desc(frame.across)
            .y_desc(frame.upward)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(6)
            .y_labels(8)
            .x_label_formatter(&label)
            .y_label_formatter(&|value| number(*value))
            .draw()
            .map_err(refused)?;
        for Series { colour, points, .. } in series {
            let line = points.iter().map(|point| (point.x, point.y));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2))).map_err(refused)?;
            let spread = points.iter().map(|point| {
                PathElement::new([(point.x, point.low), (point.x, point.high)], *colour)
            });
            chart.draw_series(spread).map_err(refused)?;
            let marks = points.iter().map(|at| Circle::new((at.x, at.y), 3, colour.filled()));
            chart.draw_series(marks).map_err(refused)?;
        }
        for (row, Series { name, colour, .. }) in (0..).zip(series) {
            let y = 60 + row * LEGEND_LINE;
            let style = TextStyle::from(("sans-serif", 14)).pos(Pos::new(HPos::Left, VPos::Center));
            let line = PathElement::new([(4, y), (28, y)], colour.stroke_width(3));
            legend.draw(&line).map_err(refused)?;
            legend.draw(&Text::new(name.clone(), (36, y), style)).map_err(refused)?;
        }
        root.present().map_err(refused)?;
    }
    Ok(text)
}

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::NoPolicy => RGBColor(120, 120, 120),
        Kind::Palisade => PALETTE[0],
        Kind::PalisadeTwice => PALETTE[1],
        Kind::NftablesSets => PALETTE[2],
        Kind::NftablesLinear => PALETTE[3],
        Kind::IptablesLinear => PALETTE[4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::datapath::Cost;

    #[test]
    fn a_plot_has_a_line_and_a_name_for_each_contender() {
        let mut results = Results::default();
        for (rules, value) in [(1, 0.001), (1_000, 0.5)] {
            results.push(Figure::Update, Kind::Palisade, rules, value);
            results.push(Figure::Update, Kind::IptablesLinear, rules, value);
        }
        let svg = figure(&results, Figure::Update).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for name in ["Palisade", "iptables, linear", "One rule more (less is better)"] {
            assert!(svg.contains(name), "{name}");
        }
        assert!(!svg.contains("nftables"));
        assert_eq!(svg.matches("<circle").count(), 4);
    }

    #[test]
    fn a_figure_of_which_nothing_is_known_is_not_drawn() {
        assert!(figure(&Results::default(), Figure::Update).is_err());
        assert!(worlds("Packets", &[]).is_err());
    }

    #[test]
    fn programs_without_a_budget_are_not_drawn() {
        let costs = vec![
            Cost { name: "the empty program itself", budget: None, nanos: 30.0 },
            Cost { name: "denied", budget: Some(200), nanos: 150.0 },
        ];
        let size = vec![(1, "rules"), (10, "endpoints")];
        let svg = worlds("Packets", &[World { size, costs }]).unwrap();
        assert!(svg.contains("denied") && svg.contains("1 / 10"));
        assert!(svg.contains("rules / endpoints") && svg.contains("Packets (less is better)"));
        assert!(!svg.contains("itself"));
    }
}
