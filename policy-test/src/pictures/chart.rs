//! Series over time: lines, or bars upon each other, with a legend below.
//!
//! Inputs: curves. Outputs: marks on an area. Pure.

use anyhow::{Result, ensure};
use plotters::{
    coord::{Shift, cartesian::Cartesian2d, types::RangedCoordf64},
    prelude::*,
};

use crate::{
    pictures::{
        answers::{Curves, Series},
        canvas::{Area, FAINT, Hand, INK, LINE, SMALL, fill, fitting, font, write},
        units,
    },
    plot::{PALETTE, number, refused},
};

/// Pixels.
const PLOT: i32 = 220;
const LEGEND_LINE: i32 = 20;
const COLUMN: i32 = 84;
/// Series that the legend names.
const NAMED: usize = 7;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(super) fn height(curves: &Curves) -> i32 {
    let named = curves.series.len().min(NAMED);
    let more = usize::from(curves.series.len() > NAMED);
    PLOT + LEGEND_LINE * (1 + i32::try_from(named + more).unwrap_or_default())
}

pub(super) fn draw(area: &Area<'_>, width: i32, curves: &Curves) -> Result<()> {
    let (count, most) = (curves.series.len(), PALETTE.len());
    ensure!(count <= most, "{count} series in one picture: there are colours for {most}");
    let plot = area.clone().shrink((0, 0), (width.unsigned_abs(), PLOT.unsigned_abs()));
    axes(&plot, curves)?;
    legend(area, width, curves)
}

fn axes(plot: &DrawingArea<SVGBackend<'_>, Shift>, curves: &Curves) -> Result<()> {
    let most = most(curves);
    let scale = units::scale(&curves.unit, most);
    let upward = if curves.stacked {
        let unit = if scale.unit.is_empty() { "count" } else { scale.unit };
        format!("{unit} in {} s", number(curves.step))
    } else if scale.unit.is_empty() {
        "count".to_owned()
    } else {
        scale.unit.to_owned()
    };
    let top = if most > 0.0 { most / scale.divisor * 1.08 } else { 1.0 };
    let mut chart = ChartBuilder::on(plot)
        .margin_right(12)
        .margin_top(4)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..curves.length, 0.0..top)
        .map_err(refused)?;
    let whole = curves.whole;
    // Lines between whole numbers would have no number.
    let few = (1..5).find(|count| f64::from(*count) >= most);
    let marks = few.filter(|_| whole).map_or(5, |count: u8| usize::from(count) + 1);
    let (family, size) = font(SMALL);
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc(upward)
        .axis_desc_style((family, size, &FAINT))
        .label_style((family, size, &INK))
        .axis_style(FAINT)
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .disable_x_mesh()
        .x_labels(9)
        .y_labels(marks)
        .x_label_formatter(&|second| number(*second))
        .y_label_formatter(&|value| {
            if whole && value.fract() != 0.0 { String::new() } else { number(*value) }
        })
        .draw()
        .map_err(refused)?;
    if curves.stacked {
        bars(&mut chart, curves, scale.divisor)
    } else {
        lines(&mut chart, curves, scale.divisor)
    }
}

/// One for each series: [`draw`] takes no more than there are.
fn colours() -> impl Iterator<Item = RGBColor> {
    PALETTE.into_iter()
}

/// The highest point of all.
fn most(curves: &Curves) -> f64 {
    let values = curves.series.iter().flat_map(|series| &series.points).map(|(_, value)| *value);
    if !curves.stacked {
        return values.fold(0.0, f64::max);
    }
    let at = |second: f64| {
        let of = |series: &Series| value_at(series, second);
        curves.series.iter().filter_map(of).sum::<f64>()
    };
    steps(curves).map(at).fold(0.0, f64::max)
}

fn steps(curves: &Curves) -> impl Iterator<Item = f64> {
    let (step, length) = (curves.step, curves.length);
    (1..)
        .map(move |index: u32| f64::from(index) * step)
        .take_while(move |at| *at < length + step / 2.0)
}

fn value_at(series: &Series, second: f64) -> Option<f64> {
    let near = |(at, _): &&(f64, f64)| (at - second).abs() < 0.01;
    series.points.iter().find(near).map(|(_, value)| *value)
}

fn bars(chart: &mut Chart<'_, '_>, curves: &Curves, divisor: f64) -> Result<()> {
    let gap = curves.step * 0.08;
    for second in steps(curves) {
        let mut low = 0.0;
        for (series, colour) in curves.series.iter().zip(colours()) {
            let Some(value) = value_at(series, second) else { continue };
            let high = low + value / divisor;
            let corners = [(second - curves.step + gap, low), (second - gap, high)];
            let bar = Rectangle::new(corners, colour.filled());
            chart.draw_series([bar]).map_err(refused)?;
            low = high;
        }
    }
    Ok(())
}

fn lines(chart: &mut Chart<'_, '_>, curves: &Curves, divisor: f64) -> Result<()> {
    for (index, (series, colour)) in curves.series.iter().zip(colours()).enumerate() {
        // Of two that are the same, both are seen.
        let stroke = if index % 2 == 0 { 4 } else { 2 };
        // Nothing is drawn where there was no value.
        let together = |one: &(f64, f64), next: &(f64, f64)| next.0 - one.0 < curves.step * 1.5;
        for run in series.points.chunk_by(together) {
            let points = run.iter().map(|&(second, value)| (second, value / divisor));
            let line = LineSeries::new(points, colour.stroke_width(stroke));
            chart.draw_series(line).map_err(refused)?;
        }
    }
    Ok(())
}

fn legend(area: &Area<'_>, width: i32, curves: &Curves) -> Result<()> {
    let columns = i32::try_from(curves.calculated.len())?;
    let right = |column: i32| width - (columns - 1 - column) * COLUMN;
    for (column, title) in (0..).zip(&curves.calculated) {
        let hand = Hand::new(SMALL, FAINT).right();
        write(area, (right(column), PLOT + LEGEND_LINE / 2), title, hand)?;
    }
    let room = width - columns * COLUMN - 20;
    let named = curves.series.iter().zip(colours()).take(NAMED);
    let mut y = PLOT + LEGEND_LINE * 3 / 2;
    for (series, colour) in named {
        fill(area, (2, y - 5), (11, 11), colour)?;
        write(area, (20, y), &fitting(&series.name, SMALL, room), Hand::new(SMALL, INK))?;
        for (column, text) in (0..).zip(&series.calculated) {
            write(area, (right(column), y), text, Hand::new(SMALL, INK).right())?;
        }
        y += LEGEND_LINE;
    }
    let left = curves.series.len().saturating_sub(NAMED);
    if left > 0 {
        write(area, (20, y), &format!("and {left} more"), Hand::new(SMALL, FAINT))?;
    }
    Ok(())
}
