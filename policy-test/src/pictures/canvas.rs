//! Text and boxes on an area of pixels.
//!
//! Inputs: an area, places in it. Outputs: marks on it. Widths of text are guessed, since every reader has
//! another font: generously, so that nothing overlaps in a wide one.

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::plot::refused;

/// Part of a picture; places are counted from its upper left corner.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(super) const INK: RGBColor = RGBColor(31, 35, 40);
pub(super) const FAINT: RGBColor = RGBColor(101, 109, 118);
pub(super) const LINE: RGBColor = RGBColor(208, 215, 222);

/// Sizes of text, in pixels.
pub(super) const SMALL: i32 = 12;
pub(super) const NORMAL: i32 = 13;

/// The library writes sizes divided by this into an SVG.
const DIVIDED: f64 = 1.24;

/// A font whose letters have that size.
pub(super) fn font(size: i32) -> (&'static str, f64) {
    ("sans-serif", f64::from(size) * DIVIDED)
}

/// How a text is written.
#[derive(Clone, Copy)]
pub(super) struct Hand {
    pub(super) size: i32,
    pub(super) colour: RGBColor,
    pub(super) bold: bool,
    pub(super) align: HPos,
}

impl Hand {
    pub(super) const fn new(size: i32, colour: RGBColor) -> Self {
        Self { size, colour, bold: false, align: HPos::Left }
    }

    pub(super) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(super) const fn right(self) -> Self {
        Self { align: HPos::Right, ..self }
    }
}

/// Writes a line whose middle is at `y`.
pub(super) fn write(area: &Area<'_>, (x, y): (i32, i32), text: &str, hand: Hand) -> Result<()> {
    let style = if hand.bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = font(hand.size).into_font().style(style).color(&hand.colour);
    let style = font.pos(Pos::new(hand.align, VPos::Center));
    area.draw(&Text::new(text.to_owned(), (x, y), style)).map_err(refused)
}

/// Fills a box.
pub(super) fn fill(
    area: &Area<'_>,
    (x, y): (i32, i32),
    (w, h): (i32, i32),
    colour: RGBColor,
) -> Result<()> {
    area.draw(&Rectangle::new([(x, y), (x + w, y + h)], colour.filled())).map_err(refused)
}

/// Pixels that a text takes, at most.
pub(super) fn width(text: &str, size: i32) -> i32 {
    // Thousandths of the size, as in DejaVu Sans, which is wider than most.
    let of = |letter: char| match letter {
        'i' | 'j' | 'l' | '|' | ' ' | '.' | ',' | ':' | '\'' => 320,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' | 'I' => 400,
        'c' | 's' | 'v' | 'x' | 'y' | 'z' | 'k' => 570,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 970,
        'A'..='Z' => 720,
        _ => 636,
    };
    text.chars().map(of).sum::<i32>() * size / 1000 + 1
}

/// As much of a text as fits.
pub(super) fn fitting(text: &str, size: i32, room: i32) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut short = text.to_owned();
    while !short.is_empty() && width(&short, size) + size > room {
        short.pop();
    }
    short.trim_end().to_owned() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_room_is_cut() {
        assert_eq!(fitting("tier-default", 12, 200), "tier-default");
        let cut = fitting("tier-default", 12, 50);
        assert!(cut.ends_with('…') && width(&cut, 12) <= 60, "{cut}");
    }
}
