//! A page of panels.
//!
//! Inputs: rows of pictures. Outputs: an SVG with a title, and a frame with a title around each panel. Pure.

use anyhow::Result;
use plotters::prelude::*;

use crate::{
    pictures::{
        answers::{Content, Figure, Picture},
        canvas::{Area, FAINT, Hand, INK, LINE, NORMAL, SMALL, fitting, width, write},
        chart, table,
    },
    plot::refused,
};

/// Pixels.
const WIDTH: i32 = 1060;
const MARGIN: i32 = 20;
const GAP: i32 = 14;
const HEAD: i32 = 62;
const PANEL_HEAD: i32 = 30;
const FIGURE: i32 = 52;
const PADDING: i32 = 12;

/// Everything of a picture.
pub(super) struct Sheet<'a> {
    pub(super) title: &'a str,
    /// What is chosen at the dashboard's head.
    pub(super) chosen: &'a str,
    pub(super) rows: &'a [Vec<Picture>],
}

impl Sheet<'_> {
    pub(super) fn draw(&self) -> Result<String> {
        let heights: Vec<i32> = self.rows.iter().map(|row| height(row)).collect();
        let height = HEAD + heights.iter().map(|height| height + GAP).sum::<i32>() + MARGIN - GAP;
        let mut text = String::new();
        {
            let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
            let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
            root.fill(&WHITE).map_err(refused)?;
            write(&root, (MARGIN, 32), self.title, Hand::new(22, INK).bold())?;
            write(&root, (WIDTH - MARGIN, 34), self.chosen, Hand::new(14, FAINT).right())?;
            let mut y = HEAD;
            for (row, height) in self.rows.iter().zip(heights) {
                let mut x = MARGIN;
                for (picture, width) in row.iter().zip(widths(row)) {
                    let size = (width.unsigned_abs(), height.unsigned_abs());
                    panel(&root.clone().shrink((x, y), size), (width, height), picture)?;
                    x += width + GAP;
                }
                y += height + GAP;
            }
            root.present().map_err(refused)?;
        }
        Ok(text)
    }
}

fn height(row: &[Picture]) -> i32 {
    let of = |picture: &Picture| match &picture.content {
        Content::Figure(_) => FIGURE,
        Content::Curves(curves) => chart::height(curves) + PADDING,
        Content::Table(table) => table::height(table) + PADDING,
    };
    PANEL_HEAD + row.iter().map(of).max().unwrap_or_default()
}

/// All of a row are equally wide; the last takes what is left over.
fn widths(row: &[Picture]) -> Vec<i32> {
    let count = i32::try_from(row.len()).unwrap_or(1).max(1);
    let all = WIDTH - 2 * MARGIN - (count - 1) * GAP;
    let mut widths = vec![all / count; row.len()];
    if let Some(last) = widths.last_mut() {
        *last += all % count;
    }
    widths
}

fn panel(area: &Area<'_>, (width, height): (i32, i32), picture: &Picture) -> Result<()> {
    let frame = Rectangle::new([(0, 0), (width - 1, height - 1)], LINE);
    area.draw(&frame).map_err(refused)?;
    let room = width - 2 * PADDING;
    let small = matches!(picture.content, Content::Figure(_));
    let hand = if small { Hand::new(NORMAL, FAINT) } else { Hand::new(14, INK).bold() };
    // Bold letters are wider.
    let counted = if small { hand.size } else { hand.size + 1 };
    write(area, (PADDING, 18), &fitting(&picture.title, counted, room), hand)?;
    let size = (room.unsigned_abs(), (height - PANEL_HEAD).unsigned_abs());
    let inner = area.clone().shrink((PADDING, PANEL_HEAD), size);
    match &picture.content {
        Content::Figure(shown) => figure(&inner, shown),
        Content::Curves(curves) => chart::draw(&inner, room, curves),
        Content::Table(table) => table::draw(&inner, room, table),
    }
}

fn figure(area: &Area<'_>, Figure { text, colour }: &Figure) -> Result<()> {
    let colour = match &**colour {
        "red" => RGBColor(190, 30, 45),
        "orange" => RGBColor(213, 94, 0),
        "green" => RGBColor(0, 120, 83),
        _ => INK,
    };
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let size = 28;
    write(area, (0, 22), number, Hand::new(size, colour).bold())?;
    // Bold digits are a tenth wider.
    let x = width(number, size) * 11 / 10 + 6;
    write(area, (x, 25), unit, Hand::new(SMALL + 2, colour))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::answers::{Column, Curves, Row, Series, Table};

    fn curves(stacked: bool) -> Content {
        let series = |name: &str, value: f64| Series {
            name: name.to_owned(),
            points: vec![(2.0, value), (4.0, 2.0 * value), (8.0, value)],
            calculated: vec![format!("{value} in all")],
        };
        Content::Curves(Curves {
            unit: "bytes".to_owned(),
            stacked,
            whole: false,
            length: 8.0,
            step: 2.0,
            series: vec![series("one", 4096.0), series("two", 2048.0)],
            calculated: vec!["Total".to_owned()],
        })
    }

    #[test]
    fn a_page_has_every_panel_with_its_words() {
        let column = |title: &str, numeric| Column { title: title.to_owned(), numeric };
        let row = |name: &str, weight: f64| Row {
            cells: vec![name.to_owned(), weight.to_string()],
            weight,
        };
        let table = Table {
            columns: vec![column("From", false), column("Packets", true)],
            rows: vec![row("web", 20.0), row("api", 5.0)],
        };
        let figure = Figure { text: "7.5 KiB".to_owned(), colour: "red".to_owned() };
        let picture = |title: &str, content| Picture { title: title.to_owned(), content };
        let rows = [
            vec![picture("Dropped", Content::Figure(figure))],
            vec![picture("Lines", curves(false)), picture("Bars", curves(true))],
            vec![picture("Top sources", Content::Table(table))],
        ];
        let svg = Sheet { title: "A page", chosen: "workload web", rows: &rows }.draw().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        let words = ["A page", "workload web", "Dropped", "7.5", "KiB", "Lines", "KiB in 2 s"];
        for word in words.into_iter().chain(["one", "4096 in all", "seconds", "web", "Packets"]) {
            assert!(svg.contains(&format!("\n{word}\n")), "{word}");
        }
        // The first line, which is thicker, has a gap where there was no value.
        assert_eq!(svg.matches("stroke-width=\"4\"").count(), 2);
    }
}
